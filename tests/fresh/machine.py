"""Machines that are really fresh: containers with what the README asks for and an ordinary user."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.checkout import find_links, pack_checkout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).parents[2]
STAND_IN: Final = ROOT / ".cache" / "fresh" / "python"
_INSTALL: Final = "apt-get update -qq && apt-get install -y -qq --no-install-recommends"


@dataclass(frozen=True)
class Machine:
    """A running container with a checkout in it."""

    container: str
    directory: str

    def run(self, command: str, *, timeout_s: float = 1800) -> str:
        """Run a command in the checkout as the ordinary user and return its output.

        A command that fails shows its output in the error.
        """
        done = self.try_run(command, timeout_s=timeout_s)
        assert done.returncode == 0, f"{command}: status {done.returncode}\n{done.stdout[-6000:]}"
        return done.stdout

    def try_run(self, command: str, *, timeout_s: float = 1800) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout as the ordinary user; any exit status is fine.

        The output contains standard error.
        """
        started = time.monotonic()
        done = subprocess.run(
            ["docker", "exec", "--user", "user", "--workdir", self.directory, self.container,
             "bash", "-c", f"exec 2>&1; {command}"],
            stdout=subprocess.PIPE, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        print(f"\n$ {command}   # {time.monotonic() - started:.0f} s\n{done.stdout[-3000:]}")
        return done

    def cut_off(self) -> None:
        """Take the network away; only the loopback interface stays."""
        _docker("network", "disconnect", "bridge", self.container)

    def received_mb(self) -> int:
        """Return how much came over the network since the machine was started."""
        return int(self.run("cat /sys/class/net/eth0/statistics/rx_bytes")) // 10**6

    def disk_mb(self, *names: str) -> dict[str, int]:
        """Measure folders of the checkout; a file with several names counts once."""
        lines = self.run(f"du --summarize --block-size=1M {' '.join(names)}").splitlines()
        return {name: int(size) for size, name in (line.split("\t") for line in lines)}


@contextmanager
def fresh_machine(
    packages: str,
    *,
    base: str = "debian:bookworm-slim",
    directory: str = "/home/user/imajin-aesthetic",
    options: Sequence[str] = (),
) -> Iterator[Machine]:
    """Start a minimal Debian with these packages and the checkout; remove it at the end.

    It has Docker's own defaults: no IPv6, and 64 MB of /dev/shm.
    """
    image = _build(f"FROM {base}\nRUN {_INSTALL} {packages} >/dev/null && useradd --create-home user\n")
    container = _docker(
        "run", "--detach", "--init", *_pip_links(), *options, image, "sleep", "infinity"
    ).strip()  # fmt: skip
    try:
        machine = Machine(container, directory)
        _docker("exec", container, "mkdir", "-p", directory)
        _copy_checkout(container, directory)
        _docker("exec", container, "chown", "-R", "user:", directory)
        yield machine
    finally:
        _docker("rm", "--force", "--volumes", container)


def _docker(*arguments: str, data: bytes | None = None) -> str:
    done = subprocess.run(["docker", *arguments], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode()


def _build(dockerfile: str) -> str:
    return _docker("build", "--network", "host", "--quiet", "-", data=dockerfile.encode()).split()[-1]


def _copy_checkout(container: str, directory: str) -> None:
    """Copy the files that git knows, as they are in the work tree."""
    _docker("exec", "--interactive", container, "tar", "--extract", "-C", directory, data=pack_checkout())


def _pip_links() -> list[str]:
    """Give the machine the wheels that the host's pip is told to look for, if there are any."""
    links = find_links()
    if not Path(links).is_dir() or not links:
        return []
    return ["--volume", f"{links}:{links}:ro", "--env", f"UV_FIND_LINKS={links}"]


def managed_python_options() -> list[str]:
    """Return the options with which uv can bring a Python of its own.

    There are none where uv's own download can be reached. Elsewhere a stand-in is used: Debian's
    Python 3.11 with its shared library, packed as uv packs its own.
    """
    try:
        with socket.create_connection(("github.com", 443), timeout=5):
            return []
    except OSError:
        _make_stand_in()
    return [
        "--volume",
        f"{STAND_IN}:/stand-in:ro",
        "--env",
        "UV_PYTHON_DOWNLOADS_JSON_URL=/stand-in/downloads.json",
    ]


def _make_stand_in() -> None:
    archive = STAND_IN / "python.tar.gz"
    if not archive.exists():
        STAND_IN.mkdir(parents=True, exist_ok=True)
        image = _build(
            f"FROM debian:bookworm-slim\nRUN {_INSTALL} python3.11 libpython3.11 >/dev/null"
            " && mkdir -p /python/bin /python/lib && cp /usr/bin/python3.11 /python/bin/"
            " && cp /usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0 /python/lib/"
            " && cp -rL /usr/lib/python3.11 /python/lib/\n"
        )
        packed = subprocess.run(
            ["docker", "run", "--rm", image, "tar", "-C", "/", "-cz", "python"],
            capture_output=True,
            check=True,
        )
        archive.write_bytes(packed.stdout)
    (STAND_IN / "downloads.json").write_text(
        json.dumps(
            {
                "cpython-3.11.2-linux-x86_64-gnu": {
                    "name": "cpython",
                    "arch": {"family": "x86_64", "variant": None},
                    "os": "linux",
                    "libc": "gnu",
                    "major": 3,
                    "minor": 11,
                    "patch": 2,
                    "prerelease": "",
                    "url": "file:///stand-in/python.tar.gz",
                    "sha256": None,
                    "variant": None,
                    "build": None,
                }
            }
        )
    )
