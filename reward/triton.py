"""The adapter between Triton's Python backend and this library; every `model.py` is an import of it.

Triton calls `initialize`, then `execute` with the requests that it has batched. Each request is answered on
its own: bad input becomes INVALID_ARG for the caller who sent it and touches no other; anything else is a
defect, logged here with its traceback and sent as a plain INTERNAL, because Triton's callers are outside.
"""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils

from reward import contract, runtimes
from reward.errors import InvalidImage, InvalidInput, InvalidPrompt, InvalidTensor
from reward.preprocess import prepare
from reward.tokenizer import tokenise

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays = tuple["NDArray[Any]", ...]


class PreprocessModel:
    """`image_reward_preprocess`: encoded images and prompts -> the network's tensors."""

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            return _response(contract.PREPROCESS, self._prepare(request))
        except InvalidInput as error:
            return _invalid_argument(error)
        except Exception:  # noqa: BLE001 - the outermost frame on Triton's side
            return _internal_error()

    @staticmethod
    def _prepare(request: Any) -> Arrays:
        images, prompts = _inputs(contract.PREPROCESS, request)
        pixels = [_pixels(index, data) for index, data in enumerate(images.ravel())]
        tokens = tokenise([_decode_prompt(index, text) for index, text in enumerate(prompts.ravel())])
        return np.stack(pixels), tokens.input_ids, tokens.attention_mask


class NetworkModel:
    """`image_reward_network`: one execution of the graph for all requests that Triton batched."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"]).get("parameters", {})
        threads = int(parameters.get("intra_op_num_threads", {}).get("string_value", "0"))
        directory = Path(args["model_repository"]) / args["model_version"]
        self._runtime = runtimes.load(directory, threads=threads)

    def execute(self, requests: list[Any]) -> list[Any]:
        inputs = [_inputs(contract.NETWORK, request) for request in requests]
        refusals = [self._refusal(*arrays) for arrays in inputs]
        accepted = [arrays for arrays, refusal in zip(inputs, refusals, strict=True) if refusal is None]
        try:
            rewards = iter(self._score(accepted))
        except Exception:  # noqa: BLE001 - the outermost frame on Triton's side
            return [_internal_error() for _ in requests]
        return [refusal or _response(contract.NETWORK, (next(rewards),)) for refusal in refusals]

    def _refusal(self, _pixels: NDArray[Any], input_ids: NDArray[Any], mask: NDArray[Any]) -> Any | None:
        try:
            check(input_ids, mask, vocabulary_size=self._runtime.manifest.dimensions["vocabulary_size"])
        except InvalidInput as error:
            return _invalid_argument(error)
        return None

    def _score(self, batches: list[Arrays]) -> list[NDArray[Any]]:
        if not batches:
            return []
        pixels, input_ids, mask = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        ends = np.cumsum([len(arrays[0]) for arrays in batches])[:-1]
        return np.split(self._runtime.score(pixels, input_ids, mask), ends)


def check(input_ids: NDArray[Any], attention_mask: NDArray[Any], *, vocabulary_size: int) -> None:
    """Refuse tensors that would fail, or turn into NaN, the whole batch they are joined to.

    Raises:
        InvalidTensor: a token id outside the vocabulary, or a mask of other than 0 and 1 or of 0 alone.
    """
    if input_ids.size and (input_ids.min() < 0 or input_ids.max() >= vocabulary_size):
        raise InvalidTensor(f"{contract.INPUT_IDS.name} must lie in 0 .. {vocabulary_size - 1}")
    if not np.isin(attention_mask, (0, 1)).all() or not attention_mask.any(axis=-1).all():
        raise InvalidTensor(f"{contract.ATTENTION_MASK.name} must be 0 or 1, and 1 somewhere in every row")


def _inputs(model: contract.ModelSpec, request: Any) -> Arrays:
    return tuple(pb_utils.get_input_tensor_by_name(request, spec.name).as_numpy() for spec in model.inputs)


def _response(model: contract.ModelSpec, arrays: Arrays) -> Any:
    tensors = [pb_utils.Tensor(spec.name, array) for spec, array in zip(model.outputs, arrays, strict=True)]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _pixels(index: int, data: bytes) -> NDArray[np.uint8]:
    try:
        return prepare(data).pixels
    except InvalidImage as error:
        raise type(error)(f"{contract.IMAGE.name}[{index}]: {error}") from error


def _decode_prompt(index: int, text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InvalidPrompt(f"{contract.PROMPT.name}[{index}] is not UTF-8") from error


def _invalid_argument(error: InvalidInput) -> Any:
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
    )


def _internal_error() -> Any:
    pb_utils.Logger.log_error(traceback.format_exc())
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError("internal error; see the server's log", pb_utils.TritonError.INTERNAL)
    )
