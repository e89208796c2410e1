"""Who reaches Triton's own doors may send what kills it; it comes back, and no score is wrong."""

from __future__ import annotations

import asyncio
import json
import math
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import grpc  # type: ignore[import-untyped]
import pytest
from tritonclient.grpc import service_pb2

from reward.contract import ENSEMBLE, NETWORK, PIXELS, PREPROCESS
from tests.hostile.test_processes import good_caller, works_again
from tests.integration.stack import RunningStack

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.hostile, pytest.mark.timeout(900)]

REPEATS: Final = int(os.environ.get("AESTHETIC_HOSTILE_ROUNDS", "12")) // 4
_INFER: Final = f"POST /v2/models/{ENSEMBLE.name}/infer HTTP/1.1\r\nHost: x\r\n".encode()


def _sent(body: bytes, *, head: bytes = _INFER, more: bytes = b"") -> bytes:
    return head + b"Content-Length: %d\r\n%b\r\n" % (len(body), more) + body


def _asked(inputs: object, **fields: object) -> bytes:
    return _sent(json.dumps({"inputs": inputs, **fields}).encode())


def _input(name: str = "IMAGE", **fields: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [1, 1], "data": ["x"]} | fields


_PROMPT: Final = _input("PROMPT")


def _binary(declared: int, announced: int, content: bytes) -> bytes:
    """A request whose tensor is said to have other lengths than it has."""
    image = {
        "name": "IMAGE",
        "datatype": "BYTES",
        "shape": [1, 1],
        "parameters": {"binary_data_size": declared},
    }
    header = json.dumps({"inputs": [image, _PROMPT]}).encode()
    return _sent(header + content, more=b"Inference-Header-Content-Length: %d\r\n" % announced)


HTTP: Final[dict[str, Callable[[], bytes]]] = {
    "200,000 brackets": lambda: _sent(b"[" * 200_000),
    "200,000 objects": lambda: _sent(b'{"inputs":' * 200_000),
    "5 MB of chunks of one byte": lambda: (
        _INFER + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 5_000_000 + b"0\r\n\r\n"
    ),
    "60 MB of brackets": lambda: _sent(b"[" * 60_000_000),
    "no inputs": lambda: _asked([]),
    "a thousand inputs": lambda: _asked([_input()] * 1000),
    "a shape without end": lambda: _asked([_input(shape=[2**40, 1]), _PROMPT]),
    "a shape that overflows": lambda: _asked([_input(shape=[2**32, 2**32]), _PROMPT]),
    "a negative shape": lambda: _asked([_input(shape=[-1, 1]), _PROMPT]),
    "no shape": lambda: _asked([_input(shape=[]), _PROMPT]),
    "another type": lambda: _asked([_input(datatype="FP32", data=[1.0]), _PROMPT]),
    "nested data": lambda: _asked([_input(data=[[[["x"]]]]), _PROMPT]),
    "a batch of 100,000": lambda: _asked(
        [_input(shape=[100_000, 1], data=["x"] * 100_000), _input("PROMPT", shape=[100_000, 1])]
    ),
    "strange parameters": lambda: _asked(
        [_input(), _PROMPT], parameters={"priority": 2**64, "timeout": -1, "sequence_id": [], "x": {}}
    ),
    "a string longer than its tensor": lambda: _binary(8, 10**9, struct.pack("<I", 2**32 - 1) + b"xxxx"),
    "a tensor longer than its body": lambda: _binary(2**40, 200, b"x"),
    "a negative length of a tensor": lambda: _binary(-1, 200, b"x"),
    "a body that never comes": lambda: _INFER + b"Content-Length: 4000000000\r\n\r\n",
    "a long head": lambda: _INFER + b"X: " + b"a" * 10_000_000,
    "shared memory": lambda: _sent(
        b'{"key":"/x","offset":0,"byte_size":99}',
        head=b"POST /v2/systemsharedmemory/region/x/register HTTP/1.1\r\nHost: x\r\n",
    ),
    "unloading": lambda: _sent(
        b"{}", head=f"POST /v2/repository/models/{NETWORK.name}/unload HTTP/1.1\r\nHost: x\r\n".encode()
    ),
    "tracing": lambda: _sent(
        b'{"trace_file":"/tmp/x","trace_level":["TENSORS"]}',
        head=b"POST /v2/trace/setting HTTP/1.1\r\nHost: x\r\n",
    ),
}


def _request(model: str, *inputs: tuple[str, str, list[int]], raw: list[bytes]) -> Any:
    tensors = [
        service_pb2.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
        for name, datatype, shape in inputs
    ]
    return service_pb2.ModelInferRequest(model_name=model, inputs=tensors, raw_input_contents=raw)


