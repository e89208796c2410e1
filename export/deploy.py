"""Changes which version is served: promote, canary, shadow, roll back; live if Triton runs.

    check, try beside  nothing has changed yet; a version that is refused here had no request
    load beside        old and new are loaded, the old one answers     files: old, both loaded
    warm up            the new one answers the fixed questions as it did in its trial
    switch             frontends and ensemble go over to the new one   files: new, both loaded
    watch              failures of the new one are counted
    drop               the old one is unloaded once it has answered    files: new

If a step before the last one fails, the old version is served again. If this process itself is
killed, the files name the old or the new version, both are loaded, and the next command tidies up.
"""

from __future__ import annotations

import compileall
import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from export.checks import check
from export.deployment_store import DeploymentStore
from export.errors import (
    CannotWrite,
    ExportError,
    NoSecondShare,
    Refused,
    RegistryError,
    TritonFailed,
    TritonGone,
    Undone,
)
from export.live_switch import LiveSwitch
from export.placement import place
from export.second_share import second_share
from export.served_config import network_settings
from export.trial import trial
from reward import deployment
from reward.deployment import Change, Deployment, Share

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from export.registry import Registry
    from export.running_triton import RunningTriton
    from export.second_share import LedgerSettings


@dataclass(frozen=True)
class Manner:
    """How a change is made."""

    who: str
    why: str = ""
    watch_s: float = 5.0
    """How long a new version is watched. It must be longer than the second for which frontends
    remember what is served.
    """
    load_timeout_s: float = 300.0
    start_timeout_s: float = 60.0
    """How long to wait for a Triton that is noted as running but does not answer yet."""
    replace: bool = False
    """Unload the old version before the new one is loaded, for want of memory for both."""
    ledger: LedgerSettings | None = None
    """Who gives memory for both versions on a shared GPU; None if the GPU is not shared."""


@dataclass(frozen=True)
class Outcome:
    """What became of a change."""

    stable: int
    is_changed: bool
    is_live: bool
    """Whether Triton serves it now. Else it does so from its next start, or when the model is
    loaded.
    """
    says: str


