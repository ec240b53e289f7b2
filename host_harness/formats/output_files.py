# SPDX-License-Identifier: Apache-2.0
"""The files of a run's outputs: tried at its start, whole at its end.

From the start each file has the result of a run without a verdict, so that a reader of what a
killed run left does not see a pass. A file is replaced by a rename, and never half written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dma_rehearsal.host_harness.formats.run_result import RunResult
from dma_rehearsal.host_harness.formats.writers import WRITERS
from dma_rehearsal.host_harness.options.outputs import STDOUT, STEP_SUMMARY, Output
from dma_rehearsal.host_harness.process.errors import UsageError


@dataclass(slots=True)
class OutputFiles:
    """The outputs of one run. ``printed`` are the lines for standard output, after `finish`."""

    outputs: Sequence[Output]
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    printed: list[str] = field(default_factory=list)
    _files: dict[Output, _File] = field(default_factory=dict)

    def begin(self, result: RunResult) -> None:
        """Write the result of a run that has begun; UsageError when a file cannot be written."""
        for each in self.outputs:
            if each.place == STDOUT:
                continue
            file = _File(*self._path(each))
            try:
                file.begin(WRITERS[each.format](result))
            except OSError as error:
                raise UsageError(
                    f"OUTPUT: {each.format} cannot be written to {file.path}: {error.strerror}",
                    "name a file in a folder that exists and that you may write to",
                ) from error
            self._files[each] = file

    def finish(self, result: RunResult) -> list[str]:
        """Write the result; return what could not be written, each as a line for people.

        Of the formats that begin() refused, or did not reach, nothing is written.
        """
        problems = []
        for each in self.outputs:
            text = WRITERS[each.format](result)
            if each.place == STDOUT:
                self.printed += text.splitlines()
            elif file := self._files.get(each):
                try:
                    file.write(text)
                except OSError as error:
                    problems.append(
                        f"OUTPUT: {each.format} could not be written to {file.path}: "
                        f"{error.strerror}; it says that the run has no verdict"
                    )
        return problems

    def _path(self, output: Output) -> tuple[Path, bool]:
        """Return the path of an output, and whether the file's contents stay."""
        if output.place != f"${STEP_SUMMARY}":
            return Path(os.path.realpath(output.place)), False
        if not (path := self.environment.get(STEP_SUMMARY)):
            raise UsageError(
                f"OUTPUT: {output.format} has no path, and {STEP_SUMMARY} is not set",
                f"run it in a GitHub job, or write {output.format}=PATH",
            )
        return Path(os.path.realpath(path)), True


@dataclass(slots=True)
class _File:
    """One file. With ``keeps``, what others wrote into it stays: a step's summary has several."""

    path: Path
    keeps: bool
    _before: bytes = b""

    def begin(self, text: str) -> None:
        if self.path.exists() and not self.path.is_file():
            raise OSError(0, "it is not a file; FORMAT=- prints a format")
        if self.keeps and self.path.exists():
            self._before = self.path.read_bytes()
        self.write(text)

    def write(self, text: str) -> None:
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            partial.write_bytes(self._before + text.encode(errors="replace"))
            partial.replace(self.path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
