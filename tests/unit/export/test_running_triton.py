"""Where the running Triton is, and how its refusals are read.

tests/integration/versions has a real Triton.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from export.errors import TritonFailed, TritonGone
from export.running_triton import RunningTriton, find
from reward import deployment
from reward.contract import ENSEMBLE, NETWORK
from tests.ports import free_ports
from tests.repository import copy_repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the note of a Triton that this process keeps running."""
    repository = copy_repository(tmp_path / "model_repository")
    _note(repository, pid=os.getpid())
    return repository


def _note(repository: Path, **changes: Any) -> None:
    path = deployment.running_path(repository)
    path.parent.mkdir(exist_ok=True)
    note = {"pid": 1, "triton_url": "127.0.0.1:8000", "admin_key": "noted", "repository": str(repository)}
    path.write_text(json.dumps({**note, **changes}))


def _found(triton: RunningTriton | None) -> tuple[str, str]:
    assert triton is not None
    return triton.url, triton._headers.get("triton-admin-key", "")


def test_the_note_is_taken_unless_something_is_named(repository: Path, tmp_path: Path) -> None:
    """Arguments come first, then the environment, then the note about the running Triton."""
    assert _found(find(repository, environment={})) == ("127.0.0.1:8000", "noted")
    key = tmp_path / "key"
    key.write_text("of the file\n")
    environment = {"AESTHETIC_TRITON_URL": "http://triton:8000/", "AESTHETIC_TRITON_ADMIN_KEY_FILE": str(key)}
    assert _found(find(repository, environment=environment)) == ("triton:8000", "of the file")
    other = tmp_path / "other"
    other.write_text("named")
    found = find(repository, url="here:1", admin_key_file=other, environment=environment)
    assert _found(found) == ("here:1", "named")


def test_a_note_of_a_process_that_has_ended_is_none(repository: Path) -> None:
    """The note of a process that has ended counts as no note, and so does a damaged one.

    A process that was killed could not remove its note.
    """
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitpid(process, 0)
    _note(repository, pid=process)
    assert find(repository, environment={}) is None
    deployment.running_path(repository).write_text("{")
    assert find(repository, environment={}) is None


def test_a_copied_folder_does_not_lead_to_the_originals_triton(repository: Path, tmp_path: Path) -> None:
    """The note names the repository that its Triton runs on; in a copy it counts as no note."""
    copy = shutil.copytree(repository, tmp_path / "copy")
    assert find(copy, environment={}) is None


def test_a_key_that_cannot_be_read(repository: Path, tmp_path: Path) -> None:
    """A key that cannot be read is reported before anything else is done."""
    with pytest.raises(TritonFailed, match="nowhere: the administration key cannot be read: No such file"):
        find(repository, admin_key_file=tmp_path / "nowhere", environment={})


def test_nobody_there_is_told_from_nobody_answering() -> None:
    """A port on which nobody listens means that Triton is down; silence does not."""
    (port,) = free_ports(1)
    assert RunningTriton(f"127.0.0.1:{port}").is_up() is False
    with pytest.raises(TritonGone, match=f"no Triton answers at 127.0.0.1:{port}"):
        RunningTriton(f"127.0.0.1:{port}").loaded()


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (403, b"", "refuses to be administered: name its key with --admin-key-file"),
        (400, b'{"error":"load failed\\nAt:\\n  file"}', "^load failed$"),
        (500, b"oh", "answers /v2/repository/index with status 500"),
    ],
)
def test_a_refusal_is_one_line(status: int, body: bytes, says: str) -> None:
    """A refusal has Triton's own words, without the traceback that follows them."""
    with _answering(status, body) as url, pytest.raises(TritonFailed, match=says) as refused:
        RunningTriton(url).loaded()
    assert "\n" not in str(refused.value)


def test_what_was_loaded_again_is_unloaded_again() -> None:
    """If a keeper loads the model right after it was unloaded, it is unloaded once more."""
    unloaded: list[str] = []

    def answer(path: str) -> tuple[int, bytes]:
        if path.endswith("/unload"):
            unloaded.append(path.split("/")[-2])
        state = "READY" if len(unloaded) < 4 else "UNAVAILABLE"
        return 200, json.dumps([{"name": NETWORK.name, "version": "1", "state": state}]).encode()

    with _answering_by(answer) as url:
        RunningTriton(url).unload()
    assert unloaded == [ENSEMBLE.name, NETWORK.name] * 2


def _answering(status: int, body: bytes) -> AbstractContextManager[str]:
    return _answering_by(lambda _: (status, body))


@contextmanager
def _answering_by(answer: Callable[[str], tuple[int, bytes]]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
