"""The versions of the network in a model repository: publish, list, promote, roll back.

A version is a directory `image_reward_network/<N>`. It is written under a temporary name beside its place and
renamed, so that it is there whole or not at all, and it is never changed afterwards. The served version
stands in two configurations, of the network and of the ensemble; promotion rewrites each by rename.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from export.errors import RegistryError
from reward import manifest, preprocess
from reward.contract import ENSEMBLE, NETWORK
from reward.errors import VersionError
from reward.repository import SERVED, served_version

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_REPOSITORY: Final = Path("model_repository")

_STEP: Final = re.compile(rf'(model_name:\s*"{NETWORK.name}"\s+(?:#[^\n]*\s+)*model_version:\s*)(\d+)()')


@dataclass(frozen=True)
class Version:
    """One published version."""

    number: int
    manifest: manifest.Manifest
    served: bool


@dataclass
class Draft:
    """A version under construction."""

    directory: Path
    number: int = 0
    """Given when it is published."""


class Registry:
    """The published versions of one model repository."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self._network = repository / NETWORK.name
        if not (self._network / "config.pbtxt").is_file():
            raise RegistryError(
                f"{repository}: not a model repository ({NETWORK.name}/config.pbtxt is missing)"
            )

    def versions(self) -> list[Version]:
        """List what is published, oldest first; directories without a manifest are not ours and left out."""
        served = self.served()
        found = []
        for number in self._numbers():
            try:
                content = manifest.read(self.directory(number))
            except VersionError:
                continue
            found.append(Version(number, content, number == served))
        return found

    def find(self, name: str, checkpoint_sha256: str | None = None) -> Version | None:
        """Return the newest version of these weights made for the present preprocessing, if there is one."""
        for version in reversed(self.versions()):
            content = version.manifest
            same_weights = checkpoint_sha256 in (None, content.checkpoint_sha256)
            if same_weights and (content.name, content.preprocessing) == (name, preprocess.digest()):
                return version
        return None

    def version(self, number: int | None = None) -> Version:
        """Return a published version, by default the served one.

        Raises:
            RegistryError: it is not published.
        """
        number = self.served() if number is None else number
        self._check_published(number)
        return next(version for version in self.versions() if version.number == number)

    def served(self) -> int:
        """Return the number in the network's configuration, published or not."""
        try:
            return served_version(self.repository)
        except VersionError as error:
            raise RegistryError(str(error)) from error

    def directory(self, number: int) -> Path:
        """Return where a version lies, whether or not it is there."""
        return self._network / str(number)

    @contextmanager
    def publishing(self) -> Iterator[Draft]:
        """Give a directory to fill; on success it becomes the next version, on failure nothing is left."""
        draft = Draft(Path(tempfile.mkdtemp(prefix=".publishing-", dir=self._network)))
        try:
            yield draft
            draft.directory.chmod(0o755)
            draft.number = self._install(draft.directory)
        finally:
            shutil.rmtree(draft.directory, ignore_errors=True)

    def promote(self, number: int) -> None:
        """Make a version the served one.

        Raises:
            RegistryError: it is not published.
        """
        self._check_published(number)
        self._serve(number)
        history = [*self._history(), number]
        _replace(self._history_path, json.dumps(history) + "\n")

    def rollback(self) -> int:
        """Serve the version that was promoted before the present one again; return its number.

        Raises:
            RegistryError: there was none.
        """
        history = self._history()
        if len(history) < 2:
            raise RegistryError("no version was promoted before the present one")
        self._check_published(history[-2])
        self._serve(history[-2])
        _replace(self._history_path, json.dumps(history[:-1]) + "\n")
        return history[-2]

    def _install(self, directory: Path) -> int:
        while True:
            number = max(self._numbers(), default=0) + 1
            try:
                directory.rename(self.directory(number))
            except OSError:
                if not self.directory(number).exists():
                    raise
            else:
                return number  # otherwise somebody else published meanwhile: take the next number

    def _numbers(self) -> list[int]:
        return sorted(int(entry.name) for entry in self._network.iterdir() if entry.name.isdecimal())

    def _check_published(self, number: int) -> None:
        if number not in [version.number for version in self.versions()]:
            raise RegistryError(f"version {number} is not published in {self.repository}")

    def _serve(self, number: int) -> None:
        _rewrite(self._network / "config.pbtxt", SERVED, number)
        _rewrite(self.repository / ENSEMBLE.name / "config.pbtxt", _STEP, number)

    @property
    def _history_path(self) -> Path:
        return self._network / "promotions.json"

    def _history(self) -> list[int]:
        if not self._history_path.exists():
            return []
        return [int(number) for number in json.loads(self._history_path.read_text())]


def _rewrite(path: Path, pattern: re.Pattern[str], number: int) -> None:
    text, count = pattern.subn(rf"\g<1>{number}\g<3>", path.read_text())
    if count != 1:
        raise RegistryError(f"{path}: the place of the served version was not found")
    if text != path.read_text():
        _replace(path, text)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
