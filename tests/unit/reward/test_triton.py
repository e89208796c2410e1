"""The adapter for Triton: an error fails only its own request, in words that are safe to send."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import dataclass, field
from importlib import reload
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

from reward.decoding import DecodeLimits, DecodeWorker
from reward.errors import InvalidTensor
from reward.preprocess import prepare
from reward.tokenizer import tokenise
from tests.decoder_traps import CRASH, HANG, set_traps
from tests.pictures import photograph
from tests.unit.reward import triton_stand_in
from tests.unit.reward.triton_stand_in import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

INTERNAL: Final = "internal error; see the server's log"


@dataclass(frozen=True)
class Published:
    """A manifest with the fields that the adapter reads."""

    dimensions: dict[str, int] = field(default_factory=lambda: {"vocabulary_size": 30_524})


class Network:
    """A runtime that scores an image by its first pixel, and fails on some images."""

    manifest = Published()

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(
        self, pixels: NDArray[np.uint8], input_ids: NDArray[np.int64], mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Fail on a pixel of 255; answer not a number on 254."""
        assert len(pixels) == len(input_ids) == len(mask)
        self.batches.append(len(pixels))
        first = pixels[:, 0, 0, 0]
        if (first == 255).any():
            raise RuntimeError("secret path /models/x")
        return np.where(first == 254, np.nan, first).astype(np.float32)[:, None]


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The adapter over stand-ins for Triton's own module, which exists only inside Triton."""
    reload(triton_stand_in)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton_stand_in)
    monkeypatch.delitem(sys.modules, "reward.triton", raising=False)
    from reward import triton

    return triton


@pytest.fixture
def network(triton: Any) -> Any:
    """The network's model over a stand-in runtime."""
    model = triton.NetworkModel()
    model._runtime = Network()
    return model


@pytest.fixture
def preprocess(triton: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The preprocessing model with a decoder that can be made to crash."""
    monkeypatch.syspath_prepend(set_traps(tmp_path))
    model = triton.PreprocessModel()
    model.initialize({"model_config": "{}"})
    yield model
    model.finalize()


def _request(*first_pixels: int, **changes: Any) -> Request:
    tokens = tokenise(["a cat"] * len(first_pixels))
    pixels = np.zeros((len(first_pixels), 3, 224, 224), np.uint8)
    pixels[:, 0, 0, 0] = first_pixels
    tensors: dict[str, Any] = {
        "PIXELS": pixels,
        "INPUT_IDS": tokens.input_ids,
        "ATTENTION_MASK": tokens.attention_mask,
    }
    return Request({name: value for name, value in (tensors | changes).items() if value is not None})


def _files(*pairs: tuple[bytes, bytes], **changes: Any) -> Request:
    images, prompts = (np.array(column, object).reshape(-1, 1) for column in zip(*pairs, strict=True))
    return Request({"IMAGE": images, "PROMPT": prompts, **changes})


def _answers(responses: list[Any]) -> list[list[float] | str]:
    """Return the rewards, or the error with its code, of each response."""
    return [
        response.output_tensors[0].array.ravel().tolist()
        if response.error is None
        else f"{response.error.code}: {response.error.message}"
        for response in responses
    ]


def test_a_log_that_is_full_keeps_no_version_from_loading(
    triton: Any, published_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that the log does not take, as on a full disk, is lost, and the version loads."""
    directory = published_repository / "image_reward_network"
    args = {"model_config": "{}", "model_repository": str(directory), "model_version": "1"}
    model = triton.NetworkModel()
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", full)
        model.initialize({**args, "model_instance_kind": "CPU", "model_instance_device_id": "0"})
    assert model.execute([_request(1)])[0].error is None


def test_requests_share_one_execution(network: Any) -> None:
    """Each request is answered with its own rows, in order."""
    assert _answers(network.execute([_request(1, 2), _request(3), _request(4, 5, 6)])) == [
        [1, 2],
        [3],
        [4, 5, 6],
    ]
    assert network._runtime.batches == [6]
    assert _answers(network.execute([])) == []


_IDS = tokenise(["a cat"]).input_ids
_MASK = tokenise(["a cat"]).attention_mask


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PIXELS": None}, "PIXELS is missing"),
        ({"INPUT_IDS": None}, "INPUT_IDS is missing"),
        ({"PIXELS": np.zeros((1, 3, 224, 223), np.uint8)}, "PIXELS must be UINT8 [rows, 3, 224, 224]"),
        ({"PIXELS": np.zeros((1, 3, 224, 224), np.float32)}, "PIXELS must be UINT8 [rows, 3, 224, 224]"),
        ({"PIXELS": np.zeros(3, np.uint8)}, "PIXELS must be UINT8 [rows, 3, 224, 224]"),
        ({"INPUT_IDS": _IDS[:, :-1]}, "INPUT_IDS must be INT64 [rows, 35]"),
        ({"ATTENTION_MASK": _MASK.astype(np.int32)}, "ATTENTION_MASK must be INT64 [rows, 35]"),
        ({"ATTENTION_MASK": np.repeat(_MASK, 2, axis=0)}, "all inputs must have one number of rows, 1 to 64"),
        ({"INPUT_IDS": _IDS + 30_524}, "INPUT_IDS must lie in 0 .. 30523"),
        ({"INPUT_IDS": _IDS - 200}, "INPUT_IDS must lie in 0 .. 30523"),
        ({"ATTENTION_MASK": _MASK * 2}, "ATTENTION_MASK must be 0 or 1, and 1 somewhere"),
        ({"ATTENTION_MASK": _MASK * 0}, "ATTENTION_MASK must be 0 or 1, and 1 somewhere"),
    ],
)
def test_a_request_out_of_contract_is_refused_alone(
    network: Any, changes: dict[str, Any], message: str
) -> None:
    """The sender of a wrong request learns what is wrong with it.

    The others in its batch are scored, in one execution.
    """
    answers = _answers(network.execute([_request(1), _request(9, **changes), _request(2)]))
    assert answers == [[1], f"400: {message}", [2]]
    assert network._runtime.batches == [2]


