"""Base64 as people send it."""

from __future__ import annotations

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.images.base64_text import decode_base64
from reward.errors import ImageTooLarge, UndecodableImage

LIMIT = 1000


def _decode(text: str) -> bytes:
    return decode_base64(json.dumps(text)[1:-1].encode(), LIMIT)


@given(st.binary(min_size=1, max_size=300))
def test_every_usual_form(data: bytes) -> None:
    """Plain, without padding, wrapped, and as a data: URI, base64 gives the same bytes."""
    plain = base64.b64encode(data).decode()
    forms = [
        plain,
        plain.rstrip("="),
        base64.encodebytes(data).decode(),
        plain.replace("A", "A\r\n\t "),
        f"data:image/png;base64,{plain}",
        f"DATA:;charset=utf-8;BASE64,{plain}",
    ]
    assert [_decode(form) for form in forms] == [data] * len(forms)


@pytest.mark.parametrize(
    "text",
    [
        "not base64!",
        "AAAA-_AA",
        "A",
        "AAAAA",
        "data:image/png,AAAA",
        "data:image/png;base64",
        "data:image/png;base64x,AAAA",
        "data:image/png;base64;charset=utf-8,AAAA",
        "data:image/png;base64,%2BAAA",
        "ÄÄÄÄ",
        "AA=A",
        "\0",
    ],
)
def test_what_is_no_base64(text: str) -> None:
    """Some texts are undecodable.

    These are foreign characters, the URL-safe alphabet, impossible lengths, and other data: URIs.
    """
    with pytest.raises(UndecodableImage):
        _decode(text)


def test_too_large_before_it_is_decoded() -> None:
    """The limit is on the decoded bytes: as many as allowed are accepted, one more is not."""
    assert len(_decode(base64.b64encode(bytes(LIMIT)).decode())) == LIMIT
    with pytest.raises(ImageTooLarge):
        _decode(base64.b64encode(bytes(LIMIT + 1)).decode())


@given(st.text(max_size=60))
def test_any_text_is_answered(text: str) -> None:
    """Any text gives bytes or is undecodable."""
    with suppress(UndecodableImage):
        assert isinstance(_decode(text), bytes)


def test_what_stood_between_the_quotes_of_a_json_string() -> None:
    """Bytes are read as the inside of a JSON string.

    So escaped line breaks and slashes are understood, and what is no JSON string is undecodable.
    """
    wanted = b"\xff\xef\xbe\xfb\xff\xff"  # "/+++" and "////" in base64, more or less
    text = base64.b64encode(wanted).decode()
    escaped = text.replace("/", "\\/").encode() + b"\\n"
    assert decode_base64(escaped, LIMIT) == wanted
    for wrong in (b"AA\nAA", b"AA\\xAA", b"\xff\xfe"):
        with pytest.raises(UndecodableImage):
            decode_base64(wrong, LIMIT)
