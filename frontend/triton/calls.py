"""One call to Triton within a deadline, and the meaning of its failure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

import aiohttp
from tritonclient.utils import InferenceServerException

from frontend.triton.errors import (
    NotLoaded,
    NotReady,
    QueueFull,
    Rejected,
    TimedOut,
    TooManyRows,
    TritonError,
    Unreachable,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from frontend.deadline import Deadline

T = TypeVar("T")

# Triton answers 400, 404 or 503 about models that it does not have. But it answers 400 and 404 to
# malformed requests, too.
_NOT_LOADED: Final = re.compile(
    r"unknown model|not ready|not at ready state|not found|no available versions", re.IGNORECASE
)
_TOO_MANY_ROWS: Final = re.compile(r"batch-size must be <= (\d+)")


async def call(ask: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
    """Await a call to Triton within the deadline.

    Raises:
        TritonError: the subclass depends on what Triton answered, or that it did not answer.
        DeadlineExceeded: the deadline had passed before.
    """
    try:
        async with deadline.timeout():
            return await ask()
    except TimeoutError as error:
        raise TimedOut("the deadline passed while the inference server was asked") from error
    except InferenceServerException as error:
        raise _translate(error) from error
    except (aiohttp.ClientError, OSError) as error:
        raise Unreachable(
            "the inference server cannot be reached", internal=f"{type(error).__name__}: {error}"
        ) from error


def is_nobody_there(error: TritonError) -> bool:
    """Tell whether `call` failed because nothing listens at Triton's address: it does not run."""
    cause = error.__cause__
    return isinstance(cause, aiohttp.ClientConnectorError) and isinstance(
        cause.os_error, ConnectionRefusedError
    )


def _translate(error: InferenceServerException) -> TritonError:
    status, message = str(error.status()), str(error.message())
    internal = f"Triton answered {status}: {message}"
    if "timeout expired" in message.lower():
        return TimedOut("the deadline passed while the request waited for the model", internal=internal)
    if "maximum queue size" in message:
        return QueueFull("the model's queue is full", internal=internal)
    if (found := _TOO_MANY_ROWS.search(message)) is not None:
        return TooManyRows("the model could not be asked", max_rows=int(found[1]), internal=internal)
    is_defect = "internal error" in message
    if _NOT_LOADED.search(message) and not is_defect:
        return NotLoaded("the model is not ready", internal=internal)
    if is_defect or (status.startswith("4") and "unavailable" not in message.lower()):
        return Rejected("the model could not be asked", internal=internal)
    # It is shutting down, or its Python process died. Both pass by themselves.
    return NotReady("the model is not ready", internal=internal)
