"""The adapter between Triton's Python backend and this library; every `model.py` imports it.

Triton calls `initialize`, and then `execute` with the requests that it has batched. A fault of one
request is that request's error and touches no other. What its sender can correct becomes
INVALID_ARG. Anything else is a defect: it is logged here with its traceback, and sent as a plain
INTERNAL, because senders are outside.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import LifoQueue
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils

from reward import contract, runtimes
from reward.cpus import available_cpus
from reward.decoding import DecodeLimits, DecodeWorker
from reward.errors import InvalidImage, InvalidInput, InvalidPrompt, InvalidTensor, VersionError
from reward.tokenizer import Tokens, tokenise

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Arrays = tuple["NDArray[Any]", ...]
_Row = tuple["NDArray[np.uint8]", Tokens]

_DTYPES: Final = {"BYTES": "object"}  # every other type has NumPy's name, in capitals


_MAX_REQUEST_S: Final = 60.0
"""The limit for all images of one request, unless its sender set a shorter timeout."""


class PreprocessModel:
    """`image_reward_preprocess`: encoded images and prompts -> the network's tensors, and errors.

    Each instance decodes the rows of a request side by side, in child processes. So an image that
    crashes the decoder fails only its own row, and Triton need not restart this process.
    """

    def initialize(self, args: dict[str, str]) -> None:
        parameters = _parameters(args)
        count = int(parameters.get("workers", "0")) or available_cpus()
        self._workers = [DecodeWorker(_limits(parameters)) for _ in range(count)]
        self._workers[-1].start()  # the others start when there is work for them
        self._idle: LifoQueue[DecodeWorker] = LifoQueue()  # so that the last one to work is the next
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decode")

    def execute(self, requests: list[Any]) -> list[Any]:
        return [_attempt(partial(self._answer, request)) for request in requests]

    def finalize(self) -> None:
        for worker in self._workers:
            worker.close()
        self._threads.shutdown()

    def _answer(self, request: Any) -> Any:
        images, prompts = (array.ravel() for array in _inputs(contract.PREPROCESS, request))
        allowed_s = min(_MAX_REQUEST_S, request.timeout() / 1e6 or _MAX_REQUEST_S)  # 0 is none set
        until = time.monotonic() + allowed_s
        rows = list(self._threads.map(partial(self._prepare, until=until), images, prompts))
        if len(rows) == 1 and isinstance(rows[0], InvalidInput):
            where = f"{contract.IMAGE.name}[0]: " if isinstance(rows[0], InvalidImage) else ""
            raise InvalidInput(f"{where}{rows[0]}") from rows[0]
        return _rows_response(rows)

    def _prepare(self, image: bytes, prompt: bytes, until: float) -> _Row | InvalidInput:
        try:
            tokens = tokenise([_decode_prompt(prompt)])
            return self._pixels(image, until), tokens
        except InvalidInput as error:
            return error

    def _pixels(self, image: bytes, until: float) -> NDArray[np.uint8]:
        worker = self._idle.get()  # there are as many as threads
        try:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise InvalidInput("the request's time was over before this image's turn")
            return worker.decode(image, timeout_s=left_s).pixels
        finally:
            self._idle.put(worker)


class NetworkModel:
    """`image_reward_network`: one execution of the graph for all requests that Triton batched."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = _parameters(args)
        directory = Path(args["model_repository"]) / args["model_version"]
        is_gpu = args["model_instance_kind"] == "GPU"
        try:
            self._runtime = runtimes.load(
                directory,
                threads=int(parameters.get("intra_op_num_threads", "0")),
                device=f"cuda:{args['model_instance_device_id']}" if is_gpu else "cpu",
                compiled=parameters.get("compiled") == "true",
            )
        except VersionError as error:
            # Triton tells the reason itself, unless its stub dies of a traceback with a path that
            # is not ASCII.
            _log(f"error: {error}")
            raise
        content = self._runtime.manifest
        _log(
            f"version {args['model_version']}: {content.precision} by {content.runtime} on {self._runtime.ran_on}"
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        # For each request: its arrays, or the response that refuses it.
        read = [_attempt(partial(self._read, request)) for request in requests]
        answers = iter(self._score([entry for entry in read if isinstance(entry, tuple)]))
        return [next(answers) if isinstance(entry, tuple) else entry for entry in read]

    def _read(self, request: Any) -> Arrays:
        arrays = _inputs(contract.NETWORK, request)
        _check_tokens(*arrays[1:], vocabulary_size=self._runtime.manifest.dimensions["vocabulary_size"])
        return arrays

    def _score(self, batches: list[Arrays]) -> list[Any]:
        """Answer all requests from one execution; if it fails, execute each one alone."""
        if not batches:
            return []
        try:
            rewards = self._rewards(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
        except Exception:  # noqa: BLE001 - the outermost frame on Triton's side
            failure = _internal_error()
            return [failure] if len(batches) == 1 else [self._score([batch])[0] for batch in batches]
        ends = np.cumsum([len(arrays[0]) for arrays in batches])[:-1]
        parts = zip(np.split(rewards, ends), batches, strict=True)
        return [_attempt(partial(_reward_response, part, mask)) for part, (_, _, mask) in parts]

    def _rewards(
        self, pixels: NDArray[np.uint8], input_ids: NDArray[np.int64], mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Score the rows that have tokens: (B, 1), NaN for the others."""
        has_tokens = mask.any(axis=-1)
        if has_tokens.all():
            return self._runtime.score(pixels, input_ids, mask)
        rewards = np.full((len(pixels), 1), np.nan, np.float32)
        if has_tokens.any():
            rewards[has_tokens] = self._runtime.score(
                pixels[has_tokens], input_ids[has_tokens], mask[has_tokens]
            )
        return rewards


def _attempt(work: Callable[[], Any]) -> Any:
    """Return what `work` returns, or the response that tells its failure."""
    try:
        return work()
    except InvalidInput as error:
        return _failure(str(error), pb_utils.TritonError.INVALID_ARG)
    except Exception:  # noqa: BLE001 - the outermost frame on Triton's side
        return _internal_error()


def _parameters(args: dict[str, str]) -> dict[str, str]:
    """Read the `parameters` of the model's configuration."""
    parameters = json.loads(args["model_config"]).get("parameters", {})
    return {name: value["string_value"] for name, value in parameters.items()}


def _limits(parameters: dict[str, str]) -> DecodeLimits:
    defaults = dataclasses.asdict(DecodeLimits())
    return DecodeLimits(
        **{name: type(default)(parameters.get(name, default)) for name, default in defaults.items()}
    )


def _log(line: str) -> None:
    """Write into Triton's log, and lose the line where that is full.

    Triton's own logger dies of a path that is not ASCII.
    """
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"{line}\n".encode(errors="backslashreplace"))


def _inputs(model: contract.ModelSpec, request: Any) -> Arrays:
    """Read a request's tensors and check them against the contract.

    Raises:
        InvalidTensor: one is missing, of another type or shape, or has more or fewer rows than the
            others.
    """
    arrays = tuple(_input(spec, request) for spec in model.inputs)
    rows = {len(array) for array in arrays}
    if len(rows) > 1 or not 1 <= min(rows) <= contract.MAX_BATCH:
        raise InvalidTensor(f"all inputs must have one number of rows, 1 to {contract.MAX_BATCH}")
    return arrays


def _input(spec: contract.TensorSpec, request: Any) -> NDArray[Any]:
    tensor = pb_utils.get_input_tensor_by_name(request, spec.name)
    if tensor is None:
        raise InvalidTensor(f"{spec.name} is missing")
    array: NDArray[Any] = tensor.as_numpy()
    if array.dtype != _DTYPES.get(spec.dtype, spec.dtype.lower()) or array.shape[1:] != spec.shape:
        shape = ", ".join(map(str, ("rows", *spec.shape)))
        raise InvalidTensor(f"{spec.name} must be {spec.dtype} [{shape}]")
    return array


def _check_tokens(input_ids: NDArray[Any], attention_mask: NDArray[Any], *, vocabulary_size: int) -> None:
    """Refuse tokens that would fail the whole batch, and a request of one row without any.

    Among others, a row without tokens is one that preprocessing refused, and scores NaN.

    Raises:
        InvalidTensor: a token id is outside the vocabulary, or a mask has values other than 0 and 1
            or, alone, no 1 at all.
    """
    if input_ids.min() < 0 or input_ids.max() >= vocabulary_size:
        raise InvalidTensor(f"{contract.INPUT_IDS.name} must lie in 0 .. {vocabulary_size - 1}")
    is_empty = len(attention_mask) == 1 and not attention_mask.any()
    if is_empty or not np.isin(attention_mask, (0, 1)).all():
        raise InvalidTensor(f"{contract.ATTENTION_MASK.name} must be 0 or 1, and 1 somewhere")


def _decode_prompt(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InvalidPrompt("the prompt is not UTF-8") from error


def _rows_response(rows: list[_Row | InvalidInput]) -> Any:
    """Put rows together; one that failed has zeros in its tensors, and its error beside them."""
    pixels = np.zeros((len(rows), *contract.PIXELS.shape), np.uint8)
    input_ids, mask = np.zeros((2, len(rows), contract.MAX_TOKENS), np.int64)
    errors = np.full((len(rows), 1), b"", object)
    for index, row in enumerate(rows):
        if isinstance(row, InvalidInput):
            errors[index] = str(row).encode()
        else:
            pixels[index], tokens = row
            input_ids[index], mask[index] = tokens.input_ids[0], tokens.attention_mask[0]
    return _response(contract.PREPROCESS, pixels, input_ids, mask, errors)


def _reward_response(rewards: NDArray[np.float32], mask: NDArray[np.int64]) -> Any:
    if not np.isfinite(rewards[mask.any(axis=-1)]).all():
        raise ArithmeticError("the network gave a reward that is not finite")
    return _response(contract.NETWORK, rewards)


def _response(model: contract.ModelSpec, *arrays: NDArray[Any]) -> Any:
    tensors = [pb_utils.Tensor(spec.name, array) for spec, array in zip(model.outputs, arrays, strict=True)]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _failure(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _internal_error() -> Any:
    """Log the current exception; the caller never sees its text."""
    pb_utils.Logger.log_error(traceback.format_exc())
    return _failure("internal error; see the server's log", pb_utils.TritonError.INTERNAL)
