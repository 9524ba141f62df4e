"""Open questions of speed: ways to compute the same, each against what it would replace."""
