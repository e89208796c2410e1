"""A server that speaks as much of Triton's HTTP as the frontend needs, and fails when told to."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import web

from reward import manifest, preprocess
from reward.contract import ENSEMBLE, NETWORK
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
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is cleared, requests are accepted but not answered."""
    held: set[str] = field(default_factory=set)
    """Ids of requests that are never answered."""
    reward: float = 0.5
    kind: str = "KIND_CPU"
    """The kind of the network's instances."""

    async def metadata(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        self.connections.append(request.transport)
        await self.open.wait()
        if self.metadata_failure is not None:
            return _failed(self.metadata_failure)
        if request.path.endswith(f"{ENSEMBLE.name}/config"):
            step = {"model_name": NETWORK.name, "model_version": 3}
            return web.json_response({"ensemble_scheduling": {"step": [step]}})
        return web.json_response({"version": "stand-in", "instance_group": [{"kind": self.kind}]})

    async def infer(self, request: web.Request) -> web.Response:
        body = await request.read()
        header = json.loads(body[: int(request.headers["Inference-Header-Content-Length"])])
        self.inferences.append(header)
        if header.get("id", "") in self.held:
            await asyncio.Event().wait()
        await self.open.wait()
        if self.failure is not None:
            return _failed(self.failure)
        count = header["inputs"][0]["shape"][0]
        data = np.full((count, 1), self.reward, np.float32).tobytes()
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
    app = web.Application()
    app.router.add_get("/v2", triton.metadata)
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


def publish_manifest(repository: Path, *, preprocessing: str | None = None) -> Path:
    """Write the manifest of version 3, which the stand-in says it serves."""
    directory = repository / NETWORK.name / "3"
    directory.mkdir(parents=True)
    manifest.write(
        Manifest(
            name="stand-in",
            checkpoint_sha256="0" * 64,
            precision="float32",
            runtime="none",
            opset=0,
            preprocessing=preprocessing or preprocess.digest(),
            dimensions={},
            files={},
            tools={},
            parity={},
            created_at="2026-01-01T00:00:00Z",
        ),
        directory,
    )
    return repository
