"""The frontend's configuration: environment variables `AESTHETIC_*`, read once, never changed."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from frontend.images.addresses import Mode, parse_allow
from model_boss import InvalidClaim, InvalidUrl, Ledger, OnOutage, Priority, first_gpu
from model_boss.claim import MAX_MB, MAX_PRIORITY
from model_boss.options import MAX_TTL_S
from model_boss.protocol import Keys
from reward.cpus import available_cpus
from reward.preprocess import MAX_PIXELS

_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?|https?://\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


def _read_priority(value: object) -> object:
    try:
        return Priority.parse(value) if isinstance(value, str) else value
    except InvalidClaim as error:
        raise ValueError(str(error)) from error


class Settings(BaseSettings):
    """The operator's choices; each variable is `AESTHETIC_` and the field's name in capitals.

    An empty variable counts as not set, because compose files pass empty ones on.
    """

    model_config = SettingsConfigDict(
        env_prefix="AESTHETIC_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    host: str = "127.0.0.1"
    port: int = Field(8006, ge=1, le=65535)
    docs: bool = True
    """Whether the playground at `/`, `/docs` and `/openapi.json` are served."""
    api_keys_file: Path | None = None
    """Lines of `name:sha256`, made by `python -m frontend hash-key NAME`; without it no key is
    needed.
    """
    cors_origins: str = ""
    """Comma-separated origins whose pages may call this service, or `*`; empty: none."""
    shutdown_grace_s: float = Field(20.0, ge=0)
    """How long running requests may take after SIGTERM; closing takes at most 15 s more."""
    shutdown_delay_s: float = Field(0.0, ge=0)
    """How long after SIGTERM requests are taken still, while `/health/ready` says 503: as long as a
    proxy takes to notice.
    """

    triton_url: str = "127.0.0.1:8000"
    """`host:port` of Triton's HTTP API."""
    model_repository: Path = Path("model_repository")
    """The repository that Triton serves; the deployment and the manifests are read from it."""

    triton_admin_key: SecretStr | None = None
    """Value of the header `triton-admin-key`, if Triton's administration needs it."""
    triton_admin_key_file: Path | None = None
    """A file that holds it."""

    redis_url: SecretStr | None = None
    """The URL of model-boss's ledger; without it the GPU is not shared, and the model stays loaded.
    """
    redis_url_file: Path | None = None
    """A file that holds it."""
    gpu: str = Field(default_factory=first_gpu)
    """The ledger's name for the GPU: the device's UUID, or `host:index`."""
    gpu_ledger: str | None = None
    """`package.module:factory` of another coordinator, instead of model-boss."""
    gpu_priority: Annotated[int, BeforeValidator(_read_priority)] = Field(
        int(Priority.NORMAL), ge=0, le=MAX_PRIORITY
    )
    """The priority of this service's claim: urgent, high, normal, low, batch, or 0 to 1000 (most
    urgent).
    """
    vram_mb: int | None = Field(None, ge=1, le=MAX_MB)
    """The memory that the model may use; by default the manifest's measurement, else 2048."""
    gpu_wait_s: float = Field(30.0, gt=0)
    """How long a request waits for the model; after that the answer is 503 gpu_unavailable."""
    gpu_load_timeout_s: float = Field(300.0, gt=0)
    """How long Triton may take to load or unload the model."""
    idle_release_s: float = Field(300.0, ge=0)
    """The memory is given back after this long without a request; 0 means never."""
    gpu_on_outage: OnOutage = OnOutage.FAIL_CLOSED
    """If Redis is away for as long as the lease lasts, `fail_closed` unloads, and `fail_open` goes
    on.
    """
    model_boss_prefix: str = "model-boss"
    model_boss_ttl_s: float = Field(15.0, ge=1, le=MAX_TTL_S)
    """Time to live of a lease; the same for every client of the ledger."""

    max_image_bytes: int = Field(20 * 2**20, gt=0)
    max_pixels: int = Field(MAX_PIXELS, gt=0)
    max_body_bytes: int = Field(64 * 2**20, gt=0)
    max_buffered_bytes: int = Field(256 * 2**20, gt=0)
    """The size of all bodies held at one moment; beyond it the answer is 429."""
    max_candidates: int = Field(10, ge=1, le=64)
    decode_workers: int = Field(default_factory=lambda: max(2, min(4, available_cpus())) + 1, ge=1)
    decode_timeout_s: float = Field(10.0, gt=0)

    request_timeout_s: float = Field(60.0, gt=0)
    """The deadline of a request without X-Request-Timeout-Ms."""
    max_request_timeout_s: float = Field(300.0, gt=0)
    max_concurrency: int = Field(32, ge=1)
    """The images in work at once; a batch counts for each of its candidates."""
    max_queue: int = Field(128, ge=0)
    """The images that may wait for admission; beyond them the answer is 429."""
    max_cache_bytes: int = Field(8 * 2**20, ge=0)
    """Memory for scores that were given already; 0 turns the cache off."""

    fetch: Mode = "public"
    """Which URLs are fetched: `off`, `allowlist`, or `public` plus the allowlist."""
    fetch_allow: str = ""
    """Comma-separated host names, `host:port` and CIDRs that may be fetched though they are not
    public.
    """
    fetch_timeout_s: float = Field(10.0, gt=0)

    otlp_url: str | None = None
    """Where spans are sent, as OTLP over HTTP: `http://collector:4318/v1/traces`. It needs the
    extra `otel`; without it nothing is traced.
    """
    trace_ratio: float = Field(1.0, ge=0, le=1)
    """The share of requests that are traced, of those whose caller does not trace them."""

    log_prompts: bool = False
    """Whether the log line of a request has its prompt."""

    def origins(self) -> list[str]:
        """Return `cors_origins` one by one."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in ("triton_admin_key", "redis_url"):
            if (file := values.get(f"{name}_file")) and not values.get(name):
                try:
                    values[name] = Path(file).read_text().strip()
                except OSError as error:
                    raise ValueError(f"AESTHETIC_{name.upper()}_FILE: {file}: {error.strerror}") from error
        return values

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in filter(None, (part.strip() for part in value.split(","))):
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not of the form https://host[:port], without a path")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_a_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        try:
            if value is not None:
                Ledger(value.get_secret_value())  # which does not connect yet
        except InvalidUrl as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("otlp_url")
    @classmethod
    def _can_be_sent_to(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not re.fullmatch(r"https?://[^\s/]+/\S*", value):
            raise ValueError(f"{value!r} is not of the form http://host:4318/v1/traces")
        try:
            import_module("frontend.otel")
        except ModuleNotFoundError as error:
            raise ValueError(f"it needs the extra 'otel': pip install '.[otel]' ({error})") from error
        return value

    @field_validator("gpu_ledger")
    @classmethod
    def _names_a_factory(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w.]+:\w+", value):
            raise ValueError(f"{value!r} is not package.module:factory")
        return value

    @field_validator("fetch_allow")
    @classmethod
    def _is_an_allowlist(cls, value: str) -> str:
        parse_allow(value)
        return value

    @model_validator(mode="after")
    def _values_fit_together(self) -> Self:
        if self.max_concurrency < self.max_candidates:
            raise ValueError("AESTHETIC_MAX_CONCURRENCY must be at least AESTHETIC_MAX_CANDIDATES")
        if self.max_buffered_bytes < self.max_body_bytes:
            raise ValueError("AESTHETIC_MAX_BUFFERED_BYTES must be at least AESTHETIC_MAX_BODY_BYTES")
        try:
            Keys.of(self.model_boss_prefix, self.gpu)
        except InvalidClaim as error:
            raise ValueError(f"AESTHETIC_GPU and AESTHETIC_MODEL_BOSS_PREFIX: {error}") from error
        return self
