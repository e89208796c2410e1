"""The demonstration model: a small network of ImageReward's architecture, for drawn scenes."""
