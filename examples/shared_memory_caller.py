"""Triton's door for prepared pixels, by shared memory: nothing of them goes through a socket.

    python -m local up --admin-key-file admin.key
    pip install 'tritonclient[http]' numpy imajin-aesthetic
    python examples/shared_memory_caller.py --admin-key-file admin.key

The caller runs on Triton's machine, in the same /dev/shm. To register a region it needs the
administration key, which `local up --admin-key-file FILE` writes; to be scored from a registered
region, nobody needs it.
"""

from __future__ import annotations

import argparse
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import shared_memory

from reward import prepare, tokenise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

FOLDER: Final = Path(__file__).parent
TRITON: Final = os.environ.get("AESTHETIC_TRITON_HTTP", "127.0.0.1:8000")


def rewards(
    client: InferenceServerClient, key: str, images: Sequence[bytes], prompt: str
) -> NDArray[np.float32]:
    """Score images of one prompt, whose pixels are in a region of shared memory: (N,)."""
    pixels = np.stack([prepare(data).pixels for data in images])  # (N, 3, 224, 224)
    tokens = tokenise([prompt] * len(images))
    with _shared(client, key, pixels) as region:
        on_pixels = InferInput("PIXELS", list(pixels.shape), "UINT8")
        on_pixels.set_shared_memory(region, pixels.nbytes)
        inputs = [on_pixels]
        for name, array in (("INPUT_IDS", tokens.input_ids), ("ATTENTION_MASK", tokens.attention_mask)):
            tensor = InferInput(name, list(array.shape), "INT64")
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        answer = client.infer("image_reward_network", inputs, outputs=[InferRequestedOutput("REWARD")])
    found: NDArray[np.float32] = answer.as_numpy("REWARD")[:, 0]
    return found


@contextmanager
def _shared(client: InferenceServerClient, key: str, array: NDArray[Any]) -> Iterator[str]:
    """Have an array in a region that Triton knows; a long-lived caller keeps one and refills it."""
    name = f"caller-{os.getpid()}"
    headers = {"triton-admin-key": key}
    region = shared_memory.create_shared_memory_region(name, f"/{name}", array.nbytes)
    try:
        shared_memory.set_shared_memory_region(region, [array])
        client.register_system_shared_memory(name, f"/{name}", array.nbytes, headers=headers)
        try:
            yield name
        finally:
            client.unregister_system_shared_memory(name, headers=headers)
    finally:
        shared_memory.destroy_shared_memory_region(region)


def main(arguments: Sequence[str] | None = None) -> None:
    """Rank four pictures of the first example: as many as every Triton takes at once."""
    parser = argparse.ArgumentParser(description="Pixels in shared memory.")
    parser.add_argument("--triton", default=TRITON, help="host:port of Triton's HTTP door")
    parser.add_argument("--admin-key-file", type=Path, required=True)
    options = parser.parse_args(arguments)
    example = json.loads((FOLDER / "examples.json").read_text())[0]
    names = [candidate["file"] for candidate in example["candidates"]][:4]
    key = options.admin_key_file.read_text().strip()
    with InferenceServerClient(options.triton) as client:
        found = rewards(client, key, [(FOLDER / name).read_bytes() for name in names], example["prompt"])
    for reward, name in sorted(zip(found.tolist(), names, strict=True), reverse=True):
        print(f"{reward:+.3f}  {name}")


if __name__ == "__main__":
    main()
