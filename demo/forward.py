"""The network's own function, arranged for training: one picture read once, scored against many prompts.

The weights are a RewardNetwork's and so is every formula (`reward/network.py`; a test holds them together).
What differs is the order of the work: the cross-attention has no mask, so the tokens of all prompts of one
picture are its queries at once, and in bfloat16 plain matrix products outrun the fused attention on a CPU.

Shapes: B pictures, P prompts each, N image tokens, T prompt tokens, D the width at hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reward.network import Attention, ImageEncoder, ImageLayer, RewardNetwork, TextLayer


def read_images(encoder: ImageEncoder, pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Encode pictures, (B, 3, 224, 224) uint8, in `dtype`: (B, N, D)."""
    patch = int(encoder.patches.kernel_size[0])
    side = pixels.shape[-1] // patch
    patches = pixels.view(-1, 3, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5)
    patches = patches.to(dtype).reshape(pixels.shape[0], side * side, -1)  # (B, N - 1, 3 * patch^2), 0 to 255
    # The normalisation of the pixels is affine, so it is done to the few weights instead.
    weight = (encoder.patches.weight / (255 * encoder.pixel_std)).to(dtype)  # (D, 3, patch, patch)
    assert encoder.patches.bias is not None
    bias = encoder.patches.bias - (weight.float() * 255 * encoder.pixel_mean).sum((1, 2, 3))
    x = F.linear(patches, weight.flatten(1), bias.to(dtype))  # (B, N - 1, D)
    x = torch.cat([encoder.class_token.to(dtype).expand(x.shape[0], -1, -1), x], dim=1)
    x = x + encoder.positions.to(dtype)
    for layer in encoder.layers:
        x = _image_layer(layer, x)  # type: ignore[arg-type]
    return _norm(encoder.norm, x)


def score(network: RewardNetwork, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Score each picture against its prompts.

    Args:
        network: whose text encoder and head read.
        image: (B, N, D) from `read_images`.
        input_ids: (B, P, T) int64.
        attention_mask: (B, P, T) int64.

    Returns:
        (B, P) float32 rewards.
    """
    encoder = network.text_encoder
    pictures, prompts, length = input_ids.shape
    # The embedding stays in float32: its gradient sums over hundreds of the same words.
    x = encoder.tokens(input_ids.flatten(0, 1)) + encoder.positions.weight[:length]
    x = _norm(encoder.norm, x).to(image.dtype)  # (B * P, T, D)
    hidden = attention_mask.flatten(0, 1)[:, None, :] == 0  # (B * P, 1, T)
    for index, layer in enumerate(encoder.layers):
        last = index == len(encoder.layers) - 1
        x = _text_layer(layer, x[:, :1] if last else x, x, hidden, image)  # type: ignore[arg-type]
    rewards: Tensor = network.head(x[:, 0].float())
    return rewards.view(pictures, prompts)


def _image_layer(layer: ImageLayer, x: Tensor) -> Tensor:
    query, key, value = _linear(layer.query_key_value, _norm(layer.attention_norm, x)).chunk(3, dim=-1)
    x = x + _linear(layer.attention_out, _attend(query, key, value, layer.heads, None))
    return x + _linear(layer.mlp_out, F.gelu(_linear(layer.mlp_in, _norm(layer.mlp_norm, x))))


def _text_layer(layer: TextLayer, x: Tensor, context: Tensor, hidden: Tensor, image: Tensor) -> Tensor:
    x = _norm(layer.self_norm, x + _attention(layer.self_attention, x, context, hidden))
    queries = x.reshape(image.shape[0], -1, x.shape[-1])  # (B, P * T, D)
    seen = _attention(layer.cross_attention, queries, image, None).view_as(x)
    x = _norm(layer.cross_norm, x + seen)
    return _norm(layer.mlp_norm, x + _linear(layer.mlp_out, F.gelu(_linear(layer.mlp_in, x))))


def _attention(attention: Attention, x: Tensor, source: Tensor, hidden: Tensor | None) -> Tensor:
    query, key = _linear(attention.query, x), _linear(attention.key, source)
    value = _linear(attention.value, source)
    return _linear(attention.out, _attend(query, key, value, attention.heads, hidden))


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, hidden: Tensor | None) -> Tensor:
    batch, width = query.shape[0], query.shape[-1] // heads

    def split(x: Tensor) -> Tensor:  # (B, L, D) -> (B * heads, L, D / heads)
        return x.view(batch, -1, heads, width).transpose(1, 2).reshape(batch * heads, -1, width)

    logits = torch.bmm(split(query * width**-0.5), split(key).transpose(1, 2))  # (B * heads, Q, K)
    if hidden is not None:
        logits = logits.masked_fill(hidden.repeat_interleave(heads, dim=0), -30_000.0)
    y = torch.bmm(logits.softmax(dim=-1), split(value))
    return y.view(batch, heads, -1, width).transpose(1, 2).flatten(2)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)
