"""Bodies of requests, JSON or multipart, read within the deadline and checked."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.requests import Request

from frontend.deadline import Deadline
from frontend.errors import DeadlineExceeded
from frontend.http import schemas
from frontend.http.errors import InvalidRequest
from frontend.http.long_strings import LongStrings
from frontend.http.openapi import TIMEOUT_HEADER
from frontend.http.problem import describe_validation
from frontend.http.schemas import MAX_CANDIDATES
from frontend.images.shared_bytes import SharedBytes
from frontend.images.sources import Source
from reward.contract import MAX_PROMPT_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

Body = TypeVar("Body", bound=BaseModel)

# Bodies count as bytes in memory, and a full disk of temporary files must fail no upload.
MultiPartParser.spool_max_size = sys.maxsize

_QUICK_BYTES: Final = 2**16
"""JSON of this size is parsed in a millisecond or two."""
_IMAGE_FIELDS: Final = {"image_base64": b"", "image_url": b"data:"}
_MAX_REST_BYTES: Final = 2**19
"""The size of a body beside its images; ten of the longest URLs and an escaped prompt take 230 KB.
"""


@dataclass(frozen=True)
class ScoringRequest:
    """What a body asks for; `ids` are the caller's own, one for each source."""

    prompt: str
    sources: list[Source]
    ids: list[str | None]
    min_score: float | None
    min_normalized_score: float | None
    model_version: str | None


def read_deadline(request: Request, limits: schemas.Limits) -> Deadline:
    """Read X-Request-Timeout-Ms, bounded by the server's own limit.

    Raises:
        InvalidRequest: not a positive whole number of milliseconds.
    """
    value = request.headers.get(TIMEOUT_HEADER)
    if value is None:
        return Deadline.after(limits.request_timeout_s)
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value)):
        raise InvalidRequest(f"{TIMEOUT_HEADER} must be a positive whole number of milliseconds")
    return Deadline.after(min(int(value) / 1000, limits.max_request_timeout_s))


async def read_score(request: Request, deadline: Deadline, max_image_bytes: int) -> ScoringRequest:
    """Read the body of `/score`; of a file that is larger than an image may be, only the beginning.

    Raises:
        InvalidRequest: it does not match the schema.
        DeadlineExceeded: it did not arrive in time.
    """
    if _content_type(request) == "multipart/form-data":
        form = await _form(request, schemas.ScoreUpload, deadline, max_image_bytes)
        return _scoring_request(form, [Source(data=form.image)], [None])
    body, strings = await _json(request, schemas.ScoreRequest, deadline)
    return _scoring_request(body, [_source(body, strings)], [None])


async def read_batch(request: Request, deadline: Deadline, max_image_bytes: int) -> ScoringRequest:
    """Read the body of `/score-batch`, as `read_score` does.

    Raises:
        InvalidRequest: it does not match the schema.
        DeadlineExceeded: it did not arrive in time.
    """
    if _content_type(request) == "multipart/form-data":
        form = await _form(request, schemas.BatchUpload, deadline, max_image_bytes, files="images")
        return _scoring_request(
            form, [Source(data=image) for image in form.images], [None] * len(form.images)
        )
    body, strings = await _json(request, schemas.BatchRequest, deadline)
    sources = [_source(candidate, strings) for candidate in body.candidates]
    return _scoring_request(body, sources, [candidate.id for candidate in body.candidates])


def _scoring_request(body: schemas.Question, sources: list[Source], ids: list[str | None]) -> ScoringRequest:
    version = None if body.model_version is None else str(body.model_version)
    return ScoringRequest(body.prompt, sources, ids, body.min_score, body.min_normalized_score, version)


async def _form(
    request: Request,
    model: type[Body],
    deadline: Deadline,
    max_image_bytes: int,
    *,
    files: str | None = None,
) -> Body:
    """Read a form; the field `files`, sent many times or as `image`, is a list."""
    fields: dict[str, Any] = {}
    raw, charset = _undecoded(request)
    try:
        async with (
            _in_time(deadline),
            raw.form(
                max_files=1 if files is None else MAX_CANDIDATES,
                max_fields=len(model.model_fields),
                max_part_size=4 * MAX_PROMPT_CHARACTERS,
            ) as form,
        ):
            for raw_name, item in form.multi_items():
                name = raw_name.encode("latin-1").decode(charset)
                if isinstance(item, UploadFile):
                    value: str | bytes = await _read_file(item, max_image_bytes)
                else:
                    value = item.encode("latin-1").decode(charset)
                if files is not None and name in {files, "image"}:
                    fields.setdefault(files, []).append(value)
                elif name in fields:
                    raise InvalidRequest("a field of the form was sent twice")
                else:
                    fields[name] = value
    except HTTPException as error:
        raise InvalidRequest(f"the multipart body is not valid: {error.detail}") from error
    except (UnicodeError, LookupError) as error:
        raise InvalidRequest(f"the multipart body is not text in the charset {charset!r}") from error
    with _described():
        return model.model_validate(fields)


def _undecoded(request: Request) -> tuple[Request, str]:
    """Return the request with a form whose texts are bytes, one a character, and its charset.

    Starlette takes what it cannot decode for Latin-1, and the prompt would be another one.
    """
    content_type = request.headers["content-type"]
    _, options = parse_options_header(content_type)
    headers = [(name, value) for name, value in request.headers.raw if name != b"content-type"]
    headers.append((b"content-type", f"{content_type}; charset=latin-1".encode("latin-1")))
    charset = options.get(b"charset", b"utf-8").decode("latin-1")
    return Request({**request.scope, "headers": headers}, request.receive), charset


async def _read_file(file: UploadFile, max_bytes: int) -> bytes:
    """Read a file, and let go of the copy that the form holds of it.

    Of a file that is too large, one byte more than is allowed is enough to refuse it.
    """
    try:
        return await file.read(max_bytes + 1)
    finally:
        await file.close()


async def _json(request: Request, model: type[Body], deadline: Deadline) -> tuple[Body, LongStrings]:
    content_type = _content_type(request)
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise InvalidRequest("the Content-Type must be application/json or multipart/form-data")
    content = SharedBytes()
    async with _in_time(deadline):
        async for chunk in request.stream():
            content.extend(chunk)
    strings = LongStrings()
    if content.is_short:
        text = _without_images(content, strings)
    else:
        text = await asyncio.to_thread(_without_images, content, strings)
    with _described():
        if len(text) <= _QUICK_BYTES:
            return model.model_validate_json(text), strings
        return await asyncio.to_thread(model.model_validate_json, text), strings


def _without_images(content: SharedBytes, strings: LongStrings) -> bytes:
    # The parser holds the interpreter while it runs, in whatever thread, so it gets only a short
    # text.
    if len(content) <= _QUICK_BYTES:
        return content.read(0, len(content))
    return strings.cut(content, _IMAGE_FIELDS, max_rest_bytes=_MAX_REST_BYTES)


def _source(body: schemas.ImageSource, strings: LongStrings) -> Source:
    """Tell apart what is fetched and what was sent: base64, or a data: URI in either field."""
    text = strings.get(body.image_base64 or body.image_url or "")
    if body.image_base64 is None and isinstance(text, str) and not schemas.is_data_uri(text):
        return Source(url=text)
    return Source(base64=text)


def _content_type(request: Request) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def _in_time(deadline: Deadline) -> AsyncIterator[None]:
    try:
        async with deadline.timeout():
            yield
    except TimeoutError as error:
        raise DeadlineExceeded("the deadline passed while the body was received") from error


@contextmanager
def _described() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise InvalidRequest(describe_validation(error)) from error
