"""The command `aesthetic` against the running service."""

from __future__ import annotations

import html.parser
import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from imajin_aesthetic_client.answers import Limits
from imajin_aesthetic_client.batches import batches
from tests.clients.conftest import API_KEY
from tests.clients.python.test_service import EXAMPLE, FITTING, PROMPT
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from tests.integration.stack import RunningStack

EXAMPLES = CHECKOUT / "examples"
LIMITS: dict[str, Any] = {"max_pixels": 1, "max_prompt_characters": 1, "max_prompt_tokens": 1, "fetch": "off"}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    output: str
    complaint: str


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the ten candidates of one prompt, and a text.

    One candidate is in a sub-folder, and one has a name in capitals.
    """
    directory = tmp_path / "pictures"
    (directory / "deeper").mkdir(parents=True)
    for number, candidate in enumerate(EXAMPLE["candidates"]):
        name = Path(candidate["file"])
        target = directory / ("deeper" if number == 3 else "") / name.name
        target.with_suffix(".JPG" if number == 4 else ".jpg").write_bytes((EXAMPLES / name).read_bytes())
    (directory / "prompt.txt").write_text(PROMPT)
    return directory


def test_a_folder_is_ranked(service: RunningStack, folder: Path) -> None:
    """A table with the best first, one line for each picture of the folder and below."""
    done = _aesthetic(service, "score", "-p", PROMPT, str(folder))
    assert done.status == 0, done
    title, header, *lines = done.output.splitlines()
    assert title == f"{PROMPT}   [demonstration model (not ImageReward)]"
    assert header.split() == ["rank", "raw_score", "normalized", "percentile", "image"]
    assert [line.split()[0] for line in lines] == [str(number) for number in range(1, 11)]
    assert lines[0].endswith(FITTING.name)


def test_more_pictures_than_one_request_takes(service: RunningStack, folder: Path) -> None:
    """Pictures of several requests are ranked together, and equal ones share a rank.

    A broken picture is the last.
    """
    broken = folder / "broken.png"
    broken.write_bytes(b"no image")
    done = _aesthetic(service, "score", "-p", PROMPT, "--json", str(folder), str(FITTING))
    assert done.status == 0, done
    answer = json.loads(done.output)
    assert len(answer["results"]) == 11
    assert [result["rank"] for result in answer["results"][:3]] == [1, 1, 3]
    scores = [result["raw_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert [(item["image"], item["error"]["code"]) for item in answer["failed"]] == [
        (str(broken), "image_undecodable")
    ]


def test_long_work_shows_a_bar_at_a_terminal(service: RunningStack, folder: Path) -> None:
    """On standard error, so that a pipe gets the table alone; nobody else is shown one."""
    arguments = ("score", "-p", PROMPT, str(folder), str(FITTING))
    screen, terminal = pty.openpty()
    done = _aesthetic(service, *arguments, stderr=terminal)
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # how a terminal says that everything is read
        while part := os.read(screen, 1000):
            shown += part
    os.close(screen)
    assert done.status == 0
    assert "█" not in done.output
    assert [line.strip()[-8:] for line in shown.decode().split("\r") if "█" in line] == [
        "10 of 11",
        "11 of 11",
    ]
    assert _aesthetic(service, *arguments).complaint == ""


def test_a_limit_is_the_exit_status(service: RunningStack) -> None:
    """0 where the best image reaches it, 1 where none does, 2 where there is no score at all."""
    wrong = EXAMPLES / "1-03.jpg"
    command = ("score", "-p", PROMPT, "--min-score", "0.5")
    assert _aesthetic(service, *command, str(FITTING), str(wrong)).status == 0
    below = _aesthetic(service, *command, str(wrong))
    assert below.status == 1
    assert below.output.endswith("(below 0.5)\n")
    assert _aesthetic(service, *command, str(CHECKOUT / "LICENSE")).status == 2


def test_standard_input_and_an_address(service: RunningStack) -> None:
    """`-` is an image; an address is fetched by the service, which may refuse it."""
    command = ("score", "-p", PROMPT, "-", "http://169.254.169.254/1.png")
    done = _aesthetic(service, *command, stdin=FITTING.read_bytes())
    assert done.status == 0, done
    assert "standard input" in done.output
    assert "(image_url_forbidden)" in done.output


def test_a_report_shows_the_pictures(service: RunningStack, folder: Path, tmp_path: Path) -> None:
    """One file with every picture in it, ranked; names and prompts are text, never markup."""
    Image.new("RGB", (1500, 900), (200, 30, 30)).save(folder / "<b> & large.png")
    report = tmp_path / "report.html"
    prompt = "<script>alert(1)</script> a square"
    done = _aesthetic(service, "score", "-p", prompt, "--html", str(report), "--min-score", "9", str(folder))
    assert done.status == 1, done
    page = _Page(report.read_text())
    assert "script" not in page.tags
    assert len(page.pictures) == 11
    assert all(picture["src"].startswith("data:image/jpeg;base64,") for picture in page.pictures)
    assert any(picture["alt"].endswith("<b> & large.png") for picture in page.pictures)
    assert max(len(picture["src"]) for picture in page.pictures) < 50_000


def test_info_and_health(service: RunningStack) -> None:
    """For people, and as JSON."""
    info = _aesthetic(service, "info")
    assert info.status == 0
    assert "demonstration model" in info.output
    assert json.loads(_aesthetic(service, "info", "--json").output)["limits"]["max_candidates"] == 10
    health = _aesthetic(service, "health")
    assert (health.status, health.output.splitlines()[0]) == (0, "ready")


def test_trouble_is_one_line(service: RunningStack, tmp_path: Path) -> None:
    """A missing file, an empty folder, a wrong key, no service: status 2, and no traceback."""
    wrong_key = tmp_path / "key"
    wrong_key.write_text("wrong\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, said in {
        ("score", "-p", "x", "missing.png"): "error: there is no file missing.png\n",
        ("score", "-p", "x", str(empty)): f"error: there is no image in the folder {empty}\n",
        ("info", "--api-key-file", str(wrong_key)): "error: unauthorized: ",
        ("health", "--url", "http://127.0.0.1:1", "--timeout", "0.1"): "error: connection_failed: ",
        ("health", "--url", "127.0.0.1"): "error: base_url must be",
    }.items():
        done = _aesthetic(service, *arguments)
        assert (done.status, done.output) == (2, "")
        assert done.complaint.startswith(said)
        assert done.complaint.count("\n") == 1


def test_requests_keep_the_limits_of_the_service() -> None:
    """Neither more candidates nor more bytes than it takes; one image too large goes alone."""
    limits = Limits(
        max_candidates=3,
        max_image_bytes=1,
        max_body_bytes=2**17 + 1000,
        request_timeout_s=1,
        max_request_timeout_s=1,
        formats=(),
        **LIMITS,
    )
    sizes = [10, 10, 10, 10, 600, 600, 5000, 10]
    cut = [[len(image) for image in batch] for batch in batches((bytes(size) for size in sizes), limits)]
    assert cut == [[10, 10, 10], [10], [600], [600], [5000], [10]]
    assert list(batches([], limits)) == []


class _Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.pictures: list[dict[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            self.pictures.append({name: value or "" for name, value in attrs})


def _aesthetic(
    service: RunningStack, *arguments: str, stdin: bytes = b"", stderr: int = subprocess.PIPE
) -> Done:
    environment = {
        **os.environ,
        "AESTHETIC_URL": service.url,
        "AESTHETIC_API_KEY": API_KEY,
        "PYTHONPATH": str(CHECKOUT / "clients/python/src"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "imajin_aesthetic_client", *arguments],
        env=environment,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        check=False,
        timeout=120,
    )
    return Done(done.returncode, done.stdout.decode(), (done.stderr or b"").decode())
