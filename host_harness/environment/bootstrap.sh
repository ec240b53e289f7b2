#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Sets up what the harness itself runs on: system packages, then a virtual environment.
# Usage: bootstrap.sh FOLDER   (the virtual environment; made again when requirements.lock changes)
# Status 3 when something is missing and cannot be installed from here.
set -eu

venv=$1
here=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
packages="python3 python3-venv mmdebstrap debian-archive-keyring lz4 zstd xz-utils cpio util-linux git make"
# For ordinary users where user namespaces are restricted (Ubuntu): the host's compiler.
compiler="gcc libelf1"
lock_wait_s=1800

stamp="$venv/.made-from"
wanted=$(cksum <"$here/requirements.lock")

# The stamp is written last, so what a killed run left half made has none. Only the virtual
# environment's own Python is started: python3 may be a slow one that chooses among several.
is_made() {
    case $(cat "$stamp" 2>/dev/null) in
    "$wanted" | "$wanted "*) ;;
    *) return 1 ;;
    esac
    "$venv/bin/python" -I -c 'import importlib.util as u, sys
sys.exit(not all(map(u.find_spec, ("hypothesis", "pexpect", "pytest", "qemu"))))' >/dev/null 2>&1
}

made=
if is_made; then made=yes; fi

missing() {
    for tool in python3 mmdebstrap apt-get lz4 zstd xz cpio unshare flock git make; do
        command -v "$tool" >/dev/null 2>&1 || echo "$tool"
    done
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
    if command -v python3 >/dev/null 2>&1 && [ -z "$made" ]; then
        python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || echo python3-venv
    fi
}

fail() {
    echo "error: $1" >&2
    echo "  next: $2" >&2
    exit 3
}

# Fails with the cause that apt-get or pip gives in the file $1, and the next step; $2: what failed,
# $3: the next step for a cause that is not known.
fail_because() {
    tail -n 20 "$1" >&2
    if grep -Eqi 'no space left|disk quota exceeded|enough free space' "$1"; then
        fail "$2: no space" "free some in $here, /var/cache/apt or /tmp, then run again"
    fi
    if grep -Eqi 'temporary failure (resolving|in name resolution)|could not resolve|name or service not known|network is unreachable|no route to host|could not connect|unable to connect|connection (timed out|refused|failed)|newconnectionerror|connecttimeout' "$1"; then
        fail "$2: no network" "connect this machine, or set the proxy (of apt, of pip), then run again"
    fi
    fail "$2" "$3"
}

scratch=
trap '[ -z "$scratch" ] || rm -f "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

lacking=$(missing | tr '\n' ' ')
if [ -n "$lacking" ]; then
    command="apt-get update && apt-get install -y --no-install-recommends $packages"
    [ "$(id -u)" = 0 ] || fail "missing: $lacking" "as root, run: $command $compiler"
    command -v apt-get >/dev/null 2>&1 ||
        fail "missing: $lacking" "this is not Debian or Ubuntu; install by hand: $packages"
    echo "installing system packages (missing: $lacking)"
    export DEBIAN_FRONTEND=noninteractive LC_ALL=C
    scratch=$(mktemp)
    # A mirror may lag behind the clock without failing this; the signatures are still checked.
    # apt-get update succeeds without a network, too: what then fails is the installation.
    # shellcheck disable=SC2086  # a list of words
    if ! { apt-get -o Acquire::Check-Valid-Until=false -o Acquire::http::Timeout=30 update &&
        apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $packages; } \
        >"$scratch" 2>&1 </dev/null; then
        fail_because "$scratch" "the system packages cannot be installed" "run: $command"
    fi
    lacking=$(missing | tr '\n' ' ')
    [ -z "$lacking" ] || fail "still missing after the installation: $lacking" "look at: $command"
fi

if [ -z "$made" ]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$(python3 --version) is too old" "install Python 3.11 or newer as python3"
    mkdir -p "$(dirname "$venv")" 2>/dev/null && [ -w "$(dirname "$venv")" ] ||
        fail "$(dirname "$venv") cannot be written" "use a checkout of your own"
    # Two runs on one checkout: the second waits, and finds it made.
    exec 9>"$venv.lock"
    if ! flock -n 9; then
        echo "another run makes the virtual environment; waiting for it"
        flock -w "$lock_wait_s" 9 ||
            fail "$venv.lock has been held for $lock_wait_s s" "end the run that holds it"
    fi
    if ! is_made; then
        echo "making the virtual environment (once)"
        scratch="$venv.log"  # one name: a killed run leaves no more than this
        rm -rf "$venv"
        # They hold the lock as well: what a killed run left running ends before the next begins.
        python3 -m venv "$venv" >"$scratch" 2>&1 </dev/null ||
            fail_because "$scratch" "python3 cannot make a virtual environment in $venv" \
                "install python3-venv, or look at the lines above"
        "$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes \
            -r "$here/requirements.lock" >"$scratch" 2>&1 </dev/null ||
            fail_because "$scratch" \
                "the Python packages of requirements.lock cannot be installed" \
                "look at the lines above and at pip's settings (pip config list), then run again"
        echo "$wanted" >"$stamp"
    fi
    exec 9>&-
fi
