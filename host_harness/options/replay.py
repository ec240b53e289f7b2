# SPDX-License-Identifier: Apache-2.0
"""The command that repeats a run: same seed, same tests, every option that was given."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from dma_rehearsal.host_harness.options.run_options import OPTIONS, Options

# Settings without an option.
VARIABLES = (
    *("QEMU", "DMA_REHEARSAL_CACHE", "DMA_REHEARSAL_BUILD", "XDG_CACHE_HOME", "PYTEST_ADDOPTS"),
)
_NAMED_MAX = 20  # failed tests that are named one by one
# pytest's options that select tests: naming the tests takes their place.
_SELECTING = ("-k", "-m", "--deselect", "--vm")
_SELECTING_FLAGS = (
    *("--lf", "--last-failed", "--ff", "--failed-first", "--nf", "--new-first"),
    *("--sw", "--stepwise"),
)


@dataclass(frozen=True, slots=True)
class Replay:
    """The command that started a run: ``argv`` with ``arguments``, in ``folder``.

    ``positional`` are those of the arguments that are paths. ``root`` is given for pytest's own
    command line: node ids start there, options are ``--vm-name=value`` and guest tests
    ``--vm=nodeid``; the harness's takes variables and node ids.
    """

    argv: Sequence[str]
    arguments: Sequence[str]
    folder: Path
    root: Path | None = None
    positional: Sequence[str] = ()

    def command(self, options: Options, failed: Sequence[str]) -> str:
        """Return one line for a shell. It selects the ``failed`` tests, where there are some."""
        given = {**options.given, "seed": str(options.seed)}
        given.pop("output", None)  # a repeated part would take the place of the whole result
        settings = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
        words = list(self.argv)
        arguments = self.arguments
        if self.root:
            words += _flags(given)
            arguments = _without_options(arguments, self.argv)
        else:
            settings = {
                each.variable: given[each.name] for each in OPTIONS if each.name in given
            } | settings
        if 0 < len(failed) <= _NAMED_MAX:
            words += _without_selection(arguments, self.positional)
            words += [self._selecting(nodeid) for nodeid in failed]
        else:
            words += arguments
        variables = "".join(f"{name}={shlex.quote(value)} " for name, value in settings.items())
        return f"cd {shlex.quote(str(self.folder))} && {variables}{shlex.join(words)}"

    def _selecting(self, nodeid: str) -> str:
        if not self.root:
            return nodeid
        path, separator, rest = nodeid.partition("::")
        return f"--vm={os.path.relpath(self.root / path, self.folder)}{separator}{rest}"


def _flags(given: Mapping[str, str]) -> list[str]:
    return [
        each.flag if each.is_flag else f"{each.flag}={given[each.name]}"
        for each in OPTIONS
        if each.name in given
    ]


def _without_options(arguments: Sequence[str], argv: Sequence[str]) -> list[str]:
    """Return the arguments but the options of a run and the plugins that ``argv`` names already."""
    valued = {each.flag for each in OPTIONS if not each.is_flag}
    flags = {each.flag for each in OPTIONS if each.is_flag}
    plugins = [word for before, word in pairwise(argv) if before == "-p"]
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in valued:
            next(words, None)
        elif word == "-p" and (plugin := next(words, "")) not in plugins:
            kept += [word, plugin]
        elif word not in (*flags, "-p") and word.partition("=")[0] not in valued:
            kept.append(word)
    return kept


def _without_selection(arguments: Sequence[str], positional: Sequence[str]) -> list[str]:
    """Return the arguments but those that select tests."""
    joined = ("--deselect=", "--vm=", "-k", "-m")
    kept: list[str] = []
    takes_next = False
    for word in arguments:
        if takes_next:
            takes_next = False
        elif word in _SELECTING:
            takes_next = True
        elif word not in (*_SELECTING_FLAGS, *positional) and not word.startswith(joined):
            kept.append(word)
    return kept
