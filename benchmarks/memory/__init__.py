"""How much memory a run takes, and whether that is foretold."""
