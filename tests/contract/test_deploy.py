"""What the images are made of, and what docker-compose.yml promises: held without Docker."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import pytest
from ruamel.yaml import YAML

from frontend.settings import Settings
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

LOCKS: Final = sorted((CHECKOUT / "deploy").glob("**/*.txt"))
PINNED: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^ ]+) \\$", re.MULTILINE)
COMPOSE: Final = sorted(CHECKOUT.glob("docker-compose*.yml"))
OF_THE_IMAGES: Final = {
    "frontend/requirements.txt": ("frontend", "model-boss", "otel"),
    "triton-gpu/requirements.txt triton/server.txt": ("triton", "model-boss", "gpu"),
    "triton/requirements.txt triton/server.txt": ("triton", "model-boss"),
    "export/requirements.txt": ("fetch", "model-boss"),
    "export/torch.txt": ("fetch", "model-boss", "export"),
}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_images_have_the_versions_that_were_tested(lock: Path) -> None:
    """Packages have the versions of constraints.txt, and digests; else run deploy/lock.sh."""
    tested = dict(line.split("==") for line in _lines("constraints.txt") if "==" in line)
    tested = {_normal(name): version for name, version in tested.items()}
    text = lock.read_text()
    pinned = PINNED.findall(text)
    assert len(pinned) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE))
    for name, version in pinned:
        # Only torch's builds for CPUs have such a suffix.
        assert version.removesuffix("+cpu") == tested.get(_normal(name), version), name
    assert text.count("--hash=sha256:") >= len(pinned)


@pytest.mark.parametrize("files", OF_THE_IMAGES)
def test_images_have_what_the_project_asks_for(files: str) -> None:
    """What an extra asks for is in its image; else run deploy/lock.sh."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    text = "\n".join((CHECKOUT / "deploy" / file).read_text() for file in files.split())
    there = {_normal(name) for name, _ in PINNED.findall(text)}
    wanted = list(project["dependencies"])
    for extra in OF_THE_IMAGES[files]:
        wanted += project["optional-dependencies"][extra]
    assert {_normal(re.split(r"[\[<>=;]", line)[0]) for line in wanted} <= there


def test_every_service_is_shut_in() -> None:
    """No service of ours has root, a capability, a writable root, or as much memory as it likes."""
    for name, service in _services().items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "deploy" in service, name
        assert "privileged" not in service, name
        assert not any("docker.sock" in str(volume) for volume in service.get("volumes", [])), name


def test_ports_are_published_on_this_machine_alone() -> None:
    """Every file publishes on 127.0.0.1 alone, unless a variable says otherwise."""
    ports = [
        port for path in COMPOSE for one in _read(path)["services"].values() for port in one.get("ports", [])
    ]
    assert ports
    for port in ports:
        assert re.match(r"(\$\{[A-Z_]+:-127\.0\.0\.1\}|127\.0\.0\.1):", port), port


def test_every_setting_reaches_the_frontend() -> None:
    """Each of the frontend's settings is fixed by the files, or passed on from the shell."""
    passed = {
        variable
        for path in COMPOSE
        for variable in _read(path)["services"].get("frontend", {}).get("environment", {})
    }
    # The secrets come in files, and the port is the proxy's matter.
    apart = {"PORT", "REDIS_URL", "TRITON_ADMIN_KEY", "GPU_LEDGER"}
    assert {f"AESTHETIC_{name.upper()}" for name in Settings.model_fields} - passed == {
        f"AESTHETIC_{name}" for name in apart
    }


def test_every_variable_is_described() -> None:
    """docs/deploy.md names each variable that one of the files reads."""
    page = (CHECKOUT / "docs" / "deploy.md").read_text()
    readme = (CHECKOUT / "README.md").read_text() + (CHECKOUT / "docs" / "gpu-sharing.md").read_text()
    for path in COMPOSE:
        for variable in re.findall(r"(?<!\$)\$\{([A-Z_]+)", path.read_text()):
            assert f"`{variable}`" in page + readme, variable


def _services() -> dict[str, Any]:
    """Return the services of docker-compose.yml, and those that another file adds whole."""
    services: dict[str, Any] = dict(_read(CHECKOUT / "docker-compose.yml")["services"])
    for path in COMPOSE:
        for name, service in _read(path)["services"].items():
            if name not in services and "image" in service:
                services[name] = service
    return services


@cache
def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(path)
    return found


def _lines(name: str) -> list[str]:
    return (CHECKOUT / name).read_text().splitlines()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
