"""Run upstream's own `score` and `inference_rank` over a network that only measures brightness.

    python upstream_semantics.py JOB_DIRECTORY

JOB_DIRECTORY/job.json has `prompt` and `paths`. What upstream returned, and how it failed, goes to
answers.json. The full-size network has parity tests of its own; this is about arguments and return
values.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.parity.upstream import import_upstream


def main(directory: Path) -> None:
    """Answer the job."""
    job = json.loads((directory / "job.json").read_text())
    reward_class, _ = import_upstream(directory)
    import torch

    class Tokens(SimpleNamespace):
        def to(self, _device: str) -> Tokens:
            return self

    def text_encoder(ids: Any, *, encoder_hidden_states: Any, **_: Any) -> Any:
        return SimpleNamespace(last_hidden_state=encoder_hidden_states.expand(len(ids), 1, 1))

    model = SimpleNamespace(
        device="cpu",
        preprocess=sys.modules["ImageReward.ImageReward"]._transform(224),
        blip=SimpleNamespace(
            tokenizer=lambda prompt, **_: Tokens(
                input_ids=torch.zeros(1 if isinstance(prompt, str) else len(prompt), 35), attention_mask=None
            ),
            visual_encoder=lambda image: image.mean().reshape(1, 1, 1),
            text_encoder=text_encoder,
        ),
        mlp=lambda features: features,
        mean=0.0,
        std=1.0,
    )
    model.inference_rank = lambda *arguments: reward_class.inference_rank(model, *arguments)

    prompt, paths = job["prompt"], job["paths"]
    from PIL import Image

    answers = {
        "path": reward_class.score(model, prompt, paths[0]),
        "image": reward_class.score(model, prompt, Image.open(paths[0])),
        "list": reward_class.score(model, prompt, paths),
        "list of one": reward_class.score(model, prompt, paths[:1]),
        "rank": model.inference_rank(prompt, paths),
        "rank of images": model.inference_rank(prompt, [Image.open(path) for path in paths]),
        "rank of a tuple": model.inference_rank(prompt, tuple(paths)),
        "rank of one": model.inference_rank(prompt, paths[:1]),
        "prompt in a list": model.inference_rank([prompt], paths),
    }
    failures = {}
    for name, arguments in {
        "a number": (prompt, 7),
        "bytes": (prompt, b"x"),
        "a tuple": (prompt, (paths[0],)),
    }.items():
        try:
            reward_class.score(model, *arguments)
        except Exception as error:  # noqa: BLE001 - which one it is, is the question
            failures[name] = type(error).__name__
    (directory / "answers.json").write_text(json.dumps({"answers": answers, "failures": failures}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
