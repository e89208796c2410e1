"""Triton's Python backend as far as the adapter uses it: arrays in, readable responses out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Tensor:
    """A named array."""

    name: str
    array: NDArray[Any]

    def as_numpy(self) -> NDArray[Any]:
        """Return the array."""
        return self.array


class Request(dict[str, "NDArray[Any]"]):
    """A caller's arrays by name, and the caller's timeout in microseconds; 0 for none."""

    timeout_us = 0

    def timeout(self) -> int:
        """Return the timeout."""
        return self.timeout_us


@dataclass(frozen=True)
class TritonError:
    """The error that one caller gets."""

    INVALID_ARG = "400"
    INTERNAL = "500"

    message: str
    code: str


@dataclass(frozen=True)
class InferenceResponse:
    """The answer to one request."""

    output_tensors: list[Tensor] = field(default_factory=list)
    error: TritonError | None = None


class Logger:
    """Triton's log; its entries are kept."""

    errors: list[str] = []  # noqa: RUF012 - the module is made anew for each test

    @classmethod
    def log_error(cls, text: str) -> None:
        """Keep one entry."""
        cls.errors.append(text)


def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
    """Return an input; return None for a name that the request does not have, as Triton does."""
    return Tensor(name, request[name]) if name in request else None
