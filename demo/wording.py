"""Descriptions -> prompts in varied wording: synonyms, word order, articles."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator

    from demo.scenes import Scene, Thing

WORDS: Final[dict[str, tuple[str, ...]]] = {
    "red": ("red", "red", "crimson"),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "black": ("black",),
    "white": ("white",),
    "circle": ("circle", "circle", "disc"),
    "square": ("square",),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "cross", "plus sign"),
    "ring": ("ring", "ring", "hoop"),
    "heart": ("heart",),
    "moon": ("moon", "crescent"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
    "middle": ("in the middle", "in the centre", "in the center"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
}
"""The words for an attribute; a more common word is listed more than once."""

_NUMBERS: Final = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
_OPENINGS: Final = ("", "", "", "", "a picture of ", "there is ", "a drawing of ", "an image showing ")
_CLOSINGS: Final = ("", "", "", "", ".")


def omit(scene: Scene, rng: Generator, keep: Sequence[str] = ()) -> Scene:
    """Leave out size and position now and then, except for attributes that must be kept."""
    things = tuple(
        replace(thing, size=None) if "size" not in keep and rng.random() < 0.2 else thing
        for thing in scene.things
    )
    drop = "position" not in keep and rng.random() < 0.2
    return replace(scene, things=things, position=None if drop else scene.position)


def word(scene: Scene, rng: Generator) -> str:
    """Put everything that a description says into words."""
    opening, closing = _pick(_OPENINGS, rng), _pick(_CLOSINGS, rng)
    if scene.relation:
        text = _word_relation(scene, rng)
    elif scene.count > 1:
        text = f"{_pick(_NUMBERS[scene.count], rng)} {_word_look(scene.things[0], rng, plural=True)}"
        opening = opening.replace("there is", "there are")
    else:
        text = _word_one(scene, rng)
        opening = "" if text.startswith(("on", "at", "near", "in")) else opening
    return f"{opening}{text}{closing}"


def _word_one(scene: Scene, rng: Generator) -> str:
    look = _word_thing(scene.things[0], rng)
    if not scene.position:
        return look
    place = _pick(WORDS[scene.position], rng)
    return _pick((f"{look} {place}", f"{look} {place}", f"{look}, {place}", f"{place}, {look}"), rng)


def _word_relation(scene: Scene, rng: Generator) -> str:
    first, second = (_word_thing(thing, rng) for thing in scene.things)
    relation = _pick(WORDS[str(scene.relation)], rng)
    orders = (f"{first} {relation} {second}", f"{first} {relation} {second}", f"{relation} {second}, {first}")
    return _pick(orders, rng)


def _word_thing(thing: Thing, rng: Generator) -> str:
    look = _word_look(thing, rng)
    article = "an" if look[0] in "aeiou" else "a"
    article = _pick((article, article, article, "the", "one", ""), rng)
    return f"{article} {look}".strip()


def _word_look(thing: Thing, rng: Generator, *, plural: bool = False) -> str:
    colour, shape = _pick(WORDS[thing.colour], rng), _pick(WORDS[thing.shape], rng)
    if plural:
        shape += "es" if shape.endswith("s") else "s"
    if not thing.size:
        return f"{colour} {shape}"
    size = _pick(WORDS[thing.size], rng)
    orders = (
        f"{size} {colour} {shape}",
        f"{size} {colour} {shape}",
        f"{colour} {shape} that is {size}",
        f"{size} {shape} in {colour}",
    )
    return _pick(orders, rng)


def _pick(options: Sequence[str], rng: Generator) -> str:
    return options[int(rng.integers(len(options)))]
