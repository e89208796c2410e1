"""Images are decoded in a child process with limits; its death never affects the parent."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from reward.decoding import DecodeLimits, DecodeWorker, decode
from reward.errors import ImageTooLarge, InvalidInput, RewardError, UndecodableImage
from reward.preprocess import prepare
from tests.decoder_traps import CRASH, DEFECT, DIE, HANG, HOG, SPIN, kill_the_next_at_its_start, set_traps
from tests.pictures import PHOTOGRAPHS, photograph

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def worker() -> Iterator[DecodeWorker]:
    """A worker with the ordinary limits."""
    worker = DecodeWorker()
    yield worker
    worker.close()


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DecodeWorker]:
    """A worker whose decoder crashes, hangs or takes all memory if the image says so."""
    monkeypatch.syspath_prepend(set_traps(tmp_path))
    worker = DecodeWorker(DecodeLimits(timeout_s=2, memory_bytes=300 * 2**20))
    yield worker
    worker.close()


@pytest.mark.parametrize("name", PHOTOGRAPHS[:3])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_the_child_decodes_as_the_library_does(worker: DecodeWorker, name: str, image_format: str) -> None:
    """Pixels, size, format and digest are those of `prepare` in the parent's process."""
    data = photograph(name, image_format)
    ours, theirs = worker.decode(data), prepare(data)
    np.testing.assert_array_equal(ours.pixels, theirs.pixels)
    assert (ours.width, ours.height, ours.format, ours.sha256) == (
        theirs.width,
        theirs.height,
        theirs.format,
        theirs.sha256,
    )


def test_the_child_refuses_as_the_library_does(worker: DecodeWorker) -> None:
    """The child refuses with the same errors and words as the library, and goes on living."""
    worker.start()
    child = _pid(worker)
    for data in (b"", b"text", photograph("coffee")[:5000], _bmp()):
        with pytest.raises(UndecodableImage) as expected:
            prepare(data)
        with pytest.raises(UndecodableImage) as caught:
            worker.decode(data)
        assert str(caught.value) == str(expected.value)
    assert _pid(worker) == child


def test_bytes_and_pixels_are_bounded() -> None:
    """The size of the file is checked before it is sent, that of the picture by its header."""
    data = photograph("coffee")
    worker = DecodeWorker(DecodeLimits(max_bytes=len(data), max_pixels=600 * 400))
    try:
        assert worker.decode(data).width == 600
        with pytest.raises(ImageTooLarge, match=f"more than the {len(data)} bytes allowed"):
            worker.decode(data + b"\0")
        with pytest.raises(ImageTooLarge, match="240000 pixels"):
            worker.decode(photograph("astronaut", "WEBP"))
    finally:
        worker.close()


def test_a_crash_is_the_images_own(trapped: DecodeWorker) -> None:
    """An image on which the decoder crashes is undecodable; the next image finds a new child."""
    for _ in range(2):
        with pytest.raises(UndecodableImage, match="the decoder failed on the image"):
            trapped.decode(CRASH)
        assert trapped.decode(photograph("coffee")).width == 600


def test_a_hang_is_ended(trapped: DecodeWorker) -> None:
    """A decoder that hangs is ended at its limit, or earlier if the caller has less time."""
    with pytest.raises(UndecodableImage, match="took longer than 2 s"):
        trapped.decode(HANG)
    with pytest.raises(UndecodableImage, match=r"took longer than 0\.5 s"):
        trapped.decode(HANG, timeout_s=0.5)
    assert trapped.decode(photograph("coffee")).width == 600


def test_processor_time_is_bounded(trapped: DecodeWorker) -> None:
    """A decoder that only computes is ended long before the time limit.

    That limit is for decoders that wait.
    """
    lost: list[int] = []
    trapped._on_lost = lambda: lost.append(1)
    with pytest.raises(UndecodableImage, match="more processor time than is allowed for its size"):
        trapped.decode(SPIN)
    assert len(lost) == 1
    assert trapped.decode(photograph("coffee")).width == 600


