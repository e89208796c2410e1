"""The stack runs wherever its checkout lies."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.integration.stack import RunningStack
from tests.pictures import photograph
from tests.repository import CHECKOUT, copy_published

if TYPE_CHECKING:
    from pathlib import Path


class Elsewhere(RunningStack):
    """A stack of another checkout, which is the current directory."""

    checkout: Path

    def command(self) -> list[str]:
        """Compose the command line."""
        return ["env", "--chdir", str(self.checkout), *super().command()]


def test_a_path_with_a_space_and_a_letter_beyond_ascii(published_repository: Path, tmp_path: Path) -> None:
    """Triton's Python processes start there and score, in the locale C as they always are."""
    checkout = tmp_path / "my modèle"
    for package in ("reward", "frontend", "local", "export", "model_boss"):
        shutil.copytree(CHECKOUT / package, checkout / package)
    repository = copy_published(published_repository, checkout / "published")
    stack = Elsewhere(repository, tmp_path, LC_ALL="C")
    stack.checkout = checkout
    stack.start()
    try:
        with stack.client() as client:
            answer = client.post("/score", data={"prompt": "a cup"}, files={"image": photograph("coffee")})
    finally:
        stack.stop()
    assert answer.status_code == 200, answer.text
