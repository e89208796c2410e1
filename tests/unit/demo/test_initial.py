"""The network before its first step."""

from __future__ import annotations

import torch

from demo.initial import build
from reward.network import Dimensions, ImageLayer

SMALL = Dimensions(
    patch_size=16,
    image_width=128,
    image_layers=1,
    image_heads=4,
    text_width=16,
    text_layers=1,
    text_heads=2,
    max_positions=35,
)


def test_same_seed_builds_the_same_network() -> None:
    """The weights depend on the seed and on nothing else."""
    first, second, third = (build(SMALL, seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], third["head.weight"])


def test_first_layer_looks_at_its_neighbours() -> None:
    """On an even picture, each head of the middle patch looks at a direct neighbour of it.

    The neighbour is the patch beside, below or above it.
    """
    encoder = build(SMALL, 0)[0].image_encoder
    layer = encoder.layers[0]
    assert isinstance(layer, ImageLayer)
    with torch.inference_mode():
        query, key, _ = layer.query_key_value(layer.attention_norm(encoder.positions[0])).chunk(3, -1)
        middle = query[1 + 7 * 14 + 7].view(4, 32)
        logits = torch.einsum("hd,nhd->hn", middle, key.view(-1, 4, 32))
    seen = [divmod(index - 1, 14) for index in logits.argmax(-1).tolist()]
    assert seen == [(7, 8), (7, 6), (8, 7), (6, 7)]
