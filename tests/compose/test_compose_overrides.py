"""The files that are laid over docker-compose.yml: TLS, Triton's ports, and model-boss."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.compose.project import PROMPT, SCORES, Project, docker, inspect, kill, load, picture, wait_for
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.compose, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def opened(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """HTTPS, Triton's doors open, and so narrow a frontend that it refuses what comes at once."""
    directory = tmp_path_factory.mktemp("tls")
    pem = directory / "tls.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "certificate.pem"],
        cwd=directory, check=True, capture_output=True,
    )  # fmt: skip
    pem.write_text((directory / "certificate.pem").read_text() + (directory / "key.pem").read_text())
    directory.chmod(0o755)
    pem.chmod(0o644)
    http_port, grpc_port = free_ports(2)
    project = Project(
        checkout,
        files=["docker-compose.tls.yml", "docker-compose.triton-ports.yml"],
        TLS_PEM=str(pem),
        TRITON_HTTP_PORT=str(http_port),
        TRITON_GRPC_PORT=str(grpc_port),
        AESTHETIC_MAX_CONCURRENCY="10",
        AESTHETIC_MAX_QUEUE="0",
    )
    try:
        project.up()
        yield project
    finally:
        left = project.down()
    assert not left


async def test_tls_and_retry_after(opened: Project) -> None:
    """Over HTTPS scores are the same, and a refusal says when to come again."""
    (proxy,) = opened.containers("proxy")
    pem = next(one["Source"] for one in inspect(proxy)["Mounts"] if one["Destination"] == "/run/tls.pem")
    trusted = ssl.create_default_context(cafile=pem)
    url = f"https://localhost:{opened.port}/score"
    async with httpx.AsyncClient(verify=trusted, timeout=60, trust_env=False) as client:

        async def score() -> httpx.Response:
            return await client.post(url, data={"prompt": PROMPT}, files={"image": picture("1-09.jpg")})

        answers = [await score(), *await asyncio.gather(*(score() for _ in range(60)))]
    assert answers[0].json()["raw_score"] == pytest.approx(SCORES["1-09.jpg"], abs=1e-3)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert all(answer.headers["Retry-After"] for answer in refused)
    assert {answer.status_code for answer in answers} == {200, 429}


def test_tritons_doors(opened: Project) -> None:
    """With the file for it, Triton's ports are reached from this machine, and ask for no key."""
    (container,) = opened.containers("triton")
    ports = inspect(container)["NetworkSettings"]["Ports"]
    assert {at["HostIp"] for at in ports["8000/tcp"] + ports["8001/tcp"]} == {"127.0.0.1"}
    port = ports["8000/tcp"][0]["HostPort"]
    assert httpx.get(f"http://127.0.0.1:{port}/v2/health/ready", trust_env=False).status_code == 200


@pytest.fixture(scope="module")
def leased(checkout: Path) -> Iterator[Project]:
    """Two frontends that lease the model's memory from model-boss."""
    project = Project(
        checkout,
        files=["docker-compose.model-boss.yml"],
        AESTHETIC_MODEL_BOSS_TTL_S="6",
        AESTHETIC_GPU_WAIT_S="5",
    )
    try:
        project.up(frontends=2)
        project.wait_until_it_scores()
        yield project
    finally:
        left = project.down()
    assert not left


def test_the_model_is_leased(leased: Project) -> None:
    """The model is loaded under a lease, which Redis gives to nobody without the password."""
    info = httpx.get(f"{leased.url}/info", trust_env=False).json()
    assert info["gpu_coordination"] == "model-boss"
    assert info["gpu"]["state"] == "ready"
    says = leased.compose("exec", "-T", "redis", "redis-cli", "keys", "*")
    assert "NOAUTH" in says


def test_kill_redis(leased: Project) -> None:
    """A Redis that is killed comes back, and no request fails meanwhile."""
    (container,) = leased.containers("redis")
    before = inspect(container)["RestartCount"]
    with load(leased) as found:
        wait_for(lambda: found.answers["version 1"] > 5, "the load is on")
        kill(container)
        wait_for(lambda: inspect(container)["RestartCount"] > before, "Docker starts it again")
        leased.wait_until_healthy(container)
        again = found.answers["version 1"]
        wait_for(lambda: found.answers["version 1"] > again + 10, "it scores again")
    print(f"redis killed: {dict(found.answers)}")
    assert not found.wrong
    assert not found.failures


def test_the_network_between_frontend_and_redis(leased: Project) -> None:
    """Cut off from the ledger the model goes when its lease ends; it comes back by itself."""
    (container,) = leased.containers("redis")
    network = f"{leased.name}_ledger"
    with load(leased) as found:
        wait_for(lambda: found.answers["version 1"] > 5, "the load is on")
        docker("network", "disconnect", network, container)
        wait_for(lambda: found.answers["503 gpu_unavailable"] > 2, "requests are told so")
        docker("network", "connect", "--alias", "redis", network, container)
        again = found.answers["version 1"]
        wait_for(lambda: found.answers["version 1"] > again + 10, "it scores again")
    print(f"cut off from Redis: {dict(found.answers)}")
    assert not found.wrong
    assert not found.lost
