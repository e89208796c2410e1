"""What other packages and callers may use of `reward`."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import reward
from reward import errors


def test_what_is_imported_is_what_is_exported() -> None:
    """`__all__` names every public name of the package, sorted, and nothing else.

    Names that are imported when they are asked for are there then, and no others.
    """
    assert [name for name in reward.__all__ if not hasattr(reward, name)] == []
    assert not hasattr(reward, "tokenize")
    public = [name for name, value in vars(reward).items() if name[0] != "_" and not inspect.ismodule(value)]
    assert sorted(public) == reward.__all__


def test_every_error_is_public_drawn_and_of_the_one_root() -> None:
    """Catching `RewardError` catches every error that the library raises on purpose.

    Each of them is public and stands in the tree of the docstring.
    """
    raised = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
    assert set(raised) <= set(reward.__all__)
    assert all(issubclass(error, reward.RewardError) for error in raised.values())
    assert [name for name in raised if name not in (errors.__doc__ or "")] == []


def test_callers_see_the_types() -> None:
    """The marker file of PEP 561 exists and is shipped."""
    package = Path(reward.__file__).parent
    assert (package / "py.typed").is_file()
    project = tomllib.loads((package.parent / "pyproject.toml").read_text())
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["reward"]


def test_nothing_is_sent_home(tmp_path: Path) -> None:
    """Where `reward` is imported, onnxruntime's telemetry is off.

    It does not even make an id for the device.
    """
    environment = {
        name: value for name, value in os.environ.items() if name not in {"CI", "ORT_DISABLE_TELEMETRY"}
    }
    subprocess.run(
        [sys.executable, "-c", "import reward, onnxruntime; onnxruntime.SessionOptions()"],
        env={**environment, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        check=True,
    )
    assert list(tmp_path.iterdir()) == []
