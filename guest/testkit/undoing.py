# SPDX-License-Identifier: Apache-2.0
"""Undoes the steps of a fixture: each of them, whatever the others raise."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self, TypeVar

__tracebackhide__ = True
_T = TypeVar("_T")


class Undoing:
    """A context manager that undoes what it was given, the last step first.

    The error that counts is the first: that of the ``with`` itself, else that of the first step
    that failed. The others become notes of it.
    """

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []
        self.error: BaseException | None = None

    def then(self, step: Callable[[], object]) -> None:
        """Undo this, too, before all that was given earlier."""
        self._steps.append(step)

    def enter(self, manager: AbstractContextManager[_T]) -> _T:
        """Enter a context, and leave it in its turn, always without an error."""
        found = manager.__enter__()
        self.then(lambda: manager.__exit__(None, None, None))
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.error = error
        while self._steps:
            try:
                self._steps.pop()()
            except Exception as failed:
                if self.error is None:
                    self.error = failed
                else:
                    self.error.add_note(f"and then: {failed}")
        if error is None and self.error is not None:
            raise self.error
