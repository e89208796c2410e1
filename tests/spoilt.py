"""Published versions that were changed in ways that no digest shows."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx

from reward import manifest
from reward.files import sha256
from reward.runtimes import GRAPH_FILE_NAME

if TYPE_CHECKING:
    from pathlib import Path


def score_nan(directory: Path) -> None:
    """Make a version score everything with NaN; its manifest still agrees with its files."""
    path = directory / GRAPH_FILE_NAME
    model = onnx.load(path, load_external_data=False)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "head.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([np.nan], np.float32), bias.name))
    onnx.save(model, path)
    agree(directory)


def claim_preprocessing(directory: Path, digest: str) -> None:
    """Make a version say that it was published for another preprocessing."""
    manifest.write(dataclasses.replace(manifest.read(directory), preprocessing=digest), directory)


def agree(directory: Path) -> None:
    """Make a manifest name the files as they are now."""
    content = manifest.read(directory)
    files = {name: sha256(directory / name) for name in content.files}
    manifest.write(dataclasses.replace(content, files=files), directory)
