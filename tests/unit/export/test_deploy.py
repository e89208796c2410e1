"""Promotions, canaries, rollbacks and removals where no Triton runs.

tests/integration/versions has the same with a Triton.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from export.deploy import Deployer, Manner
from export.errors import Refused, RegistryError
from export.registry import Registry
from reward import deployment, manifest, preprocess
from reward.deployment import Deployment, Share
from tests.repository import copy_repository

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry whose versions have no files, so that nothing can be tried."""
    registry = Registry(copy_repository(tmp_path / "model_repository"))
    _publish(registry)
    return registry


@pytest.fixture
def deployer(registry: Registry) -> Deployer:
    """A deployer with version 1 served, as written down, and three more published."""
    deployer = Deployer(registry, None, Manner(who="Zoë", why="the reason"))
    deployer.promote(1, is_tried=True)
    for _ in range(3):
        _publish(registry)
    return deployer


def _publish(registry: Registry) -> None:
    with registry.publishing() as draft:
        content = manifest.Manifest(
            "name", "0" * 64, "fp32", "none", 0, preprocess.digest(), {}, {}, {}, "now"
        )
        manifest.write(content, draft.directory)


def _read(registry: Registry) -> Deployment:
    return deployment.read(registry.repository)


def test_the_history_says_who_when_from_to_and_why(registry: Registry, deployer: Deployer) -> None:
    """The history says who changed what, when and why, from the first promotion on.

    A promotion of what is served already is not a change.
    """
    outcome = deployer.promote(3, is_tried=True)
    assert (outcome.stable, outcome.is_changed, outcome.is_live) == (3, True, False)
    assert outcome.says == "version 3 is served from the next start of Triton: no Triton runs"
    again = deployer.promote(3, is_tried=True)
    assert (again.is_changed, again.says) == (False, "version 3 is served already")
    first, second = _read(registry).history
    assert (first.who, first.action, first.before, first.after) == ("Zoë", "promote", None, 1)
    assert (second.before, second.after, second.why) == (1, 3, "the reason")
    assert first.at <= second.at


def test_rollback_goes_back_step_by_step(registry: Registry, deployer: Deployer) -> None:
    """Each rollback goes one step back, to the first version and no farther.

    After another promotion, a rollback returns to where that one began.
    """
    for number in (2, 3):
        deployer.promote(number, is_tried=True)
    assert [deployer.rollback().stable for _ in range(2)] == [2, 1]
    with pytest.raises(RegistryError, match="no other version was served before"):
        deployer.rollback()
    deployer.promote(4, is_tried=True)
    assert deployer.rollback().stable == 1
    assert _read(registry).stable == 1


def test_what_was_served_before_anybody_said_so_can_be_rolled_back_to(registry: Registry) -> None:
    """Without a deployment the newest version is served.

    It is written down before a newer one is published, so that one can roll back to it.
    """
    deployer = Deployer(registry, None, Manner(who="test"))
    deployer.keep()
    _publish(registry)
    assert _read(registry).stable == 1
    deployer.promote(2, is_tried=True)
    assert deployer.rollback().stable == 1


def test_canary_and_shadow_stand_beside_the_stable_version(registry: Registry, deployer: Deployer) -> None:
    """Canary and shadow stand beside the stable version until a promotion or a rollback ends both.

    The rollback leaves the stable version as it was.
    """
    deployer.promote(2, is_tried=True)
    deployer.promote(3, canary=0.05, is_tried=True)
    outcome = deployer.promote(4, shadow=0.5, is_tried=True)
    content = _read(registry)
    assert (content.stable, content.canary, content.shadow) == (2, Share(3, 0.05), Share(4, 0.5))
    assert outcome.says.startswith("version 2 is served, canary 3 for 5 %, shadow 4 for 50 %")
    assert deployer.rollback().stable == 2
    assert _read(registry).versions == (2,)
    deployer.promote(3, canary=0.05, is_tried=True)
    deployer.promote(3, is_tried=True)
    assert _read(registry).versions == (3,)
    assert _read(registry).earlier_stable == 2


def test_beside_itself_no_version_can_stand(registry: Registry, deployer: Deployer) -> None:
    """The stable version cannot be its own canary: it would be compared with itself."""
    with pytest.raises(RegistryError, match="version 1 is the stable one"):
        deployer.promote(1, canary=0.1)
    assert _read(registry).canary is None


def test_the_device_stays_until_it_is_named(registry: Registry, deployer: Deployer) -> None:
    """The device stays until another one is named.

    It is the same for all versions, because they share one configuration.
    """
    deployer.promote(2, device="gpu", is_tried=True)
    assert _read(registry).device == "gpu"
    deployer.promote(3, is_tried=True)
    assert _read(registry).device == "gpu"
    deployer.promote(3, device="cpu", is_tried=True)
    assert _read(registry).device == "cpu"


def test_without_triton_a_version_is_tried_all_the_same(registry: Registry, deployer: Deployer) -> None:
    """Without Triton a version is still tried; these fail, because they have no `model.py`."""
    with pytest.raises(Refused, match=r"FileNotFoundError: .*model\.py"):
        deployer.promote(2)
    assert _read(registry).stable == 1


def test_only_published_versions_are_promoted(registry: Registry, deployer: Deployer) -> None:
    """A number that is not there, or a directory without a manifest, is refused.

    Nothing changes then.
    """
    registry.directory(7).mkdir()
    for number in (5, 7):
        with pytest.raises(RegistryError, match=f"version {number} is not published"):
            deployer.promote(number)
    assert _read(registry).stable == 1


def test_prune_removes_what_nobody_needs(registry: Registry, deployer: Deployer) -> None:
    """`prune` never removes what is served, canary, shadow, or needed by a rollback.

    It also removes what killed commands left a day ago.
    """
    for _ in range(4):
        _publish(registry)
    deployer.promote(2, is_tried=True)
    deployer.promote(4, canary=0.5, is_tried=True)
    deployer.promote(6, shadow=0.5, is_tried=True)
    old, young = (
        registry.directory(1).parent / "configs" / name for name in (".publishing-a", ".publishing-b")
    )
    for directory in (old, young):
        directory.mkdir()
    day_ago_s = time.time() - 90_000
    os.utime(old, (day_ago_s, day_ago_s))
    assert deployer.prune(1) == [3, 5, 7]
    assert [version.number for version in registry.versions()] == [1, 2, 4, 6, 8]
    assert not old.exists()
    assert young.exists()
    assert deployer.prune(1) == []
