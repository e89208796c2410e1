"""What other packages may use of `model_boss`."""

import subprocess
import sys
from importlib.resources import files
from inspect import ismodule
from pathlib import Path

import model_boss
from model_boss import errors as drawn_errors


def test_the_public_surface_is_all_that_is_there() -> None:
    """`__all__` names everything that the package imports for others, and nothing else."""
    public = {
        name for name, thing in vars(model_boss).items() if not (name.startswith("_") or ismodule(thing))
    }
    assert sorted(public - {"annotations"}) == sorted(model_boss.__all__)


def test_types_are_shipped() -> None:
    """A type checker reads the package's own annotations."""
    assert (files("model_boss") / "py.typed").is_file()


def test_it_knows_nothing_of_this_service() -> None:
    """The package reads and names no variable of this service, so others can use it alone."""
    folder = Path(str(files("model_boss")))
    texts = [
        path.read_text(encoding="utf-8") for path in folder.rglob("*.*") if path.suffix in (".py", ".lua")
    ]
    assert len(texts) > 20
    assert not [text for text in texts if "aesthetic" in text.lower()]


def test_only_who_opens_a_ledger_loads_redis() -> None:
    """A service without a ledger starts without redis-py, which takes a tenth of a second."""
    look = """if True:
        import sys, model_boss
        print("redis" in sys.modules)
        model_boss.Ledger("redis://127.0.0.1:1")
        print("redis" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_every_error_has_the_one_root() -> None:
    """Catching `ModelBossError` catches every error that the package raises on purpose."""
    errors = [
        thing
        for thing in (getattr(model_boss, name) for name in model_boss.__all__)
        if isinstance(thing, type) and issubclass(thing, Exception)
    ]
    assert len(errors) == 7
    assert [error for error in errors if not issubclass(error, model_boss.ModelBossError)] == []
    drawn = drawn_errors.__doc__ or ""
    assert [error.__name__ for error in errors if error.__name__ not in drawn] == []
