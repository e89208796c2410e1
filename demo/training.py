"""Train the demonstration model: seeded, resumable, in several processes.

Each worker draws its own pictures in one thread. It computes on a core of its own, or all workers
share one GPU. After every step the gradients are averaged over the workers. What a worker draws
depends only on seed, step, rank and the number of groups. So a resumed run goes on as if it had
never stopped. Another number of workers or groups is another run.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm

from demo.batches import make
from demo.errors import DemoError
from demo.evaluate import evaluate, in_torch, pairs
from demo.initial import build
from demo.objective import rank
from reward.network import Dimensions, RewardNetwork

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from demo.batches import Batch

DIMENSIONS: Final = Dimensions(
    patch_size=16,
    image_width=128,
    image_layers=5,
    image_heads=4,
    text_width=64,
    text_layers=4,
    text_heads=4,
    max_positions=35,
)
"""3.4 million parameters; 2.0 million of them embed the vocabulary."""

STATE_NAME: Final = "state.pt"
LOG_NAME: Final = "log.jsonl"

_DEV_SEED: Final = 7
_LOG_EVERY: Final = 50


@dataclass(frozen=True)
class Plan:
    """How to train; a resumed run may only raise `steps`.

    The defaults are the shipped model's.
    """

    steps: int = 6000
    seed: int = 0
    workers: int = 2
    groups: int = 4
    """The number of groups of four pictures, for each worker and step."""
    learning_rate: float = 1e-3
    warm_up_steps: int = 200
    cooling: float = 0.3
    """The share of the steps, at the end, in which the learning rate falls to 0."""
    save_every: int = 100
    test_every: int = 500
    dimensions: Dimensions = DIMENSIONS
    bfloat16: bool = True


def train(out: Path, plan: Plan, *, resume: bool = False, device: str = "cpu") -> RewardNetwork:
    """Train and return the network, not yet calibrated; `out` holds the state and a log.

    Raises:
        DemoError: `out` holds a run, and `resume` was not asked for, or that run has another plan;
            or torch has no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DemoError(f"torch {torch.__version__} finds no CUDA device here: leave out --device cuda")
    out.mkdir(parents=True, exist_ok=True)
    if (out / STATE_NAME).exists():
        if not resume:
            raise DemoError(f"{out} holds a run: go on with it (--resume), or name another folder")
        _check_same_plan(out, plan)
    # glibc gives large blocks back to the system at once, and page faults then cost half of the
    # time.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": str(4 << 30), "MALLOC_TRIM_THRESHOLD_": str(8 << 30)}
    os.environ |= {"MALLOC_TOP_PAD_": str(64 << 20), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as meeting:
        spawn(_work, (out, plan, device, f"file://{meeting}/store"), nprocs=plan.workers)  # type: ignore[no-untyped-call]
    return load_network(read_state(out))


def load_network(state: dict[str, Any]) -> RewardNetwork:
    """Build the network of a run as it was last saved."""
    network = RewardNetwork(Dimensions(**state["plan"]["dimensions"]))
    network.load_state_dict(state["network"])
    return network.eval()


def read_state(out: Path) -> dict[str, Any]:
    """Read all that a run has saved; its tensors come to the CPU, wherever it was trained."""
    state: dict[str, Any] = torch.load(out / STATE_NAME, map_location="cpu", weights_only=True)
    return state


def _check_same_plan(out: Path, plan: Plan) -> None:
    begun = read_state(out)["plan"]
    asked = asdict(plan)
    differing = [name for name in asked if name != "steps" and asked[name] != begun[name]]
    if asked["steps"] < begun["steps"]:
        differing.append("steps")
    if differing:
        was, now = (", ".join(f"{name} {of[name]}" for name in differing) for of in (begun, asked))
        raise DemoError(f"{out} holds a run with {was}, not {now}: only steps can change, and only grow")


class Trainer:
    """One worker's network, optimiser and step count."""

    def __init__(self, plan: Plan, rank: int, device: str = "cpu") -> None:
        self.plan, self.rank, self.device = plan, rank, torch.device(device)
        self.step, self.seconds = 0, 0.0
        network, heads = build(plan.dimensions, plan.seed)
        self.network, self.heads = network.to(self.device), heads.to(self.device)
        self.parameters = [*self.network.parameters(), *self.heads.parameters()]
        decayed = [p for p in self.parameters if p.ndim > 1]
        others = [p for p in self.parameters if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98), fused=True)

    def advance(self) -> dict[str, float]:
        """Take one step and return its losses."""
        started = time.monotonic()
        rng = np.random.default_rng([self.plan.seed, self.step, self.rank])
        batch = make(rng, self.plan.groups, self.plan.dimensions.patch_size).to(self.device)
        losses = self._losses(batch)
        self.optimiser.zero_grad()
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.learning_rate * pace(self.step, self.plan)
        self.optimiser.step()
        values = {name: float(loss.detach()) for name, loss in losses.items()}  # waits for a GPU
        self.step += 1
        self.seconds += time.monotonic() - started
        return values

    def save(self, out: Path) -> None:
        """Write everything that a resumed run needs, all at once."""
        path = out / STATE_NAME
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "plan": asdict(self.plan),
            "network": self.network.state_dict(),
            "heads": self.heads.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, out: Path) -> None:
        state = read_state(out)
        self.step, self.seconds = state["step"], state["seconds"]
        self.network.load_state_dict(state["network"])
        self.heads.load_state_dict(state["heads"])
        self.optimiser.load_state_dict(state["optimiser"])

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        groups, pictures, prompts = batch.fit.shape
        # Every picture is scored against all prompts of its group, but read only once.
        ids, mask = (
            x.repeat_interleave(pictures, dim=0).flatten(0, 1)
            for x in (batch.input_ids, batch.attention_mask)
        )
        with torch.autocast(self.device.type, torch.bfloat16) if self.plan.bfloat16 else nullcontext():
            image = self.network.image_encoder(batch.pixels)
            text = self.network.text_encoder(ids, mask, image.repeat_interleave(prompts, dim=0))
        rewards = self.network.head(text[:, 0].float()).view(groups, pictures, prompts)
        ranking = rank(rewards, batch.fit, batch.labels.damage.view(groups, pictures) > 0)
        return ranking | self.heads.losses(image, batch.labels)

    def _average_gradients(self) -> None:
        for parameter in self.parameters:
            if parameter.grad is not None and self.plan.workers > 1:
                gradient = parameter.grad.cpu()  # where every build of gloo adds
                dist.all_reduce(gradient)
                parameter.grad.copy_(gradient / self.plan.workers)


