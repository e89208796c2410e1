"""How a promotion learns that the GPU is shared."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from export.running_triton import environment
from export.second_share import LedgerSettings
from model_boss import Priority
from reward import deployment

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def _note(repository: Path, **content: object) -> None:
    path = deployment.running_path(repository)
    path.parent.mkdir(parents=True)
    note = {"pid": os.getpid(), "triton_url": "here:1", "repository": str(repository.resolve())}
    path.write_text(json.dumps({**note, **content}))


def test_what_the_frontends_are_told_is_told_to_a_promotion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note of Triton's keeper says how the GPU is shared.

    This command's own environment comes before it.
    """
    monkeypatch.setenv("AESTHETIC_GPU", "mine")
    _note(tmp_path, environment={"AESTHETIC_REDIS_URL": "redis://noted", "AESTHETIC_GPU": "noted"})
    settings = LedgerSettings.read(environment(tmp_path))
    assert settings is not None
    assert (settings.url, settings.gpu, settings.priority) == ("redis://noted", "mine", Priority.NORMAL)
    assert "noted" not in repr(settings)  # it may hold a password


def test_without_a_note_the_gpu_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a note, or with a note that says nothing about it, the GPU is not shared."""
    monkeypatch.delenv("AESTHETIC_REDIS_URL", raising=False)
    assert LedgerSettings.read(environment(tmp_path)) is None
    _note(tmp_path)
    assert LedgerSettings.read(environment(tmp_path)) is None
