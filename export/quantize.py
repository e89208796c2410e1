"""The graph in 8-bit integers, by onnxruntime's static quantisation of its large linear layers.

Weights are signed and have a scale for each output channel; activations are unsigned and have one
scale, measured once on calibration rows, so that a score cannot depend on its batch mates. What
reads the image is quantised: the image encoder's layers, and the keys and values by which the text
attends to it. The rest, less than a tenth of the work and more than half of the error, stays in
fp32: the prompt's own layers, norms, softmax, attention products, the patches and the head.
"""

from __future__ import annotations

import logging
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from reward.runtimes import GRAPH_FILE_NAME
from reward.runtimes.onnxruntime import graph_inputs

if TYPE_CHECKING:
    from export.questions import Questions

CALIBRATION_ROWS: Final = 16

_READS_IMAGE: Final = re.compile(r"^image_encoder\.|\.cross_attention\.(key|value)/")


def quantize(directory: Path, questions: Questions) -> None:
    """Replace the graph in `directory` by its 8-bit form; `questions` calibrate it."""
    with tempfile.TemporaryDirectory(prefix=".publishing-", dir=directory.parent) as temporary:
        draft = Path(temporary)
        # Its only remark is that shapes were not inferred, which concerns operators that are unused
        # here.
        logging.disable(logging.WARNING)
        try:
            quantize_static(
                directory / GRAPH_FILE_NAME,
                draft / GRAPH_FILE_NAME,
                _Rows(questions),
                quant_format=QuantFormat.QDQ,
                nodes_to_quantize=_layers(directory / GRAPH_FILE_NAME),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                use_external_data_format=True,
                # The sum in a product stays as exact as it is.
                extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
            )
        finally:
            logging.disable(logging.NOTSET)
        for file in directory.glob(f"{GRAPH_FILE_NAME}*"):
            file.unlink()
        for file in draft.iterdir():
            file.rename(directory / file.name)


def _layers(graph: Path) -> list[str]:
    """Name the products to quantise: with a weight, for attention multiplies two activations."""
    content = onnx.load(graph, load_external_data=False).graph
    weights = {tensor.name for tensor in content.initializer}
    return [
        node.name
        for node in content.node
        if node.op_type == "MatMul" and node.input[1] in weights and _READS_IMAGE.search(node.name)
    ]


class _Rows(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no types
    """Rows from everywhere in the questions, one by one."""

    def __init__(self, questions: Questions) -> None:
        tokens, pictures = questions.rows()
        chosen = np.unique(np.linspace(0, len(pictures) - 1, CALIBRATION_ROWS).astype(np.int64))
        self._rows = iter(
            graph_inputs(
                questions.pixels[pictures[[row]]], tokens.input_ids[[row]], tokens.attention_mask[[row]]
            )
            for row in chosen
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._rows, None)
