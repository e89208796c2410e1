"""The version of this package; its metadata are made from it."""

from typing import Final

VERSION: Final = "0.1.0"
