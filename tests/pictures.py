"""Photographs as encoded files, for tests that need real images but no particular one."""

from __future__ import annotations

import io
from functools import cache
from typing import Final

from PIL import Image
from skimage import data

PHOTOGRAPHS: Final = (
    "astronaut",
    "coffee",
    "chelsea",
    "rocket",
    "camera",
    "moon",
    "coins",
    "text",
    "page",
    "brick",
)


@cache
def photograph(name: str, image_format: str = "JPEG") -> bytes:
    """Encode one of scikit-image's photographs."""
    file = io.BytesIO()
    Image.fromarray(getattr(data, name)()).save(file, image_format)
    return file.getvalue()
