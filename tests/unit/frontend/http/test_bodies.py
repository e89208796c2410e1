"""What is read from a request, and which parts of it the parser never sees."""

from __future__ import annotations

import asyncio
import json
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.requests import Request

from frontend.http import bodies, schemas
from frontend.http.errors import InvalidRequest, PayloadTooLarge
from frontend.http.long_strings import LongStrings
from frontend.images.shared_bytes import Piece, SharedBytes

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import Message

LIMITS = schemas.Limits(
    max_candidates=10,
    max_image_bytes=2**22,
    max_pixels=1,
    max_body_bytes=1,
    max_prompt_characters=1,
    max_prompt_tokens=1,
    request_timeout_s=60,
    max_request_timeout_s=300,
    formats=[],
    fetch="off",
)
LONG = "QUJD" * 2**15


def _request(content: bytes = b"", **headers: str) -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": content}

    found = [
        (name.lower().replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()
    ]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": found, "app": None}
    return Request(scope, receive)


async def _read(content: bytes) -> bodies.ScoringRequest:
    request = _request(content, content_type="application/json")
    return await bodies.read_batch(request, bodies.read_deadline(request, LIMITS), LIMITS.max_image_bytes)


def test_the_header_is_milliseconds_and_the_server_bounds_it() -> None:
    """The header gives the deadline in milliseconds, up to the server's limit.

    Without the header the default holds.
    """
    assert 59 < bodies.read_deadline(_request(), LIMITS).remaining_s() <= 60
    for value, seconds in (("1500", 1.5), ("300000", 300), ("999999999", 300)):
        deadline = bodies.read_deadline(_request(x_request_timeout_ms=value), LIMITS)
        assert seconds - 1 < deadline.remaining_s() <= seconds


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "1e3", " 5", "soon", "\xb2", "1" * 10, "0x10"])
def test_a_header_that_is_no_positive_whole_number(value: str) -> None:
    """Anything but a positive number in ASCII digits is an invalid request."""
    with pytest.raises(InvalidRequest):
        bodies.read_deadline(_request(x_request_timeout_ms=value), LIMITS)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Note what is done in a thread."""
    noted: list[object] = []
    in_thread = asyncio.to_thread

    async def to_thread(function: Any, *arguments: Any) -> Any:
        noted.append(function)
        return await in_thread(function, *arguments)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    return noted


@pytest.mark.parametrize("repeated", [1, 9])
async def test_a_body_is_parsed_without_its_images(threads: list[object], repeated: int) -> None:
    """A body is parsed with a short word in place of each long image; images arrive whole.

    A large one is searched for them off the event loop.
    """
    image = LONG * repeated
    candidates = [{"id": str(n), "image_base64": f"{n}{image}"} for n in range(3)]
    content = json.dumps({"prompt": "x", "candidates": [*candidates, {"image_base64": "AAAA"}]}).encode()
    assert len(content) > bodies._QUICK_BYTES
    body = await _read(content)
    assert threads == ([] if SharedBytes(content).is_short else [bodies._without_images])
    assert SharedBytes(content).is_short == (repeated == 1)
    *pieces, short = [source.base64 for source in body.sources if source.base64 is not None]
    assert [_read_piece(piece) for piece in pieces if isinstance(piece, Piece)] == [
        f"{n}{image}".encode() for n in range(3)
    ]
    assert short == "AAAA"
    assert body.ids == ["0", "1", "2", None]


async def test_much_text_is_parsed_in_a_thread(threads: list[object]) -> None:
    """Text that takes the parser more than a moment is parsed off the event loop."""
    with pytest.raises(InvalidRequest, match="prompt"):
        await _read(json.dumps({"prompt": "x" * 100_000, "candidates": []}).encode())
    assert threads == [schemas.BatchRequest.model_validate_json]


async def test_a_small_body_is_parsed_where_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that is parsed in less than a millisecond needs no thread."""
    monkeypatch.setattr(asyncio, "to_thread", None)
    body = await _read(b'{"prompt": "x", "candidates": [{"image_base64": "AAAA"}]}')
    assert body.prompt == "x"


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "x", "image_base64": "%s"}' % LONG.encode(),
        b'{"prompt": "x", "candidates": [{"image_base64": "%s"' % LONG.encode(),
        b'{"prompt": "x", "candidates": [{"image_base64": "%s' % LONG.encode(),
        b'{"prompt": "x", "candidates": ["image_base64", "%s"]}' % LONG.encode(),
        b'{"prompt": "%s", "candidates": [{"image_base64": "AAAA"}]}' % LONG.encode(),
        b'{"prompt": "x", "candidates": [{"image_base64": ["%s"]}]}' % LONG.encode(),
    ],
)
async def test_large_bodies_that_do_not_keep_the_schema(content: bytes) -> None:
    """A long image does not change what is refused, and no part of it is in the error's message."""
    with pytest.raises(InvalidRequest) as caught:
        await _read(content.ljust(bodies._QUICK_BYTES + 1))
    assert "QUJD" not in caught.value.detail


