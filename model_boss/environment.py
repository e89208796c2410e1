"""What a service's environment says of a GPU that it shares: `SERVICE_REDIS_URL` and others."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from model_boss.claim import Priority
from model_boss.errors import InvalidClaim
from model_boss.options import LedgerOptions
from model_boss.protocol import first_gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Value = TypeVar("Value")


@dataclass(frozen=True)
class SharedGpu:
    """Who gives out the GPU's memory, and how a service asks for it."""

    url: str | None = field(repr=False)
    """Of the ledger; None: the GPU is not shared."""
    gpu: str
    priority: int
    wait_s: float
    vram_mb: int | None
    """The operator's word for what a model takes."""
    options: LedgerOptions

    @classmethod
    def of(cls, environment: Mapping[str, str], service: str) -> Self:
        """Read the variables that begin with `service`; an empty one counts as not set.

        Raises:
            InvalidClaim: one of them makes no sense; it is named.
        """

        def read(name: str, kind: Callable[[str], Value], default: Value) -> Value:
            text = environment.get(f"{service}_{name}")
            try:
                return kind(text) if text else default
            except ValueError:
                raise InvalidClaim(f"{service}_{name} is {text!r}, expected a number") from None
            except (InvalidClaim, OSError) as error:
                raise InvalidClaim(f"{service}_{name}: {error}") from error

        url_of_file = read("REDIS_URL_FILE", lambda path: Path(path).read_text().strip(), "")
        return cls(
            url=environment.get(f"{service}_REDIS_URL") or url_of_file or None,
            gpu=read("GPU", str, "") or first_gpu(),
            priority=read("GPU_PRIORITY", Priority.parse, int(Priority.NORMAL)),
            wait_s=read("GPU_WAIT_S", float, 30.0),
            vram_mb=read("VRAM_MB", int, None),
            options=LedgerOptions(
                prefix=read("MODEL_BOSS_PREFIX", str, LedgerOptions.prefix),
                ttl_s=read("MODEL_BOSS_TTL_S", float, LedgerOptions.ttl_s),
            ),
        )
