"""Batches, the forward pass of the training, and a run that is stopped and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from demo import shipped, training
from demo.__main__ import main
from demo.batches import PICTURES, PROMPTS, make
from demo.errors import DemoError
from demo.objective import rank
from demo.training import Plan, Trainer, pace, train
from reward.network import Dimensions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TINY = Dimensions(
    patch_size=56,
    image_width=16,
    image_layers=2,
    image_heads=2,
    text_width=16,
    text_layers=2,
    text_heads=2,
    max_positions=35,
)
PLAN = Plan(steps=3, workers=1, groups=2, dimensions=TINY, warm_up_steps=1, bfloat16=False)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Train on one thread, as a worker does, however many cores are free."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_same_seed_makes_the_same_batch() -> None:
    """A batch depends on the generator and on nothing else."""
    first, second = (make(np.random.default_rng(2), 2, 56) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.input_ids, second.input_ids)
    assert torch.equal(first.labels.standing, second.labels.standing)


def test_batch_knows_what_fits() -> None:
    """The first two prompts fit the first two pictures.

    Each picture that differs has a prompt of its own that fits it.
    """
    batch = make(np.random.default_rng(2), 6, 56)
    assert batch.fit.shape == (6, PICTURES, PROMPTS)
    assert (batch.fit[:, :2, :2] == 1).all()
    assert (batch.fit[:, 2:, 0] == 0).all()
    assert (batch.fit[:, [2, 3], [2, 3]] == 1).all()


def test_labels_say_what_stands_where() -> None:
    """A patch that a thing covers fully names that thing; a patch with no thing near names none."""
    batch = make(np.random.default_rng(2), 4, 16)
    labels = batch.labels
    colours, shapes = labels.standing[:2]
    known = colours[:, 0] >= 0  # a crop moves things away from where they were drawn
    covered = labels.covered[known].mean(-1)
    assert labels.covered.shape == (4 * PICTURES, 196, 16)
    assert (labels.covered[~known] < 0).all()
    assert (colours[known][covered > 0.99] > 0).all()
    assert (covered[shapes[known] == 0] < 0.7).all()


def test_loss_falls_as_the_order_becomes_right() -> None:
    """Rewards in the right order cost least, equal rewards more, and reversed rewards most.

    The right order is by fit and by damage.
    """
    fit = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    damaged = torch.tensor([[False, True, False]])
    right = torch.tensor([[[2.0, -1.0], [1.0, -2.0], [-1.0, 2.0]]])
    totals = [float(sum(rank(factor * right, fit, damaged).values())) for factor in (1.0, 0.0, -1.0)]
    assert totals == sorted(totals)


def test_undecided_fit_is_not_learned() -> None:
    """A picture that is neither right nor wrong for a prompt gives that reward no gradient."""
    fit = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [float("nan"), 1.0]]])
    rewards = torch.zeros(1, 3, 2, requires_grad=True)
    torch.autograd.backward(list(rank(rewards, fit, torch.zeros(1, 3, dtype=torch.bool)).values()))
    assert rewards.grad is not None
    assert rewards.grad[0, 2, 0] == 0
    assert rewards.grad[0, 0, 0] < 0


def test_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Three steps at once give the same weights as one step, save, load, and two more steps."""
    whole = Trainer(PLAN, rank=0)
    for _ in range(3):
        whole.advance()
    begun = Trainer(PLAN, rank=0)
    begun.advance()
    begun.save(tmp_path)
    resumed = Trainer(PLAN, rank=0)
    resumed.load(tmp_path)
    while resumed.step < PLAN.steps:
        resumed.advance()
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(weight, resumed.network.state_dict()[name]), name


def test_run_is_not_overwritten(tmp_path: Path) -> None:
    """A folder that holds a run is used again only when `resume` asks for that."""
    (tmp_path / training.STATE_NAME).touch()
    with pytest.raises(DemoError, match="holds a run: go on with it"):
        train(tmp_path, PLAN)


def test_a_resumed_run_may_raise_its_steps(tmp_path: Path) -> None:
    """A run of three steps, stopped after one, can be resumed as a run of four."""
    begun = Trainer(PLAN, rank=0)
    begun.advance()
    begun.save(tmp_path)
    with patch.dict(os.environ):  # `train` sets what its workers inherit
        train(tmp_path, replace(PLAN, steps=4), resume=True)
    state = torch.load(tmp_path / training.STATE_NAME, weights_only=True)
    assert (state["step"], state["plan"]["steps"]) == (4, 4)


def test_it_trains_on_another_device() -> None:
    """Training moves everything to the device and gives the CPU's losses and weights.

    On this device, operations that mix tensors of two devices fail.
    """
    command = [sys.executable, "-m", "tests.unit.demo.other_device"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_run_begun_on_a_gpu_goes_on_on_the_cpu(tmp_path: Path) -> None:
    """The first losses on a GPU are the CPU's, but for rounding.

    The saved state can be loaded without a GPU.
    """
    begun = Trainer(PLAN, rank=0, device="cuda")
    assert begun.advance() == pytest.approx(Trainer(PLAN, rank=0).advance(), rel=1e-3)
    begun.save(tmp_path)
    resumed = Trainer(PLAN, rank=0)
    resumed.load(tmp_path)
    for mine, others in zip(resumed.parameters, begun.parameters, strict=True):
        assert torch.equal(mine, others.cpu())
    resumed.advance()


def test_a_gpu_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Training on a GPU where there is none is refused before anything is written."""
    out = tmp_path / "run"
    with (
        patch("torch.cuda.is_available", return_value=False),
        pytest.raises(DemoError, match="finds no CUDA device here: leave out --device cuda"),
    ):
        train(out, PLAN, device="cuda")
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, "holds a run with seed 0, not seed 5: "),
        ({"workers": 2, "groups": 4}, "holds a run with workers 1, groups 2, not workers 2, groups 4: "),
        ({"steps": 2}, "holds a run with steps 3, not steps 2: "),
    ],
)
def test_a_resumed_run_keeps_its_plan(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """A resumed run with another plan, or with fewer steps, is refused.

    The message names both plans, and the saved state stays as it was.
    """
    state = tmp_path / training.STATE_NAME
    Trainer(PLAN, rank=0).save(tmp_path)
    before = state.read_bytes()
    with pytest.raises(DemoError, match=message):
        train(tmp_path, replace(PLAN, **change), resume=True)
    assert state.read_bytes() == before


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that holds a run, or a run of another seed, is refused in one line.

    The exit status is 1.
    """

    def run(*options: str) -> tuple[int, str]:
        return main(["train", "--out", str(tmp_path), *options]), "".join(capsys.readouterr())

    Trainer(Plan(), rank=0).save(tmp_path)
    assert run() == (
        1,
        f"error: {tmp_path} holds a run: go on with it (--resume), or name another folder\n",
    )
    assert run("--resume", "--seed", "3") == (
        1,
        f"error: {tmp_path} holds a run with seed 0, not seed 3: only steps can change, and only grow\n",
    )


def test_without_options_it_is_the_shipped_models_run() -> None:
    """The defaults, workers among them, are the plan with which the shipped file was trained."""
    assert asdict(Plan()) == json.loads(shipped.REPORT.read_text())["training"]["plan"]


def test_learning_rate_warms_up_and_cools_down() -> None:
    """The learning rate rises linearly, stays level, and falls to zero at the last step."""
    plan = replace(PLAN, steps=100, warm_up_steps=10, cooling=0.5)
    assert pace(0, plan) == pytest.approx(0.1)
    assert pace(30, plan) == 1
    assert pace(75, plan) == pytest.approx(0.5)
    assert pace(100, plan) == 0
