"""Which model `make up` serves.

It is the one that was asked for, else the one already served, else the official weights. Only if
nothing was asked for and the hub cannot be reached, the demonstration model takes their place, and
says so. Only `make up` uses this module, so nothing else ever falls back.

torch is imported only to export a checkpoint: neither a published version nor the demonstration
model needs it.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from export.checks import check
from export.errors import ChoiceError, HubUnreachable, ToolsMissing
from export.official import OFFICIAL
from export.placement import PRECISIONS
from reward import deployment, manifest, preprocess
from reward.errors import VersionError
from reward.files import sha256

if TYPE_CHECKING:
    from collections.abc import Callable

    from export.deploy import Deployer
    from export.official import Weights
    from export.registry import Registry
    from reward.manifest import Manifest

DEMO: Final = "demo"
"""The demonstration model's name in `MODEL=`, whatever its manifest calls it."""

DEMO_DIRECTORY: Final = Path(__file__).parents[1] / "demo" / "model"

_TOOLS: Final = ("torch", "onnx", "onnxscript", "safetensors", "tqdm")


class Chooser:
    """Make one model repository serve what it should."""

    def __init__(
        self,
        registry: Registry,
        deployer: Deployer,
        say: Callable[[str], None],
        *,
        official: Weights = OFFICIAL,
        demo_directory: Path = DEMO_DIRECTORY,
    ) -> None:
        self._registry = registry
        self._deployer = deployer
        self._say = say
        self._official = official
        self._demo_directory = demo_directory
        self._precision = ""

    def ensure(
        self, *, model: str = "", checkpoint: Path | None = None, name: str = "", precision: str = ""
    ) -> None:
        """Make sure that a version is published and served.

        Args:
            model: `demo`, the official weights' name, or the name of a published version; empty if
                nothing is wished for.
            checkpoint: to be published, unless it is published already.
            name: of the checkpoint's weights; by default the official name if they are the official
                weights, else the file's.
            precision: to publish and to serve, on the device that it is for; by default whatever is
                published, or else fp32.

        Raises:
            ChoiceError: the wishes contradict each other, or cannot be met.
            ToolsMissing: a checkpoint has to be exported, and the tools for it are not installed.
            FetchError: the official weights were asked for and cannot be had.
            ExportError: it cannot be promoted; see `export.deploy`.
        """
        self._precision = precision
        self._deployer.keep()
        if model and checkpoint:
            raise ChoiceError("MODEL and CHECKPOINT exclude each other")
        if checkpoint:
            self._publish(checkpoint, name)
        elif model:
            self._serve(model)
        elif (served := self._served()) is None:
            self._publish_official_or_install_demo()
        elif served.preprocessing != preprocess.digest() or precision not in ("", served.precision):
            self._serve(served.name)  # else, after a change of pixels, the frontend would refuse it
        version = self._registry.version()
        self._say(f"model     {version.manifest.name}, version {version.number}")
        if model != DEMO and version.manifest.name == self._demo_name():
            self._say(self._banner())

    def _served(self) -> Manifest | None:
        if not self._registry.versions():
            return None
        return self._registry.version().manifest

    def _serve(self, name: str) -> None:
        if name in {DEMO, self._demo_name()}:
            self._install_demo()
        elif name == self._official.name:
            self._publish_official()
        else:
            self._serve_by_name(name)

    def _publish_official_or_install_demo(self) -> None:
        try:
            self._publish_official()
        except HubUnreachable as error:
            if not (self._demo_directory / manifest.FILE_NAME).exists():
                raise
            self._say(f"{self._official.name}: {error}")
            self._install_demo()

    def _publish_official(self) -> None:
        if self._serve_published(self._official.name, self._official.sha256):
            return
        from export.fetch import fetch  # noqa: PLC0415 - a published version needs no hub

        self._publish(fetch(self._official), self._official.name)

    def _publish(self, checkpoint: Path, name: str) -> None:
        digest = sha256(checkpoint)
        if not name:
            name = self._official.name if digest == self._official.sha256 else checkpoint.stem
        if self._serve_published(name, digest):
            return
        missing = [tool for tool in _TOOLS if find_spec(tool) is None]
        if missing:
            raise ToolsMissing(
                f"{checkpoint} has to be exported once; {', '.join(missing)} are needed: pip install '.[export]'"
            )
        from export.publish import Recipe, publish  # noqa: PLC0415 - torch takes seconds to import

        precision = self._precision or "fp32"
        recipe = Recipe(checkpoint, name, precision=precision, device=PRECISIONS[precision][0])
        self._promote(publish(self._registry, recipe))

    def _serve_by_name(self, name: str) -> None:
        if not self._serve_published(name):
            published = {version.manifest.name for version in self._registry.versions()}
            if name in published:
                raise ChoiceError(
                    f"{name!r} was published for another preprocessing or precision: publish its checkpoint again "
                    "(make up CHECKPOINT=… PRECISION=…)"
                )
            known = sorted({DEMO, self._official.name} | published)
            raise ChoiceError(f"no model {name!r} is published; there is {', '.join(known)}")

    def _install_demo(self) -> None:
        content = manifest.read(self._demo_directory)
        if self._precision not in ("", content.precision):
            raise ChoiceError(f"{content.name} is there in {content.precision} alone, for the CPU")
        if not self._serve_published(content.name, content.checkpoint_sha256):
            self._promote(install(self._registry, self._demo_directory))

    def _serve_published(self, name: str, checkpoint_sha256: str | None = None) -> bool:
        version = self._registry.find(name, checkpoint_sha256, precision=self._precision)
        if version is not None and version.number != deployment.read(self._registry.repository).stable:
            self._promote(version.number)
        return version is not None

    def _promote(self, number: int) -> None:
        # The graph was compared when it was published. If no Triton runs, Triton's start is the
        # trial.
        self._deployer.promote(number, is_tried=True)

    def _demo_name(self) -> str | None:
        try:
            return manifest.read(self._demo_directory).name
        except VersionError:
            return None

    def _banner(self) -> str:
        name = self._official.name
        lines = [
            f"THIS IS NOT {name}: the demonstration model is served.",
            "It knows drawn shapes and colours; its scores of photographs and art mean nothing.",
            "",
            f"The official weights, once there is a network:   make up MODEL={name}",
            f"or brought by hand:                              make up CHECKPOINT={self._official.file_name}",
            f"To serve this model without this banner:         make up MODEL={DEMO}",
        ]
        width = max(map(len, lines))
        rule = "!" * (width + 6)
        return "\n".join([rule, *(f"!! {line:<{width}} !!" for line in lines), rule])


def install(registry: Registry, directory: Path) -> int:
    """Copy a directory as the next version; return the version's number.

    Copied are the manifest and the files that it lists.

    Raises:
        Refused: a file is missing or damaged, or the version was made for another preprocessing.
    """
    content = check(directory, below_gates=True)
    with registry.publishing() as draft:
        for name in (*content.files, manifest.FILE_NAME):
            shutil.copyfile(directory / name, draft.directory / name)
    return draft.number
