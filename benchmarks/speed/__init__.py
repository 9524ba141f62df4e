"""Seconds of one evaluation, of the autoencoder, of an export, and of whole runs."""
