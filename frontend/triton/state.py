"""The states of a model in Triton."""

from __future__ import annotations

from enum import StrEnum


class ModelState(StrEnum):
    """A model's state, as its keeper sees it."""

    ABSENT = "absent"
    LOADING = "loading"
    READY = "ready"
    PART = "in part"
    """Some of its parts are loaded, but nobody can use it."""
    UNLOADING = "unloading"
    SILENT = "silent"
    """Triton does not answer, or does not say."""
    DOWN = "down"
    """Nothing listens at Triton's address."""