@given(
    st.lists(st.text('AB\\"/ ü', max_size=5), max_size=4),
    st.sampled_from(["image_base64", "image_url", "x"]),
    st.sampled_from(["", "data:", "DATA:", "http:"]),
    st.booleans(),
    st.integers(0, 3),
)
def test_what_is_cut_out_can_be_put_back(
    texts: list[str], name: str, head: str, is_long: bool, indent: int
) -> None:
    """Any body, parsed with its images cut out and put back, reads as if parsed whole.

    Every long value of a field was cut that begins as such a field's values do.
    """
    value = [{name: head + text + (LONG if is_long else "")} for text in texts]
    content = SharedBytes(json.dumps(value, ensure_ascii=False, indent=indent or None).encode())
    strings = LongStrings()
    cut = json.loads(strings.cut(content, bodies._IMAGE_FIELDS, max_rest_bytes=2**30))

    def whole(text: str) -> str:
        found = strings.get(text)
        return found if isinstance(found, str) else str(json.loads(b'"' + _read_piece(found) + b'"'))

    assert [{key: whole(text) for key, text in item.items()} for item in cut] == value
    if name == "image_base64" or (
        name == "image_url" and head.lower() == "data:"
    ):  # base64 has no quotes: what has some is left to the parser
        assert all(len(item[name]) < len(LONG) or '"' in item[name] for item in cut)


@pytest.mark.parametrize("head", ["data:image/png;base64,", "DATA:image/png;base64,"])
async def test_an_address_that_holds_the_image(head: str) -> None:
    """A data: URI as `image_url` is read as `image_base64` would be, and not as an address.

    A long one is cut out before the rest is parsed.
    """
    for address in (head + "AAAA", head + LONG):
        content = json.dumps({"prompt": "x", "candidates": [{"image_url": address}]}).encode()
        (source,) = (await _read(content)).sources
        sent = source.base64
        assert source.url is None
        assert sent is not None
        assert (sent if isinstance(sent, str) else _read_piece(sent).decode()) == address
        assert isinstance(sent, Piece) == (len(content) > bodies._QUICK_BYTES)


@pytest.mark.parametrize("scheme", ["http:", "data", " data:"])
async def test_an_address_is_short(scheme: str) -> None:
    """An address that holds no image has 8192 characters at most, however large its body is."""
    for length, padding in ((8192, 0), (8193, 0), (8192, 100_000), (8193, 100_000)):
        url = scheme.ljust(length, "x")
        content = json.dumps({"prompt": "x", "candidates": [{"image_url": url}]}).ljust(padding).encode()
        if length > 8192:
            with pytest.raises(InvalidRequest, match="at most 8192 characters"):
                await _read(content)
        else:
            assert (await _read(content)).sources[0].url == url


def _form(*parts: tuple[str, str | None, bytes]) -> Request:
    """Write a form of fields: name, file name or None, content."""
    lines = []
    for name, file, content in parts:
        disposition = f'form-data; name="{name}"' + ("" if file is None else f'; filename="{file}"')
        lines.append(f"--x\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n")
    return _request(b"".join(lines) + b"--x--\r\n", content_type="multipart/form-data; boundary=x")


PROMPT = ("prompt", None, b"a cup")


async def _read_form(*parts: tuple[str, str | None, bytes]) -> bodies.ScoringRequest:
    request = _form(*parts)
    return await bodies.read_batch(request, bodies.read_deadline(request, LIMITS), LIMITS.max_image_bytes)


async def test_a_batch_as_a_form() -> None:
    """The files come in their order, as `images` or `image`, small and large, whatever their names.

    The other fields are those of the JSON body.
    """
    large = b"L" * 2**21
    body = await _read_form(
        ("images", "b.jpg", b"B"),
        PROMPT,
        ("image", "a.jpg", large),
        ("images", "b.jpg", b""),
        ("min_score", None, b"0.5"),
        ("model_version", None, b"4"),
    )
    assert [source.data for source in body.sources] == [b"B", large, b""]
    assert body.ids == [None] * 3
    assert (body.prompt, body.min_score, body.model_version) == ("a cup", 0.5, "4")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([PROMPT], "images: Field required"),
        ([("images", "a", b"A")], "prompt: Field required"),
        ([PROMPT, ("images", None, b"no file")], "images.0: "),
        ([PROMPT, PROMPT, ("images", "a", b"A")], "sent twice"),
        ([PROMPT, ("pictures", "a", b"A")], "pictures: Extra inputs"),
        ([PROMPT, ("candidates", None, b"[]"), ("images", "a", b"A")], "candidates: Extra inputs"),
        ([PROMPT, *[("images", "a", b"A")] * 65], "Too many files"),
        ([PROMPT, *[(f"field{number}", None, b"") for number in range(9)]], "Too many fields"),
        ([("prompt", None, b"x" * 50_000), ("images", "a", b"A")], "maximum size"),
    ],
)
async def test_forms_that_are_no_batch(parts: list[tuple[str, str | None, bytes]], words: str) -> None:
    """What is missing, unknown, sent twice or too much is an invalid request, which says what."""
    with pytest.raises(InvalidRequest, match=words):
        await _read_form(*parts)


