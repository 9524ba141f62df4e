"""Steps of a run on a card; README.md beside this file says how to run them."""
