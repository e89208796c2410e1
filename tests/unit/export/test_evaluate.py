"""Agreement with people, counted by hand on small rankings and measured on a published version."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from export.errors import AnnotationError, UnusableImage
from export.evaluate import Agreement, Annotation, Share, evaluate, leading, pairs, read
from tests.pictures import PHOTOGRAPHS, photograph

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.mark.parametrize(
    ("ranking", "rewards", "share"),
    [
        ([1, 2, 3], [3.0, 2.0, 1.0], Share(3, 3)),
        ([1, 2, 3], [1.0, 2.0, 3.0], Share(0, 3)),
        ([1, 2, 3], [3.0, 1.0, 2.0], Share(2, 3)),
        ([1, 3, 5], [3.0, 1.0, 2.0], Share(2, 3)),  # ranks need not be dense
        ([1, 1, 2], [5.0, 6.0, 1.0], Share(2, 2)),  # a tie of people is left out
        ([1, 2, 3], [2.0, 2.0, 1.0], Share(2, 3)),  # a tie of the model is wrong
        ([1, 1, 2], [2.0, 2.0, 2.0], Share(0, 2)),
        ([2, 2], [1.0, 2.0], Share(0, 0)),
        ([1], [1.0], Share(0, 0)),
    ],
)
def test_pairs(ranking: list[int], rewards: list[float], share: Share) -> None:
    """Pairs that people tie do not count; pairs that the model ties count as wrong."""
    assert pairs(ranking, rewards) == share


@pytest.mark.parametrize(
    ("ranking", "rewards", "k", "share"),
    [
        ([2, 1, 3, 4, 5], [9.0, 8.0, 7.0, 6.0, 5.0], 1, Share(0, 1)),
        ([2, 1, 3, 4, 5], [9.0, 8.0, 7.0, 6.0, 5.0], 2, Share(1, 1)),
        ([5, 4, 3, 2, 1], [9.0, 8.0, 7.0, 6.0, 5.0], 4, Share(0, 1)),
        ([1, 2, 3], [9.0, 9.0, 7.0], 1, Share(0, 1)),  # tied by the model: behind
        ([1, 2, 3], [9.0, 9.0, 7.0], 2, Share(1, 1)),
        ([1, 1, 3], [9.0, 8.0, 7.0], 1, Share(0, 0)),  # people named no single best
        ([1, 2, 2], [9.0, 8.0, 7.0], 1, Share(1, 1)),  # their ties elsewhere do not matter
        ([1, 2], [1.0, 2.0], 2, Share(0, 0)),  # two of two always hold the best
    ],
)
def test_leading(ranking: list[int], rewards: list[float], k: int, share: Share) -> None:
    """The one best image is among the k highest rewards or not.

    A prompt without one best image does not count.
    """
    assert leading(ranking, rewards, k) == share


# Prompt -> rewards, by image.
REWARDS = {
    "five": {"a": 0.9, "b": 0.7, "c": 0.8, "d": 0.1, "e": 0.2},
    "tied": {"a": 0.5, "b": 0.5, "c": 0.1},
    "reverse": {"a": 0.0, "b": 1.0},
}


def _fake(prompt: str, images: Sequence[Path]) -> list[float]:
    assert all(path.parent == Path("pictures") for path in images)
    return [REWARDS[prompt][path.name] for path in images]


def test_three_prompts_counted_by_hand() -> None:
    """The counts are summed over prompts of different size, with ties of both kinds."""
    annotations = [
        # The rewards say a c b e d, people say a b c d e. Of 10 pairs, b-c and d-e are wrong. The
        # best comes first; the worst is last but one.
        Annotation("1", "five", ("a", "b", "c", "d", "e"), (1, 2, 3, 4, 5)),
        # People tie b and c, so 2 pairs count. The model ties a and b, so 1 is right. There is no
        # single worst.
        Annotation("2", "tied", ("a", "b", "c"), (1, 2, 2)),
        # The only pair is wrong, and so are best and worst at k = 1.
        Annotation("3", "reverse", ("a", "b"), (1, 2)),
    ]
    assert evaluate(annotations, Path("pictures"), _fake) == Agreement(
        accuracy=Share(8 + 1 + 0, 10 + 2 + 1),
        recall={1: Share(1 + 0 + 0, 3), 2: Share(1 + 1, 2), 4: Share(1, 1)},
        filter={1: Share(0 + 0, 2), 2: Share(1, 1), 4: Share(1, 1)},
    )


def test_the_table() -> None:
    """The table has one line for each measure, with the counts behind its percentage."""
    agreement = Agreement(Share(9, 13), {1: Share(1, 3)}, {1: Share()})
    assert agreement.table().splitlines() == [
        "preference accuracy   69.23 %   (9 of 13 pairs)",
        "Recall@1              33.33 %   (1 of 3 prompts)",
        "Filter@1                  -     (no prompts to count)",
    ]


def test_a_score_that_is_no_number_is_no_answer() -> None:
    """A score that is not a number is an error that names the prompt; it is never counted."""
    annotations = [Annotation("7", "p", ("a", "b"), (1, 2))]
    with pytest.raises(AnnotationError, match="7: the model gave a score that is not finite"):
        evaluate(annotations, Path(), lambda _prompt, _images: [float("nan"), 0.0])


GOOD = {"id": "005658-0040", "prompt": "a portal", "generations": ["x/1.webp", "x/2.webp"], "ranking": [2, 1]}


def test_imagerewarddbs_format_is_read(tmp_path: Path) -> None:
    """Annotations are read in the format of upstream's test.json; further fields are ignored."""
    path = tmp_path / "test.json"
    path.write_text(json.dumps([GOOD | {"classification": "scene"}]))
    assert read(path) == [Annotation("005658-0040", "a portal", ("x/1.webp", "x/2.webp"), (2, 1))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("{}", "not a list of annotations"),
        ("[]", "not a list of annotations"),
        ([{"id": 1}], "entry 0 lacks one of id, prompt, generations, ranking"),
        ([GOOD, 7], "entry 1 lacks one of"),
        ([GOOD | {"ranking": [1]}], r"entry 0 \(005658-0040\) has 2 generations and 1 ranks"),
        ([GOOD | {"ranking": [1, 1.5]}], "holds a value of another type"),
        ([GOOD | {"prompt": None}], "holds a value of another type"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    """The first wrong entry is named."""
    path = tmp_path / "test.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(AnnotationError, match=message):
        read(path)


def test_the_command_measures_a_published_version(published_repository: Path, tmp_path: Path) -> None:
    """Human ranks made from the network's own scores agree in full, reversed ones in no pair."""
    from export.scoring import score
    from reward import runtimes

    images = tmp_path / "images"
    images.mkdir()
    names = [f"{name}.jpg" for name in PHOTOGRAPHS[:5]]
    for name in names:
        (images / name).write_bytes(photograph(name.removesuffix(".jpg")))
    network = runtimes.load(published_repository / "image_reward_network" / "1", threads=1)
    rewards = score(network, "a cat", [images / name for name in names])
    assert len(set(rewards)) == 5
    ranking = [1 + sum(other > reward for other in rewards) for reward in rewards]
    for ranks, expected in (
        (ranking, "100.00 %   (10 of 10 pairs)"),
        ([6 - rank for rank in ranking], "0.00 %   (0 of 10 pairs)"),
    ):
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps([{"id": "1", "prompt": "a cat", "generations": names, "ranking": ranks}]))
        done = _evaluate(published_repository, path, images)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("small random network, version 1, 1 prompts\n")
        assert expected in done.stdout.splitlines()[1]
        assert "1/1" in done.stderr  # the progress bar


def test_a_missing_image_is_named(published_repository: Path, tmp_path: Path) -> None:
    """A missing image is named in one line, with its path, and nothing is counted."""
    from export.scoring import score
    from reward import runtimes

    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([GOOD]))
    done = _evaluate(published_repository, path, tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: {tmp_path / 'x/1.webp'}: cannot be read: No such file or directory"
    )
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    network = runtimes.load(published_repository / "image_reward_network" / "1", threads=1)
    with pytest.raises(UnusableImage, match=r"broken\.png: "):
        score(network, "p", [tmp_path / "broken.png"])


def _evaluate(repository: Path, annotations: Path, images: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "export", "--repository", str(repository), "evaluate"]
    arguments = ["--annotations", str(annotations), "--images", str(images)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
