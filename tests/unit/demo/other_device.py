"""A device that every machine has: its tensors lie in memory, but do not mix with others.

It stands in for a GPU, and is made in the way that torch offers for devices written in Python.
`python -m tests.unit.demo.other_device` trains on it and on the CPU, with the same arithmetic, and
fails unless both end with the same weights. It needs a process of its own, because a device once
registered stays until its process ends.
"""

from __future__ import annotations

from typing import Any, Self
from unittest.mock import patch

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from demo.evaluate import evaluate, in_torch, pairs
from demo.training import Trainer
from tests.unit.demo.test_training import PLAN

NAME = "other"
_MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class OtherTensor(torch.Tensor):
    """A tensor on the other device; `numbers` holds its content in ordinary memory."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls: type[Self], numbers: torch.Tensor) -> Self:
        made: Self = torch.Tensor._make_wrapper_subclass(
            cls, numbers.shape, strides=numbers.stride(), dtype=numbers.dtype, device=torch.device(NAME, 0)
        )
        made.numbers = numbers
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _call(func, args, kwargs or {})


class OtherDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While this mode is on, tensors can be made on the other device and moved to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


def _call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    are_other = [isinstance(tensor, OtherTensor) for tensor in tensors]
    if any(are_other) and func not in _MOVES:
        # As on a GPU, a tensor of one single number may come from the CPU.
        beside = [t for t, is_other in zip(tensors, are_other, strict=True) if not is_other and t.ndim]
        if beside:
            raise RuntimeError(f"{func}: tensors of two devices")
    wanted = kwargs.get("device")
    is_other = any(are_other) if wanted is None else torch.device(wanted).type == NAME
    args, kwargs = tree_map(_numbers, args), tree_map(_numbers, kwargs)
    result = func(*args, **(kwargs if wanted is None else {**kwargs, "device": "cpu"}))
    return tree_map(_other, result) if is_other else result


def _numbers(leaf: Any) -> Any:
    return leaf.numbers if isinstance(leaf, OtherTensor) else leaf


def _other(leaf: Any) -> Any:
    return OtherTensor(leaf) if isinstance(leaf, torch.Tensor) else leaf


def main() -> None:
    """Train on both devices and compare."""
    torch.set_num_threads(1)
    _setup_privateuseone_for_python_backend(NAME)
    here = Trainer(PLAN, rank=0)
    with OtherDevice(), sdpa_kernel(SDPBackend.MATH):  # type: ignore[no-untyped-call] # the CPU has others
        there = Trainer(PLAN, rank=0, device=NAME)
        assert {parameter.device.type for parameter in there.parameters} == {NAME}
        with pytest.raises(RuntimeError, match="tensors of two devices"):
            there.network.head(torch.zeros(1, PLAN.dimensions.text_width))
        for _ in range(PLAN.steps):
            assert there.advance() == here.advance()
        for mine, others in zip(here.parameters, there.parameters, strict=True):
            assert torch.equal(mine, others.cpu())
        with patch("torch.inference_mode", torch.no_grad):  # wrapped tensors know of no inference mode
            report = evaluate(in_torch(there.network), pairs(0, 1))
    assert report.mean == pytest.approx(evaluate(in_torch(here.network), pairs(0, 1)).mean, abs=1e-6)


if __name__ == "__main__":
    main()
