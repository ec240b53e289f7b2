#!/bin/sh
# Sets up what the harness itself runs on: system packages, then a virtual environment.
# Usage: bootstrap.sh FOLDER   (the virtual environment; made again when requirements.lock changes)
# Status 3 when something is missing and cannot be installed from here.
set -eu

venv=$1
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
packages="python3 python3-venv mmdebstrap debian-archive-keyring lz4 zstd xz-utils cpio util-linux git make"

missing() {
    for tool in python3 mmdebstrap lz4 zstd xz cpio unshare git make; do
        command -v "$tool" >/dev/null 2>&1 || echo "$tool"
    done
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
    python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || echo python3-venv
}

fail() {
    echo "error: $1" >&2
    echo "  next: $2" >&2
    exit 3
}

lacking=$(missing | tr '\n' ' ')
if [ -n "$lacking" ]; then
    command="apt-get update && apt-get install -y --no-install-recommends $packages"
    [ "$(id -u)" = 0 ] || fail "missing: $lacking" "as root, run: $command"
    echo "installing system packages (missing: $lacking)"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    # A mirror that lags behind the clock is no reason to fail; the signatures are still checked.
    # shellcheck disable=SC2086  # a list of words
    if ! { apt-get -o Acquire::Check-Valid-Until=false update &&
        apt-get install -y --no-install-recommends $packages; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "the system packages cannot be installed" "run: $command"
    fi
    rm -f "$log"
    lacking=$(missing | tr '\n' ' ')
    [ -z "$lacking" ] || fail "still missing after the installation: $lacking" "look at: $command"
fi

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$(python3 --version) is too old" "install Python 3.11 or newer as python3"

stamp="$venv/.made-from"
wanted="$(cat "$here/requirements.lock" | cksum) $(python3 --version)"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "making the virtual environment (once)"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install -qq --disable-pip-version-check --require-hashes \
        -r "$here/requirements.lock" ||
        fail "the Python packages of requirements.lock cannot be installed" \
            "check the network and pip's settings, then run again"
    echo "$wanted" >"$stamp"
fi
