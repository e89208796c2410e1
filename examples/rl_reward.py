"""ImageReward as the reward of reinforcement learning, without its model in the trainer's memory.

flow_grpo calls a function of (images, prompts, metadata), made by a function of the device; in its
`multi_score`, where rewards are weighted:

    score_functions["imagereward"] = imagereward_score

DanceGRPO calls a method with paths and prompts and puts the tensors together:

    reward_model = RemoteReward()
    reward_model.reward([image_path], [prompt])

Both ask Triton's own door, many images in a request, several requests at a time, behind interactive
callers. Try it on the pictures of this folder:

    python examples/rl_reward.py [--triton 127.0.0.1:8001]
"""

from __future__ import annotations

import argparse
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from imajin_aesthetic_client.triton import TritonScorer

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

FOLDER: Final = Path(__file__).parent
TRITON: Final = os.environ.get("AESTHETIC_TRITON_GRPC", "127.0.0.1:8001")

RewardFunction = Callable[[Any, Sequence[str], Any], tuple["NDArray[np.float32]", dict[str, Any]]]


def imagereward_score(
    device: object = None, *, url: str = TRITON, timeout_s: float = 120.0
) -> RewardFunction:
    """Make flow_grpo's reward function; Triton decides where the model computes, not `device`.

    Its images are a float tensor in 0..1, (N, 3, H, W), or a uint8 array, (N, H, W, 3). An image
    without a reward raises: a number in its place would teach something.
    """
    del device
    scorer = TritonScorer(url, timeout_s=timeout_s)

    def score(
        images: Any, prompts: Sequence[str], metadata: Any = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        del metadata
        return scorer.score([png(image) for image in as_uint8(images)], list(prompts)), {}

    return score


class RemoteReward:
    """DanceGRPO's reward model."""

    def __init__(self, url: str = TRITON, *, timeout_s: float = 120.0) -> None:
        self._scorer = TritonScorer(url, timeout_s=timeout_s)

    def reward(self, image_paths: Sequence[str], prompts: Sequence[str]) -> torch.Tensor:
        """Return the reward of each image: (N,)."""
        import torch

        return torch.from_numpy(self._scorer.score(image_paths, prompts))


def as_uint8(images: Any) -> NDArray[np.uint8]:
    """Turn what a pipeline gives into (N, H, W, 3)."""
    if hasattr(images, "detach"):  # a tensor, (N, 3, H, W)
        scaled = (images.detach().float() * 255).round().clamp(0, 255).cpu().numpy()
        images = scaled.transpose(0, 2, 3, 1)
    return np.asarray(images).astype(np.uint8)


def png(image: NDArray[np.uint8]) -> bytes:
    """Write (H, W, 3) as a file, without loss."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def advantages(rewards: NDArray[np.float32], group: int) -> NDArray[np.float32]:
    """Compare each reward with those of its own prompt, as GRPO does: (N,), group after group."""
    grouped = rewards.reshape(-1, group)
    spread = grouped.std(axis=1, keepdims=True) + 1e-8
    compared: NDArray[np.float32] = ((grouped - grouped.mean(axis=1, keepdims=True)) / spread).reshape(-1)
    return compared


def main(arguments: Sequence[str] | None = None) -> None:
    """Reward ten pictures of each of four prompts."""
    parser = argparse.ArgumentParser(description="ImageReward as a reward function.")
    parser.add_argument("--triton", default=TRITON, help="host:port of Triton's gRPC door")
    options = parser.parse_args(arguments)
    examples = json.loads((FOLDER / "examples.json").read_text())
    files = [candidate["file"] for example in examples for candidate in example["candidates"]]
    prompts = [example["prompt"] for example in examples for _ in example["candidates"]]
    images = np.stack([np.asarray(Image.open(FOLDER / file).convert("RGB")) for file in files])
    rewards, _ = imagereward_score(url=options.triton)(images, prompts, {})
    compared = advantages(rewards, len(examples[0]["candidates"]))
    for example in examples:
        rows = [row for row, prompt in enumerate(prompts) if prompt == example["prompt"]]
        best = max(rows, key=lambda row: rewards[row])
        print(
            f"{example['prompt']}: {files[best]}, reward {rewards[best]:+.3f}, advantage {compared[best]:+.2f}"
        )


if __name__ == "__main__":
    main()
