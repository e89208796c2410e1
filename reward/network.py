"""The ImageReward network: an image and its prompt -> one reward. One file, top to bottom.

A ViT-L/16 reads the image. A BERT reads the prompt and attends to the image's tokens in every layer
(BLIP's "image-grounded text encoder"). An affine map of the first text token gives the reward.
Upstream has this in ImageReward/ImageReward.py and ImageReward/models/BLIP/{vit,med}.py. The
function here is the same, with less work:

- the reward head has no activations, so its five Linear layers, the mean and the standard deviation
  are one affine map 768 -> 1 (`checkpoint.fold_head`);
- only the first token of the last text layer is read, so that layer has one query;
- padding is masked, so the prompt may come cut to the longest of its batch;
- the mask of the cross-attention is all ones and left out.

It can compute in half precision (`RewardNetwork.to_precision`): then what multiplies, the linear
layers, the patches and the attention, is half; everything that adds up stays in fp32: norms,
softmax, the sums around the layers, and the head.

Shapes: B images, N = 1 + (224 / patch)^2 image tokens, T prompt tokens, D the width at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from reward.contract import IMAGE_SIZE, PIXEL_MEAN, PIXEL_STD


@dataclass(frozen=True)
class Dimensions:
    """A network's size; the defaults are ImageReward-v1.0's (446,665,953 parameters upstream)."""

    patch_size: int = 16
    image_width: int = 1024
    image_layers: int = 24
    image_heads: int = 16
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    vocabulary_size: int = 30524
    max_positions: int = 512

    @property
    def image_tokens(self) -> int:
        """Patches of one image and the class token before them."""
        return 1 + (IMAGE_SIZE // self.patch_size) ** 2


class RewardNetwork(nn.Module):
    """uint8 pixels and token ids -> rewards."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.image_encoder = ImageEncoder(dimensions)
        self.text_encoder = TextEncoder(dimensions)
        self.head = nn.Linear(dimensions.text_width, 1)

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Score a batch.

        Args:
            pixels: (B, 3, 224, 224) uint8.
            input_ids: (B, T) int64.
            attention_mask: (B, T) int64, 1 where a token stands.

        Returns:
            (B, 1) rewards.
        """
        image = self.image_encoder(pixels)  # (B, N, image_width)
        text = self.text_encoder(input_ids, attention_mask, image)  # (B, 1, text_width)
        reward: Tensor = self.head(text[:, 0])
        return reward

    def to_precision(self, dtype: torch.dtype) -> RewardNetwork:
        """Round the weights of all layers that multiply, which then compute in this precision."""
        for module in self.modules():
            if isinstance(module, Linear | nn.Conv2d):
                module.to(dtype)
        return self


class Linear(nn.Linear):
    """A linear layer that computes in the precision of its weights, whatever its input has."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class ImageEncoder(nn.Module):
    """Vision transformer, pre-norm (upstream: models/BLIP/vit.py)."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        width, patch = dimensions.image_width, dimensions.patch_size
        self.register_constants()
        self.patches = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, dimensions.image_tokens, width))
        self.layers = nn.ModuleList(
            ImageLayer(width, dimensions.image_heads) for _ in range(dimensions.image_layers)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def register_constants(self) -> None:
        """Set CLIP's channel statistics, which are not weights and are in no checkpoint."""
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels.to(self.pixel_mean.dtype) / 255 - self.pixel_mean) / self.pixel_std
        x = self.patches(x.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)  # (B, N - 1, D)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)  # (B, N, D)
        x = x + self.positions
        for layer in self.layers:
            x = layer(x)
        tokens: Tensor = self.norm(x)
        return tokens


class ImageLayer(nn.Module):
    """Self-attention and MLP, each on the normalised input and added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.query_key_value = Linear(width, 3 * width)
        self.attention_out = Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp_in = Linear(width, 4 * width)
        self.mlp_out = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query_key_value(self.attention_norm(x)).chunk(3, dim=-1)  # each (B, N, D)
        x = x + self.attention_out(attend(query, key, value, heads=self.heads))
        rewritten: Tensor = x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))
        return rewritten


class TextEncoder(nn.Module):
    """BERT, post-norm, every layer cross-attending to the image (upstream: models/BLIP/med.py)."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        width = dimensions.text_width
        self.tokens = nn.Embedding(dimensions.vocabulary_size, width)
        self.positions = nn.Embedding(dimensions.max_positions, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(
            TextLayer(width, dimensions.image_width, dimensions.text_heads)
            for _ in range(dimensions.text_layers)
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor, image: Tensor) -> Tensor:
        """Return the first token only, (B, 1, D): nothing reads the others."""
        x: Tensor = self.norm(
            self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        )  # (B, T, D)
        # Upstream adds -10,000 where a token is padding. In fp32 its weight is exactly 0 either
        # way.
        mask = attention_mask.bool()[:, None, None, :]  # (B, 1, 1, T): for all heads and queries
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            x = layer(x[:, :1] if last else x, x, mask, image)
        return x


class TextLayer(nn.Module):
    """Self-attention, cross-attention to the image, MLP; each added and then normalised."""

    def __init__(self, width: int, image_width: int, heads: int) -> None:
        super().__init__()
        self.self_attention = Attention(width, width, heads)
        self.self_norm = nn.LayerNorm(width, eps=1e-12)
        self.cross_attention = Attention(width, image_width, heads)
        self.cross_norm = nn.LayerNorm(width, eps=1e-12)
        self.mlp_in = Linear(width, 4 * width)
        self.mlp_out = Linear(4 * width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """Rewrite the tokens `x`, (B, Q, D), that look at the whole prompt `context`, (B, T, D)."""
        x = self.self_norm(x + self.self_attention(x, context, mask))
        x = self.cross_norm(x + self.cross_attention(x, image, None))
        rewritten: Tensor = self.mlp_norm(x + self.mlp_out(F.gelu(self.mlp_in(x))))
        return rewritten


class Attention(nn.Module):
    """Multi-head attention of `x` to `source`."""

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(width, width)
        self.key = Linear(source_width, width)
        self.value = Linear(source_width, width)
        self.out = Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        y = attend(self.query(x), self.key(source), self.value(source), heads=self.heads, mask=mask)
        out: Tensor = self.out(y)
        return out


def attend(query: Tensor, key: Tensor, value: Tensor, *, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attend, scaled, in `heads` parts: (B, Q, D), (B, K, D), (B, K, D) -> (B, Q, D)."""

    def split(x: Tensor) -> Tensor:  # (B, L, D) -> (B, heads, L, D / heads)
        return x.view(x.shape[0], -1, heads, x.shape[-1] // heads).transpose(1, 2)

    y = F.scaled_dot_product_attention(split(query), split(key), split(value), attn_mask=mask)
    return y.transpose(1, 2).flatten(2)
