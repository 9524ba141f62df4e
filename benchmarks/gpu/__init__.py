"""A run on a card, step by step; README.md beside this file says how it is made."""
