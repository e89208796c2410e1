"""The application: settings -> FastAPI, with all parts that it opens and closes."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from frontend.gpu.keeper import Keeper, KeeperOptions
from frontend.gpu.ledger import load_ledger, needed_mb, served_versions
from frontend.http.access_log import AccessLogMiddleware
from frontend.http.body_limits import BodyLimits
from frontend.http.docs import add_docs
from frontend.http.keys import KeyRing
from frontend.http.openapi import complete_openapi
from frontend.http.playground import add_playground
from frontend.http.problem import CODES, on_http_exception
from frontend.http.request_limits import RequestLimitsMiddleware
from frontend.http.routes import SCORING, Services, router
from frontend.http.schemas import Limits
from frontend.http.version_prefix import VersionPrefixMiddleware
from frontend.images import addresses
from frontend.images.decode import DecodePool
from frontend.images.fetch import Fetcher, FetchPolicy
from frontend.images.room import FetchRoom
from frontend.images.sources import ImageLoader
from frontend.metrics import Metrics, Share
from frontend.scoring.admission import Admission
from frontend.scoring.cache import ScoreCache
from frontend.scoring.health import PARTS, HealthMonitor
from frontend.scoring.pipeline import Pipeline
from frontend.scoring.scorer import Scorer
from frontend.scoring.shadow import Shadow
from frontend.traces import Traces
from frontend.triton.client import TritonClient
from frontend.triton.model_control import ModelControl
from model_boss import GpuLedger, Ledger, LedgerOptions, Nvml, OnOutage
from reward.decoding import DecodeLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from frontend.settings import Settings

_PROBE_TIMEOUT_S: Final = 10.0
_CORS_HEADERS: Final = ["Authorization", "Content-Type", "X-API-Key", "X-Request-ID", "X-Request-Timeout-Ms"]


def create_app(settings: Settings) -> FastAPI:
    """Build the application; at its start it opens the pools, at its end it closes them.

    Raises:
        KeysInvalid: the file of API keys cannot be read.
    """
    traces = _open_traces(settings)
    metrics = Metrics(traces)
    for code in CODES:  # a counter that begins with its first error has not increased by it
        for endpoint in SCORING:
            metrics.errors.labels(endpoint, code)
    limits = BodyLimits(
        max_body_bytes=settings.max_body_bytes, max_buffered_bytes=settings.max_buffered_bytes
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, traces.close)
            app.state.services = await _open(settings, metrics, traces, limits, stack)
            yield

    app = FastAPI(
        title="imajin-aesthetic",
        version=version("imajin-aesthetic"),
        summary="ImageReward scores: how well an image answers its prompt in human eyes.",
        description="Every path is also there under `/v1`.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own page loads its scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        openapi_url="/openapi.json" if settings.docs else None,
    )
    app.include_router(router)
    if settings.docs:
        add_docs(app)
        add_playground(app, links_docs=settings.api_keys_file is None)
    app.add_exception_handler(HTTPException, on_http_exception)
    # The layer that is added last is the outermost.
    keys = None if settings.api_keys_file is None else KeyRing(settings.api_keys_file)
    app.add_middleware(RequestLimitsMiddleware, limits=limits, keys=keys)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins(),
            allow_methods=["GET", "POST"],
            allow_headers=_CORS_HEADERS,
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(AccessLogMiddleware, metrics=metrics, traces=traces)
    app.add_middleware(VersionPrefixMiddleware)
    complete_openapi(app)
    return app


def _open_traces(settings: Settings) -> Traces:
    if settings.otlp_url is None:
        return Traces()
    opened: Traces = import_module("frontend.otel").open_traces(settings.otlp_url, settings.trace_ratio)
    return opened


async def _open(
    settings: Settings, metrics: Metrics, traces: Traces, limits: BodyLimits, stack: AsyncExitStack
) -> Services:
    policy = FetchPolicy(
        mode=settings.fetch,
        allow=addresses.parse_allow(settings.fetch_allow),
        max_bytes=settings.max_image_bytes,
        total_timeout_s=settings.fetch_timeout_s,
    )
    fetcher = await stack.enter_async_context(
        Fetcher(policy, on_denied=lambda reason: metrics.fetch_denials.labels(reason).inc())
    )
    pool = await stack.enter_async_context(
        DecodePool(
            DecodeLimits(
                max_bytes=settings.max_image_bytes,
                max_pixels=settings.max_pixels,
                timeout_s=settings.decode_timeout_s,
            ),
            workers=settings.decode_workers,
            on_worker_lost=metrics.decode_workers_lost.inc,
        )
    )
    client = await stack.enter_async_context(
        TritonClient(settings.triton_url, settings.model_repository, headers=traces.headers)
    )
    keeper = await _open_keeper(settings, metrics, client, stack)
    admission = Admission(settings.max_concurrency, settings.max_queue)
    room = FetchRoom(limits, settings.max_buffered_bytes // 2)
    loader = ImageLoader(fetcher, room, pool, metrics)
    scorer = Scorer(client, ScoreCache(settings.max_cache_bytes), metrics, keeper)
    shadow = await stack.enter_async_context(Shadow(client, metrics, keeper))
    pipeline = Pipeline(admission, loader, client, scorer, shadow, metrics, keeper)
    monitor = await stack.enter_async_context(
        HealthMonitor(pool, client, keeper, timeout_s=min(settings.request_timeout_s, _PROBE_TIMEOUT_S))
    )
    metrics.in_work.set_function(lambda: admission.in_work)
    metrics.max_in_work.set(settings.max_concurrency)
    metrics.queued.set_function(lambda: admission.queued)
    metrics.max_queued.set(settings.max_queue)
    metrics.buffered_bytes.set_function(lambda: limits.buffered_bytes)
    metrics.max_buffered_bytes.set(settings.max_buffered_bytes)
    metrics.decode_workers.set(settings.decode_workers)
    metrics.decode_workers_busy.set_function(lambda: pool.busy)
    metrics.circuit_open.set_function(lambda: client.is_cut_off)
    for part in PARTS:
        metrics.part_failing.labels(part).set_function(partial(monitor.is_failing, part))
    metrics.watch_shares(lambda: _shares(client))
    return Services(
        limits=Limits.model_validate(settings),
        pipeline=pipeline,
        client=client,
        monitor=monitor,
        metrics=metrics,
        keeper=keeper,
        log_prompts=settings.log_prompts,
    )


def _shares(client: TritonClient) -> list[Share]:
    served = client.last_served
    return [Share(one.version, one.role, one.share) for one in served.versions] if served else []


async def _open_keeper(
    settings: Settings, metrics: Metrics, client: TritonClient, stack: AsyncExitStack
) -> Keeper | None:
    """Take part in sharing the GPU, if a ledger is named."""
    if settings.gpu_ledger is not None:
        ledger: GpuLedger = load_ledger(settings.gpu_ledger, settings.gpu)
    elif settings.redis_url is not None:
        prefix, ttl_s = settings.model_boss_prefix, settings.model_boss_ttl_s
        terms = LedgerOptions(prefix=prefix, ttl_s=ttl_s, meter=Nvml())
        ledger = Ledger(settings.redis_url.get_secret_value(), terms)
    else:
        return None
    key = settings.triton_admin_key
    control = ModelControl(
        settings.triton_url,
        None if key is None else key.get_secret_value(),
        load_timeout_s=settings.gpu_load_timeout_s,
        served=partial(served_versions, settings.model_repository),
    )
    options = KeeperOptions(
        coordination=settings.gpu_ledger or "model-boss",
        gpu=settings.gpu,
        holder=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
        ttl_s=ledger.ttl_s,
        priority=settings.gpu_priority,
        vram_mb=partial(needed_mb, settings.model_repository, each_mb=settings.vram_mb),
        wait_s=settings.gpu_wait_s,
        idle_release_s=settings.idle_release_s,
        fail_open=settings.gpu_on_outage is OnOutage.FAIL_OPEN,
    )
    return await stack.enter_async_context(
        Keeper(ledger, control, options, metrics, on_loaded=client.start_afresh)
    )
