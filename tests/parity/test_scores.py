"""A published version reads and scores as upstream does, for all kinds of input.

Each test runs twice: with two layers in each encoder, and, marked `full_size`, with all of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reward.contract import PIXEL_MEAN, PIXEL_STD
from reward.network import Dimensions
from reward.preprocess import prepare
from reward.tokenizer import tokenise
from tests.parity.pictures import write_pictures
from tests.parity.prompts import prompts_of_all_scripts
from tests.parity.reference import Job, ask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reward.runtimes import Runtime

TOLERANCE = 1e-4
PROMPTS = [
    "a painting of an ocean with clouds and birds, day time, low depth field effect",
    "",
    "an astronaut",
    "a very long prompt, " * 20,
    "日本の庭園、桜、夕暮れ",
    "фотография кофе на столе",
    "قطة تجلس على كرسي",
    "👩‍🚀🚀 ☕",
    "[CLS] special [SEP] tokens [MASK] in [PAD] the [DEC] text [ENC] [UNK]",
    "Déjà-vu: l'été à Zürich — naïve?",
]

# At full size the first test makes, exports and compares the network: minutes on a busy machine.
pytestmark = pytest.mark.timeout(1500)


@dataclass(frozen=True)
class Reference:
    """A seeded checkpoint, upstream's answers about it, and our published version."""

    kinds: list[str]
    paths: list[Path]
    job: Job
    theirs: dict[str, NDArray[Any]]
    runtime: Runtime
    gates: dict[str, Any]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(2, id="two layers"),
        pytest.param(None, id="full size", marks=pytest.mark.full_size),
    ],
)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Make the checkpoint in upstream's process, publish it, and load the published version."""
    from export.publish import Recipe, publish
    from export.registry import Registry
    from reward import runtimes
    from tests.repository import copy_repository

    layers: int | None = request.param
    directory = tmp_path_factory.mktemp("parity")
    pictures = write_pictures(directory)
    checkpoint = directory / "ImageReward-random.pt"
    every_picture = [(0, index) for index in range(len(pictures))]
    every_prompt = [(index, index % 4) for index in range(1, len(PROMPTS))]
    job = Job(
        [*PROMPTS, *prompts_of_all_scripts()],
        [str(path) for path in pictures.values()],
        checkpoint=str(checkpoint),
        seed=0,
        layers=layers,
        pairs=[*every_picture, *every_prompt],
        ranks=[(0, list(range(10)))],
        remembers_images=True,
    )
    theirs = ask(job, directory)
    if layers is not None:
        checkpoint = _with_dimensions(checkpoint, Dimensions(image_layers=layers, text_layers=layers))
    registry = Registry(copy_repository(directory / "repository"))
    names = [path.name for path in pictures.values()][:4]
    asked = [{"prompt": PROMPTS[index], "images": names} for index in (0, 1)]  # a hundred pairs take long
    (directory / "prompts.json").write_text(json.dumps(asked))
    recipe = Recipe(checkpoint, "random weights, seed 0", gate_set=directory)
    number = publish(registry, recipe, show_progress=False)
    checkpoint.unlink()  # 1.8 GB at full size
    loaded = runtimes.load(registry.directory(number))
    return Reference(
        list(pictures), list(pictures.values()), job, theirs, loaded, loaded.manifest.gates or {}
    )


def _with_dimensions(path: Path, dimensions: Dimensions) -> Path:
    """Write a checkpoint of upstream's once more, as one that names its dimensions."""
    from reward import checkpoint

    target = path.with_suffix(".safetensors")
    checkpoint.save(checkpoint.load(path, dimensions), target)
    path.unlink()
    return target


def test_token_ids_are_identical(reference: Reference) -> None:
    """Every character up to U+30FF and 12,000 mixtures of scripts get upstream's ids and masks."""
    prompts = reference.job.prompts
    ours = tokenise(prompts)
    different = np.flatnonzero((ours.input_ids != reference.theirs["input_ids"]).any(axis=1))
    assert [ascii(prompts[index]) for index in different] == []
    np.testing.assert_array_equal(ours.attention_mask, reference.theirs["attention_mask"])


def test_pixels_are_identical(reference: Reference) -> None:
    """Each file gives the same pixels as in upstream, bit for bit, whatever its mode and shape.

    Upstream runs on Pillow 12, this project on the Pillow that is installed.
    """
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    for kind, path, expected in zip(
        reference.kinds, reference.paths, reference.theirs["normalised"], strict=True
    ):
        pixels = prepare(path.read_bytes()).pixels
        normalised = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        np.testing.assert_array_equal(normalised, expected, err_msg=kind)


@pytest.mark.timeout(900)
def test_scores_are_upstreams(reference: Reference) -> None:
    """Every pair, scored alone by the published graph, is within 1e-4 of `ImageReward.score`."""
    ours = np.array([_score(reference, [prompt], [image])[0] for prompt, image in reference.job.pairs])
    theirs = reference.theirs["scores"]
    assert theirs.max() - theirs.min() > 1  # the random weights tell images and prompts apart
    assert np.abs(np.diff(np.sort(theirs[len(reference.paths) :]))).max() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.timeout(900)
def test_a_batch_ranks_as_upstream_ranks(reference: Reference) -> None:
    """Ten candidates in one execution get the rewards and the order of `inference_rank`."""
    prompt, images = reference.job.ranks[0]
    ours = _score(reference, [prompt] * len(images), images)
    theirs = reference.theirs["rewards_0"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)
    assert np.argsort(-ours).tolist() == np.argsort(-theirs).tolist()


@pytest.mark.timeout(900)
def test_a_score_does_not_depend_on_its_batch_mates(reference: Reference) -> None:
    """A score moves by 1e-5 at most when other pairs or a longer prompt are in the batch."""
    alone = _score(reference, [2], [0])[0]
    beside = _score(reference, [2, 1, 0], [0, 5, 13])[0]
    beside_longer = _score(reference, [3, 2], [1, 0])[1]
    assert abs(alone - beside) <= 1e-5
    assert abs(alone - beside_longer) <= 1e-5


def test_the_manifest_reports_the_agreement(reference: Reference) -> None:
    """Publishing compared the graph with torch and wrote the differences into the manifest."""
    assert reference.gates["failures"] == []
    assert reference.gates["max_difference"] <= TOLERANCE
    assert reference.gates["batch_difference"] <= 1e-5
    assert reference.gates["pairs"] == 8
    assert reference.gates["deviation"] > 0.1


def _score(reference: Reference, prompts: list[int], images: list[int]) -> NDArray[np.float32]:
    tokens = tokenise([PROMPTS[prompt] for prompt in prompts])
    pixels = np.stack([prepare(Path(reference.paths[image]).read_bytes()).pixels for image in images])
    return reference.runtime.score(pixels, tokens.input_ids, tokens.attention_mask)[:, 0]
