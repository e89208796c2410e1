"""Versions for GPUs: the same scores whatever the batch, and one clear line where none is usable.

Most tests run the runtime's own code with `device="cpu"`; where a GPU is there, on it as well.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from export import questions
from export.gates import LIMITS
from export.to_onnx import to_onnx
from reward import manifest, runtimes
from reward.contract import MAX_TOKENS
from reward.errors import VersionError
from reward.runtimes import torch_cuda
from reward.runtimes.onnxruntime import OnnxRuntime
from reward.runtimes.torch_cuda import BATCH_SIZES, DTYPES, PROMPT_LENGTHS, TorchRuntime
from reward.tokenizer import tokenise
from tests.gpu_version import SEED, write_gpu_version
from tests.small import small_network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Inputs = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]

HAS_GPU = torch.cuda.is_available()
DEVICES = [
    "cpu",
    pytest.param("cuda:0", marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="no CUDA device")]),
]


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    """Twelve rows of the built-in questions, short and long prompts among each other."""
    asked = questions.drawn()
    tokens, pictures = asked.rows()
    rows = np.random.default_rng(0).permutation(len(pictures))[:12]
    return asked.pixels[pictures[rows]], tokens.input_ids[rows], tokens.attention_mask[rows]


@pytest.fixture(scope="module")
def expected(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    """What onnxruntime scores in fp32."""
    directory = tmp_path_factory.mktemp("onnx")
    to_onnx(small_network(SEED), directory)
    version = write_gpu_version(directory / "1", "fp32")
    return OnnxRuntime(directory, manifest.read(version), 0).score(*inputs)


def _take(inputs: Inputs, rows: slice | list[int]) -> Inputs:
    pixels, input_ids, mask = inputs
    return pixels[rows], input_ids[rows], mask[rows]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", DTYPES)
def test_it_scores_as_onnxruntime_does_in_fp32(
    precision: str, device: str, inputs: Inputs, expected: NDArray[np.float32], tmp_path: Path
) -> None:
    """In fp32 the scores are onnxruntime's; in half precision they are within the gate's limits."""
    runtime = runtimes.load(write_gpu_version(tmp_path / "1", precision), device=device)
    differences = np.abs(runtime.score(*inputs) - expected)
    assert differences.max() <= (1e-5 if precision == "fp32" else LIMITS[precision].max_difference)
    assert differences.mean() <= LIMITS[precision].mean_difference
    assert (differences.max() > 1e-4) == (precision != "fp32")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", DTYPES)
def test_a_score_does_not_depend_on_its_batch_mates(
    precision: str, device: str, inputs: Inputs, tmp_path: Path
) -> None:
    """A row scores the same alone, at another place, beside longer prompts, in a batch filled up.

    The rows that fill a batch up still hold what an earlier, larger batch left there.
    """
    runtime = runtimes.load(write_gpu_version(tmp_path / "1", precision), device=device)
    together = runtime.score(*inputs)
    limit = LIMITS[precision].batch_difference
    for rows in ([7], [1, 7, 3], [7, 3, 1, 4, 5], list(range(12))[::-1]):
        scores = runtime.score(*_take(inputs, rows))
        assert scores.shape == (len(rows), 1)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, together[rows], rtol=0, atol=limit)


def test_a_row_of_garbage_beside_does_not_move_a_score(inputs: Inputs, tmp_path: Path) -> None:
    """In a batch of one size, not one bit of a score comes from the other rows."""
    runtime = runtimes.load(write_gpu_version(tmp_path / "1", "fp16"))
    pixels, input_ids, mask = (array[:8].copy() for array in inputs)
    before = runtime.score(pixels, input_ids, mask)
    pixels[1:] = 255
    input_ids[1:, 1:] = 100
    after = runtime.score(pixels, input_ids, mask)
    assert after[0, 0] == before[0, 0]
    assert (after[1:] != before[1:]).all()


@pytest.mark.parametrize(
    ("prompt", "rows", "shape"),
    [
        ("", 1, (1, 16)),
        ("a cat", 3, (4, 16)),
        ("word " * 18, 5, (8, 24)),
        ("word " * 50, 9, (16, MAX_TOKENS)),
    ],
)
def test_a_batch_is_filled_up_and_its_prompts_are_cut(
    prompt: str, rows: int, shape: tuple[int, int], tmp_path: Path
) -> None:
    """A batch runs in the next larger size, its prompts in the next longer length."""
    runtime = TorchRuntime(
        directory := write_gpu_version(tmp_path / "1", "fp32"), manifest.read(directory), "cpu"
    )
    ran: list[tuple[int, ...]] = []

    def record(size: tuple[int, ...], execute: Callable[[], object]) -> None:
        ran.append(tuple(size))
        execute()

    for size, execute in list(runtime._executions.items()):
        runtime._executions[size] = partial(record, size, execute)
    tokens = tokenise([prompt] * rows)
    pixels = np.zeros((rows, 3, 224, 224), np.uint8)
    scores = runtime.score(pixels, tokens.input_ids, tokens.attention_mask)
    assert ran == [shape]
    assert len(scores) == rows
    with torch.no_grad():
        alone = small_network(SEED)(
            *(torch.from_numpy(array[:1]) for array in (pixels, tokens.input_ids, tokens.attention_mask))
        )
    np.testing.assert_allclose(scores, np.full_like(scores, alone.item()), rtol=0, atol=1e-5)


def test_every_batch_and_prompt_of_the_contract_has_its_size() -> None:
    """The sizes end with the contract's largest batch and longest prompt."""
    assert BATCH_SIZES == (1, 2, 4, 8, 16, 32, 64)
    assert PROMPT_LENGTHS[-1] == MAX_TOKENS


