# SPDX-License-Identifier: Apache-2.0
"""Applies a fault that replaces parts of modules and classes, and takes just these parts back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ABSENT = object()


@contextmanager
def patched(package: str, patch: Callable[[], object]) -> Iterator[None]:
    """Call ``patch``; at the end undo what it changed in the package's modules and classes.

    Changes by the ``with`` itself stay.
    """
    before = [(holder, dict(vars(holder))) for holder in _holders(package)]
    patch()
    changed = [
        (holder, name, names.get(name, _ABSENT))
        for holder, names in before
        for name, value in vars(holder).items()
        if names.get(name, _ABSENT) is not value
    ]
    try:
        yield
    finally:
        for holder, name, value in changed:
            if value is _ABSENT:
                delattr(holder, name)
            else:
                setattr(holder, name, value)


def _holders(package: str) -> Iterator[object]:
    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(f"{package}."):
            yield module
            for each in list(vars(module).values()):
                if isinstance(each, type) and each.__module__ == name:
                    yield each
