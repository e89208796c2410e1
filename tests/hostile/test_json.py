"""Bodies of JSON that are deep, wide, endless or in two minds."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

import pytest

from tests.hostile.good_caller import QUESTION, service

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_ENDLESS: Final = 60 * 2**20
_SMALL: Final = 400_000
"""Bytes that a body may have beside its images."""
_IMAGE: Final = json.loads(QUESTION)["image_base64"]


def _question(**fields: object) -> bytes:
    return json.dumps(json.loads(QUESTION) | fields).encode()


def _with(raw: bytes) -> bytes:
    """An ordinary question with one more member, which comes last."""
    return QUESTION[:-1] + b"," + raw + b"}"


def _keys(count: int, value: bytes = b"0") -> bytes:
    return b"{" + b",".join(b'"%d":%b' % (number, value) for number in range(count)) + b"}"


# What is sent, and the status: always a refusal, unless the question is an ordinary one after all.
BODIES: Final[dict[str, tuple[Callable[[], bytes], int]]] = {
    "nothing": (lambda: b"", 422),
    "no object": (lambda: b"[]", 422),
    "null": (lambda: b"null", 422),
    "open brackets": (lambda: b"[" * _SMALL, 422),
    "open brackets in a prompt's place": (lambda: b'{"prompt":' + b"[" * _SMALL, 422),
    "nested brackets": (lambda: _with(b'"x":' + b"[" * 100_000 + b"]" * 100_000), 422),
    "nested objects": (lambda: _with(b'"x":' + b'{"x":' * 50_000 + b"0" + b"}" * 50_000), 422),
    "unknown keys": (lambda: _keys(40_000), 422),
    "unknown keys of an image": (lambda: b'{"prompt":"x","candidates":[' + _keys(40_000) + b"]}", 422),
    "a long key": (lambda: _with(b'"' + b"k" * _SMALL + b'":0'), 422),
    "a key, again and again": (lambda: _with(b",".join([b'"prompt":"x"'] * 20_000)), 200),
    "a key in escapes": (lambda: QUESTION.replace(b'"prompt"', b'"\\u0070rompt"'), 200),
    "an image's key in escapes": (lambda: QUESTION.replace(b'"image_base64"', b'"\\u0069mage_base64"'), 200),
    "an image's key in a prompt": (lambda: _question(prompt='"image_base64":"' + "A" * 2000 + '"'), 200),
    "two images": (lambda: _with(b'"image_base64":"%b"' % _IMAGE.encode()), 200),
    "an image and null": (lambda: _with(b'"image_base64":null'), 422),
    "an image in escapes": (
        lambda: QUESTION.replace(
            _IMAGE.encode(), "".join(f"\\u{ord(character):04x}" for character in _IMAGE[:60_000]).encode()
        ),
        200,
    ),
    "an image with escaped slashes": (lambda: QUESTION.replace(b"/", b"\\/"), 200),
    "an image that ends in a backslash": (lambda: b'{"prompt":"x","image_base64":"%b\\' % (b"A" * 5000), 422),
    "a long whole number": (lambda: _with(b'"min_score":' + b"9" * _SMALL), 422),
    "a long fraction": (lambda: _with(b'"min_score":0.' + b"9" * _SMALL), 200),
    "a large exponent": (lambda: _with(b'"min_score":1e999999999'), 422),
    "a small exponent": (lambda: _with(b'"min_score":1e-999999999'), 200),
    "NaN": (lambda: _with(b'"min_score":NaN'), 422),
    "Infinity": (lambda: _with(b'"min_score":-Infinity'), 422),
    "a number as a version": (lambda: _with(b'"model_version":' + b"9" * 5000), 422),
    "a number as a prompt": (lambda: _question(prompt=1), 422),
    "half a surrogate": (lambda: _question(prompt="\ud800"), 422),
    "surrogates in the wrong order": (lambda: _question(prompt="\udc00\ud800"), 422),
    "a NUL": (lambda: _question(prompt="a\0b"), 200),
    "a raw NUL": (lambda: QUESTION.replace(b"coffee", b"\0"), 422),
    "bad UTF-8": (lambda: QUESTION.replace(b"coffee", b"\xed\xa0\x80\xff"), 422),
    "UTF-16": (lambda: QUESTION.decode().encode("utf-16"), 422),
    "a byte order mark": (lambda: b"\xef\xbb\xbf" + QUESTION, 422),
    "a comment": (lambda: b"/**/" + QUESTION, 422),
    "two bodies": (lambda: QUESTION + QUESTION, 422),
    "a long prompt": (lambda: _question(prompt="\x01" * 60_000), 422),
    "blanks": (lambda: b" " * _SMALL + QUESTION, 200),
    "a thousand candidates": (
        lambda: b'{"prompt":"x","candidates":[' + b",".join([b'{"image_url":"http://x/"}'] * 1000) + b"]}",
        422,
    ),
    "ids that are long": (
        lambda: b'{"prompt":"x","candidates":[{"id":"%b","image_url":"http://x/"}]}' % (b"i" * _SMALL),
        422,
    ),
    "60 MiB of open brackets": (lambda: b"[" * _ENDLESS, 413),
    "60 MiB of unknown keys": (lambda: _keys(5_000_000), 413),
    "60 MiB of blanks": (lambda: b" " * _ENDLESS + QUESTION, 413),
    "60 MiB of prompt": (lambda: b'{"prompt":"' + b"x" * _ENDLESS, 413),
    "60 MiB of digits": (lambda: b'{"min_score":' + b"9" * _ENDLESS, 413),
    "60 MiB of blanks in an image": (lambda: QUESTION.replace(b'64": "', b'64": "' + b" " * _ENDLESS), 200),
    "60 MiB of escaped blanks in an image": (
        lambda: QUESTION.replace(b'64": "', b'64": "' + b"\\n" * (_ENDLESS // 2)),
        200,
    ),
    "60 MiB of image": (lambda: QUESTION.replace(b'64": "', b'64": "' + b"A" * _ENDLESS), 413),
    "60 MiB of quotes": (lambda: b'{"image_base64":"' + b'\\"' * (_ENDLESS // 2), 413),
    "60 MiB of short images": (lambda: b'{"image_base64":"A",' * (_ENDLESS // 20), 413),
    "300 long images": (
        lambda: b"{" + b",".join([b'"image_base64":"%b"' % (b"A" * 5000)] * 300) + b"}",
        422,
    ),
}


def _path(body: bytes) -> str:
    return "/score-batch" if b'"candidates"' in body[:100] else "/score"


async def test_bodies_that_are_not_meant_well(tmp_path: Path) -> None:
    """Each body is answered as the interface says: nothing of it is a defect of the service."""
    small = {name: body() for name, (body, _) in BODIES.items() if "60 MiB" not in name}
    async with service(tmp_path) as attacked:
        statuses = {name: (await attacked.ask(_path(body), body))[0] for name, body in small.items()}
        assert statuses == {name: BODIES[name][1] for name in small}


@pytest.mark.hostile
@pytest.mark.parametrize("kind", BODIES)
async def test_many_hostile_bodies(tmp_path: Path, kind: str) -> None:
    """Eight callers who send such a body again and again delay others little."""
    body, status = BODIES[kind]
    content = body()

    async def ask() -> set[int]:
        return {(await attacked.ask(_path(content), content))[0] for _ in range(5)}

    async with (
        service(tmp_path) as attacked,
        attacked.with_good_caller(f"8 callers, JSON of {len(content) / 1e6:.1f} MB: {kind}"),
    ):
        statuses = set.union(*await asyncio.gather(*(ask() for _ in range(8))))
    assert statuses <= {status, 429, 504}
