"""Tests; a package, so that no other installed `tests` package is imported instead."""
