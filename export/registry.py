"""The versions of the network in a model repository: publish, list, remove.

A version is a directory `image_reward_network/<N>`. It is written under a temporary name and then
renamed, so it is there whole or not at all. It never changes afterwards. `export.deploy` decides
which version is served.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from export.errors import RegistryError
from export.writing import writing
from reward import deployment, manifest, preprocess
from reward.contract import NETWORK
from reward.errors import VersionError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_REPOSITORY: Final = Path("model_repository")

_LEFT_OVER_AFTER_S: Final = 86_400.0


@dataclass(frozen=True)
class Version:
    """One published version."""

    number: int
    manifest: manifest.Manifest


@dataclass
class Draft:
    """A version under construction."""

    directory: Path
    number: int = 0
    """Set when the version is published."""


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
        """List what is published, oldest first; directories without a manifest are left out."""
        found = []
        for number in deployment.published(self.repository):
            try:
                found.append(Version(number, manifest.read(self.directory(number))))
            except VersionError:
                continue
        return found

    def find(self, name: str, checkpoint_sha256: str | None = None, *, precision: str = "") -> Version | None:
        """Return the newest version of these weights for the present preprocessing, if any."""
        for version in reversed(self.versions()):
            content = version.manifest
            same_weights = checkpoint_sha256 in (None, content.checkpoint_sha256)
            same_precision = precision in ("", content.precision)
            if (
                same_weights
                and same_precision
                and (content.name, content.preprocessing) == (name, preprocess.digest())
            ):
                return version
        return None

    def version(self, number: int | None = None) -> Version:
        """Return a published version, by default the one that is served.

        Raises:
            RegistryError: it is not published.
            VersionError: nothing is published.
        """
        number = deployment.read(self.repository).stable if number is None else number
        for version in self.versions():
            if version.number == number:
                return version
        raise RegistryError(f"version {number} is not published in {self.repository}")

    def directory(self, number: int) -> Path:
        """Return the path of a version, whether it exists or not."""
        return self._network / str(number)

    @contextmanager
    def publishing(self) -> Iterator[Draft]:
        """Give a directory to fill; it becomes the next version, or is removed on failure.

        Raises:
            CannotWrite: the disk is full, or the folder is not ours to write.
        """
        with self._aside("publishing") as directory:
            draft = Draft(directory / "version")
            draft.directory.mkdir()
            yield draft
            draft.number = self._install(draft.directory)

    def remove(self, number: int) -> None:
        """Remove a version, whole or not at all.

        Raises:
            CannotWrite: the folder is not ours to write.
        """
        with self._aside("removing") as directory:
            self.directory(number).rename(directory / "version")

    def remove_left_over(self) -> None:
        """Remove what commands left unfinished that were killed at least a day ago."""
        for directory in (self._network / "configs").glob(".*-*/"):
            if time.time() - directory.stat().st_mtime > _LEFT_OVER_AFTER_S:
                shutil.rmtree(directory, ignore_errors=True)

    @contextmanager
    def _aside(self, purpose: str) -> Iterator[Path]:
        """Give a directory on the same disk while a block runs; Triton does not look there."""
        configs = self._network / "configs"
        with writing(self._network):
            configs.mkdir(exist_ok=True)
            directory = Path(tempfile.mkdtemp(prefix=f".{purpose}-", dir=configs))
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)

    def _install(self, directory: Path) -> int:
        while True:
            taken = [int(entry.name) for entry in self._network.iterdir() if entry.name.isdecimal()]
            number = max(taken, default=0) + 1
            try:
                directory.rename(self.directory(number))
            except OSError:
                if not self.directory(number).exists():
                    raise
            else:
                return number  # otherwise somebody else published meanwhile: take the next number
