"""Which model `make up` serves.

It is the one that was asked for, else the one already served, else the official weights. If these
cannot be had, the demo is served, with a warning that nobody overlooks.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from export.choose import Chooser, install
from export.deploy import Deployer, Manner
from export.errors import ChoiceError, Refused
from export.official import OFFICIAL
from export.registry import Registry
from reward import manifest
from reward.errors import CheckpointError
from reward.files import sha256
from tests.hub import Hub, environment, nobody, python
from tests.repository import CHECKOUT, copy_repository
from tests.small import save_small_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# The script's arguments: the repository, the demo's directory, the digest of the official weights,
# the modules that cannot be imported, and the wishes.
_DRIVER: Final = """
import json, sys
from pathlib import Path
repository, demo, digest, absent, wishes = sys.argv[1:]
for name in absent.split():
    sys.modules[name] = None
from export.choose import Chooser
from export.deploy import Deployer, Manner
from export.errors import ExportError
from export.official import Weights
from export.registry import Registry
official = Weights("ImageReward-v1.0", "owner/name", "small.safetensors", digest)
try:
    registry = Registry(Path(repository))
    deployer = Deployer(registry, None, Manner(who="test"))
    Chooser(registry, deployer, print, official=official, demo_directory=Path(demo)).ensure(
        **{name: Path(wish) if name == "checkpoint" else wish for name, wish in json.loads(wishes).items()}
    )
except ExportError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""

