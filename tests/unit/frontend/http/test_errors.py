"""The error codes of the interface, and where they are written down."""

from __future__ import annotations

import re

from frontend import errors
from frontend.errors import ServiceError
from tests.repository import CHECKOUT


def test_the_readme_names_every_error() -> None:
    """Its table has a row for each class of the tree and no other, with the status that is answered."""
    tree = {error.code: error.status for error in ServiceError.__subclasses__()}
    rows = re.findall(r"^\| `([a-z_]+)` \| (\d{3})[ ,]", (CHECKOUT / "README.md").read_text(), re.MULTILINE)
    assert {code: int(status) for code, status in rows} == tree


def test_the_drawn_tree_is_the_tree() -> None:
    """The module's docstring draws every class with its status and code."""
    drawn = re.findall(r"[├└]── (\w+) +(\d{3}) (\w+)", errors.__doc__ or "")
    assert {(name, int(status), code) for name, status, code in drawn} == {
        (error.__name__, error.status, error.code) for error in ServiceError.__subclasses__()
    }