def test_processor_time_grows_with_the_picture() -> None:
    """A tenth of the time limit is for the header.

    The picture has more, in proportion to the pixels allowed.
    """
    limits = DecodeLimits(timeout_s=1000, max_pixels=600 * 400 * 2)
    try:
        decode(photograph("coffee"), limits)
        left_s, _ = signal.getitimer(signal.ITIMER_PROF)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    # 1000 * (0.1 + 0.5 / 2), less what was used; the kernel counts in ticks, and rounds up.
    assert 300 < left_s < 351


def test_memory_is_bounded(trapped: DecodeWorker) -> None:
    """An image that takes more memory than allowed is refused, and the child lives on."""
    trapped.start()
    child = _pid(trapped)
    with pytest.raises(ImageTooLarge, match="more memory than is allowed"):
        trapped.decode(HOG)
    assert _pid(trapped) == child


def test_a_child_that_was_killed_is_replaced(worker: DecodeWorker) -> None:
    """If an idle child is killed, the next image is decoded by another one."""
    worker.start()
    for number in (signal.SIGKILL, signal.SIGTERM):
        os.kill(_pid(worker), number)
        assert worker.decode(photograph("coffee")).width == 600


def test_a_child_that_is_killed_while_it_starts_is_replaced(trapped: DecodeWorker, tmp_path: Path) -> None:
    """If a child is killed just while it starts, the image is decoded by another one."""
    kill_the_next_at_its_start(tmp_path)
    assert trapped.decode(photograph("coffee")).width == 600


def test_an_image_whose_child_is_killed_is_tried_again_once(trapped: DecodeWorker) -> None:
    """An image whose child is killed is tried once more.

    The first kill may have had nothing to do with the image, so only the second one counts as its
    fault.
    """
    lost: list[int] = []
    trapped._on_lost = lambda: lost.append(1)
    with pytest.raises(UndecodableImage, match="the decoder failed on the image"):
        trapped.decode(DIE)
    assert len(lost) == 2
    assert trapped.decode(photograph("coffee")).width == 600


@pytest.mark.parametrize(
    "reply", [b"\xff" * 8, b"\0" * 7 + b"\2{}", b"\0" * 7 + b"\2[]", b"\0" * 7 + b"\1\xff"]
)
def test_a_child_that_was_taken_over_is_not_believed(reply: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that sends anything but a reply is ended, and nothing it sent is used."""
    monkeypatch.setenv("LYING_CHILD_REPLY", reply.hex())
    lost: list[int] = []
    worker = DecodeWorker(module="tests.unit.reward.lying_child", on_lost=lambda: lost.append(1))
    with pytest.raises(UndecodableImage, match="the decoder failed on the image"):
        worker.decode(photograph("coffee"))
    assert len(lost) == 2
    assert worker._child is None


def test_a_defect_is_not_the_images_fault(trapped: DecodeWorker) -> None:
    """An exception that no decoder raises does not count as a refusal of the image.

    Its text stays in the child's log.
    """
    trapped.start()
    child = _pid(trapped)
    with pytest.raises(RewardError, match=r"^decoding failed by a defect; see the log$") as caught:
        trapped.decode(DEFECT)
    assert not isinstance(caught.value, InvalidInput)
    assert _pid(trapped) == child


def test_a_child_that_does_not_start_is_not_the_images_fault() -> None:
    """A child that does not start is no refusal of the image.

    It is not tried for ever: whoever starts the worker gets an error.
    """
    worker = DecodeWorker(module="reward.no_such_module")
    with pytest.raises(RewardError, match="does not start") as caught:
        worker.decode(photograph("coffee"))
    assert not isinstance(caught.value, InvalidInput)


def test_closing_leaves_nothing() -> None:
    """Closing leaves neither a process nor a socket, and may be done twice."""
    worker = DecodeWorker()
    worker.start()
    child = _pid(worker)
    descriptors = _descriptors()
    worker.close()
    worker.close()
    assert _descriptors() < descriptors
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def _pid(worker: DecodeWorker) -> int:
    assert worker._child is not None
    return worker._child.pid


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _bmp() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "BMP")
    return file.getvalue()
