"""Bodies of requests, JSON or multipart, read within the deadline and checked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from frontend.errors import DeadlineExceeded, InvalidRequest
from frontend.http import schemas
from frontend.http.problem import describe_validation
from frontend.images.sources import Source, too_large
from reward.contract import MAX_PROMPT_CHARACTERS

if TYPE_CHECKING:
    from starlette.requests import Request

    from frontend.deadline import Deadline
    from frontend.settings import Settings

Body = TypeVar("Body", bound=BaseModel)
Value = TypeVar("Value")


async def read_score(
    request: Request, settings: Settings, deadline: Deadline
) -> tuple[str, Source, float | None]:
    """Read the body of `/score`: prompt, source and min_score.

    Raises:
        InvalidRequest: it does not keep the schema.
        ImageTooLarge: the uploaded file is above its limit.
        DeadlineExceeded: it did not arrive in time.
    """
    if _content_type(request) == "multipart/form-data":
        return await _upload(request, settings, deadline)
    body = await _json(request, schemas.ScoreRequest, deadline)
    return body.prompt, Source(url=body.image_url, base64=body.image_base64), body.min_score


async def read_batch(request: Request, settings: Settings, deadline: Deadline) -> schemas.BatchRequest:
    """Read the body of `/score-batch`.

    Raises:
        InvalidRequest: it does not keep the schema, or has more candidates than allowed.
        DeadlineExceeded: it did not arrive in time.
    """
    body = await _json(request, schemas.BatchRequest, deadline)
    if len(body.candidates) > settings.max_candidates:
        raise InvalidRequest(
            f"candidates: {len(body.candidates)} were sent, {settings.max_candidates} are allowed"
        )
    return body


async def _upload(
    request: Request, settings: Settings, deadline: Deadline
) -> tuple[str, Source, float | None]:
    try:
        async with asyncio.timeout(deadline.remaining_s()):
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
        if (image.size or 0) > settings.max_image_bytes:
            raise too_large(settings.max_image_bytes)
        prompt = _validated(TypeAdapter(schemas.Prompt), fields["prompt"], "prompt")
        min_score = _validated(TypeAdapter(schemas.MinScore), fields.get("min_score"), "min_score")
        return prompt, Source(data=await image.read()), min_score
    finally:
        await form.close()


async def _json(request: Request, model: type[Body], deadline: Deadline) -> Body:
    content_type = _content_type(request)
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise InvalidRequest(
            "the Content-Type must be application/json (or, for /score, multipart/form-data)"
        )
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            content = await request.body()
    except TimeoutError as error:
        raise _late() from error
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise InvalidRequest(describe_validation(error)) from error


def _validated(adapter: TypeAdapter[Value], value: object, name: str) -> Value:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise InvalidRequest(f"{name}: {describe_validation(error)}") from error


def _content_type(request: Request) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed while the body was received")
