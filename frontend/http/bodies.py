"""Bodies of requests, JSON or multipart, read within the deadline and checked."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from frontend.deadline import Deadline
from frontend.errors import DeadlineExceeded
from frontend.http import schemas
from frontend.http.errors import InvalidRequest
from frontend.http.long_strings import LongStrings
from frontend.http.problem import describe_validation
from frontend.images.errors import too_large
from frontend.images.shared_bytes import SharedBytes
from frontend.images.sources import Source
from reward.contract import MAX_PROMPT_CHARACTERS

if TYPE_CHECKING:
    from starlette.requests import Request

Body = TypeVar("Body", bound=BaseModel)
Value = TypeVar("Value")

TIMEOUT_HEADER: Final = "X-Request-Timeout-Ms"
_QUICK_BYTES: Final = 2**18
"""JSON this short is parsed in less than a millisecond."""


@dataclass(frozen=True)
class ScoringRequest:
    """What a body asks for; `ids` are the caller's own, as many as there are sources."""

    prompt: str
    sources: list[Source]
    ids: list[str | None]
    min_score: float | None


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


async def read_score(request: Request, limits: schemas.Limits, deadline: Deadline) -> ScoringRequest:
    """Read the body of `/score`.

    Raises:
        InvalidRequest: it does not keep the schema.
        ImageTooLarge: the uploaded file is above its limit.
        DeadlineExceeded: it did not arrive in time.
    """
    if _content_type(request) == "multipart/form-data":
        return await _upload(request, limits, deadline)
    body, strings = await _json(request, schemas.ScoreRequest, deadline)
    return ScoringRequest(body.prompt, [_source(body, strings)], [None], body.min_score)


async def read_batch(request: Request, limits: schemas.Limits, deadline: Deadline) -> ScoringRequest:
    """Read the body of `/score-batch`.

    Raises:
        InvalidRequest: it does not keep the schema, or has more candidates than allowed.
        DeadlineExceeded: it did not arrive in time.
    """
    body, strings = await _json(request, schemas.BatchRequest, deadline)
    if len(body.candidates) > limits.max_candidates:
        raise InvalidRequest(
            f"candidates: {len(body.candidates)} were sent, {limits.max_candidates} are allowed"
        )
    sources = [_source(candidate, strings) for candidate in body.candidates]
    return ScoringRequest(body.prompt, sources, [item.id for item in body.candidates], body.min_score)


async def _upload(request: Request, limits: schemas.Limits, deadline: Deadline) -> ScoringRequest:
    try:
        async with deadline.timeout():
            form = await request.form(max_files=1, max_fields=2, max_part_size=4 * MAX_PROMPT_CHARACTERS)
    except TimeoutError as error:
        raise _late() from error
    except HTTPException as error:
        raise InvalidRequest(f"the multipart body is not valid: {error.detail}") from error
    try:
        fields = dict(form.multi_items())
        if len(fields) != len(form.multi_items()) or not {"prompt", "image"} <= set(fields) <= {
            "prompt",
            "image",
            "min_score",
        }:
            raise InvalidRequest("the form's fields are prompt, image and, if wanted, min_score; each once")
        image = fields["image"]
        if not isinstance(image, UploadFile):
            raise InvalidRequest("image must be an uploaded file")
        if (image.size or 0) > limits.max_image_bytes:
            raise too_large(limits.max_image_bytes)
        prompt = _validated(TypeAdapter(schemas.Prompt), fields["prompt"], "prompt")
        min_score = _validated(TypeAdapter(schemas.MinScore), fields.get("min_score"), "min_score")
        return ScoringRequest(prompt, [Source(data=await image.read())], [None], min_score)
    finally:
        await form.close()


async def _json(request: Request, model: type[Body], deadline: Deadline) -> tuple[Body, LongStrings]:
    content_type = _content_type(request)
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise InvalidRequest(
            "the Content-Type must be application/json (or, for /score, multipart/form-data)"
        )
    content: bytearray | SharedBytes = bytearray()
    try:
        async with deadline.timeout():
            async for chunk in request.stream():
                content.extend(chunk)
                if isinstance(content, bytearray) and len(content) > _QUICK_BYTES:
                    content = SharedBytes(content)
    except TimeoutError as error:
        raise _late() from error
    strings = LongStrings()
    try:
        if isinstance(content, bytearray):
            return model.model_validate_json(content), strings
        return await asyncio.to_thread(_parse_large, content, model, strings), strings
    except ValidationError as error:
        raise InvalidRequest(describe_validation(error)) from error


def _parse_large(content: SharedBytes, model: type[Body], strings: LongStrings) -> Body:
    # The parser holds the interpreter for as long as it runs, in whatever thread: it gets what is short.
    return model.model_validate_json(strings.cut(content, "image_base64"))


def _source(body: schemas.ImageSource, strings: LongStrings) -> Source:
    if body.image_base64 is None:
        return Source(url=body.image_url)
    return Source(base64=strings.get(body.image_base64))


def _validated(adapter: TypeAdapter[Value], value: object, name: str) -> Value:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise InvalidRequest(f"{name}: {describe_validation(error)}") from error


def _content_type(request: Request) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed while the body was received")
