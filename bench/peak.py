"""How near the network comes to what the processor can do: its rate beside a plain product's.

    python -m bench.peak [--rounds 7]

A plain product is one of two matrices of 4096 x 4096 in fp32, by OpenBLAS (NumPy) and by torch. No
network of fp32 products can be faster than the fastest product. Additions and multiplications are
counted by torch's own counter, and all take turns in one run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.served import full_size
from bench.spread import interleaved, quarters
from reward import runtimes
from reward.cpus import available_cpus
from reward.network import Dimensions, RewardNetwork
from reward.tokenizer import tokenise
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE: Final = 4096
_IMAGES: Final = 10
_PROMPT: Final = "a photograph of a cup of coffee on a wooden table"


def main() -> None:
    """Print the rate of the network at full size, and of the two products."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directory", type=Path, default=CHECKOUT / ".cache" / "bench")
    options = parser.parse_args()
    directory = options.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    registry = full_size(directory, "fp32").registry
    network = runtimes.load(registry.directory(registry.version().number), threads=available_cpus())
    tokens = tokenise([_PROMPT] * _IMAGES)
    pixels = np.random.default_rng(0).integers(0, 256, (_IMAGES, 3, 224, 224), np.uint8)
    matrix = np.random.default_rng(1).random((_SIDE, _SIDE), np.float32)
    tensor = torch.from_numpy(matrix)
    works = {
        "the network": lambda: network.score(pixels, tokens.input_ids, tokens.attention_mask),
        "a plain product, OpenBLAS": lambda: matrix @ matrix,
        "a plain product, torch": lambda: tensor @ tensor,
    }
    operations = dict.fromkeys(works, 2 * _SIDE**3)
    operations["the network"] = _operations(pixels, tokens.input_ids)
    print("| what | Gflop/s |\n|---|---|")
    for name, seconds in interleaved(works, rounds=options.rounds).items():
        low, middle, high = quarters([operations[name] / second / 1e9 for second in seconds])
        print(f"| {name} | {middle:.0f} ({low:.0f} to {high:.0f}) |")


def _operations(pixels: NDArray[np.uint8], input_ids: NDArray[np.int64]) -> int:
    """Count what scoring these takes; on torch's meta device, nothing is computed."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        ids = torch.empty(input_ids.shape, dtype=torch.int64)
        RewardNetwork(Dimensions())(torch.empty(pixels.shape, dtype=torch.uint8), ids, torch.ones_like(ids))
    return int(counter.get_total_flops())


if __name__ == "__main__":
    main()
