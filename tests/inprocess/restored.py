# SPDX-License-Identifier: Apache-2.0
"""Puts modules and classes back as they were after a fault that changes them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def restored(package: str) -> Iterator[None]:
    """Undo within the ``with`` each change to a name of the package's modules and their classes."""
    before = [(holder, dict(vars(holder))) for holder in _holders(package)]
    try:
        yield
    finally:
        for holder, names in before:
            _put_back(holder, names)


def _holders(package: str) -> Iterator[object]:
    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(f"{package}."):
            yield module
            for each in list(vars(module).values()):
                if isinstance(each, type) and each.__module__ == name:
                    yield each


def _put_back(holder: object, names: dict[str, object]) -> None:
    now = {name: value for name, value in vars(holder).items() if not name.startswith("__")}
    for name, value in now.items():
        if name not in names:
            delattr(holder, name)
        elif names[name] is not value:
            setattr(holder, name, names[name])
    for name in names.keys() - vars(holder).keys():
        setattr(holder, name, names[name])
