"""The network before its first step: torch's own weights, and heads that look at neighbours.

Before a vision transformer can tell a star from a ring, it has to find out which patches lie side
by side, and from few pictures it does not. So a part of the width is set aside for places, as sines
of row and column. The heads of the first layers start out looking one or two patches to each side,
as a convolution does (after d'Ascoli et al. 2021, ConViT). Training may change all of it.
"""

from __future__ import annotations

from math import log10
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from demo.objective import NamingHeads
from reward.network import ImageLayer, RewardNetwork

if TYPE_CHECKING:
    from torch import Tensor

    from reward.network import Dimensions

_NEIGHBOURS: Final = (
    ((0, 1), (0, -1), (1, 0), (-1, 0)),
    ((0, 2), (0, -2), (2, 0), (-2, 0)),
    ((2, 2), (2, -2), (-2, 2), (-2, -2)),
)
"""How many rows and columns away each head of each of the first layers looks."""

_LONGEST: Final = 28.0  # wavelengths of the sines, in patches
_SHORTEST: Final = 2.8


def build(dimensions: Dimensions, seed: int) -> tuple[RewardNetwork, NamingHeads]:
    """Build network and auxiliary heads; the same seed gives the same weights."""
    torch.manual_seed(seed)
    network = RewardNetwork(dimensions)
    encoder = network.image_encoder
    width = dimensions.image_width // dimensions.image_heads  # what is set aside for places
    side = int((dimensions.image_tokens - 1) ** 0.5)
    rates = 2 * torch.pi / torch.logspace(log10(_LONGEST), log10(_SHORTEST), steps=width // 4)
    at = torch.arange(side)[:, None] * rates  # (side, width / 4)
    axis = torch.cat([at.sin(), at.cos()], dim=1)  # (side, width / 2)
    grid = torch.cat([axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)], dim=2)
    with torch.no_grad():
        encoder.patches.weight[-width:] = 0
        encoder.positions[0, 1:, -width:] = grid.flatten(0, 1)
        nn.init.normal_(encoder.class_token, std=0.3)
        for layer, offsets in zip(encoder.layers, _NEIGHBOURS, strict=False):
            assert isinstance(layer, ImageLayer)
            _look_at(layer, offsets[: dimensions.image_heads], rates)
    return network, NamingHeads(dimensions.image_width)


def _look_at(layer: ImageLayer, offsets: tuple[tuple[int, int], ...], rates: Tensor) -> None:
    """Add to queries and keys what makes each head look this many rows and columns away."""
    weight = layer.query_key_value.weight  # (3 * D, D)
    full, part = weight.shape[1], 4 * len(rates)
    for head, (rows, columns) in enumerate(offsets):
        turn = torch.zeros(part, part)
        turn[: part // 2, : part // 2] = _turn(rows * rates)
        turn[part // 2 :, part // 2 :] = _turn(columns * rates)
        query = slice(head * part, (head + 1) * part)
        key = slice(full + head * part, full + (head + 1) * part)
        weight[query, -part:] += turn
        weight[key, -part:] += torch.eye(part)


def _turn(angles: Tensor) -> Tensor:
    """Map (sin x, cos x) to (sin (x + angle), cos (x + angle))."""
    sines, cosines = torch.diag(angles.sin()), torch.diag(angles.cos())
    return torch.cat([torch.cat([cosines, sines], dim=1), torch.cat([-sines, cosines], dim=1)])
