#!/bin/sh
# `python -m export` on the volume /models: on-the-volume.sh COMMAND…
#
# Without a command it makes the volume what Triton serves, as is done before Triton starts: the
# models' own files from this image, and the version that was asked for.
#
#   MODEL        ImageReward-v1.0, demo, or the name of a published version
#   CHECKPOINT   a checkpoint on the host, which lies at /checkpoint here
#   NAME         of the checkpoint's weights
#
# With none of them, what is served already stays, and the first time it is the demonstration model.
set -eu

# A container that does not run has no name: then no Triton is told, and it reads the files later.
getent hosts "${AESTHETIC_TRITON_URL%:*}" >/dev/null || unset AESTHETIC_TRITON_URL AESTHETIC_TRITON_GRPC_URL

# The file's name says of which kind it is, and how its weights are called: it is found under it.
mkdir -p /tmp/checkpoint
cd /tmp/checkpoint
[ -z "${CHECKPOINT:-}" ] || ln -sf /checkpoint "${CHECKPOINT##*/}"

if [ $# -eq 0 ]; then
  # An upgrade brings new ones; no version and nothing of what is served is among them.
  cp -R /opt/model_repository/. /models/
  if [ -n "${CHECKPOINT:-}" ]; then
    set -- ensure --checkpoint "${CHECKPOINT##*/}" --name "${NAME:-}"
  elif [ -n "${MODEL:-}" ]; then
    set -- ensure --model "$MODEL"
  elif ! ls -d /models/image_reward_network/[0-9]* >/dev/null 2>&1; then
    set -- ensure --model demo
  else
    set -- ensure
  fi
fi
exec python -m export --repository /models "$@"