def test_only_what_multiplies_is_rounded() -> None:
    """Norms, embeddings and the head keep fp32, as do the sums between layers."""
    network = small_network().to_precision(torch.float16)
    half = {name for name, tensor in network.state_dict().items() if tensor.dtype == torch.float16}
    kept = {name for name, tensor in network.state_dict().items() if tensor.dtype == torch.float32}
    assert half | kept == set(network.state_dict())
    added = ("norm", "tokens.", "position", "class_token", "head.")
    assert kept == {name for name in network.state_dict() if any(part in name for part in added)}
    image = network.image_encoder(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    assert image.dtype == torch.float32


@pytest.mark.skipif(HAS_GPU, reason="there is a CUDA device")
def test_without_a_gpu_the_refusal_is_one_line(tmp_path: Path) -> None:
    """A version that is asked to run on a GPU where none is does not run on the CPU instead."""
    version = write_gpu_version(tmp_path / "1", "fp16")
    with pytest.raises(VersionError, match=r"needs an NVIDIA GPU, and torch \S+ has none: [^\n]+$"):
        runtimes.load(version, device="cuda:0")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried …"),
            "too little GPU memory: 300 of 4000 MiB are free",
        ),
        (
            RuntimeError("CUDA error: no kernel image\nCUDA kernel errors …"),
            "cpu: CUDA error: no kernel image$",
        ),
    ],
    ids=["memory", "kernels"],
)
def test_what_cuda_refuses_is_one_line(
    fault: RuntimeError, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little memory, or a GPU that torch has no kernels for, is one line with what is free."""

    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(torch_cuda, "_Shape", fail)  # asked for when the weights are loaded
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (300 * 2**20, 4000 * 2**20))
    with pytest.raises(VersionError, match=says) as caught:
        runtimes.load(write_gpu_version(tmp_path / "1", "fp16"))
    assert "\n" not in str(caught.value)


def test_an_old_driver_and_an_old_gpu_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA says what is wrong with its driver; a GPU that is too old is named."""
    version = write_gpu_version(tmp_path / "1", "fp16")
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease …")

    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(
        VersionError, match=r"The NVIDIA driver on your system is too old \(found version 11040\)\.$"
    ):
        runtimes.load(version, device="cuda:0")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(VersionError, match=r"Tesla T4 has compute capability 7\.5, and 8\.0 is needed$"):
        runtimes.load(version, device="cuda:0")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    """Weights that are no safetensors file are named, as those of every other version are."""
    version = write_gpu_version(tmp_path / "1", "fp16")
    (version / "weights.safetensors").write_bytes(b"none")
    with pytest.raises(VersionError, match=r"weights\.safetensors: "):
        runtimes.load(version)
    content = manifest.read(version)
    with pytest.raises(VersionError, match="not a safetensors file"):
        TorchRuntime(version, content, "cpu")


def test_a_version_for_the_cpu_never_runs_for_a_gpu(published_repository: Path) -> None:
    """A version for the CPU that is to run on a GPU is refused: it would stay on the CPU."""
    version = published_repository / "image_reward_network" / "1"
    with pytest.raises(VersionError, match="published for the CPU, and is asked to run on a GPU"):
        runtimes.load(version, device="cuda:0")


def test_a_version_for_the_cpu_loads_no_torch(published_repository: Path) -> None:
    """A machine that serves on a CPU needs no torch."""
    version = published_repository / "image_reward_network" / "1"
    code = (
        "import sys; from pathlib import Path; from reward import runtimes; "
        f"runtimes.load(Path({str(version)!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
