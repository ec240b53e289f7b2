"""The one command that does a run again: same seed, same tests, every option that was given."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .options import OPTIONS

if TYPE_CHECKING:
    from .rig import Rig

# Settings that no option stands for; they choose the environment.
VARIABLES = ("QEMU", "DMA_REHEARSAL_CACHE", "DMA_REHEARSAL_BUILD")
_NAMED_MAX = 20  # failed tests that are named one by one


@dataclass(frozen=True, slots=True)
class Replay:
    """How the run was started: ``command`` without options, ``arguments`` for pytest, from where.

    ``prefix`` is what stands before a test's node id to select it ("" or "--vm=").
    """

    argv: Sequence[str]
    arguments: Sequence[str]
    folder: Path
    prefix: str = ""

    def command(self, rig: Rig) -> str:
        """Return one line for a shell; it names the tests that failed, when some did."""
        given = {**rig.options.given, "seed": str(rig.options.seed)}
        settings = {
            option.variable: given[option.name] for option in OPTIONS if option.name in given
        }
        settings |= {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
        # What took the verdict away may need all that went before it.
        failed = [] if rig.lost else rig.ledger.to_repeat()
        selected = (
            [self.prefix + name for name in failed]
            if 0 < len(failed) <= _NAMED_MAX
            else list(self.arguments)
        )
        return (
            f"cd {shlex.quote(str(self.folder))} && "
            + _environment(settings)
            + shlex.join([*self.argv, *selected])
        )


def _environment(settings: Mapping[str, str]) -> str:
    return "".join(f"{name}={shlex.quote(value)} " for name, value in settings.items())
