"""The README's commands on machines that are really fresh.

`make test-fresh` runs these, and needs Docker.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

from tests.fresh.machine import ROOT, fresh_machine, managed_python_options

if TYPE_CHECKING:
    from tests.fresh.machine import Machine

pytestmark = [pytest.mark.fresh, pytest.mark.timeout(3600)]

PREREQUISITES: Final = "make python3 python3-venv"
WITH_LIBPYTHON: Final = f"{PREREQUISITES} libpython3.11"
PASSED: Final = re.compile(r"^=+ \d+ passed.* in [\d.]+s.*=+$", re.MULTILINE)


def test_demo_with_the_systems_python() -> None:
    """`make demo` prints the README's table, and prints it again without a network."""
    with fresh_machine(WITH_LIBPYTHON) as machine:
        _demo(machine)
        _is_small(machine)
        print(f"downloaded, MB: {machine.received_mb()}")
        machine.cut_off()
        _demo(machine)


def test_demo_without_libpython() -> None:
    """Where Debian's Python has no shared library, uv brings a Python that has one."""
    with fresh_machine(PREREQUISITES, options=managed_python_options()) as machine:
        output = _demo(machine)
        assert "python3.11 has no shared library libpython3.11.so.1.0; " in output
        assert "uv brings Python 3.11" in output


def test_demo_with_another_python_only() -> None:
    """Debian 13 has Python 3.13, for which there is no NumPy 1, so uv brings an older Python."""
    with fresh_machine(PREREQUISITES, base="debian:trixie-slim", options=managed_python_options()) as machine:
        assert "python3 is 3.13; uv brings Python 3.11" in _demo(machine)


def test_no_python_to_be_had() -> None:
    """Where uv cannot bring a Python, one line at once says what to install."""
    nowhere = (
        "--env",
        "UV_PYTHON_DOWNLOADS_JSON_URL=",
        "--env",
        "UV_PYTHON_INSTALL_MIRROR=http://127.0.0.1:9",
    )
    with fresh_machine(PREREQUISITES, options=nowhere) as machine:
        done = machine.try_run("make demo")
    assert done.returncode == 2
    errors = [line for line in done.stdout.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "Connection refused" in errors[0]
    assert "Install it: apt-get install libpython3.11, or name one with PYTHON=" in errors[0]


def test_no_venv_and_no_uv() -> None:
    """Without venv and without uv, one line says what to install."""
    with fresh_machine("make python3") as machine:
        done = machine.try_run("make demo")
    assert done.returncode == 2
    assert (
        "error: there is neither a Python with venv nor uv; on Debian and Ubuntu: apt-get install python3-venv"
        in done.stdout
    )


def test_too_little_shared_memory() -> None:
    """Too little shared memory is reported in one line at the start."""
    with fresh_machine(WITH_LIBPYTHON, options=("--shm-size", "16m")) as machine:
        done = machine.try_run("make demo")
    assert done.returncode == 2
    assert "error: /dev/shm has 16 MiB free and Triton needs 32: " in done.stdout


def test_up_in_a_path_with_a_space_and_a_letter_beyond_ascii() -> None:
    """In such a path `make up MODEL=demo` serves, scores and ends on Ctrl-C."""
    with fresh_machine(WITH_LIBPYTHON, directory="/home/user/my modèle/imajin-aesthetic") as machine:
        machine.run("make --no-print-directory .venv/.serve")
        machine.cut_off()
        output = machine.run(f"bash -c '{_UP_AND_SCORE}'")
    assert '"raw_score":2.00747' in output
    assert "ready after" in output


_UP_AND_SCORE: Final = """
    set -m
    make up MODEL=demo >up.log 2>&1 &
    for _ in $(seq 300); do grep -q Ctrl-C up.log && break; sleep 0.5; done
    .venv/bin/python -c "
import base64, json, sys, urllib.request
image = base64.b64encode(open(\\"examples/1-09.jpg\\", \\"rb\\").read()).decode()
body = json.dumps({\\"prompt\\": \\"a large red square on the right\\", \\"image_base64\\": image}).encode()
request = urllib.request.Request(\\"http://127.0.0.1:8006/score\\", body, {\\"Content-Type\\": \\"application/json\\"})
print(urllib.request.urlopen(request).read().decode())"
    kill -INT -$! && wait; cat up.log"""


def test_demo_with_a_home_that_cannot_be_written() -> None:
    """`make demo` writes nothing outside the project's folder."""
    with fresh_machine(
        WITH_LIBPYTHON, directory="/srv/imajin-aesthetic", options=("--tmpfs", "/home/user:ro")
    ) as machine:
        _demo(machine)


def test_the_everyday_tests_with_the_systems_python() -> None:
    """`make test` passes under Docker's defaults: no IPv6, and 64 MB of shared memory.

    Afterwards none of the shared memory is in use.
    """
    with fresh_machine(f"{WITH_LIBPYTHON} git") as machine:
        assert PASSED.search(machine.run("make test", timeout_s=3000))
        print(
            f"downloaded, MB: {machine.received_mb()}; installed: {machine.disk_mb('.venv', '.tools', '.upstream')}"
        )
        assert machine.run("find /dev/shm -name '*triton*' -o -name 'imajin_*'") == ""


def test_the_everyday_tests_with_a_python_of_uvs() -> None:
    """`make test` passes with a Python that uv has brought, under further difficulties.

    The path has a space, the system has no libpython, the home is read-only, and there is no
    network.
    """
    with fresh_machine(
        PREREQUISITES,
        directory="/srv/my modèle/imajin-aesthetic",
        options=("--tmpfs", "/home/user:ro", *managed_python_options()),
    ) as machine:
        machine.run("make install-test")
        print(f"installed, MB: {machine.disk_mb('.venv', '.tools', '.upstream')}")
        machine.cut_off()
        assert PASSED.search(machine.run("make test", timeout_s=3000))


def _demo(machine: Machine) -> str:
    """Run `make demo`; the first table it prints is the one in the README."""
    output = machine.run("make demo")
    readme = (ROOT / "README.md").read_text()
    table = re.search(r"^a large red square on the right   \[.*?(?=\n```)", readme, re.DOTALL | re.MULTILINE)
    assert table is not None
    assert table[0] in output
    return output


def _is_small(machine: Machine) -> None:
    """Check that no torch was installed; the README tells the size."""
    size_mb = machine.disk_mb(".venv", ".tools")
    print(f"installed, MB: {size_mb}")
    assert sum(size_mb.values()) < 1000
