"""docker-compose.yml as it is, with the demonstration model.

`make test-compose` runs these, and needs Docker and the right to kill a container's process.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.compose.project import (
    CALLERS,
    PROMPT,
    SCORES,
    docker,
    inspect,
    kill,
    load,
    picture,
    wait_for,
)

if TYPE_CHECKING:
    from tests.compose.project import Project

pytestmark = [pytest.mark.compose, pytest.mark.timeout(3600)]

SERVICES = ("triton", "frontend", "proxy")


def test_it_scores(project: Project) -> None:
    """`docker compose up` serves the demonstration model with the README's scores."""
    for example, expected in SCORES.items():
        answer = project.score(example)
        assert answer.status_code == 200, answer.text
        assert answer.json()["raw_score"] == pytest.approx(expected, abs=1e-3)
    assert answer.json()["model"]["name"] == "demonstration model (not ImageReward)"


def test_every_container_is_shut_in(project: Project) -> None:
    """No container has root, a capability, a writable root or a way to more rights."""
    for service in ("keys", "publish", *SERVICES):
        for container in project.containers(service):
            found = inspect(container)
            host = found["HostConfig"]
            assert found["Config"]["User"] == "10001:10001"
            assert host["ReadonlyRootfs"]
            assert host["CapDrop"] == ["ALL"]
            assert host["SecurityOpt"] == ["no-new-privileges:true"]
            assert host["Memory"] > 0
            assert host["PidsLimit"] > 0
            writable = {mount["Destination"] for mount in found["Mounts"] if mount["RW"]}
            assert not writable or service in {"keys", "publish"}, (service, writable)


def test_one_port_is_published_and_only_here(project: Project) -> None:
    """Nothing but the proxy is reached from outside, and only from this machine."""
    for service in SERVICES:
        for container in project.containers(service):
            ports = {name: at for name, at in inspect(container)["NetworkSettings"]["Ports"].items() if at}
            if service == "proxy":
                assert [at["HostIp"] for at in ports["8006/tcp"]] == ["127.0.0.1"]
                assert set(ports) == {"8006/tcp"}
            else:
                assert not ports