def _read_piece(piece: Piece) -> bytes:
    return piece.whole.read(piece.start, piece.end)


async def test_what_is_no_image_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body with much text beside its images is refused before any of it is parsed."""
    monkeypatch.setattr(schemas.BatchRequest, "model_validate_json", None)
    for content in (
        b'{"prompt": "x", %s' % b",".join(b'"key%d": 1' % number for number in range(100_000)),
        b'{"prompt": "x", "candidates": [%s' % b",".join([b"{}"] * 200_000),
        b'{"prompt": "%s"' % (b"x" * 600_000),
        b'{"prompt": "x", "candidates": [{"image_base64": "%s"}], "a": "%s"'
        % (LONG.encode(), b" " * 600_000),
    ):
        with pytest.raises(PayloadTooLarge, match="beside its images"):
            await _read(content)


async def test_every_image_is_left_out_of_what_is_small() -> None:
    """As many images as may be sent, each too short to be cut out, do not count as text."""
    image = "QUJD" * 4000
    candidates = [{"image_base64": image, "id": str(number)} for number in range(64)]
    body = await _read(json.dumps({"prompt": "\u00e9" * 10_000, "candidates": candidates}).encode())
    pieces = [source.base64 for source in body.sources]
    assert [_read_piece(piece) for piece in pieces if isinstance(piece, Piece)] == [image.encode()] * 64


@pytest.mark.parametrize("place", ["body", "candidate"])
async def test_unknown_fields_are_counted_no_further(place: str) -> None:
    """The parser does not build an error for each of three thousand unknown fields."""
    many: dict[str, object] = {f"key{number}": 1 for number in range(3000)}
    candidate: dict[str, object] = {"image_base64": "AAAA"}
    if place == "candidate":
        candidate |= many
    content: dict[str, object] = {"prompt": "x", "candidates": [candidate]}
    if place == "body":
        content |= many
    with pytest.raises(ValidationError) as caught:
        schemas.BatchRequest.model_validate_json(json.dumps(content))
    assert caught.value.error_count() == 1
    with pytest.raises(InvalidRequest, match="more fields than"):
        await _read(json.dumps(content).encode())


async def test_a_form_needs_no_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A large file is read although no temporary file can be written, as on a full disk."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    large = b"L" * 2**21
    body = await _read_form(("images", "a.jpg", large), PROMPT)
    assert [source.data for source in body.sources] == [large]


async def test_of_a_file_that_is_too_large_only_the_beginning_is_read() -> None:
    """One byte more than an image may have is read of a file: enough to refuse it."""
    body = await _read_form(("images", "a.jpg", b"L" * (LIMITS.max_image_bytes + 2**20)), PROMPT)
    assert [len(source.data or b"") for source in body.sources] == [LIMITS.max_image_bytes + 1]


@pytest.mark.parametrize(
    "text", [b"caf\xe9", b"\xff", b"\xed\xa0\x80"], ids=["Latin-1", "no text", "half a pair"]
)
async def test_a_prompt_that_is_no_utf_8_is_refused(text: bytes) -> None:
    """A form's prompt in another encoding is refused: it would be scored as another prompt."""
    with pytest.raises(InvalidRequest, match="is not text in the charset 'utf-8'"):
        await _read_form(("prompt", None, text), ("images", "a.jpg", b"x"))
    body = await _read_form(("prompt", None, "café ☕".encode()), ("images", "a.jpg", b"x"))
    assert body.prompt == "café ☕"


@pytest.mark.parametrize("charset", ["undefined", "punycode", "idna", "utf-16", "no-such-thing"])
async def test_forms_of_any_charset(charset: str) -> None:
    """A form with a charset that decodes nothing is an invalid request, not a defect."""
    content = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\xfea\r\n--x--\r\n'
    content_type = f"multipart/form-data; boundary=x; charset={charset}"
    request = _request(content, content_type=content_type)
    with pytest.raises(InvalidRequest):
        await bodies.read_score(request, bodies.read_deadline(request, LIMITS), LIMITS.max_image_bytes)