def _bytes(value: bytes, count: int = 1) -> bytes:
    return (struct.pack("<I", len(value)) + value) * count


_IMAGE_INPUT: Final = ("IMAGE", "BYTES", [1, 1])
_PROMPT_INPUT: Final = ("PROMPT", "BYTES", [1, 1])

GRPC: Final[dict[str, Callable[[], Any]]] = {
    "no inputs": lambda: _request(ENSEMBLE.name, raw=[]),
    "no contents": lambda: _request(ENSEMBLE.name, _IMAGE_INPUT, _PROMPT_INPUT, raw=[]),
    "more contents than inputs": lambda: _request(ENSEMBLE.name, _IMAGE_INPUT, raw=[b"x"] * 100),
    "a string without its end": lambda: _request(
        ENSEMBLE.name, _IMAGE_INPUT, _PROMPT_INPUT, raw=[struct.pack("<I", 2**32 - 1), _bytes(b"x")]
    ),
    "200 MB of image": lambda: _request(
        ENSEMBLE.name, _IMAGE_INPUT, _PROMPT_INPUT, raw=[_bytes(bytes(200_000_000)), _bytes(b"x")]
    ),
    "a prompt of 50 MB": lambda: _request(
        ENSEMBLE.name, _IMAGE_INPUT, _PROMPT_INPUT, raw=[_bytes(b"x"), _bytes(b"x" * 50_000_000)]
    ),
    "a batch of 100,000": lambda: _request(
        ENSEMBLE.name,
        ("IMAGE", "BYTES", [100_000, 1]),
        ("PROMPT", "BYTES", [100_000, 1]),
        raw=[_bytes(b"x", 100_000)] * 2,
    ),
    "preprocessing alone": lambda: _request(
        PREPROCESS.name, _IMAGE_INPUT, _PROMPT_INPUT, raw=[_bytes(b"\xff\xd8"), _bytes(b"\xff\xfe")]
    ),
    "pixels of another shape": lambda: _request(
        NETWORK.name, *((spec.name, spec.dtype, [1, 1]) for spec in NETWORK.inputs), raw=[b"\0"] * 3
    ),
    "token ids out of range": lambda: _request(
        NETWORK.name,
        *((spec.name, spec.dtype, [1, *spec.shape]) for spec in NETWORK.inputs),
        raw=[b"\x7f" * math.prod(spec.shape) * (1 if spec is PIXELS else 8) for spec in NETWORK.inputs],
    ),
    "a text that is none": lambda: b"\xff" * 1000,
}


@pytest.fixture(scope="module")
def stack(published_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One stack for all attacks: each must find it as it was."""
    with RunningStack(published_repository, tmp_path_factory.mktemp("doors")).running() as running:
        yield running


@pytest.mark.parametrize("kind", HTTP)
async def test_what_is_sent_over_http(stack: RunningStack, kind: str) -> None:
    """Whatever is sent over HTTP, REST's callers get right scores or coded errors."""
    sent = HTTP[kind]()
    await _attack(stack, f"HTTP, {kind}", lambda: _over_http(stack, sent))


async def _attack(stack: RunningStack, title: str, send: Callable[[], Awaitable[None]]) -> None:
    """Send again and again, four at a time; a good caller gets no wrong score meanwhile."""
    async with good_caller(stack) as answers:
        before = stack.triton_pid()
        for _ in range(REPEATS):
            await asyncio.gather(*(send() for _ in range(4)))
        await works_again(answers)
    fate = "Triton lives" if stack.triton_pid() == before else "Triton was started again"
    print(f"\nTriton, {title}: {fate}; good caller {answers}")  # noqa: T201 - for docs/reliability.md
    assert answers.wrong == []


async def _over_http(stack: RunningStack, sent: bytes) -> None:
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", stack.triton_port)
            try:
                writer.write(sent)
                await writer.drain()
                await reader.read(1000)
            finally:
                writer.transport.abort()


@pytest.mark.parametrize("kind", GRPC)
async def test_what_is_sent_over_grpc(stack: RunningStack, kind: str) -> None:
    """Whatever is sent over gRPC, REST's callers get right scores or coded errors."""
    made = GRPC[kind]()
    content = made if isinstance(made, bytes) else made.SerializeToString()
    await _attack(stack, f"gRPC, {kind}", lambda: _over_grpc(stack, content))


async def _over_grpc(stack: RunningStack, content: bytes) -> None:
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{stack.grpc_port}", options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with suppress(grpc.RpcError):
            await infer(content, timeout=5)
