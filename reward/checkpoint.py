"""Weights on disk <-> the network, strictly.

Two forms are read. One is upstream's `ImageReward.pt`, a pickle of nothing but tensors, loaded with
`weights_only`. The other is safetensors, under upstream's names or under ours; ours has the
network's dimensions in its metadata. Every tensor must be there, have its shape and be known. The
few that upstream stores and never reads are named below.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from typing import TYPE_CHECKING, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from reward.contract import REWARD_MEAN, REWARD_STD
from reward.errors import CheckpointError
from reward.network import Dimensions, RewardNetwork

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_DIMENSIONS_KEY: Final = "imajin-aesthetic.dimensions"

# Upstream's names -> ours. They are tried in order, and the first match decides.
_RENAMES: Final = [
    (r"blip\.visual_encoder\.patch_embed\.proj\.", "image_encoder.patches."),
    (r"blip\.visual_encoder\.cls_token$", "image_encoder.class_token"),
    (r"blip\.visual_encoder\.pos_embed$", "image_encoder.positions"),
    (r"blip\.visual_encoder\.norm\.", "image_encoder.norm."),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.norm1\.", r"image_encoder.layers.\1.attention_norm."),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"image_encoder.layers.\1.query_key_value."),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"image_encoder.layers.\1.attention_out."),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.norm2\.", r"image_encoder.layers.\1.mlp_norm."),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.mlp\.fc1\.", r"image_encoder.layers.\1.mlp_in."),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.mlp\.fc2\.", r"image_encoder.layers.\1.mlp_out."),
    (r"blip\.text_encoder\.embeddings\.word_embeddings\.", "text_encoder.tokens."),
    (r"blip\.text_encoder\.embeddings\.position_embeddings\.", "text_encoder.positions."),
    (r"blip\.text_encoder\.embeddings\.LayerNorm\.", "text_encoder.norm."),
    (r"blip\.text_encoder\.encoder\.layer\.(\d+)\.", r"text_encoder.layers.\1."),
    (r"(text_encoder\.layers\.\d+)\.attention\.self\.", r"\1.self_attention."),
    (r"(text_encoder\.layers\.\d+)\.attention\.output\.dense\.", r"\1.self_attention.out."),
    (r"(text_encoder\.layers\.\d+)\.attention\.output\.LayerNorm\.", r"\1.self_norm."),
    (r"(text_encoder\.layers\.\d+)\.crossattention\.self\.", r"\1.cross_attention."),
    (r"(text_encoder\.layers\.\d+)\.crossattention\.output\.dense\.", r"\1.cross_attention.out."),
    (r"(text_encoder\.layers\.\d+)\.crossattention\.output\.LayerNorm\.", r"\1.cross_norm."),
    (r"(text_encoder\.layers\.\d+)\.intermediate\.dense\.", r"\1.mlp_in."),
    (r"(text_encoder\.layers\.\d+)\.output\.dense\.", r"\1.mlp_out."),
    (r"(text_encoder\.layers\.\d+)\.output\.LayerNorm\.", r"\1.mlp_norm."),
]

# Upstream stores these, but nothing reads them: BLIP's contrastive projections, and the positions
# 0..511.
_UNREAD: Final = re.compile(
    r"blip\.(vision_proj|text_proj)\.(weight|bias)$|blip\.text_encoder\.embeddings\.position_ids$"
)

_HEAD_LAYERS: Final = (0, 2, 4, 6, 7)  # of upstream's nn.Sequential; the others are Dropout


def load(path: Path, dimensions: Dimensions | None = None) -> RewardNetwork:
    """Build the network from a checkpoint, in evaluation mode, fp32, on the CPU.

    Args:
        path: `.safetensors`, or a pickle as torch saves it.
        dimensions: of the network, if the file does not have them; by default those of
            ImageReward-v1.0.

    Raises:
        CheckpointError: not a checkpoint, or not of this network; names the first tensor that is
            missing, unexpected or misshapen.
    """
    tensors, stored = _read(path)
    dimensions = dimensions or stored or Dimensions()
    with torch.device("meta"):
        network = RewardNetwork(dimensions)
    state = rename(tensors)
    _check(state, network, path)
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    # Buffers that are not weights were built above without storage.
    network.image_encoder.register_constants()
    return network.eval().requires_grad_(requires_grad=False)


def save(network: RewardNetwork, path: Path) -> None:
    """Write the network as safetensors under our names, its dimensions in the metadata."""
    state = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    dimensions = json.dumps(dataclasses.asdict(network.dimensions))
    save_file(state, path, metadata={_DIMENSIONS_KEY: dimensions})


def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map upstream's names to ours, leave out what is never read, fold the head."""
    state: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for upstream_name, tensor in tensors.items():
        if _UNREAD.match(upstream_name):
            continue
        if upstream_name.startswith("mlp.layers."):
            head[upstream_name.removeprefix("mlp.layers.")] = tensor
            continue
        name = upstream_name
        for pattern, replacement in _RENAMES:
            name = re.sub("^" + pattern, replacement, name)
        state[name] = tensor
    if head:
        state |= fold_head(head)
    return state


