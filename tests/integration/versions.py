"""One real Triton that has several versions of a small network, switched under a real frontend."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final, Self

from google.protobuf import text_format
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.grpc.model_config_pb2 import ModelConfig

from export.publish import Recipe, publish
from export.registry import Registry
from local import tritonserver
from local.ports import free_ports
from reward import deployment, runtimes
from reward.contract import ENSEMBLE, NETWORK
from reward.preprocess import prepare
from reward.tokenizer import tokenise
from tests.integration.gpu.shared_gpu import Frontend, Process
from tests.pictures import PHOTOGRAPHS, photograph
from tests.small import save_small_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

ADMIN_KEY: Final = "the-tests-own-key"
HEADERS: Final = {"triton-grpc-protocol-triton-admin-key": ADMIN_KEY}
PROMPTS: Final = ("a photo", "a drawing of the sea")
BODIES: Final[list[dict[str, Any]]] = [
    {"prompt": prompt, "image_base64": base64.b64encode(photograph(name)).decode()}
    for prompt in PROMPTS
    for name in PHOTOGRAPHS
]


def publish_second(repository: Path, directory: Path) -> None:
    """Publish version 2, with other random weights than version 1."""
    checkpoint = save_small_checkpoint(directory / "second.safetensors", seed=1)
    publish(Registry(repository), Recipe(checkpoint, "another random network"), show_progress=False)


def expected_scores(repository: Path, version: int) -> list[float]:
    """Score every body by the version's own files, without any server."""
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
        self.directory = directory
        http, grpc, metrics = free_ports(3)
        self._ports = tritonserver.Ports(http, grpc, metrics)
        self._triton = Process(directory / "triton.log")
        self._server_id = f"versions-of-the-test@{http}"
        self._grpc_url = f"127.0.0.1:{grpc}"
        chosen = {
            "HOST": "127.0.0.1",
            "TRITON_URL": f"127.0.0.1:{http}",
            "MODEL_REPOSITORY": repository,
            "DECODE_WORKERS": 1,
            **{name.upper(): value for name, value in settings.items()},
        }
        self.frontend = Frontend(
            directory, {f"AESTHETIC_{name}": str(value) for name, value in chosen.items()}
        )
        self.expected = {version: expected_scores(repository, version) for version in (1, 2)}

    async def __aenter__(self) -> Self:
        self.write(stable=1)
        self._configure([1], 1)
        server = tritonserver.find(self.directory)
        command = server.command(
            self.repository,
            host="127.0.0.1",
            ports=self._ports,
            admin_key=ADMIN_KEY,
            server_id=self._server_id,
        )
        if not any(argument.startswith("--model-config-name") for argument in command):
            command.append("--model-config-name=served")
        tritonserver.compile_models(self.repository)
        self._triton.start(command, server.environment)
        await self.frontend.start_and_wait()
        await self.frontend.health(200)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.frontend.stop()
        await self.frontend.client.aclose()
        self._triton.stop()
        tritonserver.remove_regions(self._server_id)

    def write(self, stable: int, **others: tuple[int, float]) -> None:
        """Write `deployment.json` as its owner does: at once, by rename."""
        content: dict[str, object] = {"stable": stable}
        content |= {role: {"version": version, "share": share} for role, (version, share) in others.items()}
        path = deployment.path(self.repository)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(content))
        new.replace(path)

    async def load(self, versions: list[int], ensemble: int) -> None:
        """Have Triton load these versions, and its own door use one of them."""
        self._configure(versions, ensemble)
        async with InferenceServerClient(self._grpc_url) as client:
            for model in (NETWORK, ENSEMBLE):
                await client.load_model(model.name, headers=HEADERS)

    async def promote(self, version: int, before: int) -> None:
        """Switch: both loaded, the frontend and the ensemble to the new one, the old one dropped."""
        await self.load([before, version], before)
        self.write(version)
        await self.load([version], version)

    def _configure(self, versions: list[int], ensemble: int) -> None:
        network = self._read(NETWORK.name)
        network.version_policy.specific.versions[:] = versions
        self._render(network)
        whole = self._read(ENSEMBLE.name)
        for step in whole.ensemble_scheduling.step:
            if step.model_name == NETWORK.name:
                step.model_version = ensemble
        self._render(whole)

    def _read(self, model: str) -> ModelConfig:
        text = (self.repository / model / "config.pbtxt").read_text()
        config: ModelConfig = text_format.Parse(text, ModelConfig())
        return config

    def _render(self, config: ModelConfig) -> None:
        path = self.repository / config.name / "configs" / "served.pbtxt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text_format.MessageToString(config))
