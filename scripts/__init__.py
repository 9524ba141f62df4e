"""Fetch and prepare what training, benchmarks and the demo need."""
