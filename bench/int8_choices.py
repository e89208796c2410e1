"""Time and agreement of each way to make int8, side by side with fp32, in one run.

    python -m bench.int8_choices                    at full size: minutes on a quiet machine
    python -m bench.int8_choices --version DIR      of another published fp32 version

The inputs of all linear layers are measured once; every choice sets its scales from that. Then all
score the same pairs, and take turns being timed.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from bench.served import full_size
from bench.spread import interleaved, quarters, ratio
from export.gates import kendall, pearson
from export.questions import drawn
from reward.contract import NETWORK
from reward.cpus import available_cpus
from reward.runtimes import GRAPH_FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Graph = Any  # onnx has no types
    Session = onnxruntime.InferenceSession

FP32: Final = "fp32"
READS_IMAGE: Final = r"^image_encoder\.layers|\.cross_attention\.(key|value)/"


@dataclass(frozen=True)
class Choice:
    """One way to round, or fp32 itself with another graph."""

    layers: str = READS_IMAGE
    """Which linear layers are rounded, as a pattern of their names; empty rounds nothing."""
    percentile: float = 100.0
    """The share of an activation's values that its scale covers."""
    smoothing: float = 0.0
    """How much of the activations' outliers goes into the weights, behind norms; 0 is nothing."""
    is_fused: bool = False
    """Whether the image encoder's attention is one operator."""


CHOICES: Final = {
    FP32: Choice(layers=""),
    "fp32, attention fused": Choice(layers="", is_fused=True),
    "int8 as it is published": Choice(),
    "int8, attention fused": Choice(is_fused=True),
    "int8, 99.99 % of the activations": Choice(percentile=99.99),
    "int8, smoothed by a half": Choice(smoothing=0.5),
    "int8, mlp_out left in fp32": Choice(
        layers=r"^image_encoder\.layers.*(query_key_value|attention_out|mlp_in)/|\.cross_attention\.(key|value)/"
    ),
    "int8, attention's layers left in fp32": Choice(layers=r"^image_encoder\.layers.*mlp_(in|out)/"),
    "int8, the prompt's layers, too": Choice(layers=r"."),
}


@dataclass(frozen=True)
class Seen:
    """What one activation was like over the calibration rows: values by channel, and shares."""

    lowest: NDArray[np.float32]
    highest: NDArray[np.float32]
    shares: dict[float, tuple[float, float]]


def main() -> None:
    """Make each choice, compare it with fp32, time it, and print a table."""
    options = _parser().parse_args()
    source = options.version
    if source is None:
        subject = full_size(options.directory.resolve(), "fp32")
        source = subject.registry.directory(subject.registry.version().number)
    machine = f"{available_cpus()} CPUs, load {os.getloadavg()[0]:.1f} at the start"
    print(f"{source.parent.parent.name}/{NETWORK.name}/{source.name}; {machine}", flush=True)
    asked = {
        name: choice for name, choice in CHOICES.items() if re.search(options.only, name) or name == FP32
    }
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        for line in compare(source, asked, Path(scratch), options):
            print(line, flush=True)


def compare(
    source: Path, choices: dict[str, Choice], scratch: Path, options: argparse.Namespace
) -> Iterator[str]:
    """Yield the lines of the table."""
    seen = observe(source, _rows(options.calibration, seed=1))
    sessions = {}
    for name, choice in choices.items():
        started = time.perf_counter()
        path = make(source, choice, seen, scratch / f"{len(sessions)}")
        sessions[name] = _session(path)
        yield f"made in {time.perf_counter() - started:.0f} s: {name}"
    rows = _rows(options.pairs, seed=0)
    scores = {name: _scores(session, rows) for name, session in sessions.items()}
    clock = time.process_time if options.processor_time else time.perf_counter
    time_of = "processor time" if options.processor_time else "time"
    yield f"{len(rows)} pairs, deviation {scores[FP32].std():.2f}; {options.rounds} rounds; {time_of}\n"
    fast = " | ".join(f"times as fast, batch of {size}" for size in options.batches)
    yield f"| choice | {fast} | s an image | largest difference | mean | Pearson | order |"
    yield "|---" * (len(options.batches) + 6) + "|"
    seconds = []
    for size in options.batches:
        fed = {
            name: np.concatenate([rows[index % len(rows)][name] for index in range(size)]) for name in rows[0]
        }
        works = {name: partial(one.run, None, fed) for name, one in sessions.items()}
        seconds.append(interleaved(works, rounds=options.rounds, clock=clock))
    for name in choices:
        differences = np.abs(scores[name] - scores[FP32])
        agreement = (
            f"{differences.max():.2g} | {differences.mean():.2g} | {pearson(scores[FP32], scores[name]):.5f}"
        )
        speed = " | ".join(ratio(times[name], times[FP32]) for times in seconds)
        each_s = quarters(seconds[-1][name])[1] / options.batches[-1]
        order = kendall(scores[FP32], scores[name])
        yield f"| {name} | {speed} | {each_s:.3f} | {agreement} | {order:.3f} |"


