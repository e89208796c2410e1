"""Where a model stands in Triton."""

from __future__ import annotations

from enum import StrEnum


class ModelState(StrEnum):
    """As its keeper sees it."""

    ABSENT = "absent"
    LOADING = "loading"
    READY = "ready"
    PART = "in part"
    """Some of its parts are loaded, and nobody can use it."""
    UNLOADING = "unloading"
    SILENT = "silent"
    """Triton does not answer, or does not say."""
    DOWN = "down"
    """Nothing listens at Triton's address."""