def test_tritons_administration_needs_the_key(project: Project) -> None:
    """Who reaches Triton without the key unloads nothing; the key stands on no command line."""
    ask = (
        "import urllib.request as u, urllib.error as e\n"
        "request = u.Request('http://triton:8000/v2/repository/models/image_reward/unload', b'{}', %s)\n"
        "try: print(u.urlopen(request).status)\n"
        "except e.HTTPError as error: print(error.code)"
    )
    assert project.compose("exec", "-T", "frontend", "python", "-c", ask % "{}").strip() == "403"
    key = project.compose("exec", "-T", "frontend", "cat", "/keys/triton/admin-key").strip()
    assert len(key) == 32
    lines = project.compose("exec", "-T", "triton", "bash", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "--load-model=image_reward_network" in lines
    assert key not in lines


def test_a_big_upload_is_passed_on(project: Project) -> None:
    """An upload of many megabytes is answered by the frontend; one that is too big, too."""
    fits = picture("1-09.jpg") + bytes(15 * 2**20)  # decoders stop at the picture's end
    for image, status in ((fits, 200), (bytes(80 * 2**20), 413)):
        with httpx.Client(timeout=60, trust_env=False) as client:
            answer = client.post(f"{project.url}/score", data={"prompt": PROMPT}, files={"image": image})
        assert answer.status_code == status, answer.text
        assert status == 200 or answer.json()["code"] == "payload_too_large"


@pytest.mark.parametrize("service", SERVICES)
def test_kill(project: Project, service: str) -> None:
    """A container killed under load is back by itself; answers are right or errors with a code.

    Who was still sending to a frontend that dies may lose the connection (HAProxy's issue 188).
    """
    container = project.containers(service)[0]
    before = inspect(container)["RestartCount"]
    with load(project) as found:
        wait_for(lambda: found.answers["version 1"] > 10, "the load is on")
        kill(container)
        wait_for(lambda: inspect(container)["RestartCount"] == before + 1, "Docker starts it again")
        project.wait_until_healthy(container)
        again = found.answers["version 1"]
        wait_for(lambda: found.answers["version 1"] > again + 10, "it scores again")
    print(f"{service} killed: {dict(found.answers)}, {len(found.lost)} connections lost")
    assert not found.wrong
    if service != "proxy":
        assert len(found.lost) <= (CALLERS if service == "frontend" else 0)


def test_a_dead_python_process_of_triton(project: Project) -> None:
    """A dead stub, with which Triton fails every request, ends the container, and it comes back."""
    (container,) = project.containers("triton")
    before = inspect(container)["RestartCount"]
    with load(project) as found:
        wait_for(lambda: found.answers["version 1"] > 10, "the load is on")
        docker(
            "exec",
            container,
            "bash",
            "-c",
            "kill -9 $(grep -l [p]ython_backend_stub /proc/[0-9]*/cmdline | cut -d/ -f3)",
        )
        wait_for(lambda: inspect(container)["RestartCount"] > before, "Docker starts it again")
        project.wait_until_healthy(container)
        again = found.answers["version 1"]
        wait_for(lambda: found.answers["version 1"] > again + 10, "it scores again")
    print(f"a stub killed: {dict(found.answers)}, {len(found.lost)} connections lost")
    assert not found.wrong
    assert not found.lost


def test_a_hanging_frontend_is_left_out(project: Project) -> None:
    """A frontend that stands still gets no more requests, and all others are answered."""
    container = project.containers("frontend")[0]
    docker("pause", container)
    try:
        wait_for(lambda: project.ready_in_the_proxy() == 1, "the proxy leaves it out")
        answers = [project.score() for _ in range(5)]
    finally:
        docker("unpause", container)
    assert [answer.status_code for answer in answers] == [200] * 5
    project.wait_until_healthy(container)
    wait_for(lambda: project.ready_in_the_proxy() == 2, "the proxy takes it back")


def test_restart_the_frontends_one_by_one(project: Project) -> None:
    """Restarted one after the other under load, the frontends fail no request."""
    with load(project) as found:
        for container in project.containers("frontend"):
            wait_for(lambda: project.ready_in_the_proxy() == 2, "both are ready")
            docker("restart", "--time", "50", container)
            project.wait_until_healthy(container)
        wait_for(lambda: project.ready_in_the_proxy() == 2, "both are ready")
    print(f"restarted one by one: {dict(found.answers)}")
    assert found.answers["version 1"] > 20
    assert not found.wrong
    assert not found.failures


def test_the_network_between_frontend_and_triton(project: Project) -> None:
    """Without a way to Triton, requests are told so with a code; afterwards all is well."""
    (container,) = project.containers("triton")
    network = f"{project.name}_scoring"
    with load(project) as found:
        wait_for(lambda: found.answers["version 1"] > 5, "the load is on")
        docker("network", "disconnect", network, container)
        wait_for(lambda: found.answers["503 model_unavailable"] > 5, "requests are told so")
        live = project.try_compose("exec", "-T", "frontend", "true")
        docker("network", "connect", "--alias", "triton", network, container)
        again = found.answers["version 1"]
        wait_for(lambda: found.answers["version 1"] > again + 10, "it scores again")
    print(f"cut off from Triton: {dict(found.answers)}, {len(found.lost)} connections lost")
    assert live.returncode == 0  # no frontend was restarted for what is not its fault
    assert not found.wrong
    assert not found.lost


def test_up_again_keeps_what_is_served(project: Project) -> None:
    """A second `docker compose up` makes no new keys and no new version, and restarts nothing."""
    before = {
        container: inspect(container)["State"]["StartedAt"] for container in project.containers("triton")
    }
    key = project.compose("exec", "-T", "frontend", "cat", "/keys/triton/admin-key")
    project.up(frontends=2)
    assert project.compose("exec", "-T", "frontend", "cat", "/keys/triton/admin-key") == key
    assert {one: inspect(one)["State"]["StartedAt"] for one in project.containers("triton")} == before
    versions = json.loads(project.compose("run", "--rm", "-T", "export", "list", "--json"))["versions"]
    assert [(one["version"], one["role"], one["is_loaded"]) for one in versions] == [(1, "served", True)]


def test_stop_lets_requests_finish(project: Project) -> None:
    """After `docker compose stop` every container has ended by itself; `up` brings all back."""
    project.compose("stop")
    for service in SERVICES:
        for container in project.containers(service):
            assert inspect(container)["State"]["ExitCode"] == 0, service
    project.up(frontends=2)
    assert project.wait_until_it_scores()["raw_score"] == pytest.approx(SCORES["1-09.jpg"], abs=1e-3)


def test_backup(project: Project) -> None:
    """The models' volume, packed from the running service, brings all back on an empty machine."""
    tar = ["run", "--rm", "--no-deps", "-T", "--entrypoint", "tar", "export", "-C", "/models"]
    audit = project.compose("run", "--rm", "-T", "export", "audit")
    packed = project.pipe(*tar, "-cz", ".")
    assert not project.down()
    project.pipe(*tar, "-xz", data=packed)
    project.up(frontends=2)
    assert project.wait_until_it_scores()["raw_score"] == pytest.approx(SCORES["1-09.jpg"], abs=1e-3)
    assert project.compose("run", "--rm", "-T", "export", "audit") == audit != ""
