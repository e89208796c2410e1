"""Load one version and ask it as Triton would.

    python -m export.trial_process DIRECTORY < config.json

`triton_python_backend_utils` exists only inside Triton. The stand-in here has what a `model.py`
needs of it: tensors, responses, errors and the log.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from export.trial import questions
from reward import manifest
from reward.contract import NETWORK, REWARD
from reward.deployment import PYTHON

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NICENESS: Final = 10  # the version that is served goes first


def main(directory: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of the fixed questions, or the error of loading or scoring."""
    sys.modules["triton_python_backend_utils"] = _stand_in()
    try:
        return {"scores": _score(directory, config)}
    except BaseException as error:  # noqa: BLE001 - the outermost frame; a model may raise anything
        lines = str(error).strip().splitlines()
        return {"error": f"{type(error).__name__}: {lines[0] if lines else 'without a message'}"}


def _score(directory: Path, config: dict[str, Any]) -> list[float]:
    if config["backend"] != PYTHON:
        from reward.runtimes.onnxruntime import OnnxRuntime  # noqa: PLC0415 - only natively

        native = OnnxRuntime(directory, manifest.read(directory), 0)
        return [float(reward) for reward in native.score(*questions())[:, 0]]
    spec = importlib.util.spec_from_file_location("model", directory / "model.py")
    if spec is None or spec.loader is None:
        raise ImportError("model.py cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize(
        {
            "model_name": NETWORK.name,
            "model_version": directory.name,
            "model_repository": str(directory.parent),
            "model_instance_name": f"{NETWORK.name}_0_0",
            "model_instance_kind": "CPU",  # nobody has asked for a second share of a GPU's memory yet
            "model_instance_device_id": "0",
            "model_config": json.dumps(config),
        }
    )
    request = {
        spec.name: _Tensor(spec.name, array) for spec, array in zip(NETWORK.inputs, questions(), strict=True)
    }
    response = model.execute([request])[0]
    if response.error is not None:
        raise RuntimeError("; ".join([response.error.text, *_log[-1:]]))
    rewards = next(tensor for tensor in response.tensors if tensor.name() == REWARD.name)
    scores: list[float] = rewards.as_numpy().ravel().astype(float).tolist()
    return scores


class _Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self._name = name
        self._array = array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class _TritonError(Exception):
    INVALID_ARG = INTERNAL = UNAVAILABLE = UNKNOWN = UNSUPPORTED = NOT_FOUND = 0

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text, code)
        self.text = text


class _Response:
    def __init__(
        self, output_tensors: list[_Tensor] | None = None, error: _TritonError | None = None
    ) -> None:
        self.tensors = output_tensors or []
        self.error = error


_log: list[str] = []


def _note(text: str) -> None:
    """Keep the last line that a model logs; for a traceback that is the error."""
    _log.append(text.strip().splitlines()[-1])


def _stand_in() -> ModuleType:
    module = ModuleType("triton_python_backend_utils")
    contents = {
        "Tensor": _Tensor,
        "TritonError": _TritonError,
        "TritonModelException": _TritonError,
        "InferenceResponse": _Response,
        "Logger": SimpleNamespace(
            log_error=_note, log_warn=_note, log_info=_note, log_verbose=_note, log=_note
        ),
        "get_input_tensor_by_name": lambda request, name: request.get(name),
    }
    vars(module).update(contents)
    return module


if __name__ == "__main__":
    os.nice(_NICENESS)
    answer = main(Path(sys.argv[1]), json.load(sys.stdin))
    print(json.dumps(answer), flush=True)  # noqa: T201 - read by export.trial
    os._exit(0)  # whatever threads a model may have left
