"""Takes a running Triton from one version to another; at every moment it serves one of them."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from export.errors import TritonFailed
from export.trial import questions
from reward import deployment
from reward.contract import ENSEMBLE, NETWORK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from export.deployment_store import DeploymentStore
    from export.running_triton import RunningTriton
    from reward.deployment import Deployment

MAX_FAILURE_SHARE: Final = 0.05
"""The largest share of failed requests while a version is watched, this command's own included."""

_SAME_SCORE: Final = 0.02  # by which a version may differ from its trial: other batches, another device
_WATCH_POLL_S: Final = 0.25


class LiveSwitch:
    """One running Triton, and the files that say what it loads."""

    def __init__(
        self,
        triton: RunningTriton,
        store: DeploymentStore,
        repository: Path,
        *,
        say: Callable[[str], None],
        step: Callable[[str], None],
        room: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        """Take a running Triton; `room` gives a version memory while it is loaded beside others."""
        self._room = room
        self._triton = triton
        self._store = store
        self._repository = repository
        self._say = say
        self._step = step

    def go_over(
        self, before: Deployment, target: Deployment, *, number: int, expected: list[float] | None
    ) -> None:
        """Load the new version beside the old one, check its answers, and switch over to it.

        Args:
            before: what is served.
            target: what is to be served.
            number: of the version that is new, or comes back.
            expected: its answers to the fixed questions in its trial; None if it was not tried.

        Raises:
            NoSecondShare: there is no memory for both; nothing has changed.
            TritonFailed, CannotWrite: what is served may be the old or the new.
        """
        both = self.published({*before.versions, *target.versions})
        # A version that was deleted by hand cannot be loaded, so the files must not name it as
        # served.
        meanwhile = before if before.stable in both else target
        if number not in before.versions:
            self._say(f"loading version {number} beside {before.stable}")
        with self._room(number):
            self._store.write(meanwhile, loaded=both)
            self._step("load both")
            self._load(both)
        self._step("warm up")
        _compare(self._triton.score(number, questions()), expected)
        self._store.write(target, loaded=both)
        self._step("switch the ensemble")
        self._triton.load(ENSEMBLE)

    def replace(self, target: Deployment, number: int) -> None:
        """Unload the old version before the new one is loaded: there is no memory for both.

        Raises:
            TritonFailed, CannotWrite: nothing may be loaded.
        """
        self._say("unloading the old version first; requests wait")
        self._step("unload")
        self.clear(target)
        self._step("load alone")
        self._triton.load(ENSEMBLE)  # and the network with it
        self._step("warm up")
        self._triton.score(number, questions())

    def clear(self, target: Deployment) -> None:
        """Unload everything; what is loaded from now on is the target's.

        Raises:
            TritonFailed, CannotWrite: what was served may be loaded still.
        """
        self._triton.unload()
        self._step("unloaded")
        self._store.write(target)
        # A keeper may have loaded the former version once more before it saw the change.
        if not self._triton.loaded() <= set(target.versions):
            self._triton.unload()

    def watch(self, number: int, *, watch_s: float) -> None:
        """Count failures for a while.

        Raises:
            TritonFailed: too many of its answers are errors.
        """
        self._step("watch")
        self._say(f"watching version {number} for {watch_s:g} s")
        one = questions()[0][:1], questions()[1][:1], questions()[2][:1]
        start = self._triton.counts(number)
        deadline_s = time.monotonic() + watch_s
        while time.monotonic() < deadline_s:
            self._triton.score(number, one)
            now = self._triton.counts(number)
            failures = now.failures - start.failures
            requests = failures + now.successes - start.successes
            if failures > MAX_FAILURE_SHARE * requests:
                raise TritonFailed(f"version {number} failed {failures} of {requests} requests")
            time.sleep(_WATCH_POLL_S)

    def drop(self, content: Deployment) -> None:
        """Unload what is no longer served, once it has answered what it was asked.

        Raises:
            TritonFailed: it is still loaded.
            CannotWrite: it is still loaded, and Triton will load it at its next start, too.
        """
        self._store.write(content)
        self._step("drop the old")
        self._load(self.published(content.versions))
        self._triton.wait_for(self.published(content.versions))

    def settle(self, content: Deployment) -> None:
        """Make Triton serve this; at every moment it serves something.

        Raises:
            TritonFailed, CannotWrite: something is in the way; the next command tries again.
        """
        both = self.published({*content.versions, *self._triton.loaded()})
        self._store.write(content, loaded=both)
        self._load(both)
        self._triton.load(ENSEMBLE)
        self.drop(content)

    def _load(self, versions: list[int]) -> None:
        # First the ensemble: it may not take more rows than the network, which may take fewer from
        # now on. Triton loads the network with it.
        self._triton.load(ENSEMBLE)
        self._triton.load(NETWORK)
        missing = set(versions) - self._triton.loaded()
        if missing:
            raise TritonFailed(
                f"Triton does not load version {max(missing)}: was it started with --model-config-name=served?"
            )

    def published(self, versions: Iterable[int]) -> list[int]:
        """Return those of these versions that exist: one may have been deleted by hand."""
        return sorted(set(versions) & set(deployment.published(self._repository)))


def _compare(scores: list[float], expected: list[float] | None) -> None:
    """Compare Triton's answers with those of the trial.

    Raises:
        TritonFailed: the answers are those of another network.
    """
    if expected is None:
        return
    difference = max(abs(one - other) for one, other in zip(scores, expected, strict=True))
    if not difference <= _SAME_SCORE:
        raise TritonFailed(f"in Triton it scores otherwise than in its trial, by {difference:.2g}")
