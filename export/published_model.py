"""PIXELS, INPUT_IDS, ATTENTION_MASK -> REWARD; published as `model.py` beside its graph."""

from reward.triton import NetworkModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
