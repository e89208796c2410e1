"""A disk is full or read-only: that of temporary files, or that of the model repository."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.hostile.test_processes import good_caller, works_again
from tests.integration.stack import RunningStack
from tests.pictures import photograph

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk"),
]


class SmallDisks(RunningStack):
    """A `local up` whose temporary files and whose repository are on disks of their own."""

    def command(self) -> list[str]:
        """Compose the command line."""
        tmp, repository = self.directory / "tmp", self.repository
        script = (
            f'mkdir -p "{tmp}" && mount -t tmpfs -o size=2m none "{tmp}" && '
            f'cp -a "{repository}" "{self.directory}/copy" && '
            f'mount -t tmpfs -o size=200m none "{repository}" && '
            f'cp -a "{self.directory}/copy/." "{repository}/" && exec "$@"'
        )
        return ["unshare", "--mount", "bash", "-c", script, "bash", *super().command()]

    def inside(self, path: Path) -> Path:
        """Return a path as it is seen from here."""
        return Path(f"/proc/{self.process.pid}/root{path}")

    def fill(self, directory: Path) -> None:
        """Fill a disk to its last byte."""
        with suppress(OSError), (self.inside(directory) / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 512)

    def mount(self, directory: Path, *options: str) -> None:
        """Mount a disk anew, with these options."""
        command = ["nsenter", f"--target={self.process.pid}", "--mount", "mount", "-o", ",".join(options)]
        subprocess.run([*command, str(directory)], check=True)


@pytest.fixture(scope="module")
def stack(published_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisks]:
    """One stack for all attacks: each must find it as it was."""
    directory = tmp_path_factory.mktemp("disks")
    repository = shutil.copytree(published_repository, directory / "model_repository")
    with SmallDisks(repository, directory, TMPDIR=str(directory / "tmp")).running() as running:
        yield running


async def test_no_room_for_temporary_files(stack: SmallDisks) -> None:
    """If the disk of temporary files is full, large uploads are still scored."""
    async with good_caller(stack) as answers, httpx.AsyncClient(base_url=stack.url, timeout=60) as client:
        for size in (1_100_000, *[3_000_000] * 5):  # the first chooses where temporary files are
            image = photograph("coffee") + bytes(size)
            answer = await client.post("/score", data={"prompt": "x"}, files={"image": ("x", image)})
            stack.fill(stack.directory / "tmp")
            assert answer.status_code == 200, answer.text
        await works_again(answers)
    print(f"\nno room for temporary files: good caller {answers}")  # noqa: T201 - for docs/reliability.md
    assert answers.wrong == []


@pytest.mark.parametrize("kind", ["full", "read-only"])
async def test_the_repositorys_disk(stack: SmallDisks, kind: str) -> None:
    """While nothing can be written beside the models, whatever is killed still comes back."""
    filler = stack.inside(stack.repository) / "filler"
    if kind == "full":
        stack.fill(stack.repository)
    else:
        stack.mount(stack.repository, "remount", "ro")
    try:
        async with good_caller(stack) as answers:
            for pid in (stack.frontend_pid, stack.triton_pid):
                os.kill(pid(), signal.SIGKILL)
                await asyncio.sleep(1)
                await works_again(answers)
    finally:
        stack.mount(stack.repository, "remount", "rw")
        filler.unlink(missing_ok=True)
    print(f"\nthe repository's disk is {kind}: good caller {answers}")  # noqa: T201 - for docs/reliability.md
    assert answers.wrong == []
