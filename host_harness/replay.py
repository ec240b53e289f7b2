"""The one command that does a run again: same seed, same tests, every option that was given."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .options import OPTIONS, Options

# Settings that no option stands for; they choose the environment.
_VARIABLES = ("QEMU", "DMA_REHEARSAL_CACHE", "DMA_REHEARSAL_BUILD")
_NAMED_MAX = 20  # failed tests that are named one by one


@dataclass(frozen=True, slots=True)
class Replay:
    """How a run was started: ``argv`` with ``arguments``, in ``folder``.

    ``plain`` is for pytest's own command line, which takes options as ``--vm-name=value`` and guest
    tests as ``--vm=nodeid``; the harness's takes variables and node ids.
    """

    argv: Sequence[str]
    arguments: Sequence[str]
    folder: Path
    plain: bool = False

    def command(self, options: Options, failed: Sequence[str]) -> str:
        """Return one line for a shell. It selects the ``failed`` tests, where there are some."""
        given = {**options.given, "seed": str(options.seed)}
        settings = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
        words = list(self.argv)
        if self.plain:
            words += _flags(given)
        else:
            settings = {
                each.variable: given[each.name] for each in OPTIONS if each.name in given
            } | settings
        if 0 < len(failed) <= _NAMED_MAX:
            words += [f"--vm={name}" if self.plain else name for name in failed]
        else:
            words += self.arguments
        variables = "".join(f"{name}={shlex.quote(value)} " for name, value in settings.items())
        return f"cd {shlex.quote(str(self.folder))} && {variables}{shlex.join(words)}"


def _flags(given: Mapping[str, str]) -> list[str]:
    return [
        f"--vm-{each.name}" if each.is_flag else f"--vm-{each.name}={given[each.name]}"
        for each in OPTIONS
        if each.name in given
    ]
