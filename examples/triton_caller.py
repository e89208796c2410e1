"""Triton's own door with nothing but tritonclient: files and prompts in, rewards out.

    pip install 'tritonclient[grpc]' numpy
    python examples/triton_caller.py [--triton 127.0.0.1:8001]

For more rows than one request may have, for retries and for rows that fail, there is `TritonScorer`
(rl_reward.py). Any language with a Triton client does the same with the same four names.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FOLDER: Final = Path(__file__).parent
TRITON: Final = os.environ.get("AESTHETIC_TRITON_GRPC", "127.0.0.1:8001")


def rewards(
    client: InferenceServerClient, files: Sequence[bytes], prompts: Sequence[str], *, timeout_s: float = 60.0
) -> NDArray[np.float32]:
    """Score a row for each file and its prompt, in one request: (N,)."""
    answer = client.infer(
        "image_reward",
        [_bytes("IMAGE", files), _bytes("PROMPT", [prompt.encode() for prompt in prompts])],
        outputs=[InferRequestedOutput("REWARD")],
        priority=2,  # behind interactive callers
        timeout=int(timeout_s * 1_000_000),  # of Triton's queue, in microseconds
        client_timeout=timeout_s,
    )
    found: NDArray[np.float32] = answer.as_numpy("REWARD")[:, 0]
    return found


def _bytes(name: str, values: Sequence[bytes]) -> Any:
    tensor = InferInput(name, [len(values), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(values, dtype=object).reshape(-1, 1))
    return tensor


def main(arguments: Sequence[str] | None = None) -> None:
    """Rank the pictures of the first example."""
    parser = argparse.ArgumentParser(description="Triton's own door.")
    parser.add_argument("--triton", default=TRITON, help="host:port of Triton's gRPC door")
    options = parser.parse_args(arguments)
    example = json.loads((FOLDER / "examples.json").read_text())[0]
    names = [candidate["file"] for candidate in example["candidates"]]
    with InferenceServerClient(options.triton) as client:
        max_rows = int(client.get_model_config("image_reward", as_json=True)["config"]["max_batch_size"])
        found: list[float] = []
        for start in range(0, len(names), max_rows):
            part = names[start : start + max_rows]
            files = [(FOLDER / name).read_bytes() for name in part]
            found += rewards(client, files, [example["prompt"]] * len(part)).tolist()
    for reward, name in sorted(zip(found, names, strict=True), reverse=True):
        print(f"{reward:+.3f}  {name}")


if __name__ == "__main__":
    main()
