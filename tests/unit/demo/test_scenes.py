"""Which scenes are held out, what a change changes, and which scene fits which description."""

from __future__ import annotations

import numpy as np
import pytest

from demo.scenes import (
    ATTRIBUTES,
    COLOURS,
    HELD_OUT_LOOKS,
    SHAPES,
    Scene,
    Thing,
    attributes,
    changes,
    fits,
    is_held_out,
    sample,
)

RED_CIRCLE = Thing("red", "circle")
BLUE_SQUARE = Thing("blue", "square")


def test_each_colour_and_each_shape_is_held_out_once() -> None:
    """Every held-out colour and shape is known to the training in other combinations."""
    assert sorted(colour for colour, _ in HELD_OUT_LOOKS) == sorted(COLOURS)
    assert sorted(shape for _, shape in HELD_OUT_LOOKS) == sorted(SHAPES)


def test_held_out_combinations_are_never_sampled_nor_changed_to() -> None:
    """No training scene contains a held-out combination, nor does any scene it is compared with."""
    rng = np.random.default_rng(0)
    for _ in range(500):
        scene = sample(rng)
        reached = [other for name in ATTRIBUTES for other in changes(scene, name)]
        assert not any(is_held_out(each) for each in [scene, *reached])


def test_held_out_scenes_are_held_out() -> None:
    """Each test scene has a look that is never trained on.

    One of its things stands in a place that is never trained on.
    """
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = sample(rng, held_out=True)
        assert (scene.things[0].colour, scene.things[0].shape) in HELD_OUT_LOOKS
        assert is_held_out(scene)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_changed_scene_no_longer_fits(name: str) -> None:
    """A scene with one attribute changed does not fit the description of the original."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        scene = sample(rng)
        for other in changes(scene, name, allow_held_out=True):
            assert name in attributes(scene)
            assert not fits(scene, other)


def test_description_that_says_less_fits_more() -> None:
    """An attribute that the description does not mention may have any value."""
    scene = Scene((Thing("red", "circle", "small"),), position="left")
    assert fits(Scene((RED_CIRCLE,)), scene)
    assert fits(Scene((Thing("red", "circle", "large"),)), scene) is False
    assert fits(Scene((RED_CIRCLE,), count=2), scene) is False


def test_relation_reads_both_ways() -> None:
    """The relation "A above B" fits "B below A" and does not fit "B above A"."""
    above = Scene((RED_CIRCLE, BLUE_SQUARE), relation="above")
    assert fits(Scene((BLUE_SQUARE, RED_CIRCLE), relation="below"), above)
    assert not fits(Scene((BLUE_SQUARE, RED_CIRCLE), relation="above"), above)


def test_turned_description_may_leave_sizes_open() -> None:
    """A description told the other way round, without sizes, still fits things that have sizes."""
    sized = Scene((Thing("red", "circle", "small"), BLUE_SQUARE), relation="above")
    assert fits(Scene((BLUE_SQUARE, RED_CIRCLE), relation="below"), sized)


def test_one_of_two_things_is_left_undecided() -> None:
    """A picture with what was asked for and one thing more is neither right nor wrong."""
    above = Scene((RED_CIRCLE, BLUE_SQUARE), relation="above")
    assert fits(Scene((RED_CIRCLE,)), above) is None
    assert fits(Scene((Thing("green", "star"),)), above) is False
