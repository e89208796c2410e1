"""The pixels are upstream's, bit for bit, for files of every mode and shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reward.contract import PIXEL_MEAN, PIXEL_STD
from reward.preprocess import prepare
from tests.parity.pictures import write_pictures
from tests.parity.reference import Job, ask

if TYPE_CHECKING:
    from pathlib import Path


def test_pixels_are_identical(tmp_path: Path) -> None:
    """Each file gives the same pixels as in upstream.

    Upstream runs on Pillow 12, this project on the Pillow that is installed.
    """
    pictures = write_pictures(tmp_path)
    theirs = ask(Job([""], [str(path) for path in pictures.values()]), tmp_path)["normalised"]
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    for (kind, path), expected in zip(pictures.items(), theirs, strict=True):
        pixels = prepare(path.read_bytes()).pixels
        normalised = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        np.testing.assert_array_equal(normalised, expected, err_msg=kind)
