"""Configuration from the environment."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from frontend.settings import Settings


def test_environment_variables_have_one_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting is `AESTHETIC_` and its name; the object cannot be changed afterwards."""
    monkeypatch.setenv("AESTHETIC_MAX_QUEUE", "7")
    monkeypatch.setenv("AESTHETIC_CORS_ORIGINS", "https://a.example, http://localhost:3000")
    settings = Settings()
    assert settings.max_queue == 7
    assert settings.origins() == ["https://a.example", "http://localhost:3000"]
    with pytest.raises(ValidationError):
        settings.max_queue = 8  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_concurrency": 5, "max_candidates": 10},
        {"max_buffered_bytes": 10, "max_body_bytes": 11},
        {"port": 0},
        {"request_timeout_s": 0},
        {"fetch": "everything"},
        {"cors_origins": "https://a.example/path"},
        {"cors_origins": "a.example"},
    ],
)
def test_values_that_cannot_be_meant(wrong: dict[str, object]) -> None:
    """Limits that contradict each other, and values out of range, end the start."""
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]
