"""Which versions a model repository serves, and to whom: `image_reward_network/configs/deployment.json`.

`export` writes it, by rename, and renders Triton's configuration from it; everybody else only reads. Where
it is missing, the newest published version is served, as a plain Triton on the folder does.

It lies in `configs`, not right beside the versions, because of Triton: a file that changes in the directory
of a model is to Triton a change of all its versions, and the next call to load one would load them all anew.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from reward.contract import NETWORK
from reward.errors import VersionError
from reward.manifest import FILE_NAME as MANIFEST

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME: Final = "deployment.json"
RUNNING_FILE_NAME: Final = ".running.json"


@dataclass(frozen=True)
class Share:
    """A version beside the stable one, and the share of questions that it is asked."""

    version: int
    share: float
    """Above 0 and at most 1."""


@dataclass(frozen=True)
class Change:
    """One entry of the history: who changed what is served."""

    at: str
    """UTC, ISO 8601."""
    who: str
    action: str
    """`promote`, `canary`, `shadow`, `rollback`; `failed` where one of them was undone."""
    before: int | None
    """The stable version before; None for the first."""
    after: int
    """The version that the change is about: promoted, canaried, shadowed, or come back to."""
    why: str = ""


@dataclass(frozen=True)
class Deployment:
    """What is served."""

    stable: int
    canary: Share | None = None
    """Answers its share of the questions."""
    shadow: Share | None = None
    """Scores its share of the questions too; its answers are only compared."""
    device: str = "cpu"
    history: tuple[Change, ...] = ()
    """Oldest first."""

    @property
    def versions(self) -> tuple[int, ...]:
        """All that Triton has to have loaded, the stable one first."""
        others = [share.version for share in (self.canary, self.shadow) if share is not None]
        return tuple(dict.fromkeys([self.stable, *others]))

    @property
    def earlier_stable(self) -> int | None:
        """The version that a rollback goes back to, by the history; None: no other was stable before."""
        stack: list[int] = []
        for change in self.history:
            if change.before in (None, change.after):
                continue
            if change.action == "promote":
                stack.append(change.before)
            elif change.action == "rollback" and stack:
                stack.pop()
        return stack[-1] if stack else None


def path(repository: Path) -> Path:
    """Return where a model repository's deployment lies."""
    return repository / NETWORK.name / "configs" / FILE_NAME


def running_path(repository: Path) -> Path:
    """Return where whoever runs Triton on this repository writes down its address and administration key.

    A file of mode 0600 that is there as long as Triton runs: `{"pid": 4711, "triton_url": "127.0.0.1:8000",
    "admin_key": "…"}`; the process is the one that keeps Triton running.
    """
    return repository / NETWORK.name / "configs" / RUNNING_FILE_NAME


def published(repository: Path) -> list[int]:
    """List the numbers of the directories that hold a manifest, in order.

    Raises:
        VersionError: there is no such repository.
    """
    network = repository / NETWORK.name
    try:
        entries = [entry for entry in network.iterdir() if entry.name.isdecimal()]
    except OSError as error:
        raise VersionError(f"{network}: cannot be read: {error.strerror}") from error
    return sorted(int(entry.name) for entry in entries if (entry / MANIFEST).is_file())


def read(repository: Path) -> Deployment:
    """Read what is served; whether those versions are published is not asked.

    Raises:
        VersionError: nothing is published, or the file is not a deployment of this service.
    """
    try:
        content: dict[str, Any] = json.loads(path(repository).read_text())
        return Deployment(
            stable=int(content["stable"]),
            canary=_share(content.get("canary")),
            shadow=_share(content.get("shadow")),
            device=str(content.get("device", "cpu")),
            history=tuple(Change(**entry) for entry in content.get("history", [])),
        )
    except FileNotFoundError:
        numbers = published(repository)
        if not numbers:
            raise VersionError(f"no version is published in {repository}") from None
        return Deployment(numbers[-1])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise VersionError(f"{path(repository)}: not a deployment") from error


def _share(content: dict[str, Any] | None) -> Share | None:
    return None if content is None else Share(int(content["version"]), float(content["share"]))
