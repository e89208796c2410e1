"""How a call to Triton fails, in the service's own terms."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final, TypeVar

import aiohttp
from tritonclient.utils import InferenceServerException

from frontend.errors import (
    DeadlineExceeded,
    Internal,
    ModelNotLoaded,
    ModelUnavailable,
    Overloaded,
    ServiceError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from frontend.deadline import Deadline

T = TypeVar("T")

RETRY_AFTER_S: Final = 2.0
# Triton answers 400 or 404 both to malformed requests and about models and versions that it does not have.
_NOT_SERVED: Final = re.compile(
    r"unknown model|not ready|not found|no available versions|unavailable", re.IGNORECASE
)


async def call(ask: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
    """Await a call to Triton within the deadline.

    Raises:
        Overloaded: Triton's queue is full.
        DeadlineExceeded: the deadline passed in Triton or on the way.
        ModelUnavailable: Triton is down, or the model is not ready.
        Internal: Triton says that we asked it wrongly.
    """
    try:
        async with asyncio.timeout_at(loop_time(deadline)):
            return await ask()
    except TimeoutError as error:
        raise DeadlineExceeded("the deadline passed while the inference server was asked") from error
    except InferenceServerException as error:
        raise _translate(error) from error
    except (aiohttp.ClientError, OSError) as error:
        raise ModelUnavailable(
            "the inference server cannot be reached",
            internal=f"{type(error).__name__}: {error}",
            retry_after_s=RETRY_AFTER_S,
        ) from error


def is_nobody_there(error: ServiceError) -> bool:
    """Tell whether `call` failed because nothing listens at Triton's address: it does not run."""
    cause = error.__cause__
    return isinstance(cause, aiohttp.ClientConnectorError) and isinstance(
        cause.os_error, ConnectionRefusedError
    )


def loop_time(deadline: Deadline) -> float:
    """Return the deadline as a time of the running event loop.

    Raises:
        DeadlineExceeded: it has passed.
    """
    return asyncio.get_running_loop().time() + deadline.remaining_s()


def _translate(error: InferenceServerException) -> ServiceError:
    status, message = str(error.status()), str(error.message())
    internal = f"Triton answered {status}: {message}"
    if "timeout expired" in message.lower():
        return DeadlineExceeded(
            "the deadline passed while the request waited for the model", internal=internal
        )
    if "maximum queue size" in message:
        return Overloaded("the model's queue is full", internal=internal, retry_after_s=RETRY_AFTER_S)
    if "internal error" in message or (status.startswith("4") and not _NOT_SERVED.search(message)):
        return Internal("the model could not be asked", internal=internal)
    if status.startswith("4"):
        return ModelNotLoaded("the model is not ready", internal=internal, retry_after_s=RETRY_AFTER_S)
    # Shutting down, or its Python process died: passes by itself, too.
    return ModelUnavailable("the model is not ready", internal=internal, retry_after_s=RETRY_AFTER_S)
