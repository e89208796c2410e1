"""What is held out, what a change changes, and what fits what."""

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
    """Nothing is held out that the training does not know in other combinations."""
    assert sorted(colour for colour, _ in HELD_OUT_LOOKS) == sorted(COLOURS)
    assert sorted(shape for _, shape in HELD_OUT_LOOKS) == sorted(SHAPES)


def test_held_out_combinations_are_never_sampled_nor_changed_to() -> None:
    """Neither a training scene nor anything it is compared with contains a held-out combination."""
    rng = np.random.default_rng(0)
    for _ in range(500):
        scene = sample(rng)
        reached = [other for name in ATTRIBUTES for other in changes(scene, name)]
        assert not any(is_held_out(each) for each in [scene, *reached])


def test_held_out_scenes_are_held_out() -> None:
    """Each test scene has a look never trained on; one thing stands in a place never trained on."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = sample(rng, held_out=True)
        assert (scene.things[0].colour, scene.things[0].shape) in HELD_OUT_LOOKS
        assert is_held_out(scene)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_changed_scene_no_longer_fits(name: str) -> None:
    """A scene with one attribute changed is never what the first one said."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        scene = sample(rng)
        for other in changes(scene, name, allow_held_out=True):
            assert name in attributes(scene)
            assert not fits(scene, other)


def test_description_that_says_less_fits_more() -> None:
    """What a description leaves open may be anything."""
    scene = Scene((Thing("red", "circle", "small"),), position="left")
    assert fits(Scene((RED_CIRCLE,)), scene)
    assert fits(Scene((Thing("red", "circle", "large"),)), scene) is False
    assert fits(Scene((RED_CIRCLE,), count=2), scene) is False


def test_relation_reads_both_ways() -> None:
    """A above B is B below A, and not B above A."""
    above = Scene((RED_CIRCLE, BLUE_SQUARE), relation="above")
    assert fits(Scene((BLUE_SQUARE, RED_CIRCLE), relation="below"), above)
    assert not fits(Scene((BLUE_SQUARE, RED_CIRCLE), relation="above"), above)


def test_turned_description_may_leave_sizes_open() -> None:
    """Said the other way round, a description without a size fits things that have one."""
    sized = Scene((Thing("red", "circle", "small"), BLUE_SQUARE), relation="above")
    assert fits(Scene((BLUE_SQUARE, RED_CIRCLE), relation="below"), sized)


def test_one_of_two_things_is_left_undecided() -> None:
    """A picture that shows what was asked and something more is neither right nor wrong."""
    above = Scene((RED_CIRCLE, BLUE_SQUARE), relation="above")
    assert fits(Scene((RED_CIRCLE,)), above) is None
    assert fits(Scene((Thing("green", "star"),)), above) is False
