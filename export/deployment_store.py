"""Writes what is served: `deployment.json` and Triton's two configurations, as one.

    image_reward_network/configs/
        generations/7/           deployment.json, network.pbtxt, ensemble.pbtxt: written once, whole
        current -> generations/7
        deployment.json -> current/deployment.json
        served.pbtxt -> current/network.pbtxt
    image_reward/configs/
        served.pbtxt -> ../../image_reward_network/configs/current/ensemble.pbtxt

The configurations are rendered from the deployment. All three files change by one rename of the
link `current`. So a crash at any point leaves what was served before, or what is served after.
Nothing else is written in the directories of the models: to Triton that would be a change of every
version.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from export.errors import Busy
from export.served_config import ensemble_config, network_config
from export.writing import writing
from reward import deployment
from reward.contract import ENSEMBLE, NETWORK
from reward.errors import VersionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from reward.deployment import Deployment

_LOCK_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.1
_KEPT_GENERATIONS: Final = 8
"""So many generations stay that a reader who has just followed the link finds its own."""


class DeploymentStore:
    """What one model repository serves, for whoever changes it."""

    def __init__(self, repository: Path, *, step: Callable[[str], None] = lambda _: None) -> None:
        self._repository = repository
        self._configs = repository / NETWORK.name / "configs"
        self._step = step
        """Called before each step that a crash could separate from the next one."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other writer of this machine out while a block runs.

        The lock of a process that dies is free.

        Raises:
            Busy: another command holds it.
            CannotWrite: the folder is not ours to write.
        """
        with writing(self._configs):
            self._configs.mkdir(exist_ok=True)
            lock = (self._configs / ".lock").open("a")
        with lock:
            deadline_s = time.monotonic() + _LOCK_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline_s:
                        raise Busy(
                            f"another command is changing what {self._repository} serves: try again when it has ended"
                        ) from None
                    time.sleep(_POLL_S)
            yield

    def read(self) -> Deployment | None:
        """Read what is served; return None if nothing is published.

        Raises:
            VersionError: the file is there and is not a deployment.
        """
        try:
            return deployment.read(self._repository)
        except VersionError:
            if self.is_explicit:
                raise
            return None

    @property
    def is_explicit(self) -> bool:
        """Tell whether somebody has said what is served; else it is the newest version."""
        return deployment.path(self._repository).exists()

    def is_written(self, content: Deployment) -> bool:
        """Tell whether the files say exactly this, and have only its versions loaded."""
        texts = self._render(content, content.versions)
        current = self._configs / "current"
        try:
            return all((current / name).read_text() == text for name, text in texts.items()) and all(
                link.exists() for link in self._links()
            )
        except OSError:
            return False

    def write(self, content: Deployment, *, loaded: Iterable[int] | None = None) -> None:
        """Make this what is served, with these versions loaded: by default those that it names.

        Triton notices it when it is told to load its models, or at its start.

        Raises:
            CannotWrite: the disk is full, or the folder is not ours to write; nothing has changed.
            RegistryError: a tracked configuration is missing or damaged.
        """
        texts = self._render(content, content.versions if loaded is None else loaded)
        with writing(self._configs):
            generations = self._configs / "generations"
            generations.mkdir(parents=True, exist_ok=True)
            (self._repository / ENSEMBLE.name / "configs").mkdir(exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=generations))
            try:
                generation = self._install(generations, draft, texts)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            for link, target in self._links().items():
                if not link.is_symlink() or str(link.readlink()) != target:
                    _link(link, target)
            self._step("switch the deployment")
            _link(self._configs / "current", f"generations/{generation}")
            self._step("tidy old generations")
        self._remove_old(generations)

    def _render(self, content: Deployment, loaded: Iterable[int]) -> dict[str, str]:
        values = dataclasses.asdict(content)
        loaded = set(loaded)
        return {
            deployment.FILE_NAME: json.dumps(values, indent=1, ensure_ascii=False) + "\n",
            "network.pbtxt": network_config(self._repository, content, loaded),
            "ensemble.pbtxt": ensemble_config(self._repository, content, loaded),
        }

    def _install(self, generations: Path, draft: Path, texts: dict[str, str]) -> int:
        draft.chmod(0o755)
        for name, text in texts.items():
            self._step(f"write {name}")
            with (draft / name).open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        _sync(draft)
        number = max(map(int, self._numbers(generations)), default=0) + 1
        self._step("install the generation")
        draft.rename(generations / str(number))
        _sync(generations)
        return number

    def _links(self) -> dict[Path, str]:
        ensemble = self._repository / ENSEMBLE.name / "configs" / "served.pbtxt"
        return {
            deployment.path(self._repository): f"current/{deployment.FILE_NAME}",
            self._configs / "served.pbtxt": "current/network.pbtxt",
            ensemble: f"../../{NETWORK.name}/configs/current/ensemble.pbtxt",
        }

    def _numbers(self, generations: Path) -> list[str]:
        return [entry.name for entry in generations.iterdir() if entry.name.isdecimal()]

    def _remove_old(self, generations: Path) -> None:
        for name in sorted(self._numbers(generations), key=int)[:-_KEPT_GENERATIONS]:
            shutil.rmtree(generations / name, ignore_errors=True)
        for draft in generations.glob(".draft-*"):  # of a command that was killed; we hold the lock
            shutil.rmtree(draft, ignore_errors=True)


def _link(link: Path, target: str) -> None:
    """Make a link point somewhere else, by rename."""
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    _sync(link.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
