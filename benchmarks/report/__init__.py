"""The page that is generated out of results files."""
