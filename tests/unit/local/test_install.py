"""`local/install.sh`, run by the real uv in a project of its own."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

UV: Final = shutil.which("uv") or str(CHECKOUT / ".tools" / "bin" / "uv")

pytestmark = pytest.mark.skipif(not Path(UV).exists(), reason="no uv; make brings it")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the script and a package that needs nothing."""
    for name in ("local/install.sh", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(CHECKOUT / name, tmp_path / name)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "empty"\nversion = "1"\noptional-dependencies = { export = [] }\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (tmp_path / "backend.py").write_text(
        "import zipfile\n"
        "def build_editable(directory, config_settings=None, metadata_directory=None):\n"
        "    name = 'empty-1-py3-none-any.whl'\n"
        "    with zipfile.ZipFile(f'{directory}/{name}', 'w') as wheel:\n"
        "        wheel.writestr('empty-1.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: empty\\nVersion: 1\\n'\n"
        "                       'Provides-Extra: export\\n')\n"
        "        wheel.writestr('empty-1.dist-info/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n"
        "        wheel.writestr('empty-1.dist-info/RECORD', '')\n"
        "    return name\n"
    )
    return tmp_path


@pytest.fixture
def torch_index(tmp_path: Path) -> Iterator[str]:
    """A package index that has a build of torch for CPUs."""
    directory = tmp_path / "index" / "torch"
    directory.mkdir(parents=True)
    pin = next(
        line for line in (CHECKOUT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")
    )
    version = f"{pin.partition('==')[2]}+cpu"
    name = f"torch-{version}-py3-none-any.whl"
    with zipfile.ZipFile(directory / name, "w") as wheel:
        wheel.writestr("torch.py", "")
        meta = f"torch-{version}.dist-info"
        wheel.writestr(f"{meta}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(f"{meta}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{meta}/RECORD", "")
    (directory / "index.html").write_text(f'<a href="{name.replace("+", "%2B")}">{name}</a>')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=directory.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_torch_comes_from_the_index_that_the_user_names(project: Path, torch_index: str) -> None:
    """TORCH_INDEX is asked only for torch, and its build is installed."""
    done = _run(project, "export", TORCH_INDEX=torch_index, UV_FIND_LINKS="")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in project.glob(".venv/lib/*/site-packages/torch-*")] == [
        "torch-2.13.0+cpu.dist-info"
    ]


def test_an_index_that_the_user_names_and_that_does_not_answer(project: Path) -> None:
    """If the named index does not answer, that is an error that names it.

    No other index takes its place silently.
    """
    done = _run(project, "export", TORCH_INDEX="http://127.0.0.1:9", UV_HTTP_RETRIES="0")
    assert done.returncode != 0
    assert "http://127.0.0.1:9" in done.stderr


@pytest.mark.parametrize(
    ("named", "why"),
    [("no-such-python", "there is no such program"), ("false", "false does not run")],
)
def test_a_python_that_will_not_do(project: Path, named: str, why: str) -> None:
    """A Python that the user names is used, or refused in one line.

    No other Python takes its place silently.
    """
    done = _run(project, "serve", PYTHON=named)
    assert done.returncode == 1
    needed = "Triton's Python backend needs Python 3.11 or 3.12 with its shared library"
    assert done.stderr.splitlines() == [f"error: PYTHON={named} will not do: {why}; {needed}"]
    assert not (project / ".venv").exists()


def _run(project: Path, step: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(UV).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", project / "local" / "install.sh", step],
        env={**os.environ, "PATH": path, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
