"""Checkpoint -> verified, published version of the network; see `python -m export --help`."""