def observe(source: Path, rows: list[dict[str, Any]]) -> dict[str, Seen]:
    """Run fp32 on rows, and note what each linear layer reads."""
    model = onnx.load(source / GRAPH_FILE_NAME, load_external_data=False)
    names = sorted({node.input[0] for node in _linear(model.graph)})
    for name in names:
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    path = source / f".observed-{os.getpid()}.onnx"  # beside its weights
    try:
        onnx.save(model, path)
        session = _session(path)
    finally:
        path.unlink(missing_ok=True)
    found: dict[str, list[Seen]] = {name: [] for name in names}
    for row in rows:
        for name, array in zip(names, session.run(names, row), strict=True):
            flat = array.reshape(-1, array.shape[-1])
            shares = {
                share: (float(np.percentile(flat, 100 - share)), float(np.percentile(flat, share)))
                for share in {choice.percentile for choice in CHOICES.values()}
            }
            found[name].append(Seen(flat.min(axis=0), flat.max(axis=0), shares))
    return {name: _joined(each) for name, each in found.items()}


def make(source: Path, choice: Choice, seen: dict[str, Seen], directory: Path) -> Path:
    """Write the graph of a choice into `directory`, and return its path."""
    model = onnx.load(source / GRAPH_FILE_NAME)
    scales = _smooth(model.graph, seen, choice.smoothing) if choice.smoothing else {}
    if choice.is_fused:
        _fuse_attention(model)
    directory.mkdir()
    path = directory / GRAPH_FILE_NAME
    layers = [node for node in _linear(model.graph) if choice.layers and re.search(choice.layers, node.name)]
    if not layers:
        onnx.save(model, path, save_as_external_data=True, location=f"{GRAPH_FILE_NAME}.data")
        return path
    ranges = {
        node.input[0]: _range(seen[node.input[0]], choice, scales.get(node.input[0])) for node in layers
    }
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=[node.name for node in layers],
        nodes_to_exclude=[],
        op_types_to_quantize=["MatMul"],
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(path), use_external_data_format=True)
    return path


