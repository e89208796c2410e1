"""A server that speaks as much of Triton's HTTP as the frontend needs, and fails when told to."""

from __future__ import annotations

import asyncio
import collections
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import web

from reward import deployment, manifest, preprocess
from reward.contract import NETWORK
from reward.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@dataclass
class TritonStandIn:
    """What the stand-in was asked, and what it will answer."""

    port: int = 0
    failure: tuple[int, str] | None = None
    """Status and text with which every inference is answered, if it fails."""
    metadata_failure: tuple[int, str] | None = None
    asked: list[str] = field(default_factory=list)
    connections: list[object] = field(default_factory=list)
    """The connection on which each entry of `asked` came."""
    inferences: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    """The headers of each inference."""
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is cleared, requests are accepted but not answered."""
    held: set[str] = field(default_factory=set)
    """Ids of requests that are never answered."""
    reward: float = 0.5
    rewards: dict[str, float] = field(default_factory=dict)
    """Version -> its reward, if it is another than `reward`."""
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Version -> status and text with which it fails."""
    held_versions: set[str] = field(default_factory=set)
    """The versions that never answer."""
    max_rows: int = 64
    """The largest batch; a larger one is refused in Triton's words."""
    scored: collections.Counter[str] = field(default_factory=collections.Counter)
    """Version -> how many images it says that it has scored."""
    unloaded: set[str] = field(default_factory=set)
    """The versions that are not ready."""

    async def statistics(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"model_stats": [{"inference_count": self.scored[request.path.split("/")[-2]]}]}
        )

    async def metadata(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        self.connections.append(request.transport)
        await self.open.wait()
        if self.metadata_failure is not None:
            return _failed(self.metadata_failure)
        if any(request.path.endswith(f"/{version}/ready") for version in self.unloaded):
            return _failed((400, ""))
        return web.json_response({"version": "stand-in"})

    async def infer(self, request: web.Request) -> web.Response:
        body = await request.read()
        header = json.loads(body[: int(request.headers["Inference-Header-Content-Length"])])
        version = request.path.split("/")[-2]
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.inferences.append({**header, "version": version})
        if header.get("id", "") in self.held or version in self.held_versions:
            await asyncio.Event().wait()
        await self.open.wait()
        failure = self.failures.get(version, self.failure)
        if failure is not None:
            return _failed(failure)
        count = header["inputs"][0]["shape"][0]
        if count > self.max_rows:
            words = f"inference request batch-size must be <= {self.max_rows} for '{NETWORK.name}'"
            return _failed((400, f"[request id: <id_unknown>] {words}"))
        self.scored[version] += count
        data = np.full((count, 1), self.rewards.get(version, self.reward), np.float32).tobytes()
        output = {"name": "REWARD", "datatype": "FP32", "shape": [count, 1]}
        answer = json.dumps({"outputs": [{**output, "parameters": {"binary_data_size": len(data)}}]}).encode()
        return web.Response(body=answer + data, headers={"Inference-Header-Content-Length": str(len(answer))})


def _failed(failure: tuple[int, str]) -> web.Response:
    return web.json_response({"error": failure[1]}, status=failure[0])


@asynccontextmanager
async def standing_in(port: int = 0) -> AsyncIterator[TritonStandIn]:
    """Run a stand-in on a free port, or on one that was used before."""
    triton = TritonStandIn()
    triton.open.set()
    app = web.Application(client_max_size=2**24)
    app.router.add_get("/v2", triton.metadata)
    app.router.add_get("/v2/models/{tail:.*}/stats", triton.statistics)
    app.router.add_get("/v2/models/{tail:.*}", triton.metadata)
    app.router.add_post("/v2/models/{tail:.*}", triton.infer)
    app.router.add_post("/v2/repository/{tail:.*}", triton.metadata)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
    await site.start()
    triton.port = runner.addresses[0][1]
    try:
        yield triton
    finally:
        await runner.cleanup()


def publish_manifest(
    repository: Path,
    *,
    version: int = 3,
    preprocessing: str | None = None,
    seconds_per_image: float | None = None,
) -> Path:
    """Write the manifest of a version; without a deployment, the newest one is served."""
    directory = repository / NETWORK.name / str(version)
    directory.mkdir(parents=True)
    manifest.write(
        Manifest(
            name="stand-in",
            checkpoint_sha256=f"{version}" * 64,
            precision="float32",
            runtime="none",
            opset=0,
            preprocessing=preprocessing or preprocess.digest(),
            dimensions={},
            files={},
            tools={},
            created_at="2026-01-01T00:00:00Z",
            seconds_per_image=seconds_per_image,
        ),
        directory,
    )
    return repository


def deploy(repository: Path, stable: int, device: str = "cpu", /, **others: tuple[int, float]) -> None:
    """Write what is served; `canary` and `shadow` are each a version and its share."""
    content: dict[str, object] = {"stable": stable, "device": device}
    content |= {role: {"version": version, "share": share} for role, (version, share) in others.items()}
    deployment.path(repository).parent.mkdir(exist_ok=True)
    deployment.path(repository).write_text(json.dumps(content))
