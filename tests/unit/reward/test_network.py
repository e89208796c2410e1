"""The shortcuts in the network do not change its result.

That it agrees with upstream at full size is tested in tests/parity.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from reward.network import Dimensions, RewardNetwork
from reward.tokenizer import tokenise
from tests.small import SMALL, small_network


def _inputs(prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (len(prompts), 3, 224, 224), generator=generator, dtype=torch.uint8)
    tokens = tokenise(prompts)
    return pixels, torch.from_numpy(tokens.input_ids), torch.from_numpy(tokens.attention_mask)


def test_padding_does_not_matter() -> None:
    """Prompts cut to the longest of the batch get the same rewards as prompts padded to 35."""
    network = small_network()
    pixels, ids, mask = _inputs(["a cat", "a red car on a road"])
    longest = int(mask.sum(dim=1).max())
    difference = network(pixels, ids, mask) - network(pixels, ids[:, :longest], mask[:, :longest])
    assert difference.abs().max() <= 1e-6


def test_the_last_layer_needs_one_query() -> None:
    """Running every token through the last text layer gives the same first token."""
    network = small_network()
    pixels, ids, mask = _inputs(["a cat on a mat"])
    text = network.text_encoder
    image = network.image_encoder(pixels)
    x = text.norm(text.tokens(ids) + text.positions.weight[: ids.shape[1]])
    for layer in text.layers:
        x = layer(x, x, mask.bool()[:, None, None, :], image)
    assert (network.head(x[:, 0]) - network(pixels, ids, mask)).abs().max() <= 1e-6


def test_normalisation_is_in_the_network() -> None:
    """The network itself scales uint8 pixels by CLIP's mean and deviation.

    So a change of these buffers changes the reward.
    """
    network = small_network()
    inputs = _inputs(["a cat"])
    before = network(*inputs)
    network.image_encoder.pixel_mean += 0.5
    assert (network(*inputs) - before).abs().max() > 1e-3


def test_full_size_has_upstreams_parameters() -> None:
    """The parameters are those of ImageReward-v1.0, except for two things.

    The projections that upstream never reads are left out, and its head is folded into one layer.
    """
    with torch.device("meta"):
        network = RewardNetwork(Dimensions())
    unread = 256 * (1024 + 1) + 256 * (768 + 1)
    sizes = [768, 1024, 128, 64, 16, 1]
    head = sum(out * (into + 1) for into, out in pairwise(sizes))
    folded = 768 + 1
    assert (
        sum(parameter.numel() for parameter in network.parameters()) == 446_665_953 - unread - head + folded
    )


def test_dimensions_count_their_patches() -> None:
    """There is one token for the class and one for each patch."""
    assert Dimensions().image_tokens == 197
    assert SMALL.image_tokens == 50