NO_TORCH: Final = "torch onnx onnxscript safetensors"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A repository without versions."""
    return Registry(copy_repository(tmp_path / "model_repository"))


@pytest.fixture
def demo(published_repository: Path, tmp_path: Path) -> Path:
    """A published version as the checkout has one: a manifest and the files that it lists."""
    directory = tmp_path / "demo"
    shutil.copytree(published_repository / "image_reward_network" / "1", directory)
    _rewrite(directory, name="demo of shapes")
    return directory


@pytest.fixture
def ensure(registry: Registry, demo: Path) -> Callable[..., list[str]]:
    """Make the choice in this process; return the lines that were printed."""

    def ensure(**wishes: object) -> list[str]:
        said: list[str] = []
        Chooser(registry, _deployer(registry), said.append, demo_directory=demo).ensure(**wishes)  # type: ignore[arg-type]
        return said

    return ensure


def _rewrite(directory: Path, **changes: object) -> None:
    content = dataclasses.replace(manifest.read(directory), **changes)  # type: ignore[arg-type]
    manifest.write(content, directory)


def _deployer(registry: Registry) -> Deployer:
    return Deployer(registry, None, Manner(who="test"))


def _served(registry: Registry) -> tuple[int, str]:
    version = registry.version()
    return version.number, version.manifest.name


def test_a_directory_is_installed_as_the_next_version(registry: Registry, demo: Path) -> None:
    """Only the manifest and the files that it lists are installed, and the version can be run."""
    from reward import runtimes

    (demo / "note.txt").write_text("not listed")
    assert install(registry, demo) == 1
    directory = registry.directory(1)
    assert manifest.read(directory) == manifest.read(demo)
    assert {path.name for path in directory.iterdir()} == {
        "manifest.json",
        "model.py",
        "network.onnx",
        "network.onnx.data",
    }
    assert runtimes.load(directory, threads=1).manifest.name == "demo of shapes"


def test_a_directory_with_a_fault_is_not_installed(registry: Registry, demo: Path) -> None:
    """A faulty directory is refused, and nothing of it is left behind.

    The faults are a missing file, a changed file, no manifest, and another preprocessing.
    """
    before = sorted(registry.directory(1).parent.iterdir())
    content = manifest.read(demo)
    _rewrite(demo, preprocessing="of old")
    with pytest.raises(Refused, match="made for the preprocessing of old"):
        install(registry, demo)
    manifest.write(content, demo)
    (demo / "model.py").write_text("")
    with pytest.raises(Refused, match=r"model\.py: not the file that the manifest names"):
        install(registry, demo)
    (demo / "model.py").unlink()
    with pytest.raises(Refused, match=r"model\.py: cannot be read"):
        install(registry, demo)
    with pytest.raises(Refused, match="missing or not a manifest"):
        install(registry, demo / "nowhere")
    assert sorted(registry.directory(1).parent.iterdir()) == before


def test_the_demo_is_served_once_and_without_banner_when_asked_for(
    registry: Registry, ensure: Callable[..., list[str]]
) -> None:
    """Asked for twice, the demo is published once; after another version it is promoted again."""
    assert ensure(model="demo") == ["model     demo of shapes, version 1"]
    assert ensure(model="demo") == ["model     demo of shapes, version 1"]
    with registry.publishing() as draft:
        shutil.copytree(registry.directory(1), draft.directory, dirs_exist_ok=True)
        _rewrite(draft.directory, name="mine")
    _deployer(registry).promote(2, is_tried=True)
    assert ensure(model="demo") == ["model     demo of shapes, version 1"]
    assert _served(registry) == (1, "demo of shapes")
    assert ensure(model="mine") == ["model     mine, version 2"]
    assert _served(registry) == (2, "mine")


def test_what_is_served_stays(registry: Registry, ensure: Callable[..., list[str]]) -> None:
    """Without a wish, nothing is fetched or published.

    If the demo is what is served, the banner is printed every time.
    """
    ensure(model="demo")
    first, banner = ensure()
    assert first == "model     demo of shapes, version 1"
    assert "THIS IS NOT ImageReward-v1.0" in banner
    assert "make up MODEL=ImageReward-v1.0" in banner
    assert len({len(line) for line in banner.splitlines()}) == 1
    _rewrite(registry.directory(1), name="mine")
    assert ensure() == ["model     mine, version 1"]


def test_what_was_published_before_a_pixel_changed_is_replaced(
    registry: Registry, ensure: Callable[..., list[str]]
) -> None:
    """A version for another preprocessing is not served, because the frontend would refuse it.

    The demo is installed again. For any other model, an error asks for the checkpoint.
    """
    ensure(model="demo")
    _rewrite(registry.directory(1), preprocessing="of old")
    assert ensure()[0] == "model     demo of shapes, version 2"
    assert ensure()[0] == "model     demo of shapes, version 2"
    _rewrite(registry.directory(2), preprocessing="of old", name="mine")
    with pytest.raises(ChoiceError, match="'mine' was published for another preprocessing"):
        ensure()


def test_published_official_weights_need_no_hub(registry: Registry, ensure: Callable[..., list[str]]) -> None:
    """`MODEL=ImageReward-v1.0` promotes the published official weights.

    Another version with that name but other weights is never taken for them.
    """
    ensure(model="demo")
    ensure(model="demo")
    install_as = {"name": OFFICIAL.name, "checkpoint_sha256": OFFICIAL.sha256}
    with registry.publishing() as draft:
        shutil.copytree(registry.directory(1), draft.directory, dirs_exist_ok=True)
        _rewrite(draft.directory, **install_as)
    with registry.publishing() as draft:
        shutil.copytree(registry.directory(1), draft.directory, dirs_exist_ok=True)
        _rewrite(draft.directory, name=OFFICIAL.name)
    assert ensure(model=OFFICIAL.name) == ["model     ImageReward-v1.0, version 2"]


def test_wishes_that_cannot_be_met(ensure: Callable[..., list[str]], tmp_path: Path) -> None:
    """Two wishes at once, an unknown model and a missing checkpoint are refused."""
    with pytest.raises(ChoiceError, match="MODEL and CHECKPOINT exclude each other"):
        ensure(model="demo", checkpoint=tmp_path / "x.pt")
    with pytest.raises(ChoiceError, match=r"no model 'x' is published; there is ImageReward-v1\.0, demo"):
        ensure(model="x")
    with pytest.raises(CheckpointError, match="No such file"):
        ensure(checkpoint=tmp_path / "x.pt")


def test_without_a_hub_the_demo_is_served_and_said_aloud(
    registry: Registry, demo: Path, tmp_path: Path
) -> None:
    """If nothing is wished for, nothing is published and no hub answers, the demo is served.

    The reason, the model and the banner are printed. No torch is needed.
    """
    done = _choose(registry, demo, tmp_path, nobody(), absent=NO_TORCH)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ImageReward-v1.0: http://127.0.0.1:")
    assert "\nmodel     demo of shapes, version 1\n!!!" in done.stdout
    assert "THIS IS NOT ImageReward-v1.0: the demonstration model is served." in done.stdout
    assert _served(registry) == (1, "demo of shapes")
    # The second time the demo is published already: torch is not needed and the hub is not asked.
    again = _choose(registry, demo, tmp_path, nobody(), absent=f"{NO_TORCH} huggingface_hub tqdm onnxruntime")
    assert again.returncode == 0, again.stderr
    assert "THIS IS NOT" in again.stdout


def test_nothing_falls_back_where_the_official_weights_were_asked_for(
    registry: Registry, demo: Path, tmp_path: Path
) -> None:
    """There is no fallback to the demo where the official weights were asked for.

    Nor is there one where the hub has another file, or where no demo exists.
    """
    asked = _choose(registry, demo, tmp_path, nobody(), model=OFFICIAL.name)
    assert asked.returncode == 1
    assert asked.stderr.startswith("HubUnreachable: http://127.0.0.1:")
    with Hub("owner/name/resolve/main/small.safetensors", b"other") as hub:
        wrong = _choose(registry, demo, tmp_path, hub.url)
    assert wrong.stderr.startswith(f"WrongFile: {hub.url} has another small.safetensors")
    bare = _choose(registry, tmp_path / "nowhere", tmp_path, nobody())
    assert bare.stderr.startswith("HubUnreachable: ")
    assert registry.versions() == []


def test_the_official_weights_are_fetched_exported_and_served(
    registry: Registry, demo: Path, tmp_path: Path
) -> None:
    """The official weights are fetched, exported, and served under their own name.

    Where the export tools are missing, the weights are fetched, and then an error asks for the
    tools.
    """
    weights = save_small_checkpoint(tmp_path / "small.safetensors")
    with Hub("owner/name/resolve/main/small.safetensors", weights.read_bytes()) as hub:
        without = _choose(registry, demo, tmp_path, hub.url, digest=sha256(weights), absent=NO_TORCH)
        assert without.returncode == 1
        assert without.stderr.startswith("ToolsMissing: ")
        assert "torch, onnx, onnxscript, safetensors are needed: pip install '.[export]'" in without.stderr
        assert registry.versions() == []
        done = _choose(registry, demo, tmp_path, hub.url, digest=sha256(weights))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "model     ImageReward-v1.0, version 1\n"
    assert "compare with torch" in done.stderr  # the progress bar
    assert "GET" in hub.requests
    assert registry.version().manifest.checkpoint_sha256 == sha256(weights)


def test_a_checkpoint_that_was_named_is_served(
    registry: Registry, demo: Path, published_repository: Path
) -> None:
    """A checkpoint that was named is served, even where another version is served now.

    Its name is the one given with it, else the name of its file. If it holds the official weights,
    it has their name. All versions are published beforehand, so that this test exports nothing.
    """
    weights = published_repository.parent / "small.safetensors"
    for name in ("small", "mine", OFFICIAL.name, "other"):
        _rewrite(demo, name=name)
        install(registry, demo)
    _deployer(registry).promote(4, is_tried=True)
    chooser = Chooser(registry, _deployer(registry), lambda _: None, demo_directory=demo)
    chooser.ensure(checkpoint=weights)
    assert _served(registry) == (1, "small")
    chooser.ensure(checkpoint=weights, name="mine")
    assert _served(registry) == (2, "mine")
    official = dataclasses.replace(OFFICIAL, sha256=sha256(weights))
    chooser = Chooser(registry, _deployer(registry), lambda _: None, official=official, demo_directory=demo)
    chooser.ensure(checkpoint=weights)
    assert _served(registry) == (3, "ImageReward-v1.0")
    assert len(registry.versions()) == 4


@pytest.mark.parametrize("more", [[], ["MODEL=demo"], ["CHECKPOINT=some dir/x.pt", "NAME=my weights"]])
def test_make_installs_the_tools_only_when_they_are_needed(tmp_path: Path, more: list[str]) -> None:
    """`make up` obeys the exit status of `ensure`.

    After 3 it installs the tools and asks again, after 0 it starts, after anything else it stops.
    """
    for statuses, expected in (
        ("3 0", ["ensure", "install", "ensure", "up"]),
        ("0", ["ensure", "up"]),
        ("1", ["ensure"]),
        ("3 1", ["ensure", "install", "ensure"]),
    ):
        commands = _make_up(tmp_path / statuses.replace(" ", ""), statuses, more)
        kinds = [
            next(word for word in command if word in {"ensure", "install", "up"}) for command in commands
        ]
        assert kinds == expected
        wish = commands[0][commands[0].index("ensure") :]
        assert wish[:2] == ["ensure", "--model"]
        assert wish[2] == ("demo" if more == ["MODEL=demo"] else "")
        if more and more[0].startswith("CHECKPOINT"):
            assert wish[3:] == ["--name", "my weights", "--checkpoint", "some dir/x.pt"]


def test_make_publish_says_at_once_that_it_needs_a_checkpoint(tmp_path: Path) -> None:
    """`make publish` without a checkpoint is refused in one line, before anything is installed."""
    command = ["make", "-C", str(CHECKOUT), "publish", f"VENV={tmp_path}/venv", "INSTALL=false"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("error: say which: make publish CHECKPOINT=path/to/ImageReward.pt\n")
    assert not (tmp_path / "venv").exists()


def _make_up(venv: Path, statuses: str, more: list[str]) -> list[list[str]]:
    """Run `make up` with a fake Python and return the commands that it received.

    The fake answers each `ensure` with the next one of these statuses.
    """
    (venv / "bin").mkdir(parents=True)
    (venv / "statuses").write_text(statuses)
    fake = venv / "bin" / "python"
    fake.write_text(
        "#!/usr/bin/env python3\n"
        "import json, pathlib, sys\n"
        "home = pathlib.Path(__file__).parents[1]\n"
        "with (home / 'log').open('a') as log:\n"
        "    log.write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "if 'ensure' in sys.argv:\n"
        "    status, *rest = (home / 'statuses').read_text().split()\n"
        "    (home / 'statuses').write_text(' '.join(rest))\n"
        "    sys.exit(int(status))\n"
    )
    fake.chmod(0o755)
    (venv / ".serve").touch()
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-C", str(CHECKOUT), "up", f"VENV={venv}", f"INSTALL={fake} install", *more]
    subprocess.run(command, env=env, capture_output=True, check=False)
    return [json.loads(line) for line in (venv / "log").read_text().splitlines()]


def _choose(
    registry: Registry,
    demo: Path,
    cache: Path,
    endpoint: str,
    *,
    digest: str = "0" * 64,
    absent: str = "",
    **wishes: str,
) -> subprocess.CompletedProcess[str]:
    arguments = [str(registry.repository), str(demo), digest, absent, json.dumps(wishes)]
    return python(environment(cache / "hub", endpoint), "-c", _DRIVER, *arguments)
