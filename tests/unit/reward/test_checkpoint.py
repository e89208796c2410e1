"""Weights are loaded strictly, in both of their forms, or refused by name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from reward import checkpoint
from reward.contract import REWARD_MEAN, REWARD_STD
from reward.errors import CheckpointError
from tests.small import SMALL, save_small_checkpoint, small_network

if TYPE_CHECKING:
    from torch import Tensor


def upstream_state(seed: int = 0) -> dict[str, Tensor]:
    """The small network's weights under upstream's names, with extras that upstream never reads."""
    renames = [
        ("image_encoder.patches.", "blip.visual_encoder.patch_embed.proj."),
        ("image_encoder.class_token", "blip.visual_encoder.cls_token"),
        ("image_encoder.positions", "blip.visual_encoder.pos_embed"),
        ("image_encoder.norm.", "blip.visual_encoder.norm."),
        ("image_encoder.layers.", "blip.visual_encoder.blocks."),
        (".attention_norm.", ".norm1."),
        (".query_key_value.", ".attn.qkv."),
        (".attention_out.", ".attn.proj."),
        ("text_encoder.tokens.", "blip.text_encoder.embeddings.word_embeddings."),
        ("text_encoder.positions.", "blip.text_encoder.embeddings.position_embeddings."),
        ("text_encoder.norm.", "blip.text_encoder.embeddings.LayerNorm."),
        (".self_attention.out.", ".attention.output.dense."),
        (".self_attention.", ".attention.self."),
        (".self_norm.", ".attention.output.LayerNorm."),
        (".cross_attention.out.", ".crossattention.output.dense."),
        (".cross_attention.", ".crossattention.self."),
        (".cross_norm.", ".crossattention.output.LayerNorm."),
    ]
    state = {}
    for ours, tensor in small_network(seed).state_dict().items():
        name = ours
        if name.startswith("head."):
            continue
        for old, new in renames:
            name = name.replace(old, new)
        if name.startswith("text_encoder.layers."):
            name = name.replace("text_encoder.layers.", "blip.text_encoder.encoder.layer.")
            name = name.replace(".mlp_in.", ".intermediate.dense.").replace(".mlp_out.", ".output.dense.")
            name = name.replace(".mlp_norm.", ".output.LayerNorm.")
        else:
            name = name.replace(".mlp_norm.", ".norm2.")
            name = name.replace(".mlp_in.", ".mlp.fc1.").replace(".mlp_out.", ".mlp.fc2.")
        state[name] = tensor
    generator = torch.Generator().manual_seed(seed)
    sizes = {0: (48, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}
    for layer, (into, out) in sizes.items():
        state[f"mlp.layers.{layer}.weight"] = torch.randn(out, into, generator=generator) / into**0.5
        state[f"mlp.layers.{layer}.bias"] = torch.randn(out, generator=generator)
    state["blip.vision_proj.weight"] = torch.zeros(256, 64)
    state["blip.text_proj.bias"] = torch.zeros(256)
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    return state


def test_upstreams_file_becomes_the_network(tmp_path: Path) -> None:
    """A pickle with upstream's names loads: every weight is in its place and the head is folded."""
    path = tmp_path / "ImageReward.pt"
    state = upstream_state()
    torch.save(state, path)
    network = checkpoint.load(path, SMALL)
    ours, expected = network.state_dict(), small_network().state_dict()
    for name, tensor in ours.items():
        if not name.startswith("head."):
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(2))
    y = x
    for layer in (0, 2, 4, 6, 7):
        y = torch.nn.functional.linear(
            y, state[f"mlp.layers.{layer}.weight"], state[f"mlp.layers.{layer}.bias"]
        )
    torch.testing.assert_close(network.head(x), (y - REWARD_MEAN) / REWARD_STD, rtol=0, atol=1e-5)


def test_safetensors_round_trip(tmp_path: Path) -> None:
    """`load` reads what `save` wrote, dimensions included."""
    loaded = checkpoint.load(save_small_checkpoint(tmp_path / "small.safetensors", seed=3))
    assert loaded.dimensions == SMALL
    for name, tensor in small_network(3).state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


def test_safetensors_under_upstreams_names(tmp_path: Path) -> None:
    """The official weights, converted to safetensors, load as well."""
    path = tmp_path / "converted.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in upstream_state().items()}, path)
    assert checkpoint.load(path, SMALL).dimensions == SMALL


def test_half_precision_is_widened(tmp_path: Path) -> None:
    """Weights stored in half precision are computed with in fp32."""
    path = tmp_path / "half.pt"
    torch.save({name: tensor.half() for name, tensor in upstream_state().items()}, path)
    assert {tensor.dtype for tensor in checkpoint.load(path, SMALL).state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blip.visual_encoder.cls_token"), "tensor image_encoder.class_token is missing"),
        (lambda s: s.update({"blip.extra": torch.zeros(1)}), "tensor blip.extra is unexpected"),
        (
            lambda s: s.update({"blip.visual_encoder.pos_embed": torch.zeros(1, 2, 64)}),
            r"tensor image_encoder.positions has the shape \[1, 2, 64\], expected \[1, 50, 64\]",
        ),
        (lambda s: s.pop("mlp.layers.4.bias"), "tensor mlp.layers.4.bias is missing"),
        (lambda s: s.update({"mlp.layers.9.bias": torch.zeros(1)}), "tensor mlp.layers.9.bias is unexpected"),
        (
            lambda s: s.update({"mlp.layers.6.weight": torch.zeros(16, 3)}),
            r"tensor mlp.layers.6.weight has the shape \[16, 3\], expected \[\*, 64\]",
        ),
        (
            lambda s: s["blip.visual_encoder.norm.bias"].fill_(float("nan")),
            "tensor image_encoder.norm.bias holds a value that is not finite",
        ),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, change: object, message: str) -> None:
    """The first tensor that is missing, unexpected, misshapen or not finite is named."""
    state = upstream_state()
    change(state)  # type: ignore[operator]
    path = tmp_path / "wrong.pt"
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path, SMALL)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/tmp/imajin-evil"),))  # type: ignore[return-value]


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", pickle.dumps({"a": 1}), pickle.dumps(_Evil()), b"PK\x03\x04junk"]
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes, suffix: str) -> None:
    """Empty files, text and other pickles are refused, and code in a pickle is not run."""
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"file\."):
        checkpoint.load(path, SMALL)
    assert not Path("/tmp/imajin-evil").exists()


def test_a_missing_file(tmp_path: Path) -> None:
    """The path of a missing file is named."""
    with pytest.raises(CheckpointError, match=r"none.pt: no such file"):
        checkpoint.load(tmp_path / "none.pt")
