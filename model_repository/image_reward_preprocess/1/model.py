"""Encoded image bytes and a prompt -> PIXELS, INPUT_IDS, ATTENTION_MASK."""

from reward.triton import PreprocessModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
