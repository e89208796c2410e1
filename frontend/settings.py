"""Configuration of the frontend: environment variables `AESTHETIC_*`, read once into one frozen object."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from frontend.addresses import Mode
from reward.preprocess import MAX_PIXELS


class Settings(BaseSettings):
    """What an operator can choose; every field is `AESTHETIC_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="AESTHETIC_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(8006, ge=1, le=65535)
    docs: bool = True
    """Whether `/docs` and `/openapi.json` are served."""
    shutdown_grace_s: float = Field(20.0, ge=0)
    """How long running requests may take after SIGTERM."""

    triton_url: str = "127.0.0.1:8000"
    """`host:port` of Triton's HTTP door."""
    triton_admin_key: SecretStr | None = None
    """Value of the header `triton-admin-key`, where Triton restricts its administration."""
    model_repository: Path = Path("model_repository")
    """For the manifest of the served version; the same repository that Triton serves."""

    max_image_bytes: int = Field(20 * 2**20, gt=0)
    max_pixels: int = Field(MAX_PIXELS, gt=0)
    max_body_bytes: int = Field(64 * 2**20, gt=0)
    max_candidates: int = Field(10, ge=1, le=64)
    decode_workers: int = Field(default_factory=lambda: min(4, os.cpu_count() or 1), ge=1)
    decode_timeout_s: float = Field(10.0, gt=0)

    request_timeout_s: float = Field(60.0, gt=0)
    """Deadline of a request that names none in X-Request-Timeout-Ms."""
    max_request_timeout_s: float = Field(300.0, gt=0)
    max_concurrency: int = Field(32, ge=1)
    """Images in work at once; a batch counts as many as it has candidates."""
    max_queue: int = Field(128, ge=0)
    """Images that wait for admission; beyond them the answer is 429."""
    cache_entries: int = Field(10_000, ge=0)
    """Scores remembered by image, prompt, weights and preprocessing; 0 turns the cache off."""

    fetch: Mode = "public"
    """Which URLs are fetched: `off`, `allowlist`, or `public` plus the allowlist."""
    fetch_allow: str = ""
    """Comma-separated host names, `host:port` and CIDRs that may be fetched though they are not public."""
    fetch_timeout_s: float = Field(10.0, gt=0)

    log_prompts: bool = False

    @model_validator(mode="after")
    def _a_full_batch_can_be_admitted(self) -> Self:
        if self.max_concurrency < self.max_candidates:
            raise ValueError("AESTHETIC_MAX_CONCURRENCY must be at least AESTHETIC_MAX_CANDIDATES")
        return self
