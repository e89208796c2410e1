"""What a scene is: things with colour, shape and size, their number, place and relation.

A scene with gaps (`None`) is a description: it says something about some attributes and nothing
about others. Some combinations are held out: no training picture and no training prompt ever
contains one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from numpy.random import Generator

COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
SHAPES: Final = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
SIZES: Final = ("small", "large")
POSITIONS: Final = ("left", "right", "top", "bottom", "middle")
RELATIONS: Final = ("above", "below", "left of", "right of")
COUNTS: Final = (1, 2, 3, 4)
ATTRIBUTES: Final = ("colour", "shape", "size", "position", "count", "relation")

HELD_OUT_LOOKS: Final = frozenset(
    (colour, SHAPES[(3 * index + 1) % len(SHAPES)]) for index, colour in enumerate(COLOURS)
)
"""Pairs of colour and shape: eight of 64, with each colour and each shape once."""

HELD_OUT_PLACES: Final = frozenset({("large", "right"), ("small", "bottom")})
"""Pairs of size and position: two of ten."""


@dataclass(frozen=True)
class Thing:
    """One drawn thing; a size of None means neither small nor large, or not said."""

    colour: str
    shape: str
    size: str | None = None


@dataclass(frozen=True)
class Scene:
    """One thing somewhere, several equal things, or two things in relation."""

    things: tuple[Thing, ...]
    count: int = 1
    """How many times the only thing is there; 1 if there are two things."""
    position: str | None = None
    relation: str | None = None
    """The place of the first thing in relation to the second."""


def sample(rng: Generator, *, held_out: bool = False, kind: str | None = None) -> Scene:
    """Draw a scene: `one`, `counted` or `related`, by default in the proportions of the training.

    If held out, the (first) look is one that is never trained on, and so is the place of one thing.
    """
    kind = kind or str(rng.choice(["one", "counted", "related"], p=[0.55, 0.15, 0.3]))
    while True:
        scene = _SAMPLERS[kind](rng)
        if held_out:
            if not _is_look_held_out(scene.things[0]):
                continue
            if kind == "one" and (scene.things[0].size, scene.position) not in HELD_OUT_PLACES:
                continue
            return scene
        if not is_held_out(scene):
            return scene


def is_held_out(scene: Scene) -> bool:
    """Tell whether the scene contains a combination that is never trained on."""
    if any(_is_look_held_out(thing) for thing in scene.things):
        return True
    return (scene.things[0].size, scene.position) in HELD_OUT_PLACES


def attributes(scene: Scene) -> tuple[str, ...]:
    """Name the attributes that the scene describes."""
    said = ["colour", "shape"]
    if any(thing.size for thing in scene.things):
        said.append("size")
    if scene.position:
        said.append("position")
    if scene.count > 1:
        said.append("count")
    if scene.relation:
        said.append("relation")
    return tuple(said)


def changes(scene: Scene, attribute: str, *, allow_held_out: bool = False) -> list[Scene]:
    """List the scenes that differ in one attribute; of two things, one differs."""
    looks_differ = (
        changed
        for changed in _changes(scene, attribute)
        if changed != scene
        and len({(thing.colour, thing.shape) for thing in changed.things}) == len(changed.things)
    )
    return [changed for changed in looks_differ if allow_held_out or not is_held_out(changed)]


def fits(description: Scene, scene: Scene) -> bool | None:
    """Tell whether a scene is what a description says; None if people would disagree.

    They would disagree about "a red circle" and a picture of a red circle above a blue square.
    """
    if len(description.things) < len(scene.things):
        said = description.things[0]
        looks = [(thing.colour, thing.shape) for thing in scene.things]
        return None if description.count == 1 and (said.colour, said.shape) in looks else False
    if len(description.things) > len(scene.things):
        return False
    if description.relation:
        return _says(description, scene) or _says(_turn(description), scene)
    return _says(description, scene)


def _sample_one(rng: Generator) -> Scene:
    thing = Thing(str(rng.choice(COLOURS)), str(rng.choice(SHAPES)), str(rng.choice(SIZES)))
    return Scene((thing,), position=str(rng.choice(POSITIONS)))


def _sample_counted(rng: Generator) -> Scene:
    thing = Thing(str(rng.choice(COLOURS)), str(rng.choice(SHAPES)))
    return Scene((thing,), count=int(rng.choice(COUNTS[1:])))


def _sample_related(rng: Generator) -> Scene:
    colours = rng.choice(COLOURS, 2, replace=False)
    shapes = rng.choice(SHAPES, 2, replace=False)
    sizes = [str(rng.choice(SIZES)) if rng.random() < 0.5 else None for _ in range(2)]
    things = tuple(Thing(str(c), str(s), z) for c, s, z in zip(colours, shapes, sizes, strict=True))
    return Scene(things, relation=str(rng.choice(RELATIONS)))


_SAMPLERS: Final = {"one": _sample_one, "counted": _sample_counted, "related": _sample_related}


def _is_look_held_out(thing: Thing) -> bool:
    return (thing.colour, thing.shape) in HELD_OUT_LOOKS


def _changes(scene: Scene, attribute: str) -> list[Scene]:
    if attribute not in attributes(scene):
        return []
    if attribute == "position":
        return [replace(scene, position=position) for position in POSITIONS]
    if attribute == "relation":
        return [replace(scene, relation=relation) for relation in RELATIONS]
    if attribute == "count":
        return [replace(scene, count=count) for count in COUNTS]
    values = {"colour": COLOURS, "shape": SHAPES, "size": SIZES}[attribute]
    changed = []
    for index, thing in enumerate(scene.things):
        if getattr(thing, attribute) is None:
            continue
        for value in values:
            other = replace(thing, **{attribute: value})
            changed.append(replace(scene, things=(*scene.things[:index], other, *scene.things[index + 1 :])))
    return changed


def _turn(scene: Scene) -> Scene:
    opposite = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
    first, second = scene.things
    return replace(scene, things=(second, first), relation=opposite[str(scene.relation)])


def _says(description: Scene, scene: Scene) -> bool:
    pairs = zip(description.things, scene.things, strict=True)
    return (
        description.count == scene.count
        and description.position in (None, scene.position)
        and description.relation in (None, scene.relation)
        and all(_looks_like(said, thing) for said, thing in pairs)
    )


def _looks_like(said: Thing, thing: Thing) -> bool:
    return (said.colour, said.shape) == (thing.colour, thing.shape) and said.size in (None, thing.size)
