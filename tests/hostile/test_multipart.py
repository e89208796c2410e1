"""Forms with too many parts, strange boundaries, nested forms and no ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from tests.hostile.good_caller import service
from tests.pictures import photograph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_FORM: Final = "multipart/form-data; boundary=b"
_ENDLESS: Final = 60 * 2**20
_END: Final = b"--b--\r\n"


def _part(name: bytes, content: bytes, more: bytes = b"") -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name, more, content)


_PROMPT: Final = _part(b"prompt", b"a cup of coffee")


def _image(more: bytes = b"") -> bytes:
    return _part(b"image", photograph("coffee"), b'; filename="x"' + more)


# The Content-Type, what is sent, and the status.
FORMS: Final[dict[str, tuple[str, Callable[[], bytes], int]]] = {
    "an ordinary one": (_FORM, lambda: _PROMPT + _image() + _END, 200),
    "nothing": (_FORM, lambda: b"", 422),
    "an end and no more": (_FORM, lambda: _END, 422),
    "no end": (_FORM, lambda: _PROMPT + _image(), 422),
    "no end of a head": (_FORM, lambda: b"--b\r\nContent-Disposition: form-data", 422),
    "no boundary": ("multipart/form-data", lambda: _PROMPT + _image() + _END, 422),
    "an empty boundary": ("multipart/form-data; boundary=", lambda: b"--\r\n\r\n----", 422),
    "a long boundary": ("multipart/form-data; boundary=" + "b" * 8000, lambda: b"--" + b"b" * 8000, 422),
    "a boundary of blanks": ('multipart/form-data; boundary="  "', lambda: b"--  \r\n\r\n", 422),
    "two boundaries": (_FORM + "; boundary=c", lambda: _PROMPT + _image() + _END, 422),
    "many parameters": (_FORM + "; x=y" * 3000, lambda: _PROMPT + _image() + _END, 200),
    "many quotes": ("multipart/form-data; boundary=" + '"\\' * 6000, lambda: b"", 422),
    "another charset": (_FORM + "; charset=utf-16", lambda: _PROMPT + _image() + _END, 422),
    "no charset": (_FORM + "; charset=undefined", lambda: _PROMPT + _image() + _END, 422),
    "parts": (_FORM, lambda: _part(b"x", b"") * 500 + _END, 422),
    "files": (_FORM, lambda: _image() * 3 + _END, 422),
    "prompts": (_FORM, lambda: _PROMPT * 2 + _image() + _END, 422),
    "a part without a name": (_FORM, lambda: b"--b\r\nX: y\r\n\r\nz\r\n" + _END, 422),
    "a part without a head": (_FORM, lambda: b"--b\r\n\r\nz\r\n" + _END, 422),
    "a long name": (_FORM, lambda: _part(b"n" * 500_000, b"") + _END, 422),
    "a name in quotes": (_FORM, lambda: _part(b'\\"' * 5000, b"") + _END, 422),
    "a name of bad UTF-8": (_FORM, lambda: _part(b"\xff\xfe", b"x") + _END, 422),
    "a file name with a path": (_FORM, lambda: _PROMPT + _image(b"; filename*=UTF-8''%2Fetc") + _END, 200),
    "a file as a prompt": (_FORM, lambda: _part(b"prompt", b"x", b'; filename="y"') + _image() + _END, 422),
    "a text as an image": (_FORM, lambda: _PROMPT + _part(b"image", b"x") + _END, 422),
    "a prompt of bad UTF-8": (_FORM, lambda: _part(b"prompt", b"\xff\xfe") + _image() + _END, 422),
    "a long prompt": (_FORM, lambda: _part(b"prompt", b"x" * 500_000) + _image() + _END, 422),
    "many headers of a part": (_FORM, lambda: b"--b\r\n" + b"X: y\r\n" * 50_000 + b"\r\n" + _END, 422),
    "a long header of a part": (_FORM, lambda: b"--b\r\nX: " + b"y" * 500_000 + b"\r\n\r\n" + _END, 422),
    "nested forms": (
        _FORM,
        lambda: _part(b"prompt", b"", b"\r\nContent-Type: multipart/mixed; boundary=c") * 2 + _END,
        422,
    ),
    "an encoding of a part": (
        _FORM,
        lambda: _PROMPT + _image(b"\r\nContent-Transfer-Encoding: base64") + _END,
        200,
    ),
    "lines without CR": (_FORM, lambda: (_PROMPT + _END).replace(b"\r\n", b"\n"), 422),
    "words before the first part": (_FORM, lambda: b"preamble\r\n" + _PROMPT + _image() + _END, 422),
    "words behind the last part": (_FORM, lambda: _PROMPT + _image() + _END + b"x" * 500_000, 200),
    "60 MiB of parts": (_FORM, lambda: _part(b"x", b"") * (_ENDLESS // 56), 422),
    "60 MiB of ends of line": (_FORM, lambda: b"\r\n" * (_ENDLESS // 2), 422),
    "60 MiB of ends of line in a file": (
        _FORM,
        lambda: _PROMPT + _part(b"image", b"\r\n" * (_ENDLESS // 2), b'; filename="x"') + _END,
        413,
    ),
    "60 MiB of almost the boundary": (
        "multipart/form-data; boundary=" + "b" * 60,
        lambda: (
            b"--"
            + b"b" * 60
            + b'\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
            + (b"\r\n--" + b"b" * 59) * (_ENDLESS // 63)
        ),
        422,
    ),
    "60 MiB of a file": (
        _FORM,
        lambda: _PROMPT + _part(b"image", bytes(_ENDLESS), b'; filename="x"') + _END,
        413,
    ),
    "60 MiB of a prompt": (_FORM, lambda: _part(b"prompt", b"x" * _ENDLESS) + _END, 422),
    "60 MiB behind the last part": (
        _FORM,
        lambda: _PROMPT + _image() + _END + b"\r\n" * (_ENDLESS // 2),
        200,
    ),
}


async def test_forms_that_are_not_meant_well(tmp_path: Path) -> None:
    """Each form is answered as the interface says: nothing of it is a defect of the service."""
    small = {name: form for name, form in FORMS.items() if "60 MiB" not in name}
    async with service(tmp_path) as attacked:
        statuses = {
            name: (await attacked.ask("/score", body(), content_type=content_type))[0]
            for name, (content_type, body, _) in small.items()
        }
    assert statuses == {name: status for name, (_, _, status) in small.items()}


@pytest.mark.hostile
@pytest.mark.parametrize("kind", FORMS)
async def test_many_hostile_forms(tmp_path: Path, kind: str) -> None:
    """Eight callers who send such a form again and again delay others little."""
    content_type, body, status = FORMS[kind]
    content = body()

    async def ask() -> set[int]:
        asked = [await attacked.ask("/score", content, content_type=content_type) for _ in range(5)]
        return {status for status, _ in asked}

    async with (
        service(tmp_path) as attacked,
        attacked.with_good_caller(f"8 callers, a form of {len(content) / 1e6:.1f} MB: {kind}"),
    ):
        statuses = set.union(*await asyncio.gather(*(ask() for _ in range(8))))
    assert statuses <= {status, 429, 504}
