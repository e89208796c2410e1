"""Upstream's `ImageReward` package, answered by a service: one import line changes.

    from imajin_aesthetic_client import imagereward as RM   # was: import ImageReward as RM
    model = RM.load("ImageReward-v1.0", base_url="http://127.0.0.1:8006")
    ranks, rewards = model.inference_rank(prompt, ["1.png", "2.png"])

Arguments and return values are upstream's (package `image-reward` 1.5), its surprises too:

- `score` with a path or an image gives a float, with a list of images a list of floats;
- a list of one image gives no lists: `score` gives a float, `inference_rank` gives `(1, reward)`.

Four things are better than upstream's:

- a path that is no file raises FileNotFoundError; upstream silently scores the image before it;
- equal rewards keep the order of their images; upstream's order is left to chance;
- a list of prompts raises TypeError; upstream scores every prompt with every image, unlabelled;
- any number of images may be ranked, and `http(s)://` addresses are taken, too.

A Pillow image in a mode that PNG lacks (CMYK, YCbCr) is converted to RGB before it is resized,
upstream converts after: such scores differ a little. Paths are sent as they are, and do not.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from imajin_aesthetic_client.batches import batches
from imajin_aesthetic_client.client import AestheticClient
from imajin_aesthetic_client.connection import DEFAULT_TIMEOUT_S, DEFAULT_URL
from imajin_aesthetic_client.errors import CODES, AestheticError
from imajin_aesthetic_client.images import Picture

if TYPE_CHECKING:
    from collections.abc import Iterable

    import httpx

    from imajin_aesthetic_client.answers import Limits

__all__ = ["ImageReward", "available_models", "load"]


def available_models() -> list[str]:
    """Return upstream's list."""
    return ["ImageReward-v1.0"]


def load(
    name: str = "ImageReward-v1.0",
    device: object = None,  # noqa: ARG001 - upstream's
    download_root: str | None = None,  # noqa: ARG001 - upstream's
    med_config: str | None = None,  # noqa: ARG001 - upstream's
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    transport: httpx.BaseTransport | None = None,
) -> ImageReward:
    """Connect to a service that serves the model `name`.

    Upstream's other arguments say how to load weights, and count for nothing here. Without
    `base_url` and `api_key`, AESTHETIC_URL and AESTHETIC_API_KEY count.

    Raises:
        RuntimeError: the service serves a model of another name.
        AestheticError: there is no such service, or it does not answer.
    """
    client = AestheticClient(
        base_url or os.environ.get("AESTHETIC_URL") or DEFAULT_URL,
        api_key=api_key or os.environ.get("AESTHETIC_API_KEY") or None,
        timeout_s=timeout_s,
        transport=transport,
    )
    with ExitStack() as stack:
        stack.enter_context(client)
        info = client.info()
        if info.model.name != name:
            raise RuntimeError(f"Model {name} not found; available models = {[info.model.name]}")
        stack.pop_all()  # it stays open
    return ImageReward(client, info.limits)


class ImageReward:
    """What upstream's model does with files and images."""

    def __init__(self, client: AestheticClient, limits: Limits) -> None:
        self._client = client
        self._limits = limits

    def score(self, prompt: str | list[str], image: str | Picture | list[Any]) -> float | list[float]:
        """Score an image, or each of a list.

        Raises:
            TypeError: neither a path nor an image.
            FileNotFoundError: there is no such file.
            AestheticError: there is no score.
        """
        if isinstance(image, list):
            return self.inference_rank(prompt, image)[1]
        return self._client.score(image=_image(image), prompt=_prompt(prompt)).raw_score

    def inference_rank(
        self, prompt: str | list[str], generations_list: Iterable[str | Picture]
    ) -> tuple[int | list[int], float | list[float]]:
        """Return each image's rank, from 1, and each image's reward, in the order of the images.

        Raises:
            ValueError: no images.
            TypeError: one of them is neither a path nor an image.
            FileNotFoundError: there is no such file.
            AestheticError: one of them has no score.
        """
        images = [_image(image) for image in generations_list]
        if not images:
            raise ValueError("there are no images to rank")
        rewards: list[float] = []
        for batch in batches(images, self._limits):
            rewards += self._rewards(_prompt(prompt), batch, len(rewards))
        if len(rewards) == 1:
            return 1, rewards[0]
        ranks = [0] * len(rewards)
        for rank, index in enumerate(sorted(range(len(rewards)), key=lambda index: -rewards[index]), start=1):
            ranks[index] = rank
        return ranks, rewards

    def close(self) -> None:
        """Close the connections; upstream has nothing like it, and it may be left out."""
        self._client.close()

    def eval(self) -> ImageReward:
        """Return the model itself, as code written for upstream may want it."""
        return self

    def to(self, *_: object, **__: object) -> ImageReward:
        """Return the model itself: where it computes is the service's affair."""
        return self

    def _rewards(self, prompt: str, images: list[str | bytes], offset: int) -> list[float]:
        ranking = self._client.score_batch(prompt=prompt, candidates=images)
        if ranking.failed:
            first = ranking.failed[0]
            raise CODES.get(first.error.code, AestheticError)(
                f"image {offset + first.index}: {first.error.detail}",
                code=first.error.code,
                retryable=first.error.retryable,
                failed=ranking.failed,
            )
        return [result.raw_score for result in sorted(ranking.results, key=lambda result: result.index)]


def _prompt(prompt: str | list[str]) -> str:
    if isinstance(prompt, list) and len(prompt) == 1:
        return prompt[0]
    if not isinstance(prompt, str):
        raise TypeError("one prompt is scored at a time; call once for each")
    return prompt


def _image(image: object) -> str | Picture:
    if isinstance(image, (str, Picture)):
        return image
    raise TypeError(
        "This image parameter type has not been supported. Please pass PIL.Image or file path str."
    )
