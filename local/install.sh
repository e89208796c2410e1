#!/usr/bin/env bash
# Install what a make target needs: local/install.sh serve | export | dev | bench | browser | examples | upstream | pillow
#
# .venv    the environment, made with a Python of this machine if one will do, else with one of uv's
# .tools   uv itself, its cache, and that Python; nothing is written outside the project's folder
#
# Read from the environment:
#   PYTHON       the Python to take, or `managed` for one that uv brings; default: the first that does
#   TORCH_INDEX  the package index of torch; default: PyTorch's own for CPUs, where no NVIDIA GPU is
#   UV_*         uv's own settings. Where they say nothing, pip's (index, find-links, certificates) do.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly UV_VERSION=0.13.9 MANAGED=3.11
readonly VENV_PYTHON=.venv/bin/python
readonly TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
export UV_CACHE_DIR=${UV_CACHE_DIR:-$PWD/.tools/cache} UV_PYTHON_INSTALL_DIR=$PWD/.tools/python
export UV_NO_PROGRESS=1 UV_NO_CONFIG=1
unset VIRTUAL_ENV

main() {
  [ "$(uname -sm)" = "Linux x86_64" ] || fail "Triton's wheel is for Linux on x86-64; this is $(uname -sm)"
  find_uv
  if [ ! -x $VENV_PYTHON ] || ! is_suitable $VENV_PYTHON >/dev/null; then make_environment; fi
  case $1 in
    serve) install --editable '.[fetch,frontend,model-boss,redis-server,triton]' ;;
    export) install_torch; install --editable '.[export]' ;;
    dev) install --editable '.[dev,otel]' ;;
    bench) install --editable '.[bench]' ;;
    browser) install --editable '.[browser]' ;;
    examples) install --editable '.[examples]' ;;
    # The upstream package and its own pins, apart from ours; tests/parity/upstream.py says how it
    # is entered.
    upstream) rm -rf .upstream; install_apart .upstream --requirement tests/parity/upstream.txt ;;
    # The two generations of Pillow that resize differently; tests/unit/reward/test_pillow.py
    # compares them.
    pillow) for version in 12.3.0 13.0.0; do install_apart ".cache/pillow/$version" "pillow==$version"; done ;;
    *) fail "usage: local/install.sh serve | export | dev | bench | browser | examples | upstream | pillow" ;;
  esac
}

fail() { echo "error: $*" >&2; exit 1; }

# find_uv: the one on PATH, else the wheel, in an environment of its own.
find_uv() {
  local python
  UV=$(command -v uv || echo .tools/bin/uv)
  if [ ! -x "$UV" ]; then
    python=$(first_with_venv) || fail "there is neither a Python with venv nor uv; on Debian and Ubuntu:" \
      "apt-get install python3-venv"
    "$python" -m venv .tools
    .tools/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir "uv==$UV_VERSION"
  fi
  export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$(of_pip index-url)}
  export UV_FIND_LINKS=${UV_FIND_LINKS:-$(of_pip find-links)}
  export SSL_CERT_FILE=${SSL_CERT_FILE:-$(of_pip cert)}
  local name
  for name in UV_DEFAULT_INDEX UV_FIND_LINKS SSL_CERT_FILE; do [ -n "${!name}" ] || unset $name; done
  # Companies add their certificates to the system's; without any there, uv's own are taken.
  [ -e /etc/ssl/certs ] || [ -e /etc/pki/tls ] && export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}
}

first_with_venv() {
  local python
  for python in python3 python3.12 python3.11 ${PYTHON:+"$PYTHON"}; do
    "$python" -c 'import ensurepip' 2>/dev/null && echo "$python" && return
  done
  return 1
}

# of_pip NAME: what pip's configuration says; its environment variables come first.
of_pip() {
  [ -x .tools/bin/python ] || return 0
  .tools/bin/python -m pip config list 2>/dev/null | sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | head -1
}