def fold_head(head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold five Linear layers without activations, the mean and the deviation into one affine map.

    They are multiplied in fp64, so that folding adds no error of its own.

    Raises:
        CheckpointError: a layer is missing, unexpected or does not fit the one before it.
    """
    names = [f"{layer}.{kind}" for layer in _HEAD_LAYERS for kind in ("weight", "bias")]
    for name in names:
        if name not in head:
            raise CheckpointError(f"tensor mlp.layers.{name} is missing")
    for name in head:
        if name not in names:
            raise CheckpointError(f"tensor mlp.layers.{name} is unexpected")
    weight, bias = head["0.weight"].double(), head["0.bias"].double()
    for layer in _HEAD_LAYERS[1:]:
        next_weight, next_bias = head[f"{layer}.weight"].double(), head[f"{layer}.bias"].double()
        if next_weight.ndim != 2 or next_weight.shape[1] != weight.shape[0]:
            raise CheckpointError(
                f"tensor mlp.layers.{layer}.weight has the shape {list(next_weight.shape)}, "
                f"expected [*, {weight.shape[0]}]"
            )
        weight, bias = next_weight @ weight, next_weight @ bias + next_bias
    return {
        "head.weight": (weight / REWARD_STD).float(),
        "head.bias": ((bias - REWARD_MEAN) / REWARD_STD).float(),
    }


def _read(path: Path) -> tuple[dict[str, Tensor], Dimensions | None]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError, EOFError, KeyError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of tensors alone (loaded with weights_only=True)"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    ):
        raise CheckpointError(f"{path}: not a mapping of names to tensors")
    return dict(content), None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Dimensions | None]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file") from error
    if _DIMENSIONS_KEY not in metadata:
        return tensors, None
    try:
        return tensors, Dimensions(**json.loads(metadata[_DIMENSIONS_KEY]))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: its metadata does not hold a network's dimensions") from error


def _check(state: Mapping[str, Tensor], network: RewardNetwork, path: Path) -> None:
    expected = network.state_dict()
    for name, tensor in expected.items():
        if name not in state:
            raise CheckpointError(f"{path}: tensor {name} is missing")
        if state[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: tensor {name} has the shape {list(state[name].shape)}, expected {list(tensor.shape)}"
            )
        if not state[name].is_floating_point():
            raise CheckpointError(f"{path}: tensor {name} holds {state[name].dtype}, not floating point")
        if not bool(torch.isfinite(state[name]).all()):
            raise CheckpointError(f"{path}: tensor {name} holds a value that is not finite")
    for name in state:
        if name not in expected:
            raise CheckpointError(f"{path}: tensor {name} is unexpected")