def test_rows_are_bounded(network: Any) -> None:
    """No rows and more than 64 rows are refused, whatever Triton lets through."""
    answers = _answers(network.execute([_request(), _request(*[1] * 65), _request(7)]))
    assert answers == [*["400: all inputs must have one number of rows, 1 to 64"] * 2, [7]]


def test_a_failing_execution_fails_only_whose_fault_it_is(network: Any) -> None:
    """After an execution that fails, each of its requests is executed again, alone.

    So only the faulty one fails. The exception's text is logged and never sent.
    """
    answers = _answers(network.execute([_request(1), _request(255), _request(2, 3)]))
    assert answers == [[1], f"500: {INTERNAL}", [2, 3]]
    assert network._runtime.batches == [4, 1, 1, 2]
    assert "secret path" in "".join(triton_stand_in.Logger.errors)


def test_a_reward_that_is_no_number_fails_only_its_request(network: Any) -> None:
    """Not a number is never sent as a score."""
    assert _answers(network.execute([_request(1), _request(2, 254)])) == [[1], f"500: {INTERNAL}"]


def test_a_tensor_that_cannot_be_read_fails_only_its_request(network: Any, monkeypatch: Any) -> None:
    """An exception from Triton itself is an internal error of that request."""
    find = triton_stand_in.get_input_tensor_by_name

    def broken(request: Request, name: str) -> Any:
        if len(request["PIXELS"]) == 2:
            raise RuntimeError("shared memory at 0x7f")
        return find(request, name)

    monkeypatch.setattr(triton_stand_in, "get_input_tensor_by_name", broken)
    assert _answers(network.execute([_request(1, 2), _request(3)])) == [f"500: {INTERNAL}", [3]]


def test_a_row_without_tokens_scores_nan_and_is_not_executed(network: Any) -> None:
    """Preprocessing marks a row that it refused by a mask of zeros; its neighbours are scored.

    A request in which no row has tokens is answered without an execution.
    """
    mask = tokenise(["a cat"] * 3).attention_mask
    mask[1] = 0
    answers = _answers(
        network.execute([_request(1, 9, 2, ATTENTION_MASK=mask), _request(3, 4, ATTENTION_MASK=mask[:2] * 0)])
    )
    np.testing.assert_array_equal(np.array(answers[0], np.float32), [1, np.nan, 2])
    assert np.isnan(np.array(answers[1], np.float32)).all()
    assert network._runtime.batches == [2]


def test_files_become_the_networks_tensors(preprocess: Any) -> None:
    """Pixels, ids and masks are those of the library, row by row, and no row has an error."""
    data = [photograph("coffee"), photograph("chelsea", "WEBP")]
    (response,) = preprocess.execute([_files((data[0], b"a cup"), (data[1], "日本".encode()))])
    pixels, ids, mask, errors = (tensor.array for tensor in response.output_tensors)
    tokens = tokenise(["a cup", "日本"])
    np.testing.assert_array_equal(pixels, np.stack([prepare(each).pixels for each in data]))
    np.testing.assert_array_equal(ids, tokens.input_ids)
    np.testing.assert_array_equal(mask, tokens.attention_mask)
    assert errors.tolist() == [[b""], [b""]]


