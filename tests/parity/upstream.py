"""Run the upstream `image-reward` package itself, as a script in a process of its own.

    python upstream.py JOB_DIRECTORY

The directory of upstream and of its pinned dependencies comes first on PYTHONPATH
(`make .upstream`). JOB_DIRECTORY/job.json is a `Job` (tests/parity/reference.py). The answers go to
JOB_DIRECTORY/answers.npz. With a `seed`, the checkpoint is made first: upstream's own network with
random weights. A job that `waits` has no file of answers: it ranks what standard input names.

Nothing of upstream is changed, but five things around it are:

- Its `__init__` is not run, because it imports packages for other scorers (clip, diffusers).
- It would download its tokenizer by name. The tokenizer's files lie in the working directory,
  in a folder of that name.
- Its torchvision may be built for another torch. The two operators that torchvision registers
  when it is imported are then defined here.
- With `layers`, its image encoder is built with so many, and its text encoder by its configuration.
- Where time is not measured, its image encoder works once for each image, and gives the same answer
  when it is asked again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import time
import types
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from PIL import Image

READY = "ready"

MED_CONFIG = """{
  "architectures": [
    "BertModel"
  ],
  "attention_probs_dropout_prob": 0.1,
  "hidden_act": "gelu",
  "hidden_dropout_prob": 0.1,
  "hidden_size": 768,
  "initializer_range": 0.02,
  "intermediate_size": 3072,
  "layer_norm_eps": 1e-12,
  "max_position_embeddings": 512,
  "model_type": "bert",
  "num_attention_heads": 12,
  "num_hidden_layers": 12,
  "pad_token_id": 0,
  "type_vocab_size": 2,
  "vocab_size": 30524,
  "encoder_width": 768,
  "add_cross_attention": true   
}
"""
MED_CONFIG_SHA256 = "d8b5029cc3c0124313d17009d043f0701bbe497f3721fa4ceb818720fe665326"


def main(directory: Path) -> None:
    job = json.loads((directory / "job.json").read_text())
    reward_class, init_tokenizer = import_upstream(directory)
    answers: dict[str, np.ndarray] = {}
    if job["checkpoint"] is None:
        tokenizer = init_tokenizer()
    else:
        config = directory / "med_config.json"
        config.write_text(MED_CONFIG)
        assert hashlib.sha256(MED_CONFIG.encode()).hexdigest() == MED_CONFIG_SHA256
        if job["layers"] is not None:
            shorten(config, job["layers"])
        model = reward_class(med_config=str(config), device=job["device"])
        if job["seed"] is not None:
            fill(model, job["seed"])
            torch.save(model.state_dict(), job["checkpoint"])
        model.load_state_dict(torch.load(job["checkpoint"], map_location="cpu"), strict=False)
        model.to(job["device"]).eval()
        if job["remembers_images"]:
            remember(model.blip.visual_encoder)
        tokenizer = model.blip.tokenizer
    tokens = tokenizer(
        job["prompts"], padding="max_length", truncation=True, max_length=35, return_tensors="np"
    )
    answers["input_ids"], answers["attention_mask"] = tokens.input_ids, tokens.attention_mask
    if job["images"]:
        transform = sys.modules["ImageReward.ImageReward"]._transform(224)
        answers["normalised"] = np.stack([transform(Image.open(path)).numpy() for path in job["images"]])
    if job["checkpoint"] is not None:
        with torch.no_grad():
            answers["scores"] = np.array(
                [model.score(job["prompts"][prompt], job["images"][image]) for prompt, image in job["pairs"]]
            )
            if job["waits"]:
                rank_when_asked(model, job)
                return
            for index, (prompt, images) in enumerate(job["ranks"]):
                started = time.perf_counter()
                ranks, rewards = model.inference_rank(
                    job["prompts"][prompt], [job["images"][i] for i in images]
                )
                answers[f"seconds_{index}"] = np.array(time.perf_counter() - started)
                answers[f"ranks_{index}"], answers[f"rewards_{index}"] = np.array(ranks), np.array(rewards)
    np.savez(directory / "answers.npz", **answers)


def rank_when_asked(model: torch.nn.Module, job: dict) -> None:
    """Rank what each line of standard input names, and answer with a line when it is done."""
    print(READY, flush=True)
    for line in sys.stdin:
        prompt, images = job["ranks"][int(line)]
        model.inference_rank(job["prompts"][prompt], [job["images"][i] for i in images])
        print(READY, flush=True)


def shorten(config: Path, layers: int) -> None:
    """Let the encoders have so many layers, each of full width."""
    config.write_text(json.dumps({**json.loads(MED_CONFIG), "num_hidden_layers": layers}))
    blip_pretrain = sys.modules["ImageReward.models.BLIP.blip_pretrain"]
    transformer = sys.modules["ImageReward.models.BLIP.vit"].VisionTransformer

    def create_vit(vit: str, image_size: int, *_: object) -> tuple[torch.nn.Module, int]:
        assert vit == "large"
        encoder = transformer(img_size=image_size, patch_size=16, embed_dim=1024, depth=layers, num_heads=16)
        return encoder, 1024

    blip_pretrain.create_vit = create_vit


def fill(model: torch.nn.Module, seed: int) -> None:
    """Spread the weights, so that images and prompts matter: as built, all scores are alike."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name.lower():
            noise = noise * 0.1 + (1 if name.endswith("weight") else 0)
        elif name.endswith("bias"):
            noise = noise * 0.1
        elif parameter.ndim > 1 and "embed" not in name:
            noise = noise / parameter[0].numel() ** 0.5
        elif "embed" in name:
            noise = noise * 0.5
        if ".attention.self." in name or ".attention.output.dense" in name:
            noise = noise * 2.5  # the prompt speaks to itself as loudly as the image does
        if name == "mlp.layers.7.weight":
            noise = noise * 2
        parameter.data.copy_(noise)


def remember(encoder: torch.nn.Module) -> None:
    """Let an encoder compute once for each input; it is by far the slowest part."""
    compute, known = encoder.forward, {}

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        key = pixels.cpu().numpy().tobytes()
        if key not in known:
            known[key] = compute(pixels)
        return known[key].clone()

    encoder.forward = forward


def import_upstream(directory: Path) -> tuple[type, object]:
    library = provide_torchvision_operators()
    spec = importlib.util.find_spec("ImageReward")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    root = Path(next(iter(spec.submodule_search_locations)))
    for name, path in (("ImageReward", root), ("ImageReward.models", root / "models")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package
    tokenizer_files = directory / "bert-base-uncased"
    tokenizer_files.mkdir(exist_ok=True)
    vocabulary = Path(__file__).parents[2] / "reward" / "vocab.txt"
    (tokenizer_files / "vocab.txt").write_bytes(vocabulary.read_bytes())
    (tokenizer_files / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 512}')
    os.chdir(directory)
    from ImageReward.ImageReward import ImageReward
    from ImageReward.models.BLIP.blip import init_tokenizer

    main.library = library  # the operators live as long as it does
    return ImageReward, init_tokenizer


def provide_torchvision_operators() -> torch.library.Library | None:
    """Define the operators of torchvision where its own binary cannot register them.

    That is so beside a torch of another build.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    else:
        return None
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