# is_suitable PYTHON: Triton's Python backend can be run with it; else says in one clause why not.
is_suitable() {
  "$1" - 2>/dev/null <<'PROBE' || { [ $? -eq 3 ] || echo "does not run"; return 1; }
import ctypes, os, sys, sysconfig

def end(why):
    print(why)
    sys.exit(3)

if sys.version_info[:2] not in ((3, 11), (3, 12)):
    end("is %d.%d" % sys.version_info[:2])
library = "libpython%d.%d.so.1.0" % sys.version_info[:2]
for directory in (sysconfig.get_config_var("LIBDIR") or "", os.path.join(sys.base_prefix, "lib"), ""):
    try:
        ctypes.CDLL(os.path.join(directory, library))
        sys.exit(0)
    except OSError:
        pass
end("has no shared library " + library)
PROBE
}

make_environment() {
  local python reasons='' reason seen=' ' names=(${PYTHON:+"$PYTHON"})
  [ ${#names[@]} -gt 0 ] || names=(python3.11 python3.12 python3)
  for python in "${names[@]}"; do
    [ "$python" = managed ] && break
    python=$(command -v "$python") || continue
    case $seen in *" $(readlink -f "$python") "*) continue ;; esac  # python3 is often one of the others
    seen+="$(readlink -f "$python") "
    if reason=$(is_suitable "$python"); then make_with "$python"; return; fi
    reasons+="${python##*/} $reason; "
  done
  [ "${PYTHON:-managed}" = managed ] || fail "PYTHON=$PYTHON will not do: ${reasons:-there is no such program; }Triton's" \
    "Python backend needs Python 3.11 or 3.12 with its shared library"
  echo "${reasons}uv brings Python $MANAGED with its shared library (about 30 MB) …"
  if ! reason=$(UV_HTTP_RETRIES=${UV_HTTP_RETRIES:-1} "$UV" python install --no-bin $MANAGED 2>&1); then
    fail "Python 3.11 or 3.12 with its shared library is needed: ${reasons}uv could not bring one" \
      "($(tail -1 <<<"$reason" | sed 's/^ *cause: //')). $(remedy "$reasons"), or name one with PYTHON="
  fi
  make_with "$(run_uv python find --managed-python $MANAGED)"
}

make_with() {
  rm -rf .venv
  run_uv venv --python "$1" .venv
  # Triton's stub reads this line as UTF-8 and uses it in the C locale; a path beyond ASCII would
  # end it. Without the line, Python follows the links of .venv/bin, to the same place.
  LC_ALL=C sed -i '/^home = .*[^ -~]/d' .venv/pyvenv.cfg
}

# remedy REASONS: what to install, by the first Python that lacks nothing but its library.
remedy() {
  local version
  version=$(sed -n 's/.*no shared library libpython\(3\.[0-9]*\).*/\1/p' <<<"$1")
  if [ -z "$version" ]; then echo "Install Python 3.11 or 3.12"
  elif command -v apt-get >/dev/null; then echo "Install it: apt-get install libpython$version"
  elif command -v dnf >/dev/null; then echo "Install it: dnf install python$version-libs"
  else echo "Install libpython$version.so.1.0"; fi
}

run_uv() { "$UV" --quiet "$@"; }

install() { run_uv pip install --python $VENV_PYTHON --compile-bytecode --constraint constraints.txt "$@"; }

install_apart() { run_uv pip install --python $VENV_PYTHON --no-deps --target "$@"; }

# install_torch: on a machine without a GPU the build for CPUs, 0.2 GB instead of 2.7 to download.
install_torch() {
  local pin index=${TORCH_INDEX:-}
  pin=$(grep '^torch==' constraints.txt)
  if [ -z "$index" ]; then
    if [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null; then return; fi
    index=$TORCH_CPU_INDEX
    UV_HTTP_TIMEOUT=5 UV_HTTP_RETRIES=0 run_uv pip install --dry-run --python $VENV_PYTHON --no-deps \
      --default-index "$index" "$pin" 2>/dev/null || {
      echo "$index cannot be reached: torch comes from where pip finds it (TORCH_INDEX= names another index)"
      return
    }
  fi
  install --no-deps --default-index "$index" "$pin"
}

main "$@"
