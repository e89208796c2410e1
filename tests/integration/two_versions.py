"""One real Triton with several versions of a small network, and a real frontend over it."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any, Final, Self

from export.deployment_store import DeploymentStore
from export.live_switch import LiveSwitch
from export.running_triton import RunningTriton
from local.stack import compile_models
from reward import runtimes
from reward.contract import NETWORK
from reward.deployment import Deployment, Share
from reward.preprocess import prepare
from reward.tokenizer import tokenise
from tests.integration.servers import ADMIN_KEY, Frontend, Triton
from tests.pictures import PHOTOGRAPHS, photograph

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS: Final = ("a photo", "a drawing of the sea")
BODIES: Final[list[dict[str, Any]]] = [
    {"prompt": prompt, "image_base64": base64.b64encode(photograph(name)).decode()}
    for prompt in PROMPTS
    for name in PHOTOGRAPHS
]


def expected_scores(repository: Path, version: int) -> list[float]:
    """Score every body with the version's own files, without any server."""
    runtime = runtimes.load(repository / NETWORK.name / str(version), threads=1)
    scores = []
    for prompt in PROMPTS:
        tokens = tokenise([prompt])
        for name in PHOTOGRAPHS:
            pixels = prepare(photograph(name)).pixels[None]
            scores.append(float(runtime.score(pixels, tokens.input_ids, tokens.attention_mask)[0, 0]))
    return scores


class Versions:
    """Triton and one frontend over a repository; use as an async context manager."""

    def __init__(self, repository: Path, directory: Path, **settings: object) -> None:
        self.repository = repository
        self._triton = Triton(repository, directory)
        self._store = DeploymentStore(repository)
        triton = RunningTriton(self._triton.url, ADMIN_KEY)
        self._switch = LiveSwitch(triton, self._store, repository, say=lambda _: None, step=lambda _: None)
        self._deployed = Deployment(1)
        self.frontend = Frontend(repository, directory, self._triton.url, **settings)
        self.expected = {version: expected_scores(repository, version) for version in (1, 2)}

    async def __aenter__(self) -> Self:
        self._store.write(self._deployed)
        compile_models(self.repository)
        await asyncio.to_thread(self._triton.start_and_wait)
        await self.frontend.start_and_wait()
        await self.frontend.health(200)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.frontend.stop()
        await self.frontend.client.aclose()
        self._triton.stop()

    async def serve(
        self, stable: int, *, canary: tuple[int, float] | None = None, shadow: tuple[int, float] | None = None
    ) -> None:
        """Go over to these versions as a promotion does: load beside, switch, drop the rest."""
        target = Deployment(
            stable,
            canary=None if canary is None else Share(*canary),
            shadow=None if shadow is None else Share(*shadow),
        )
        before, self._deployed = self._deployed, target
        await asyncio.to_thread(self._switch.go_over, before, target, number=stable, expected=None)
        await asyncio.to_thread(self._switch.drop, target)

    def write(self, deployed: Deployment) -> None:
        """Write that this is served, and load nothing for it."""
        self._store.write(deployed, loaded=[1])
