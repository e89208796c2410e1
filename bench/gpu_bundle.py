"""Pack what `bench.gpu` needs on a machine with a GPU and torch, but without a network.

    python -m bench.gpu_bundle .gpu --python python3.12 && …carry the checkout with .gpu there…
    bash .gpu/run.sh --out figures.json

Packed are the tritonserver of the `nvidia-pytriton` wheel with one stub, a Python whose shared
library that stub loads, the frontend's packages, NumPy 1, since that stub reads arrays of NumPy 2
wrongly, and the upstream package. torch and what `_OF_THE_MACHINE` names are the machine's own, and
onnx, onnxruntime, safetensors, scikit-image and tqdm, for a Python of the version that `--python`
has.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

from tests.repository import CHECKOUT

_OF_THE_MACHINE: Final = (
    *(
        "PIL",
        "pillow",
        "ml_dtypes",
        "aiohttp",
        "grpc",
        "yaml",
        "hf_xet",
        "huggingface_hub",
        "multidict",
    ),
    *("bin", "reward", "export", "demo", "frontend", "local", "model_boss"),  # of the checkout
)
"""What is there already, by the beginnings of names in site-packages."""

_UPSTREAM_OF_THE_MACHINE: Final = (
    "torchvision",
    "pillow",
    "certifi",
    "charset-normalizer",
    "idna",
    "urllib3",
    "requests",
)

_RUN: Final = """#!/usr/bin/env bash
# Unpack beside the checkout's own files, and measure; made by bench/gpu_bundle.py.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) && cd "$here/.."
root=${BENCH_ROOT:-/tmp/bench-gpu-root} && mkdir -p "$root"
for part in "$here"/*.tar.xz; do tar -xJf "$part" -C "$root"; done
torch=$(python3 -c 'import os, torch; print(os.path.dirname(os.path.dirname(torch.__file__)))')
if [ -d "$root/upstream" ]; then ln -sfn "$root/upstream" .upstream; fi
# Triton's stub takes the Python that is first on PATH, and no PYTHONPATH.
for packages in "$root"/python/lib/python3*/site-packages; do
  printf '%s\\n' "$PWD" "$root/site" "$torch" >"$packages/bench.pth"
done
export PYTHONHOME="$root/python" PYTHONDONTWRITEBYTECODE=1
export PATH="$root/python/bin:$PATH" LD_LIBRARY_PATH="$root/python/lib:${LD_LIBRARY_PATH:-}"
exec "$root/python/bin/python3" -m bench.gpu "$@"
"""


def main() -> None:
    """Pack into a directory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--python", default="python3.12", help="of the machine's version, with its shared library"
    )
    parser.add_argument("--no-upstream", action="store_true")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        version = _python(arguments.python, root / "python")
        _site(arguments.python, root / "site")
        _triton(version, root / "site")
        names = ["python", "site"]
        if not arguments.no_upstream:
            _upstream(arguments.python, root / "upstream")
            names.append("upstream")
        _strip(root)
        for name in names:
            target = arguments.directory.resolve() / f"{name}.tar.xz"
            subprocess.run(
                ["tar", "-cJf", target, "-C", root, name],
                check=True,
                env={**os.environ, "XZ_OPT": os.environ.get("XZ_OPT", "-9e")},
            )
            print(f"{target.stat().st_size / 2**20:6.1f} MiB {target}")
    (arguments.directory / "run.sh").write_text(_RUN)


def _python(python: str, target: Path) -> str:
    """Copy a Python without what nobody imports here; return its version."""
    code = "import sys, sysconfig; print('%d.%d' % sys.version_info[:2], sys.base_prefix, sysconfig.get_config_var('INSTSONAME'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    version, prefix, library = done.stdout.split()
    unused = shutil.ignore_patterns(
        *("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "pydoc_data", "lib2to3"),
        *("site-packages", "config-*", "__pycache__"),
    )
    shutil.copytree(f"{prefix}/lib/python{version}", target / f"lib/python{version}", ignore=unused)
    for name in ("bin", f"lib/python{version}/site-packages"):
        (target / name).mkdir()
    shutil.copy(f"{prefix}/bin/python{version}", target / "bin/python3")
    shutil.copy(f"{prefix}/lib/{library}", target / "lib")
    return version


def _site(python: str, target: Path) -> None:
    wanted = (
        f"{CHECKOUT}[frontend,model-boss]",
        "filelock",
        "httpx",
        "numpy<2",
        "protobuf",
        "tritonclient[grpc]",
    )
    _install(python, target, "--constraint", CHECKOUT / "constraints.txt", *wanted)
    for entry in target.iterdir():
        if entry.name.startswith(_OF_THE_MACHINE) and entry.is_dir():
            shutil.rmtree(entry)
    for entry in [*target.rglob("__pycache__"), *target.glob("numpy/**/tests")]:
        shutil.rmtree(entry)


def _triton(version: str, site: Path) -> None:
    packages = Path(sysconfig.get_path("purelib"))
    wheel, kept = packages / "pytriton" / "tritonserver", site / "pytriton" / "tritonserver"
    for part in ("bin", "backends", f"python_backend_stubs/{version}"):
        shutil.copytree(wheel / part, kept / part, ignore=shutil.ignore_patterns("__pycache__"))
    (kept.parent / "__init__.py").touch()
    # The stub for 3.13 alone needs the Python that lies among the libraries.
    libraries = shutil.ignore_patterns("libpython*")
    shutil.copytree(packages / "nvidia_pytriton.libs", site / "nvidia_pytriton.libs", ignore=libraries)


def _upstream(python: str, target: Path) -> None:
    lines = (CHECKOUT / "tests/parity/upstream.txt").read_text().splitlines()
    names = [line for line in lines if line and not line.startswith(("#", *_UPSTREAM_OF_THE_MACHINE))]
    _install(python, target, "--no-deps", *names)


def _strip(root: Path) -> None:
    """Take names and lines for debuggers out of programs and libraries."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF":
            subprocess.run(["strip", "--strip-unneeded", path], check=True)


def _install(python: str, target: Path, *arguments: str | Path) -> None:
    uv = shutil.which("uv") or CHECKOUT / ".tools/bin/uv"
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", python, "--target", target, *arguments], check=True
    )


if __name__ == "__main__":
    main()
