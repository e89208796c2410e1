"""Versions in docker-compose.yml: of checkpoints, promoted live, and a volume that is full."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
import torch

from reward.preprocess import prepare
from reward.tokenizer import tokenise
from tests.compose.project import PROMPT, SCORES, Project, docker, load, picture, torch_links
from tests.small import save_small_checkpoint, small_network

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.compose, pytest.mark.timeout(3600)]

VOLUME_MB: Final = 24
SEEDS: Final = {"1": 0, "2": 1}
"""Of the random weights of each version."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of small networks with random weights, one for each version."""
    directory = tmp_path_factory.mktemp("checkpoints")
    directory.chmod(0o755)
    paths = {}
    for version, seed in SEEDS.items():
        paths[version] = save_small_checkpoint(directory / f"small-{version}.safetensors", seed=seed)
        paths[version].chmod(0o644)  # the containers have no root
    return paths


@pytest.fixture(scope="module")
def project(checkout: Path, checkpoints: dict[str, Path]) -> Iterator[Project]:
    """The first checkpoint, published and served, on a volume of a few megabytes."""
    volume = f"{checkout.name}-small"
    (checkout / "small-volume.yml").write_text(f"volumes: {{models: {{external: true, name: {volume}}}}}\n")
    with torch_links() as links:
        project = Project(checkout, files=["small-volume.yml"], **links)
        project.compose("build", "publish", CHECKPOINT=str(checkpoints["1"]))
    in_memory = ("--driver=local", "--opt=type=tmpfs", "--opt=device=tmpfs")
    size = f"--opt=o=size={VOLUME_MB}m,uid=10001,gid=10001,mode=0755"
    docker("volume", "create", *in_memory, size, volume)
    # A volume in memory lives for as long as a container has it.
    image = "imajin-aesthetic/frontend:test"
    holder = docker(
        "run", "--detach", "--init", f"--volume={volume}:/models", image, "sleep", "infinity"
    ).strip()
    try:
        project.up(CHECKPOINT=str(checkpoints["1"]))
        yield project
    finally:
        left = project.down()
        docker("rm", "--force", holder)
        docker("volume", "rm", volume)
    assert not left


@pytest.fixture(scope="module")
def scores() -> dict[str, dict[str, float]]:
    """What torch says of the examples, by version."""
    return {version: {one: _score(seed, one) for one in SCORES} for version, seed in SEEDS.items()}


def _score(seed: int, example: str) -> float:
    tokens = tokenise([PROMPT])
    pixels = torch.from_numpy(np.ascontiguousarray(prepare(picture(example)).pixels[None]))
    with torch.no_grad():
        ids, mask = torch.from_numpy(tokens.input_ids), torch.from_numpy(tokens.attention_mask)
        return float(small_network(seed)(pixels, ids, mask)[0])


def test_a_checkpoint_is_published_and_served(project: Project, scores: dict[str, dict[str, float]]) -> None:
    """`CHECKPOINT=… docker compose up` serves that checkpoint, as torch scores it."""
    answer = project.wait_until_it_scores()
    assert answer["raw_score"] == pytest.approx(scores["1"]["1-09.jpg"], abs=1e-3)
    assert answer["model"]["name"] == "small-1"


def test_promote_under_load(
    project: Project, checkpoints: dict[str, Path], scores: dict[str, dict[str, float]]
) -> None:
    """A second version is published, promoted and rolled back by one-shot containers.

    Meanwhile each answer is the score of the version that it names, and none fails.
    """
    path = checkpoints["2"]
    with load(project, scores=scores) as found:
        publish = ["publish", "--checkpoint", path.name, "--name", "second", "--quiet"]
        project.compose("run", "--rm", "-T", "export", *publish, CHECKPOINT=str(path))
        print(project.compose("run", "--rm", "-T", "export", "promote", "2", "--why", "a test"))
        assert project.wait_until_it_scores()["model_version"] == "2"
        print(project.compose("run", "--rm", "-T", "export", "rollback"))
        assert project.wait_until_it_scores()["model_version"] == "1"
    print(f"promoted and rolled back: {dict(found.answers)}")
    assert not found.wrong
    assert not found.failures
    assert found.answers["version 1"]
    assert found.answers["version 2"]


def test_a_full_volume(
    project: Project, checkpoints: dict[str, Path], scores: dict[str, dict[str, float]]
) -> None:
    """On a full volume nothing is published or half-written, and what is served is served on."""
    path = checkpoints["2"]
    command = [
        "run",
        "--rm",
        "-T",
        "export",
        "publish",
        "--checkpoint",
        path.name,
        "--name",
        "third",
        "--quiet",
    ]
    before = _versions(project)
    with load(project, scores=scores) as found:
        _on_the_volume(project, "dd if=/dev/zero of=/models/filler bs=64k; true")
        done = project.try_compose(*command, CHECKPOINT=str(path))
        assert done.returncode == 1, done.stderr
        assert "No space left on device" in done.stderr
        promoted = project.try_compose("run", "--rm", "-T", "export", "promote", "2")
        assert promoted.returncode == 1, promoted.stderr
        assert _versions(project) == before
        _on_the_volume(project, "rm /models/filler")
        project.compose(*command, CHECKPOINT=str(path))
    print(f"volume full: {dict(found.answers)}; {done.stderr.strip().splitlines()[-1]}")
    assert not found.wrong
    assert not found.failures


def _versions(project: Project) -> str:
    return project.compose("run", "--rm", "-T", "export", "list", "--json")


def _on_the_volume(project: Project, command: str) -> None:
    volume = f"{project.checkout.name}-small:/models"
    subprocess.run(
        [
            "docker",
            "run",
            "--rm",
            f"--volume={volume}",
            "imajin-aesthetic/frontend:test",
            "sh",
            "-c",
            command,
        ],
        capture_output=True,
        check=True,
    )
