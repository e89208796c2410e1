#!/bin/sh
# Install Python packages into /opt/imajin-aesthetic, in an image's build stage:
#
#   install-python.sh packages FILE…   exactly these, by version and digest, and nothing that they ask for
#   install-python.sh project          this project, from the current directory
#
# pip's own variables hold: PIP_INDEX_URL, PIP_FIND_LINKS, PIP_CERT. PYTHON is the Python to take.
set -eu

environment=/opt/imajin-aesthetic
PYTHON=${PYTHON:-python3}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_QUIET=1 PIP_ROOT_USER_ACTION=ignore

packages() {
  "$PYTHON" -m venv --without-pip $environment
  for file in "$@"; do
    "$PYTHON" -m pip --python $environment/bin/python install --require-hashes --no-deps \
      --only-binary :all: --requirement "$file"
  done
}

project() {
  "$PYTHON" -m venv /tmp/build
  /tmp/build/bin/python -m pip install --require-hashes --no-deps --only-binary :all: --requirement deploy/build.txt
  /tmp/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /tmp/wheel .
  "$PYTHON" -m pip --python $environment/bin/python install --no-deps /tmp/wheel/*.whl
  rm -rf /tmp/build /tmp/wheel
  # What is in it, for whoever has to know: every package with its version and licence.
  "$PYTHON" -m pip --python $environment/bin/python inspect >$environment/packages.json
}

"$@"
