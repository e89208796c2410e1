"""Whether a published version gives the scores of upstream's README for its four example images.

These are the only scores of ImageReward-v1.0 that its authors published picture by picture. They
say that the numbers may differ slightly with the device.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from export.errors import FetchError, ScoresDiffer
from export.official import OFFICIAL
from export.scoring import score

if TYPE_CHECKING:
    from reward.runtimes import Runtime

PROMPT: Final = "a painting of an ocean with clouds and birds, day time, low depth field effect"

SCORES: Final = {
    "1.webp": 0.5811622738838196,
    "2.webp": 0.2745276093482971,
    "3.webp": -1.4131819009780884,
    "4.webp": -2.029569625854492,
}

TOLERANCE: Final = 1e-2

# The commit pins the images: they cannot change.
_COMMIT: Final = "45d635454c2dbc31fa1e75a4ccb8dd1031183974"
SOURCE: Final = f"https://raw.githubusercontent.com/THUDM/ImageReward/{_COMMIT}/assets/images"
CACHE: Final = Path(".cache/golden") / _COMMIT

_TIMEOUT_S: Final = 30.0
_MAX_BYTES: Final = 20_000_000


@dataclass(frozen=True)
class Golden:
    """The scores of one version beside the published ones."""

    scores: dict[str, float]

    @property
    def max_difference(self) -> float:
        """Return the largest distance from a published score."""
        return max(abs(self.scores[image] - published) for image, published in SCORES.items())

    def table(self) -> str:
        """Lay out one line for each image."""
        lines = [f"{'image':<8} {'published':>10} {'scored':>10} {'difference':>11}"]
        for image, published in SCORES.items():
            scored = self.scores[image]
            lines.append(f"{image:<8} {published:>10.4f} {scored:>10.4f} {scored - published:>+11.4f}")
        return "\n".join(lines)

    def check(self) -> None:
        """Compare the scores with the published ones.

        Raises:
            ScoresDiffer: a score is farther from the published one than the tolerance.
        """
        # Written so that a score that is not a number does not agree.
        if not all(abs(self.scores[image] - published) <= TOLERANCE for image, published in SCORES.items()):
            raise ScoresDiffer(
                f"the scores differ from the published ones by {self.max_difference:.2g} "
                f"(at most {TOLERANCE:g} is allowed): this is not {OFFICIAL.name}"
            )


def measure(runtime: Runtime, images: Path | None = None) -> Golden:
    """Score the four images in a directory; without one, they are downloaded.

    Raises:
        FetchError: they cannot be downloaded.
        ScoresDiffer: the version says itself that it is another model.
        UnusableImage: an image is missing or damaged.
    """
    name = runtime.manifest.name
    if name != OFFICIAL.name:
        raise ScoresDiffer(
            f"the version holds {name!r}, and scores are published for {OFFICIAL.name} alone; "
            "name another version: verify N --golden"
        )
    directory = images or fetch_images()
    scores = score(runtime, PROMPT, [directory / image for image in SCORES])
    return Golden(dict(zip(SCORES, scores, strict=True)))


def fetch_images(source: str = SOURCE, directory: Path = CACHE) -> Path:
    """Download the images that are not there yet; return their directory.

    Raises:
        FetchError: they cannot be had.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in SCORES:
        if (directory / name).exists():
            continue
        try:
            with urllib.request.urlopen(f"{source}/{name}", timeout=_TIMEOUT_S) as answer:  # noqa: S310 - https, above
                data = answer.read(_MAX_BYTES)
        except (OSError, urllib.error.URLError) as error:
            raise FetchError(
                f"{source}/{name} cannot be fetched ({error}); "
                "bring upstream's assets/images by hand and name them with --images DIR"
            ) from error
        partial = directory / f".{name}"
        partial.write_bytes(data)
        partial.replace(directory / name)
    return directory
