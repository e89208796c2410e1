"""Images as a caller has them: path, bytes, Pillow's, or an address that the service fetches."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeGuard, runtime_checkable

# What PNG holds without a change. The service resizes in the picture's own mode, as upstream does.
_PNG_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


@runtime_checkable
class Picture(Protocol):
    """What is used of `PIL.Image.Image`, so that Pillow need not be installed."""

    @property
    def mode(self) -> str: ...

    def convert(self, mode: str) -> Picture: ...

    def save(self, fp: Any, format: str | None = None, **options: Any) -> None: ...  # noqa: A002, ANN401 - Pillow's


ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | Picture"
"""A path, an http(s) or data: address, the bytes of a file, or a Pillow image."""


def is_address(image: object) -> TypeGuard[str]:
    """Whether it is something that the service fetches, or a data: URI."""
    return isinstance(image, str) and image.lower().startswith(("http://", "https://", "data:"))


def source(image: ImageLike) -> dict[str, str]:
    """Write an image as the request's JSON has it.

    Raises:
        OSError: a file that cannot be read.
        TypeError: no image.
    """
    if is_address(image):
        return {"image_base64" if image[:5].lower() == "data:" else "image_url": image}
    return {"image_base64": base64.b64encode(file_bytes(image)).decode("ascii")}


def file_bytes(image: ImageLike) -> bytes:
    """Return the bytes of an image file; a Pillow image becomes a PNG, without loss.

    A Pillow image whose mode no PNG has (CMYK, YCbCr, F, …) is converted to RGB first.

    Raises:
        OSError: a file that cannot be read.
        TypeError: no image, or an address.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)) and not is_address(image):
        return Path(image).read_bytes()
    if isinstance(image, Picture):
        file = io.BytesIO()
        picture = image if image.mode in _PNG_MODES else image.convert("RGB")
        picture.save(file, "PNG", compress_level=1)
        return file.getvalue()
    raise TypeError(f"no image: {type(image).__name__}; a path, bytes or a Pillow image is needed")
