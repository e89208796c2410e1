"""The demonstration model: a small network of the same architecture that learned from drawn scenes."""