def test_what_is_wrong_with_a_file_is_told_to_its_sender(preprocess: Any) -> None:
    """Each fault of a request of one row has an error of its own.

    The faults are no image, a prompt not in UTF-8, a crashed decoder, and missing tensors.
    """
    good = photograph("coffee")
    responses = preprocess.execute(
        [
            _files((b"text", b"b")),
            _files((good, b"\xff")),
            _files((CRASH, b"a")),
            Request({"IMAGE": np.array([[good]], object)}),
            _files((good, b"a"), PROMPT=np.array([[b"a"], [b"b"]], object)),
            _files((good, b"a")),
        ]
    )
    *failed, answered = responses
    formats = "JPEG, PNG, WEBP, GIF, AVIF"
    assert _answers(failed) == [
        f"400: IMAGE[0]: not an image in one of the formats {formats}",
        "400: the prompt is not UTF-8",
        "400: IMAGE[0]: the decoder failed on the image",
        "400: PROMPT is missing",
        "400: all inputs must have one number of rows, 1 to 64",
    ]
    assert answered.error is None
    assert answered.output_tensors[0].array.shape == (1, 3, 224, 224)


def test_among_others_a_bad_row_fails_alone(preprocess: Any) -> None:
    """In a request of several rows, each bad one has its own words in ERROR, and no tokens."""
    good = photograph("coffee")
    pairs = [
        (good, b"a"),
        (b"text", b"b"),
        (CRASH, b"c"),
        (good, b"\xff"),
        (good, b"x" * 10_001),
        (good, b"d"),
    ]
    (response,) = preprocess.execute([_files(*pairs)])
    pixels, ids, mask, errors = (tensor.array for tensor in response.output_tensors)
    assert [error.decode() for error in errors.ravel()] == [
        "",
        "not an image in one of the formats JPEG, PNG, WEBP, GIF, AVIF",
        "the decoder failed on the image",
        "the prompt is not UTF-8",
        "the prompt has 10001 characters; 10000 are allowed (and 35 tokens are read)",
        "",
    ]
    assert mask.any(axis=-1).tolist() == [True, False, False, False, False, True]
    np.testing.assert_array_equal(pixels[5], prepare(good).pixels)
    assert not ids[1:5].any()


def test_rows_are_decoded_side_by_side(triton: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are as many decoders as CPUs, or as configured, and all work on one request at once."""
    model = triton.PreprocessModel()
    model.initialize({"model_config": json.dumps({"parameters": {"workers": {"string_value": "3"}}})})
    together = threading.Barrier(3)

    def decode(_: DecodeWorker, content: bytes, **options: Any) -> Any:
        del options
        together.wait(timeout=60)  # passes only if three are at work
        return prepare(content)

    monkeypatch.setattr(DecodeWorker, "decode", decode)
    (response,) = model.execute([_files(*[(photograph("coffee"), b"a")] * 3)])
    model.finalize()
    assert response.error is None


def test_a_senders_own_timeout_bounds_his_request(preprocess: Any) -> None:
    """Decoding ends at the sender's own timeout, and is not begun if no time is left."""
    slow, late, good = (_files((data, b"a")) for data in (HANG, photograph("coffee"), photograph("coffee")))
    slow.timeout_us, late.timeout_us = 300_000, 1
    first, second, third = preprocess.execute([slow, late, good])
    (why,) = _answers([first])
    assert str(why).startswith("400: IMAGE[0]: decoding the image took longer than 0.")
    assert _answers([second]) == ["400: the request's time was over before this image's turn"]
    assert third.error is None


def test_limits_are_parameters_of_the_model(triton: Any) -> None:
    """Limits that the configuration does not name are the library's, as in the REST API."""
    config = {"parameters": {"max_bytes": {"string_value": "7"}, "timeout_s": {"string_value": "2.5"}}}
    limits = triton._limits(triton._parameters({"model_config": json.dumps(config)}))
    assert limits == DecodeLimits(max_bytes=7, timeout_s=2.5)
    assert triton._limits({}) == DecodeLimits()


def test_an_error_of_the_librarys_is_a_refusal(triton: Any) -> None:
    """A new check only has to raise `InvalidTensor` to refuse its request."""

    def work() -> None:
        raise InvalidTensor("no")

    assert _answers([triton._attempt(work)]) == ["400: no"]
