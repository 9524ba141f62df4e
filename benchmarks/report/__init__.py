"""The page that is generated from results files."""
