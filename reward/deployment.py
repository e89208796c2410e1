"""Which versions a model repository serves, and to whom.

This is the file `image_reward_network/configs/deployment.json`. `export` writes it, by rename, and
renders Triton's configuration from it; everybody else only reads it. If it is missing, the newest
published version is served, as a plain Triton does with that folder.

The file is in `configs` and not beside the versions, because of Triton. To Triton, a changed file
in a model's directory is a change of all its versions, and the next load would load them all anew.
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
PYTHON: Final = "python"
RUNNING_FILE_NAME: Final = ".running.json"


@dataclass(frozen=True)
class Share:
    """A version beside the stable one, and the share of the questions that it is asked."""

    version: int
    share: float
    """Above 0 and at most 1."""


@dataclass(frozen=True)
class Change:
    """One entry of the history: who changed what is served, and how."""

    at: str
    """UTC, ISO 8601."""
    who: str
    action: str
    """`promote`, `canary`, `shadow`, `rollback`, or `failed` if one of them was undone."""
    before: int | None
    """The stable version before; None for the first."""
    after: int
    """The version that was promoted, or made canary or shadow, or returned to."""
    why: str = ""


@dataclass(frozen=True)
class Deployment:
    """What is served."""

    stable: int
    canary: Share | None = None
    """It answers its share of the questions."""
    shadow: Share | None = None
    """It scores its share of the questions as well, but its answers are only compared."""
    device: str = "cpu"
    history: tuple[Change, ...] = ()
    """The oldest change is the first."""
    backend: str = PYTHON
    """Triton's backend: `python` runs a version's own `model.py`."""

    @property
    def versions(self) -> tuple[int, ...]:
        """All versions that Triton must have loaded, the stable one first."""
        others = [share.version for share in (self.canary, self.shadow) if share is not None]
        return tuple(dict.fromkeys([self.stable, *others]))

    @property
    def earlier_stable(self) -> int | None:
        """The version that a rollback returns to, by the history; None if there was none before."""
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
    """Return the path of a model repository's deployment."""
    return repository / NETWORK.name / "configs" / FILE_NAME


def running_path(repository: Path) -> Path:
    """Return the path of the note about the Triton that runs on this repository.

        {"pid": 4711, "repository": "/srv/model_repository", "triton_url": "127.0.0.1:8000",
         "triton_grpc_url": "127.0.0.1:8001", "admin_key": "…"}

    Whoever keeps Triton running writes it, with mode 0600, and removes it at the end. `pid` is the
    process that keeps Triton running, `repository` the folder that it was written in, since a copy
    of the folder takes the note along.
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
    """Read what is served; it is not checked whether those versions are published.

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
            backend=str(content.get("backend", PYTHON)),
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
