"""What is in the images, and that the one for GPUs can be made."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tests.compose.project import docker

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.compose, pytest.mark.timeout(3600)]

BASE: Final = "debian:bookworm-slim"
FOREIGN: Final = {
    "frontend": {"torch", "onnxruntime", "nvidia-pytriton"},
    "triton": {"torch", "fastapi", "huggingface-hub"},
    "export": {"torch", "fastapi", "nvidia-pytriton"},
}
"""What an image has no use for."""


@pytest.mark.parametrize("name", FOREIGN)
def test_an_image_says_what_is_in_it(checkout: Path, name: str) -> None:
    """Its list of Python packages has this project, with a licence, and nothing foreign."""
    assert checkout
    image = f"imajin-aesthetic/{name}:test"
    listed = docker("run", "--rm", "--entrypoint", "cat", image, "/opt/imajin-aesthetic/packages.json")
    installed = {one["metadata"]["name"].lower(): one["metadata"] for one in json.loads(listed)["installed"]}
    assert "imajin-aesthetic" in installed
    assert not FOREIGN[name] & installed.keys()
    base_mb, size_mb = (
        int(docker("image", "inspect", "--format", "{{.Size}}", one)) // 10**6 for one in (BASE, image)
    )
    print(f"{name}: {size_mb - base_mb} MB more than {BASE} ({base_mb} MB), {len(installed)} Python packages")


def test_the_image_for_gpus_is_made_on_debian(checkout: Path) -> None:
    """Its install steps run on Debian in the place of NVIDIA's image; only Triton is missing."""
    command = ["docker", "build", "--network=host", "--quiet", "--file=deploy/triton-gpu/Dockerfile"]
    # torch for CUDA would be gigabytes for nothing.
    command += ["--build-arg=REQUIREMENTS=deploy/triton/requirements.txt"]
    command += [f"--build-arg=TRITON_IMAGE={BASE}", "--tag=imajin-aesthetic/triton-gpu:test", "."]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    start = (
        "python -c 'import onnxruntime, reward.runtimes' && mkdir -p /tmp/r/image_reward_network"
        " && cp -r lib/python3*/site-packages/demo/model /tmp/r/image_reward_network/1 && touch /tmp/key"
        " && python -m local triton --repository /tmp/r --directory /tmp/t --admin-key-file /tmp/key 2>&1; id -u"
    )
    says = docker("run", "--rm", "--entrypoint", "sh", "imajin-aesthetic/triton-gpu:test", "-c", start)
    assert says.startswith("error: no tritonserver")
    assert says.splitlines()[-1] == "10001"
