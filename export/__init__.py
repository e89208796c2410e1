"""Checkpoint -> verified, published version of the network; `python -m export --help`."""
