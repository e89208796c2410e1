"""The demonstration model through REST: it has learned something, and says that it is a demo."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from export.choose import DEMO_DIRECTORY, install
from export.deploy import Deployer, Manner
from export.registry import Registry
from tests.integration.stack import RunningStack
from tests.repository import CHECKOUT, copy_repository

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = CHECKOUT / "examples"
INDEX: list[dict[str, Any]] = json.loads((EXAMPLES / "examples.json").read_text())


@pytest.fixture(scope="module")
def demo_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The stack with the demonstration model of the repository."""
    directory = tmp_path_factory.mktemp("demo")
    registry = Registry(copy_repository(directory / "model_repository"))
    Deployer(registry, None, Manner(who="test")).promote(install(registry, DEMO_DIRECTORY))
    running = RunningStack(registry.repository, directory)
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.mark.parametrize("example", INDEX, ids=lambda example: example["prompt"].replace(" ", "-"))
def test_the_fitting_candidate_is_the_best_of_ten(demo_stack: RunningStack, example: dict[str, Any]) -> None:
    """The fitting candidate is ranked first of ten.

    Three of the others are damaged, and six depart from the prompt in an attribute.
    """
    answer = _rank(demo_stack, example["prompt"], [entry["file"] for entry in example["candidates"]])
    assert len(answer["results"]) == 10
    assert answer["best_candidate"]["id"] == example["fitting"]


def test_the_prompt_decides(demo_stack: RunningStack) -> None:
    """Among the fitting pictures of all examples, each prompt ranks its own first."""
    pictures = [example["fitting"] for example in INDEX]
    for example in INDEX:
        assert _rank(demo_stack, example["prompt"], pictures)["best_candidate"]["id"] == example["fitting"]


def test_every_answer_says_that_it_is_a_demonstration(demo_stack: RunningStack) -> None:
    """`/info` and every response have the model's name, which is not the official model's."""
    with demo_stack.client() as client:
        name = client.get("/info").json()["model"]["name"]
    assert "demonstration" in name
    assert _rank(demo_stack, "a red square", [INDEX[0]["fitting"]])["model"]["name"] == name


def _rank(stack: RunningStack, prompt: str, files: list[str]) -> dict[str, Any]:
    candidates = [
        {"id": name, "image_base64": base64.b64encode((EXAMPLES / name).read_bytes()).decode()}
        for name in files
    ]
    with stack.client() as client:
        answer = client.post("/score-batch", json={"prompt": prompt, "candidates": candidates})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body
