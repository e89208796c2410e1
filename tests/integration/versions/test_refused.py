"""A version that must not be served is refused; the served one goes on serving."""

from __future__ import annotations

import asyncio
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import tritonclient.http

from export.errors import Refused, TritonFailed, Undone
from frontend.triton.model_control import ModelControl
from reward import deployment
from reward.contract import ENSEMBLE
from tests.integration.servers import ADMIN_KEY
from tests.integration.versions import flawed
from tests.integration.versions.flawed import publish_copy
from tests.integration.versions.serving import Serving, of_picture, under_load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


def _of_a_command(serving: Serving) -> None:
    serving.triton.load(ENSEMBLE)


def _of_a_keeper(serving: Serving) -> None:
    asyncio.run(ModelControl(serving.server.url, ADMIN_KEY, load_timeout_s=60, served=lambda: [2]).load())


def _write(files: Mapping[Path, bytes]) -> None:
    for path, content in files.items():
        path.write_bytes(content)


@pytest.fixture(scope="module")
def serving(two_networks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One Triton for all tests; each test leaves version 1 served."""
    directory = tmp_path_factory.mktemp("refused")
    repository = shutil.copytree(two_networks, directory / "model_repository", symlinks=True)
    running = Serving(repository, directory)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def test_a_flawed_version_never_reaches_triton(serving: Serving) -> None:
    """A flawed version is refused with its reason, before Triton hears of it.

    It may be damaged, made for another preprocessing, or below its gates. It may raise an error,
    die, or score NaN.
    """
    registry = serving.registry
    damaged = publish_copy(registry, 2)
    (registry.directory(damaged) / "network.onnx").write_bytes(b"something else")
    incomplete = publish_copy(registry, 2)
    (registry.directory(incomplete) / "network.onnx.data").unlink()
    reasons = {
        damaged: r"network\.onnx: not the file that the manifest names: publish its checkpoint again",
        incomplete: r"network\.onnx\.data: cannot be read: No such file or directory: publish",
        publish_copy(registry, 2, preprocessing="of old"): "made for the preprocessing of old",
        publish_copy(registry, 2, gates={"passed": False}): "did not pass the gates",
        publish_copy(registry, 2, model=flawed.RAISES): "RuntimeError: this version does not even load",
        publish_copy(registry, 2, model=flawed.SCORES_NAN): "the network gave a reward that is not finite",
        publish_copy(registry, 2, model=flawed.DIES): "its process ended with status 9",
    }
    before = deployment.read(serving.repository).history
    with under_load(serving, [1]) as load:
        for number, reason in reasons.items():
            with pytest.raises(Refused, match=reason):
                serving.deployer().promote(number)
            assert serving.triton.loaded() == {1}
    assert load.failures == []
    assert serving.serves() == 1
    assert deployment.read(serving.repository).history == before


def test_the_command_says_it_in_one_line(serving: Serving) -> None:
    """The command gives the reason in one line, with an exit status of its own.

    `verify` finds the same flaw and changes nothing.
    """
    number = publish_copy(serving.registry, 2, model=flawed.RAISES)
    for command in ("promote", "verify"):
        done = serving.command(command, str(number))
        assert done.returncode == 4
        assert done.stdout == ""
        assert done.stderr.splitlines()[-1] == (
            f"error: {serving.registry.directory(number)}: RuntimeError: this version does not even load"
        )
    assert serving.command("verify", "2").stdout == "version 2 is whole, and scores\n"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (flawed.RAISES_IN_TRITON_ALONE, "not in this Triton"),
        (flawed.SCORES_OTHERWISE_IN_TRITON, "it scores otherwise than in its trial, by 1"),
        (flawed.FAILS_AFTER_A_WHILE, "internal error"),
    ],
    ids=["does not load", "scores otherwise", "fails after a while"],
)
def test_what_fails_in_triton_is_undone(serving: Serving, model: str, reason: str) -> None:
    """If a version fails in Triton, the old one is served again without help.

    It was served through Triton all the time, and the history says why.
    """
    number = publish_copy(serving.registry, 1, model=model)
    with pytest.raises(Undone, match=rf"{reason}.*; version 1 is served as before"):
        serving.deployer(watch_s=5).promote(number)
    assert serving.serves() == 1
    last = deployment.read(serving.repository).history[-1]
    assert (last.action, last.before, last.after) == ("failed", 1, number)
    assert reason in last.why


def test_a_version_below_its_gates_can_be_forced(serving: Serving) -> None:
    """A version below its gates can be promoted by `--force`."""
    number = publish_copy(serving.registry, 2, gates={"passed": False})
    serving.deployer().promote(number, force=True)
    assert serving.serves() == number
    serving.deployer().rollback()


def test_where_there_is_no_memory_for_both_the_old_one_is_unloaded_first(serving: Serving) -> None:
    """Without memory for both, the two versions are never loaded together.

    That is so although a keeper loads, in between, what was served before. A version that fails
    then is replaced by the old one again.
    """
    loaded = set()

    def step(name: str) -> None:
        loaded.add(frozenset(serving.triton.loaded()))
        if name == "unloaded":
            with suppress(TritonFailed):
                _of_a_command(serving)  # as a keeper does that has not seen the change

    deployer = serving.deployer(replace=True, step=step, watch_s=5)
    deployer.promote(2)
    assert serving.serves() == 2
    flaws = {
        publish_copy(serving.registry, 1, model=flawed.RAISES_IN_TRITON_ALONE): "not in this Triton",
        publish_copy(serving.registry, 1, model=flawed.FAILS_AFTER_A_WHILE): "internal error",
    }
    for flaw, reason in flaws.items():
        with pytest.raises(Undone, match=f"{reason}.*; version 2 is served as before"):
            deployer.promote(flaw)
        assert serving.serves() == 2
    assert loaded == {frozenset(), *(frozenset({version}) for version in (1, 2, flaw))}
    deployer.rollback()
    assert serving.serves() == 1


@pytest.mark.parametrize("loads", [_of_a_command, _of_a_keeper], ids=["command", "keeper"])
def test_a_load_in_between_is_repeated(serving: Serving, loads: Callable[[Serving], None]) -> None:
    """Triton may read the network's file after a change, and the ensemble's before it.

    It refuses the ensemble then. What loads it tries again, and is told of nothing.
    """
    files: dict[int, dict[Path, bytes]] = {}
    for change in (lambda: None, lambda: serving.deployer(replace=True).promote(2)):
        change()
        paths = serving.repository.glob("*/configs/served.pbtxt")
        files[len(files) + 1] = {path: path.read_bytes() for path in paths}
    serving.triton.unload()
    _write({path: content for path, content in files[1].items() if path.parts[-3] == ENSEMBLE.name})
    with ThreadPoolExecutor(1) as other:
        loading = other.submit(loads, serving)
        while serving.triton.states().get(2) != "READY":
            assert not loading.done(), loading.result()
        _write(files[2])
        loading.result()
    assert serving.serves() == 2
    serving.deployer(replace=True).rollback()
    assert serving.serves() == 1


def test_a_version_that_was_deleted_by_hand(serving: Serving) -> None:
    """`list` says that a version deleted by hand is missing.

    Another one can be promoted while Triton still has the deleted one in memory.
    """
    directory = serving.registry.directory(1)
    aside = directory.rename(directory.with_name("aside"))
    assert "MISSING: deleted by hand? promote another version" in serving.command("list").stdout
    serving.deployer().promote(2)
    assert serving.serves() == 2
    done = serving.command("rollback")
    assert done.returncode == 4
    assert "was it deleted by hand? publish its checkpoint again" in done.stderr
    aside.rename(directory)
    serving.deployer().promote(1)


def test_a_version_that_loads_slowly_holds_up_nobody(serving: Serving, tmp_path: Path) -> None:
    """While a version loads slowly, a connection that was kept alive is still answered.

    The version that is served answers.
    """
    go = tmp_path / "go"
    model = flawed.LOADS_SLOWLY.replace("GO", str(go))
    number = publish_copy(serving.registry, 2, model=model)
    with serving.http() as client, ThreadPoolExecutor(1) as thread:
        assert client.is_server_live()
        promotion = thread.submit(serving.deployer().promote, number)
        try:
            while not client.is_model_ready(ENSEMBLE.name) or number not in serving.triton.states():
                assert not promotion.done(), promotion.result()
                time.sleep(0.05)
            client.infer(ENSEMBLE.name, of_picture(tritonclient.http))
            assert serving.triton.states()[number] == "LOADING"
        finally:
            go.touch()
        assert promotion.result().stable == number
    serving.deployer().rollback()
    assert serving.serves() == 1
