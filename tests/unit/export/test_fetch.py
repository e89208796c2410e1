"""The official weights arrive whole and verified, or not at all.

The hub is a stand-in; the client is the real one.
"""

from __future__ import annotations

import hashlib
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path
from typing import Final

import pytest

from export.official import OFFICIAL
from tests.hub import Hub, environment, nobody, python

# The product knows only the digest of the official weights. The digest of the stand-in's file is an
# argument of this script.
_DRIVER: Final = """
import sys
from export.errors import ExportError
from export.fetch import fetch
from export.official import Weights
try:
    print(fetch(Weights("stand-in", "owner/name", "weights.pt", sys.argv[1])))
except ExportError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""

CONTENT: Final = bytes(range(256)) * 400
SHA256: Final = hashlib.sha256(CONTENT).hexdigest()


def _hub(content: bytes = CONTENT, **options: object) -> Hub:
    return Hub("owner/name/resolve/main/weights.pt", content, **options)  # type: ignore[arg-type]


def _fetch(endpoint: str, cache: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return python(environment(cache, endpoint, **more), "-c", _DRIVER, SHA256)


def test_the_file_is_downloaded_into_the_hubs_cache(tmp_path: Path) -> None:
    """Only the path of the verified file is printed."""
    with _hub() as hub:
        done = _fetch(hub.url, tmp_path)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path.is_relative_to(tmp_path / "hub" / "models--owner--name")
    assert path.read_bytes() == CONTENT
    assert done.stderr == ""


def test_a_terminal_shows_a_progress_bar(tmp_path: Path) -> None:
    """The progress bar names the file and runs to 100%."""
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    with _hub() as hub, os.fdopen(screen, "rb", buffering=0) as shown:
        command = [sys.executable, "-c", _DRIVER, SHA256]
        env = environment(tmp_path, hub.url)
        assert subprocess.run(command, env=env, stderr=terminal, stdout=terminal, check=False).returncode == 0
        os.close(terminal)
        text = shown.read(65536).decode()
    assert "weights.pt: 100%" in text


def test_a_cut_connection_is_taken_up_where_it_broke(tmp_path: Path) -> None:
    """After a cut, the second request asks only for what is not on the disk yet.

    The client writes 10 MiB at a time.
    """
    content = CONTENT * 120  # 12 MB
    with _hub(content, cut_after=11_000_000) as hub:
        done = python(environment(tmp_path, hub.url), "-c", _DRIVER, hashlib.sha256(content).hexdigest())
    assert Path(done.stdout.strip()).read_bytes() == content
    assert hub.requests[-2:] == ["GET", f"GET bytes={10 * 2**20}-"]


def test_what_is_cached_is_not_asked_for_again(tmp_path: Path) -> None:
    """With the file in the cache, no request is made the second time.

    The same path is printed where no hub answers, and offline.
    """
    with _hub() as hub:
        first = _fetch(hub.url, tmp_path)
        seen = len(hub.requests)
        assert _fetch(hub.url, tmp_path).stdout == first.stdout
        assert len(hub.requests) == seen
        assert _fetch(hub.url, tmp_path, HF_HUB_OFFLINE="1").stdout == first.stdout
    assert _fetch(nobody(), tmp_path).stdout == first.stdout


def test_a_damaged_cache_is_mended(tmp_path: Path) -> None:
    """A cached file with other bytes is never returned; it is downloaded again."""
    with _hub() as hub:
        path = Path(_fetch(hub.url, tmp_path).stdout.strip())
        path.write_bytes(b"damaged")
        again = _fetch(hub.url, tmp_path)
    assert again.stdout.strip() == str(path), again.stderr
    assert path.read_bytes() == CONTENT


def test_another_file_is_refused_before_it_is_downloaded(tmp_path: Path) -> None:
    """The hub tells the digest of a large file beforehand, so a wrong file is never downloaded."""
    with _hub(b"other weights") as hub:
        done = _fetch(hub.url, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"WrongFile: {hub.url} has another weights.pt in owner/name: sha256 ")
    assert hub.requests == ["HEAD"]


def test_a_wrong_download_is_removed(tmp_path: Path) -> None:
    """Where the digest is not told beforehand, the downloaded file is refused by its digest.

    The refused file does not stay in the cache.
    """
    with _hub(b"other weights", etag="0123") as hub:
        done = _fetch(hub.url, tmp_path)
    assert done.returncode == 1
    assert "WrongFile: " in done.stderr
    assert (
        f"not stand-in: sha256 {hashlib.sha256(b'other weights').hexdigest()}, expected {SHA256}"
        in done.stderr
    )
    assert not list(tmp_path.rglob("weights.pt"))
    assert not list(tmp_path.rglob("blobs/*"))


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "FetchError: {url} has no weights.pt in owner/name (status 404)"),
        (403, "HubUnreachable: {url} cannot be reached (status 403); bring weights.pt"),
        (503, "HubUnreachable: {url} cannot be reached (status 503); bring weights.pt"),
    ],
)
def test_a_hub_that_refuses_is_one_line(tmp_path: Path, status: int, message: str) -> None:
    """One line tells a missing file from a hub that cannot be reached.

    A firewall that answers 403 counts as a hub that cannot be reached.
    """
    with _hub(status=status) as hub:
        done = _fetch(hub.url, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(message.format(url=hub.url))
    assert done.stderr.count("\n") == 1


def test_without_a_hub_it_says_what_to_do(tmp_path: Path) -> None:
    """Without a hub, and in offline mode, one line names the file and how to bring it by hand."""
    way_out = (
        f"bring {OFFICIAL.file_name} of THUDM/ImageReward by hand: "
        "python -m export fetch --file PATH verifies it, make up CHECKPOINT=PATH serves it\n"
    )
    endpoint = nobody()
    done = python(environment(tmp_path, endpoint), "-m", "export", "fetch")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {endpoint} cannot be reached (")
    assert done.stderr.endswith(f"; {way_out}")
    offline = python(environment(tmp_path, endpoint, HF_HUB_OFFLINE="1"), "-m", "export", "fetch")
    assert offline.returncode == 1
    assert offline.stderr == (
        f"error: ImageReward.pt is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub; unset it, or {way_out}"
    )


def test_the_command_takes_the_official_weights_only(tmp_path: Path) -> None:
    """Another file under the official name is refused."""
    with Hub("THUDM/ImageReward/resolve/main/ImageReward.pt", CONTENT) as hub:
        done = python(environment(tmp_path, hub.url), "-m", "export", "fetch")
    assert done.returncode == 1
    assert f"sha256 {SHA256}, expected {OFFICIAL.sha256}" in done.stderr


def test_a_file_brought_by_hand_is_verified(tmp_path: Path) -> None:
    """The right file is returned; a wrong or missing one is refused."""
    from export.errors import WrongFile
    from export.fetch import verified
    from export.official import Weights
    from reward.errors import CheckpointError

    path = tmp_path / "brought.pt"
    path.write_bytes(CONTENT)
    weights = Weights("stand-in", "owner/name", "weights.pt", SHA256)
    assert verified(path, weights) == path
    with pytest.raises(WrongFile, match=r"not ImageReward-v1\.0"):
        verified(path)
    with pytest.raises(CheckpointError, match="No such file"):
        verified(tmp_path / "nowhere.pt", weights)


def test_the_command_refuses_a_wrong_file(tmp_path: Path) -> None:
    """A wrong file gives one line and exit status 1, and stays where its owner put it."""
    path = tmp_path / "ImageReward.pt"
    path.write_bytes(CONTENT)
    env = environment(tmp_path, nobody())
    done = python(env, "-m", "export", "fetch", "--file", str(path))
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == f"error: {path}: not ImageReward-v1.0: sha256 {SHA256}, expected {OFFICIAL.sha256}\n"
    )
    assert path.exists()
    missing = python(env, "-m", "export", "fetch", "--file", str(tmp_path / "none.pt"))
    assert missing.stderr == f"error: {tmp_path / 'none.pt'}: cannot be read: No such file or directory\n"
