# SPDX-License-Identifier: Apache-2.0
"""Shell scripts in place of the programs that the environment calls."""

from __future__ import annotations

from pathlib import Path


def program(path: Path, script: str) -> Path:
    """Write a shell script that stands for a program."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


_HELP = "case $* in *--version*) echo 'QEMU emulator version {version}';; *) {help};; esac"


def fake_qemu(path: Path, help: str, version: str = "7.2.0") -> Path:
    return program(path, _HELP.format(help=help, version=version))