class Deployer:
    """Change what one model repository serves."""

    def __init__(
        self,
        registry: Registry,
        triton: RunningTriton | None,
        manner: Manner,
        *,
        say: Callable[[str], None] = lambda _: None,
        on_checked: Callable[[], None] = lambda: None,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take the parts; change nothing yet.

        Args:
            registry: of the model repository.
            triton: that runs on it; None if none runs.
            manner: how changes are made.
            say: called with one line for each thing that is being done.
            on_checked: called when all checks are passed and Triton is next.
            step: called before each step that a crash could separate from the next one.
        """
        self._registry = registry
        self._store = DeploymentStore(registry.repository, step=step)
        self._triton = triton
        self._manner = manner
        self._say = say
        self._on_checked = on_checked
        self._step = step

    def promote(
        self,
        number: int,
        *,
        canary: float | None = None,
        shadow: float | None = None,
        device: str | None = None,
        backend: str | None = None,
        force: bool = False,
        is_tried: bool = False,
    ) -> Outcome:
        """Make a version the stable one, or the canary or the shadow beside it.

        Args:
            number: of the version.
            canary: the share of the questions that it answers beside the stable one.
            shadow: the share of the questions that it scores too, without answering.
            device: `cpu` or `gpu`; None takes the one that the stable version was published for.
            backend: of Triton; None leaves it as it is, where the version can be run by it.
            force: accept a version that did not pass the gates, and one for a GPU on a CPU.
            is_tried: whether it needs no further trial if no Triton runs.

        Raises:
            RegistryError: it is not published.
            Refused: a check failed; nothing has changed.
            NoSecondShare: a shared GPU has no memory for both; nothing has changed.
            Undone: it failed in Triton, and the old version is served again.
            Busy, CannotWrite, TritonFailed: nothing has changed.
        """
        self._registry.version(number)
        with self._store.locked():
            before = self._store.read()
            target = _target(before, number, canary, shadow)
            target = place(target, self._registry, device=device, backend=backend, force=force)
            is_same = before is not None and dataclasses.replace(target, history=before.history) == before
            if before is not None and is_same and self._store.is_explicit:
                return self._tidy(before)
            check(self._registry.directory(number), below_gates=force)
            action = "canary" if canary is not None else "shadow" if shadow is not None else "promote"
            return self._change(before, target, number, action, is_tried=is_tried)

    def rollback(self) -> Outcome:
        """Undo the last change: end a canary and a shadow, or else serve the version before.

        Raises:
            RegistryError: there is nothing to go back to.
            Refused, Undone, Busy, CannotWrite, TritonFailed: as in `promote`.
        """
        with self._store.locked():
            before = self._store.read()
            if before is None:
                raise RegistryError(f"nothing is published in {self._registry.repository}")
            number = before.stable
            if before.canary is None and before.shadow is None:
                earlier = before.earlier_stable
                if earlier is None:
                    raise RegistryError("no other version was served before the present one")
                number = earlier
                check(self._registry.directory(number), below_gates=True)
            target = dataclasses.replace(before, stable=number, canary=None, shadow=None)
            target = place(target, self._registry, force=True)
            return self._change(before, target, number, "rollback", is_tried=True)

    def keep(self) -> None:
        """Write down what is served, if nobody has done so yet.

        From then on a newer version does not take its place by itself.
        """
        with self._store.locked():
            content = self._store.read()
            if content is not None and not self._store.is_written(content):
                self._store.write(content)

    def prune(self, keep: int) -> list[int]:
        """Remove all but the newest `keep` versions; return the numbers of the removed ones.

        A version that is served, loaded, or needed by a rollback stays.

        Raises:
            Busy, CannotWrite, TritonFailed: some may have been removed, and none is left half
                removed.
        """
        with self._store.locked():
            content = self._store.read()
            published = deployment.published(self._registry.repository)
            protected = set(published[max(0, len(published) - keep) :])
            if content is not None:
                protected |= {*content.versions, content.earlier_stable or content.stable}
            if self._triton is not None and self._triton.is_up():
                protected |= self._triton.loaded()
            removed = [number for number in published if number not in protected]
            for number in removed:
                self._registry.remove(number)
            self._registry.remove_left_over()
            return removed

    def _change(
        self, before: Deployment | None, target: Deployment, number: int, action: str, *, is_tried: bool
    ) -> Outcome:
        is_first = before is None or (before.stable == number and not self._store.is_explicit)
        stable = None if before is None or is_first else before.stable
        history = (*target.history, self._entry(action, stable, number, self._manner.why))
        target = dataclasses.replace(target, history=history)
        self._compile(target.versions)
        triton = self._triton
        is_up = triton is not None and self._is_up(triton)
        is_live = triton is not None and is_up and bool(triton.loaded())
        if triton is None or before is None or not is_live:
            if not is_tried:
                self._try(target, number)
            self._store.write(target)
            if triton is not None and not is_up and triton.is_up() and triton.loaded():
                self._switch(triton).settle(target)  # it has started meanwhile, perhaps with the former files
                return Outcome(target.stable, True, True, _said(target))
            when = "when the model is next loaded" if is_up else "from the next start of Triton"
            missing = "the model is not loaded" if is_up else "no Triton runs"
            return Outcome(target.stable, True, False, f"{_said(target)} {when}: {missing}")
        return self._change_live(triton, before, target, number)

    def _change_live(
        self, triton: RunningTriton, before: Deployment, target: Deployment, number: int
    ) -> Outcome:
        manner, switch = self._manner, self._switch(triton)
        if (target.device, target.backend) != (before.device, before.backend) and not manner.replace:
            raise Refused(
                f"Triton cannot have version {before.stable} ({before.backend} on the {before.device}) beside "
                f"{number} ({target.backend} on the {target.device}): --replace unloads the old one first"
            )
        has_room = number not in before.versions and not manner.replace
        expected = self._try(target, number) if has_room else None
        self._on_checked()
        try:
            if manner.replace:
                switch.replace(target, number)
            else:
                switch.go_over(before, target, number=number, expected=expected)
            switch.watch(number, watch_s=manner.watch_s)
        except NoSecondShare:
            raise  # nothing has changed
        except (ExportError, KeyboardInterrupt) as error:
            raise self._undone(triton, before, number, error) from error
        says = _said(target)
        try:
            switch.drop(target)
        except TritonGone as error:
            return Outcome(target.stable, True, False, f"{says} from the next start of Triton: {error}")
        except TritonFailed as error:
            return Outcome(target.stable, True, True, f"{says}; the old one is loaded still: {error}")
        return Outcome(target.stable, True, True, says)

    def _undone(
        self, triton: RunningTriton, before: Deployment, number: int, error: BaseException
    ) -> ExportError:
        """Have the old version served again; return the error to be raised."""
        # Where an interrupt strikes a codec at work, Python gives it that codec's words.
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        entry = self._entry("failed", before.stable, number, reason)
        content = dataclasses.replace(before, history=(*before.history, entry))
        if isinstance(error, TritonGone):
            triton.wait_until_up(self._manner.start_timeout_s)
        try:
            if self._manner.replace:
                self._switch(triton).clear(content)  # no memory for both on the way back either
            self._switch(triton).settle(content)
        except CannotWrite as failure:
            return CannotWrite(f"{reason}; and to serve version {before.stable} again failed: {failure}")
        except TritonFailed as failure:
            self._store.write(content)
            return Undone(
                f"{reason}; version {before.stable} is served from the next start of Triton: {failure}"
            )
        return Undone(f"{reason}; version {before.stable} is served as before")

    def _tidy(self, content: Deployment) -> Outcome:
        """Bring files and Triton in line with what is served, after a command that was killed."""
        triton = self._triton
        says = f"{_said(content)} already"
        if triton is None or not triton.is_up() or not triton.loaded():
            if not self._store.is_written(content):
                self._store.write(content)
            return Outcome(content.stable, False, False, says)
        is_tidy = triton.loaded() == set(content.versions) and triton.scored_by() == content.stable
        if is_tidy and self._store.is_written(content):
            return Outcome(content.stable, False, True, says)
        self._switch(triton).settle(content)
        return Outcome(content.stable, False, True, f"{says}; what an earlier command had left was tidied up")

    def _try(self, target: Deployment, number: int) -> list[float]:
        self._say(f"trying version {number} in a process of its own")
        settings = network_settings(self._registry.repository, target)
        return trial(self._registry.directory(number), settings, timeout_s=self._manner.load_timeout_s)

    def _is_up(self, triton: RunningTriton) -> bool:
        if triton.is_up():
            return True
        self._say(
            f"no Triton answers at {triton.url}; waiting {self._manner.start_timeout_s:g} s for its start"
        )
        return triton.wait_until_up(self._manner.start_timeout_s)

    def _compile(self, versions: tuple[int, ...]) -> None:
        """Write the bytecode before Triton's Python does.

        To Triton that would be a change, and the next load would load the version anew.
        """
        for number in versions:
            compileall.compile_dir(self._registry.directory(number), quiet=2)

    def _switch(self, triton: RunningTriton) -> LiveSwitch:
        def room(number: int) -> AbstractContextManager[None]:
            if number in triton.loaded():
                return nullcontext()
            directory = self._registry.directory(number)
            return second_share(self._manner.ledger, server_id=triton.server_id(), directory=directory)

        return LiveSwitch(
            triton, self._store, self._registry.repository, say=self._say, step=self._step, room=room
        )

    def _entry(self, action: str, before: int | None, after: int, why: str) -> Change:
        return Change(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            who=self._manner.who,
            action=action,
            before=before,
            after=after,
            why=why,
        )


def _target(before: Deployment | None, number: int, canary: float | None, shadow: float | None) -> Deployment:
    """Return what is to be served.

    Raises:
        RegistryError: there is no other version beside which this one could be canary or shadow.
    """
    if canary is None and shadow is None:
        return dataclasses.replace(before or Deployment(number), stable=number, canary=None, shadow=None)
    if before is None or before.stable == number:
        raise RegistryError(f"version {number} is the stable one, or none is: promote another one beside it")
    if canary is not None:
        return dataclasses.replace(before, canary=Share(number, canary))
    assert shadow is not None
    return dataclasses.replace(before, shadow=Share(number, shadow))


def _said(content: Deployment) -> str:
    says = f"version {content.stable} is served"
    for name, share in (("canary", content.canary), ("shadow", content.shadow)):
        if share is not None:
            says += f", {name} {share.version} for {share.share * 100:g} %"
    return says
