"""Rewards -> loss: the paper's pairwise logistic loss, a listwise softmax, and the naming loss.

The pairwise loss is ImageReward's (Xu et al. 2023, eq. 1), for each prompt over all ranked pairs of
a group's pictures. Alone it hardly improves from a random start. The other two only help the
training, and are not part of the shipped model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import nn

from demo.batches import NAMED, UNKNOWN
from demo.damage import KINDS

if TYPE_CHECKING:
    from torch import Tensor

    from demo.batches import Labels

_GROUND_WEIGHT: Final = 0.1  # of patches where nothing stands: most of them
_COVERED_WEIGHT: Final = 8.0  # most parts are far from any edge and easy


class NamingHeads(nn.Module):
    """Name the thing at every patch, the covered parts of the patch, and the picture's damage."""

    def __init__(self, image_width: int) -> None:
        super().__init__()
        self.standing = nn.ModuleList(nn.Linear(image_width, classes) for classes in NAMED.values())
        self.damage = nn.Linear(image_width, 1 + len(KINDS))
        self.covered = nn.Linear(image_width, 16)

    def losses(self, image: Tensor, labels: Labels) -> dict[str, Tensor]:
        """Return the cross-entropy of each; `image` is (B, N, D)."""
        whole, patches = image[:, 0].float(), image[:, 1:].float()
        known = labels.covered != UNKNOWN
        covered = F.binary_cross_entropy_with_logits(self.covered(patches)[known], labels.covered[known])
        losses = {
            "damage": F.cross_entropy(self.damage(whole), labels.damage),
            "covered": _COVERED_WEIGHT * covered,
        }
        for (name, classes), head, wanted in zip(NAMED.items(), self.standing, labels.standing, strict=True):
            weight = torch.ones(classes, device=image.device)
            weight[0] = _GROUND_WEIGHT
            logits = head(patches).flatten(0, 1)  # (B * (N - 1), classes)
            losses[name] = F.cross_entropy(logits, wanted.flatten(), weight, ignore_index=UNKNOWN)
        return losses


def rank(rewards: Tensor, fit: Tensor, damaged: Tensor) -> dict[str, Tensor]:
    """Compare rewards with preferences; return the parts of the loss.

    Args:
        rewards: (G, I, P) of every picture of a group for every prompt of it.
        fit: (G, I, P), 1 fits, 0 does not, NaN where people would differ.
        damaged: (G, I) bool.
    """
    worth = 2 * fit - damaged[:, :, None].float()  # what fits comes first, then what is less damaged
    better = worth[:, :, None] > worth[:, None, :]  # (G, I, I, P); never where NaN
    margin = rewards[:, :, None] - rewards[:, None, :]
    pairs = F.softplus(-margin)[better].mean()

    best = (fit == 1) & ~damaged[:, :, None]
    lesser = (fit == 0) | ((fit == 1) & damaged[:, :, None])
    pictures = _listwise(rewards.transpose(1, 2), best.transpose(1, 2), lesser.transpose(1, 2))
    prompts = _listwise(rewards, fit == 1, fit == 0)
    return {"pairs": pairs, "pictures": pictures, "prompts": prompts}


def _listwise(rewards: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Softmax of what is right among right and wrong, along the last dimension."""
    usable = right.any(-1) & wrong.any(-1)
    nothing = torch.finfo(rewards.dtype).min
    among = rewards.masked_fill(~(right | wrong), nothing).logsumexp(-1)
    of_right = rewards.masked_fill(~right, nothing).logsumexp(-1)
    return (among - of_right)[usable].mean()
