"""Memory of a run, measured and compared with its prediction."""
