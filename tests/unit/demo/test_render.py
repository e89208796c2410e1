"""Drawn pictures and their damage."""

from __future__ import annotations

import numpy as np
import pytest

from demo.damage import KINDS, damage
from demo.render import STYLES, draw
from demo.scenes import SHAPES, Scene, Thing, sample


@pytest.mark.parametrize("style", STYLES)
def test_same_seed_draws_the_same(style: str) -> None:
    """A picture depends on the generator and on nothing else."""
    scene = Scene((Thing("green", "star", "large"),), position="middle")
    first, second = (draw(scene, np.random.default_rng(3), style).pixels for _ in range(2))
    assert first.shape == (224, 224, 3)
    assert np.array_equal(first, second)


def test_styles_differ() -> None:
    """No two styles draw the same scene alike."""
    scene = Scene((Thing("green", "star", "large"),), position="middle")
    drawn = [draw(scene, np.random.default_rng(3), style).pixels.tobytes() for style in STYLES]
    assert len(set(drawn)) == len(STYLES)


@pytest.mark.parametrize("shape", SHAPES)
def test_thing_has_its_colour_where_it_stands(shape: str) -> None:
    """A large red thing covers a good part of its square with red; nothing else is red."""
    scene = Scene((Thing("red", shape, "large"),), position="left")
    drawing = draw(scene, np.random.default_rng(0), "flat")
    pixels = drawing.pixels.astype(int)
    red = (pixels[..., 0] > pixels[..., 1] + 100) & (pixels[..., 0] > pixels[..., 2] + 100)
    item = drawing.placed[0]
    assert 0.15 < red.sum() / (2 * item.radius) ** 2 < 1
    assert not red[:, 130:].any()


def test_things_keep_clear_of_border_and_each_other() -> None:
    """Drawn things touch neither the border nor each other.

    So a thing at the border must have been cut by damage, and things can be counted.
    """
    rng = np.random.default_rng(0)
    for _ in range(200):
        placed = draw(sample(rng), rng, "flat").placed
        for item in placed:
            assert item.radius < min(item.x, item.y, 224 - item.x, 224 - item.y)
        for first in placed:
            for second in placed:
                gap = max(abs(first.x - second.x), abs(first.y - second.y))
                assert first is second or gap > (first.radius + second.radius) * 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_visible(kind: str) -> None:
    """Every kind of damage changes the picture and keeps its size."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        drawing = draw(sample(rng, kind="one"), rng)
        damaged = damage(drawing, rng, kind)
        assert damaged.shape == drawing.pixels.shape
        assert damaged.dtype == np.uint8
        assert np.abs(damaged.astype(int) - drawing.pixels).mean() > 0.3
