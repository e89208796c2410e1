"""A network of a few layers with random weights, built in milliseconds instead of half a second."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import torch

from reward import checkpoint
from reward.network import Dimensions, RewardNetwork
from reward.runtimes import GRAPH_FILE_NAME

SMALL: Final = Dimensions(
    patch_size=32,
    image_width=64,
    image_layers=2,
    image_heads=2,
    text_width=48,
    text_layers=2,
    text_heads=2,
    max_positions=40,
)


def small_network(seed: int = 0, dimensions: Dimensions = SMALL) -> RewardNetwork:
    """Build the network from a seed, with weights spread so that images and prompts matter."""
    network = RewardNetwork(dimensions)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            noise = noise * 0.1 + (1 if name.endswith("weight") else 0)
        elif parameter.ndim > 1 and not name.endswith(("tokens.weight", "positions", "positions.weight")):
            noise = noise / parameter[0].numel() ** 0.5
        if "self_attention" in name:
            noise = noise * 2.5  # the prompt speaks to itself as loudly as the image does
        parameter.data.copy_(noise)
    network.head.weight.data *= 4  # images and prompts tell by tenths, around 0
    network.head.bias.data = -_offset(network)
    return network.eval().requires_grad_(requires_grad=False)


def _offset(network: RewardNetwork) -> torch.Tensor:
    """Score a grey picture without words, so that this score can be made the zero."""
    pixels = torch.full((1, 3, 224, 224), 128, dtype=torch.uint8)
    tokens = torch.tensor([[101, 102]])
    with torch.no_grad():
        score: torch.Tensor = network(pixels, tokens, torch.ones_like(tokens))
    return score[0] - network.head.bias.data


def save_small_checkpoint(path: Path, seed: int = 0) -> Path:
    """Write the small network as safetensors."""
    checkpoint.save(small_network(seed), path)
    return path


def copy_graph(exported: Path, network: RewardNetwork, directory: Path) -> Path:
    """Do what `to_onnx` does, with the graph of the small network that has been exported before."""
    expected = small_network().state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, expected[name]), f"this is not the network that was exported: {name}"
    shutil.copy(exported / f"{GRAPH_FILE_NAME}.data", directory)
    return Path(shutil.copy(exported / GRAPH_FILE_NAME, directory))
