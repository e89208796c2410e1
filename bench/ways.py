"""The ways to a score that are compared; each takes the bytes of JPEG files and returns nothing."""

from __future__ import annotations

import base64
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import httpx
import numpy as np
from tritonclient.http import InferenceServerClient, InferInput

from bench.served import PLAIN, PROMPT
from reward import runtimes
from reward.contract import ENSEMBLE, NETWORK
from reward.preprocess import prepare
from reward.tokenizer import tokenise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from bench.served import Subject
    from reward.runtimes import Runtime
    from tests.integration.stack import RunningStack

    Way = Callable[[Sequence[bytes]], None]

NETWORK_ALONE: Final = "the network alone"
ONE_PROCESS: Final = "decode and network in one process"
PLAIN_MODEL: Final = "a plain Python model in Triton"
TRITON_FILES: Final = "Triton, files"
TRITON_PIXELS: Final = "Triton, pixels"
REST: Final = "REST"


def ways(subject: Subject, stack: RunningStack, files: Sequence[bytes]) -> dict[str, Way]:
    """Return every way by its name; those that take pixels have them prepared from `files`."""
    runtime = runtimes.load(subject.registry.directory(subject.registry.version().number))
    pixels = {data: prepare(data).pixels for data in files}
    found: dict[str, Way] = {
        NETWORK_ALONE: lambda data: _run(runtime, [pixels[each] for each in data]),
        ONE_PROCESS: lambda data: _run(runtime, [prepare(each).pixels for each in data]),
        PLAIN_MODEL: partial(_ask_files, stack, PLAIN),
        TRITON_FILES: partial(_ask_files, stack, ENSEMBLE.name),
        TRITON_PIXELS: lambda data: _ask_pixels(subject, stack, [pixels[each] for each in data]),
        REST: partial(_ask_rest, stack, {}),
    }
    if subject.beside is not None:
        precision = subject.registry.version(subject.beside).manifest.precision
        found[f"{REST}, {precision}"] = partial(_ask_rest, stack, {"model_version": subject.beside})
    return found


def _run(runtime: Runtime, pixels: list[NDArray[np.uint8]]) -> None:
    tokens = tokenise([PROMPT] * len(pixels))
    runtime.score(np.stack(pixels), tokens.input_ids, tokens.attention_mask)


def _ask_files(stack: RunningStack, model: str, files: Sequence[bytes]) -> None:
    prompts = [PROMPT.encode()] * len(files)
    columns = [("IMAGE", list(files)), ("PROMPT", prompts)]
    arrays = [(name, np.array(values, dtype=object).reshape(-1, 1)) for name, values in columns]
    _infer(stack, model, [(name, "BYTES", array) for name, array in arrays])


def _ask_pixels(subject: Subject, stack: RunningStack, pixels: list[NDArray[np.uint8]]) -> None:
    tokens = tokenise([PROMPT] * len(pixels))
    arrays = np.stack(pixels), tokens.input_ids, tokens.attention_mask
    specs = zip(NETWORK.inputs, arrays, strict=True)
    tensors = [(spec.name, spec.dtype, array) for spec, array in specs]
    _infer(stack, NETWORK.name, tensors, version=str(subject.registry.version().number))


def _infer(
    stack: RunningStack, model: str, tensors: list[tuple[str, str, Any]], *, version: str = ""
) -> None:
    _connected(stack).triton.infer(model, list(inputs(tensors)), model_version=version)


def inputs(tensors: list[tuple[str, str, Any]]) -> Iterator[InferInput]:
    """Make what tritonclient sends of names, types and arrays."""
    for name, kind, array in tensors:
        tensor = InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array)
        yield tensor


def _ask_rest(stack: RunningStack, fields: dict[str, int], files: Sequence[bytes]) -> None:
    sources = [{"image_base64": base64.b64encode(data).decode()} for data in files]
    path = "/score" if len(sources) == 1 else "/score-batch"
    body: dict[str, Any] = dict(sources[0]) if len(sources) == 1 else {"candidates": sources}
    _connected(stack).rest.post(path, json={"prompt": PROMPT, **fields, **body}).raise_for_status()


class _Connections(threading.local):
    """One thread's connections to a stack, kept: to make them costs more than to score."""

    stack: RunningStack | None = None
    rest: httpx.Client
    triton: InferenceServerClient


_CONNECTIONS: Final = _Connections()


def _connected(stack: RunningStack) -> _Connections:
    if _CONNECTIONS.stack is not stack:
        _CONNECTIONS.stack = stack
        _CONNECTIONS.rest = httpx.Client(base_url=stack.url, timeout=600)
        _CONNECTIONS.triton = InferenceServerClient(stack.triton_url, network_timeout=600)
    return _CONNECTIONS
