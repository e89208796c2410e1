"""Prompts say everything that their descriptions say, in more than one way."""

from __future__ import annotations

import numpy as np

from demo.scenes import Scene, Thing, sample
from demo.wording import WORDS, omit, word

_NUMBERS = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}


def test_prompt_mentions_every_attribute() -> None:
    """Each value of the scene appears in the prompt under one of its names."""
    rng = np.random.default_rng(0)
    for _ in range(500):
        scene = sample(rng)
        prompt = word(scene, rng)
        said = [value for thing in scene.things for value in (thing.colour, thing.shape, thing.size)]
        for value in [*said, scene.position, scene.relation]:
            assert value is None or any(name in prompt for name in WORDS[value]), (value, prompt)
        if scene.count > 1:
            assert any(number in prompt for number in _NUMBERS[scene.count])


def test_wording_varies() -> None:
    """One scene is described in many ways."""
    rng = np.random.default_rng(0)
    scene = Scene((Thing("red", "circle", "small"),), position="left")
    assert len({word(scene, rng) for _ in range(100)}) > 50


def test_same_seed_says_the_same() -> None:
    """The wording depends on the generator and on nothing else."""
    first, second = (
        [word(sample(rng), rng) for _ in range(20)]
        for rng in (np.random.default_rng(5), np.random.default_rng(5))
    )
    assert first == second


def test_kept_attributes_are_not_omitted() -> None:
    """A description may leave out size and position, but not the attributes that must be kept."""
    rng = np.random.default_rng(0)
    scene = Scene((Thing("red", "circle", "small"),), position="left")
    omitted = [omit(scene, rng) for _ in range(200)]
    assert {each.position for each in omitted} == {"left", None}
    assert {each.things[0].size for each in omitted} == {"small", None}
    assert all(omit(scene, rng, keep=("size", "position")) == scene for _ in range(200))
