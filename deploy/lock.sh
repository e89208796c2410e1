#!/usr/bin/env bash
# Write the requirements of every image again: deploy/lock.sh, after a change of pyproject.toml or
# constraints.txt. Each package stands there with its version, of constraints.txt, and its digests.
#
# TORCH_LINKS   a page or a folder with the builds of torch for CPUs, in the place of PyTorch's own
set -euo pipefail
cd "$(dirname "$0")/.."
UV=$(command -v uv || echo .tools/bin/uv)
readonly TORCH_LINKS=${TORCH_LINKS:-https://download.pytorch.org/whl/cpu/torch/}

lock() { # lock FILE OPTIONS…: what standard input asks for, and all that it needs
  local file=deploy/$1; shift
  { echo "# Made by deploy/lock.sh of pyproject.toml and constraints.txt."
    "$UV" pip compile --quiet - --constraint constraints.txt --generate-hashes --no-header --no-annotate \
      --python-version 3.11 --python-platform x86_64-manylinux_2_36 --only-binary :all: "$@"
  } >"$file.new" && mv "$file.new" "$file"
}

extras() { # extras NAME…: the project's own requirements, and those of these extras
  .venv/bin/python - "$@" <<'PYTHON'
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
lists = [project["dependencies"], *(project["optional-dependencies"][name] for name in sys.argv[1:])]
print("\n".join(line for each in lists for line in each))
PYTHON
}

# Of PyTriton only the server is used, which needs none of the packages that the wheel asks for.
server() { extras triton | grep '^nvidia-pytriton'; }

echo "setuptools>=77" | lock build.txt
extras frontend model-boss otel | lock frontend/requirements.txt
extras triton model-boss | grep -v '^nvidia-pytriton' | lock triton/requirements.txt
server | lock triton/server.txt --no-deps
# torch of the package index, which is built for CUDA, and NVIDIA's libraries for it.
{ extras triton model-boss gpu | grep -v '^nvidia-pytriton'; } | lock triton-gpu/requirements.txt
{ extras fetch model-boss; echo "onnxruntime"; echo "numpy<2"; } | lock export/requirements.txt
{ extras fetch model-boss export; echo "numpy<2"; } | lock export/torch.txt --find-links "$TORCH_LINKS"
