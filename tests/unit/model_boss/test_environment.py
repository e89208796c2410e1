"""A shared GPU is read from the environment in one place, and as the frontend reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from frontend.settings import Settings
from model_boss import InvalidClaim, SharedGpu

if TYPE_CHECKING:
    from pathlib import Path

URL = "redis://:secret@ledger"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"REDIS_URL": URL},
        {"REDIS_URL": "", "GPU": "", "VRAM_MB": ""},
        {"REDIS_URL": URL, "GPU": "GPU-1", "GPU_PRIORITY": "urgent", "GPU_WAIT_S": "2.5", "VRAM_MB": "3000"},
        {"GPU_PRIORITY": "900", "MODEL_BOSS_PREFIX": "other", "MODEL_BOSS_TTL_S": "7"},
    ],
)
def test_it_is_what_the_frontend_reads(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """The same variables, the same defaults: a promotion claims as the frontends do."""
    environment = {f"AESTHETIC_{name}": value for name, value in environment.items()}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    shared, settings = SharedGpu.of(environment, "AESTHETIC"), Settings()
    assert shared.url == (settings.redis_url.get_secret_value() if settings.redis_url else None)
    assert (shared.gpu, shared.priority) == (settings.gpu, settings.gpu_priority)
    assert (shared.wait_s, shared.vram_mb) == (settings.gpu_wait_s, settings.vram_mb)
    options = shared.options
    assert (options.prefix, options.ttl_s) == (settings.model_boss_prefix, settings.model_boss_ttl_s)


def test_the_url_may_lie_in_a_file(tmp_path: Path) -> None:
    """It may hold a password, which is not shown; the variable itself comes before the file."""
    (tmp_path / "url").write_text(f"{URL}\n")
    environment = {"OURS_REDIS_URL_FILE": str(tmp_path / "url")}
    assert SharedGpu.of(environment, "OURS").url == URL
    assert SharedGpu.of({**environment, "OURS_REDIS_URL": "redis://x"}, "OURS").url == "redis://x"
    assert "secret" not in repr(SharedGpu.of(environment, "OURS"))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("VRAM_MB", "much", "OURS_VRAM_MB is 'much', expected a number"),
        ("GPU_PRIORITY", "soon", "OURS_GPU_PRIORITY: 'soon' is no priority"),
        ("MODEL_BOSS_TTL_S", "0", "ttl_s is 0"),
        ("REDIS_URL_FILE", "/nowhere/url", "OURS_REDIS_URL_FILE: .*No such file"),
    ],
)
def test_what_makes_no_sense_is_named(name: str, value: str, why: str) -> None:
    """A variable of another service counts for nothing."""
    with pytest.raises(InvalidClaim, match=why):
        SharedGpu.of({f"OURS_{name}": value}, "OURS")
    SharedGpu.of({f"THEIRS_{name}": value}, "OURS")
