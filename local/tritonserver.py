"""Where a tritonserver is, and how it is started for this service.

The `nvidia-pytriton` wheel has the real server for Linux without containers. Only its binary and
its Python backend are used, not PyTriton's API. Without the wheel, a `tritonserver` on PATH is
taken.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from local.errors import LocalError
from reward.contract import ADMIN_HEADER, MODELS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reward.contract import ModelSpec

# Loading a model runs its code, and shared memory is another way into the process. Both need the
# administration key. Statistics, metadata and inference stay open.
LOOPBACK: Final = "127.0.0.1"
RESTRICTED_APIS: Final = "model-repository,shared-memory,trace,logging"

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where Linux has it, whatever TMPDIR says
SHARED_MEMORY_MIN_MIB: Final = 32
"""Each Python process of Triton takes 1 MiB of it at its start, and more for what it is sent."""

_NOT_LOADED: Final = 127
"""The exit status of the dynamic loader if a library is missing."""


@dataclass(frozen=True)
class Ports:
    """The three ports of one Triton server."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


@dataclass(frozen=True)
class TritonServer:
    """An installed tritonserver."""

    binary: Path
    backends: Path | None = None
    """The backend directory to name; None means the server's own."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables to be added to the server's environment."""

    def command(
        self,
        repository: Path,
        *,
        host: str,
        http_host: str = LOOPBACK,
        ports: Ports,
        admin_key: str,
        server_id: str,
        models: Iterable[ModelSpec] = MODELS,
        otlp_url: str | None = None,
    ) -> list[str]:
        """Compose the command line that serves `repository`, with `models` loaded at the start.

        gRPC listens on `host`, HTTP and the metrics on `http_host`. Let no stranger reach the
        latter: a request over HTTP can crash 2.51. Whoever sends `admin_key` may load and unload.
        The lease of GPU memory has the id `server_id`.
        """
        options = {
            "id": server_id,
            "model-repository": _for_a_shell(repository),
            "model-config-name": "served",  # configs/served.pbtxt, where there is one: what export made
            "model-control-mode": "explicit",
            "strict-readiness": "true",
            "exit-timeout-secs": 20,
            "allow-gpu-metrics": "false",
            "backend-config": f"python,shm-region-prefix-name={region_prefix(server_id)}",
            "http-restricted-api": f"{RESTRICTED_APIS}:{ADMIN_HEADER}={admin_key}",
            "grpc-restricted-protocol": f"{RESTRICTED_APIS}:{ADMIN_HEADER}={admin_key}",
        }
        for door, port in asdict(ports).items():
            options |= {f"{door}-address": host if door == "grpc" else http_host, f"{door}-port": port}
        if self.backends is not None:
            options["backend-directory"] = _for_a_shell(self.backends)
        arguments = [f"--{name}={value}" for name, value in options.items()]
        arguments.append("--disable-auto-complete-config")
        if otlp_url is not None:
            arguments += [f"--trace-config={setting}" for setting in _tracing(otlp_url)]
        return [str(self.binary), *arguments, *(f"--load-model={model.name}" for model in models)]


def _tracing(url: str) -> list[str]:
    """Have Triton go on with the traces of requests that name one, and begin none of its own."""
    own = (f"url={url}", "resource=service.name=triton")
    return ["mode=opentelemetry", "rate=0", "level=TIMESTAMPS", *(f"opentelemetry,{each}" for each in own)]


def find(directory: Path, *, package: str = "pytriton") -> TritonServer:
    """Find a tritonserver in the wheel `package`, or on PATH.

    The wheel's Python backend is laid out in `directory` as Triton wants it.

    Raises:
        LocalError: there is none, or its Python backend does not start with this Python.
    """
    # The Python backend's stub uses the packages of the first `python3` on PATH, which is ours.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    spec = find_spec(package)
    if spec is not None and spec.origin is not None:
        return _of_wheel(Path(spec.origin).parent / "tritonserver", directory, path)
    binary = shutil.which("tritonserver")
    if binary is None:
        raise LocalError(
            "no tritonserver: install the extra 'triton' (pip install '.[triton]', Linux on x86-64) "
            "or put a tritonserver on PATH"
        )
    return TritonServer(Path(binary), environment={"PATH": path})


def region_prefix(server_id: str) -> str:
    """Return what the names of this server's regions of shared memory begin with."""
    return f"imajin_{hashlib.sha256(server_id.encode()).hexdigest()[:16]}_"


def remove_regions(server_id: str) -> None:
    """Remove the shared memory of a server that has ended: a killed one leaves it behind."""
    for region in SHARED_MEMORY.glob(f"{region_prefix(server_id)}*"):
        region.unlink(missing_ok=True)


def check_shared_memory(directory: Path = SHARED_MEMORY, *, min_mib: int = SHARED_MEMORY_MIN_MIB) -> None:
    """Refuse to go on if Triton's Python processes would fail one after another.

    Raises:
        LocalError: too little shared memory is free.
    """
    state = os.statvfs(directory)
    free_mib = state.f_bavail * state.f_frsize // 2**20
    if free_mib < min_mib:
        raise LocalError(
            f"{directory} has {free_mib} MiB free and Triton needs {min_mib}: remove what others left there, "
            "or give a container more (docker run --shm-size=1g)"
        )


def _of_wheel(wheel: Path, directory: Path, path: str) -> TritonServer:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise LocalError(f"the nvidia-pytriton wheel has no Python backend for Python {version}")
    backend = directory / "backends" / "python"
    shutil.rmtree(backend, ignore_errors=True)
    backend.mkdir(parents=True)
    for file in filter(Path.is_file, [*(wheel / "backends" / "python").iterdir(), stub]):
        (backend / file.name).symlink_to(file)
    libraries = [
        sysconfig.get_config_var("LIBDIR"),
        str(Path(sys.base_prefix) / "lib"),
        str(wheel.parents[1] / "nvidia_pytriton.libs"),
        *filter(None, [os.environ.get("LD_LIBRARY_PATH")]),  # where the driver of a GPU may be
    ]
    environment = {"PATH": path, "LD_LIBRARY_PATH": os.pathsep.join(libraries)}
    # Without arguments the stub says so and ends, unless it cannot even be loaded.
    trial = subprocess.run(  # noqa: S603 - of the wheel
        [stub], env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    if trial.returncode == _NOT_LOADED:
        reason = trial.stderr.strip().rpartition(": error ")[2]
        raise LocalError(
            f"Triton's Python backend does not start with this Python: {reason}; "
            f"install it (Debian, Ubuntu: apt-get install libpython{version}), or let 'make' choose a Python: "
            "make clean, then the same command again"
        )
    return TritonServer(wheel / "bin" / "tritonserver", backends=backend.parent, environment=environment)


def _for_a_shell(path: Path) -> str:
    """Return a path that needs no quotes: Triton starts stubs by a line for bash without quotes.

    Raises:
        LocalError: even the path from the current directory has a space or the like.
    """
    for spelling in (str(path), os.path.relpath(path)):
        if shlex.quote(spelling) == spelling:
            return spelling
    raise LocalError(f"Triton cannot start its Python processes in {path}: use a path without spaces")