def pace(step: int, plan: Plan) -> float:
    """Return the share of the full learning rate: it rises linearly, stays, and falls to 0."""
    left = (plan.steps - step) / max(1.0, plan.cooling * plan.steps)
    return min((step + 1) / max(1, plan.warm_up_steps), 1.0, left)


def _work(rank: int, out: Path, plan: Plan, device: str, meeting: str) -> None:
    torch.set_num_threads(1)
    if plan.workers > 1:
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=plan.workers)
    trainer = Trainer(plan, rank, device)
    if (out / STATE_NAME).exists():
        trainer.load(out)
    first = trainer.step
    sums: dict[str, float] = {}
    for _ in tqdm(range(trainer.step, plan.steps), initial=first, total=plan.steps, disable=rank > 0):
        for name, loss in trainer.advance().items():
            sums[name] = sums.get(name, 0.0) + loss
        if rank > 0:
            continue
        if trainer.step % plan.save_every == 0 or trainer.step == plan.steps:
            trainer.save(out)
        if trainer.step % _LOG_EVERY == 0:
            means = {name: round(total / _LOG_EVERY, 4) for name, total in sums.items()}
            _note(out, {"step": trainer.step, "seconds": round(trainer.seconds), **means})
            sums = {}
        if trainer.step % plan.test_every == 0:
            _note(out, {"step": trainer.step, **_test(trainer.network)})
    if plan.workers > 1:
        dist.barrier()
        dist.destroy_process_group()


def _test(network: RewardNetwork) -> dict[str, float]:
    """Measure on scenes of trained combinations, not on the held-out test."""
    report = evaluate(in_torch(network), pairs(_DEV_SEED, 60, held_out=False))
    return {key: round(value.share, 3) for key, value in report.accuracies.items() if "/" not in key}


def _note(out: Path, entry: dict[str, float]) -> None:
    with (out / LOG_NAME).open("a") as file:
        file.write(json.dumps(entry) + "\n")