def _smooth(graph: Graph, seen: dict[str, Seen], share: float) -> dict[str, NDArray[np.float32]]:
    """Divide what norms give by a scale for each channel, and multiply their readers' weights.

    The function stays the same (SmoothQuant, arXiv 2211.10438). Return the scales by tensor.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    norms = {node.output[0]: node for node in graph.node if node.op_type == "LayerNormalization"}
    linear = _linear(graph)
    scales = {}
    for name in {node.input[0] for node in linear} & norms.keys():
        readers = [node for node in linear if node.input[0] == name]
        if sum(name in node.input for node in graph.node) != len(readers):
            continue  # somebody else reads it, too
        of_values = np.maximum(np.abs(seen[name].lowest), np.abs(seen[name].highest))
        arrays = [numpy_helper.to_array(weights[node.input[1]]) for node in readers]
        of_weights = np.max([np.abs(array).max(axis=1) for array in arrays], axis=0)
        scale = np.maximum(of_values, 1e-5) ** share / np.maximum(of_weights, 1e-5) ** (1 - share)
        scale = scale.astype(np.float32)
        scales[name] = scale
        for own in norms[name].input[1:]:
            _replace(weights[own], numpy_helper.to_array(weights[own]) / scale)
        for node, array in zip(readers, arrays, strict=True):
            _replace(weights[node.input[1]], array * scale[:, None])
    return scales


def _fuse_attention(model: Any) -> None:  # noqa: ANN401 - onnx has no types
    """Put onnxruntime's own operator in place of the image encoder's attention."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    shapes = {tensor.name: tensor for tensor in graph.initializer}
    splits = {node.input[0]: node for node in graph.node if node.op_type == "Split"}
    for out in [
        node for node in _linear(graph) if re.search(r"^image_encoder\.layers.*attention_out/", node.name)
    ]:
        layer = out.name.partition(".attention_out")[0]
        (split,) = [
            splits[name] for name in splits if makers[name].name.startswith(f"{layer}.query_key_value/")
        ]
        first = next(node for node in graph.node if split.output[0] in node.input)  # (B, S, heads, width)
        heads = int(numpy_helper.to_array(shapes[first.input[1]])[2])
        fused = helper.make_node(
            "MultiHeadAttention",
            list(split.output),
            [out.input[0]],
            name=f"{layer}/attention",
            domain="com.microsoft",
            num_heads=heads,
        )
        graph.node.remove(makers[out.input[0]])
        graph.node.insert(list(graph.node).index(out), fused)
        # The quantiser asks for the type, and cannot infer it from an operator of onnxruntime's.
        graph.value_info.append(helper.make_tensor_value_info(out.input[0], onnx.TensorProto.FLOAT, None))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    _remove_unread(graph)


def _remove_unread(graph: Graph) -> None:
    while True:
        read = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
        unread = [node for node in graph.node if read.isdisjoint(node.output)]
        if not unread:
            return
        for node in unread:
            graph.node.remove(node)


def _range(seen: Seen, choice: Choice, scale: NDArray[np.float32] | None) -> TensorData:
    low, high = (seen.lowest, seen.highest) if scale is None else (seen.lowest / scale, seen.highest / scale)
    ends = (low.min(), high.max()) if choice.percentile == 100 else seen.shares[choice.percentile]
    return TensorData(lowest=np.float32(min(ends[0], 0)), highest=np.float32(max(ends[1], 0)))


def _joined(seen: list[Seen]) -> Seen:
    shares = {
        share: (min(one.shares[share][0] for one in seen), max(one.shares[share][1] for one in seen))
        for share in seen[0].shares
    }
    lowest, highest = (np.stack([getattr(one, end) for one in seen]) for end in ("lowest", "highest"))
    return Seen(lowest.min(axis=0), highest.max(axis=0), shares)


def _linear(graph: Graph) -> list[Any]:
    weights = {tensor.name for tensor in graph.initializer}
    return [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]


def _replace(tensor: Any, array: NDArray[Any]) -> None:  # noqa: ANN401 - onnx has no types
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def _rows(count: int, *, seed: int) -> list[dict[str, Any]]:
    """Draw pairs, each as the graph's inputs of one row, padding included."""
    questions = drawn(seed=seed)
    tokens, pictures = questions.rows()
    chosen = np.unique(np.linspace(0, len(pictures) - 1, count).astype(np.int64))
    names = [spec.name for spec in NETWORK.inputs]
    arrays = questions.pixels[pictures], tokens.input_ids, tokens.attention_mask
    return [dict(zip(names, [array[[row]] for array in arrays], strict=True)) for row in chosen]


def _scores(session: Session, rows: list[dict[str, Any]]) -> NDArray[np.float64]:
    return np.array([session.run(None, row)[0][0, 0] for row in rows], np.float64)


def _session(path: Path) -> Session:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cpus()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as it is served
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.int8_choices",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", type=Path, metavar="DIR", help="a published fp32 version")
    parser.add_argument("--only", default="", help="choices whose names this pattern finds")
    parser.add_argument("--calibration", type=int, default=16, metavar="ROWS")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--processor-time", action="store_true", help="on a machine that others use, too")
    parser.add_argument("--directory", type=Path, default=Path(".cache/bench"), help="as of `make bench`")
    parser.add_argument("--scratch", type=Path, help="for the graphs: up to 10 GB")
    return parser


if __name__ == "__main__":
    main()
