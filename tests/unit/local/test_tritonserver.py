"""Where a tritonserver is found, and how it is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from local.errors import NotInstalled
from local.tritonserver import ADMIN_HEADER, Ports, TritonServer, find

NO_WHEEL = "no_such_package"


def test_the_wheel_comes_first(tmp_path: Path) -> None:
    """Its Python backend is laid out as Triton wants it: library, utilities and the stub of this Python."""
    server = find(tmp_path)
    assert os.access(server.binary, os.X_OK)
    assert server.backends is not None
    names = {path.name for path in (server.backends / "python").iterdir()}
    assert {"libtriton_python.so", "triton_python_backend_stub", "triton_python_backend_utils.py"} <= names
    assert all(path.exists() for path in (server.backends / "python").iterdir())


def test_without_the_wheel_path_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tritonserver on PATH is taken, with the backend directory it was built with."""
    binary = tmp_path / "tritonserver"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    server = find(tmp_path, package=NO_WHEEL)
    assert server.binary == binary
    assert server.backends is None
    assert "--backend-directory" not in " ".join(
        server.command(Path("repository"), host="127.0.0.1", ports=Ports(), admin_key="k")
    )


def test_none_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said in one line how to get one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotInstalled, match="no tritonserver: install the extra 'triton'"):
        find(tmp_path, package=NO_WHEEL)


def test_every_door_is_bound_to_the_host_and_administration_is_restricted() -> None:
    """HTTP, gRPC and metrics listen where asked; who loads models has to know the key."""
    command = TritonServer(Path("tritonserver")).command(
        Path("repository"), host="127.0.0.1", ports=Ports(1, 2, 3), admin_key="secret"
    )
    for door, port in (("http", 1), ("grpc", 2), ("metrics", 3)):
        assert f"--{door}-address=127.0.0.1" in command
        assert f"--{door}-port={port}" in command
    restricted = [argument for argument in command if "restricted" in argument]
    assert len(restricted) == 2
    for argument in restricted:
        assert "model-repository" in argument
        assert argument.endswith(f":{ADMIN_HEADER}=secret")
