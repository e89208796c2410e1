"""Settings come from the environment."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from frontend.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


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
        {"redis_url": "http://localhost"},
        {"gpu": "two words"},
        {"gpu_priority": 1001},
        {"gpu_priority": "soon"},
        {"gpu_ledger": "no colon"},
        {"model_boss_prefix": "a*"},
        {"otlp_url": "collector:4318"},
        {"otlp_url": "http://collector:4318"},
        {"trace_ratio": 1.5},
    ],
)
def test_values_that_cannot_be_meant(wrong: dict[str, object]) -> None:
    """Limits that contradict each other, and values out of range, stop the start."""
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_traces_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector is refused at the start where OpenTelemetry is not installed."""
    monkeypatch.delitem(sys.modules, "frontend.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ValidationError, match="needs the extra 'otel'"):
        Settings(otlp_url="http://collector:4318/v1/traces")


def test_an_empty_redis_url_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty Redis URL means no coordination.

    Compose files pass an empty string for a variable that is not set.
    """
    monkeypatch.setenv("AESTHETIC_REDIS_URL", "")
    assert Settings().redis_url is None


def test_priorities_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """`AESTHETIC_GPU_PRIORITY` is one of five names, or a number."""
    for text, number in (("urgent", 900), ("batch", 100), ("7", 7)):
        monkeypatch.setenv("AESTHETIC_GPU_PRIORITY", text)
        assert Settings().gpu_priority == number


def test_secrets_do_not_show() -> None:
    """Printed settings show neither the ledger's password nor Triton's key."""
    settings = Settings(redis_url="redis://:hidden@localhost", triton_admin_key="hidden")
    assert "hidden" not in repr(settings)


def test_secrets_may_lie_in_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A secret is read of the file that is named, unless it is given itself."""
    (tmp_path / "url").write_text("redis://:password@redis\n")
    (tmp_path / "key").write_text("of the file\n")
    monkeypatch.setenv("AESTHETIC_REDIS_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("AESTHETIC_TRITON_ADMIN_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("AESTHETIC_TRITON_ADMIN_KEY", "given itself")
    settings = Settings()
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == "redis://:password@redis"
    assert settings.triton_admin_key is not None
    assert settings.triton_admin_key.get_secret_value() == "given itself"


def test_a_secret_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is not there is an error which names the variable and the file."""
    monkeypatch.setenv("AESTHETIC_REDIS_URL_FILE", str(tmp_path / "url"))
    with pytest.raises(ValidationError, match=r"AESTHETIC_REDIS_URL_FILE: .*/url: No such file"):
        Settings()
