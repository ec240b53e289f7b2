# SPDX-License-Identifier: Apache-2.0
"""Checks of the names in an author's class: a hook or a declaration that nobody would look at.

Python takes ``vectros = 4`` and ``def on_rest(self)`` without a word, and the device then has no
MSI-X, or keeps its state at a reset. A name that nearly is one of the framework's is a ValueError;
so is a hook with other parameters than it is called with, and one that is a coroutine function.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from dma_rehearsal.device.endpoints.hooks import Hooks
from dma_rehearsal.device.endpoints.registers.declarations import NOT_AWAITED

_HOOKS = [name for name in vars(Hooks) if name.startswith("on_")]
_DECLARATIONS = (
    *("bars", "capabilities", "identity", "messages"),
    *("msi_masks", "msix_bars", "state", "vectors"),
)
_NEAR = 0.85  # of 1: "on_stop" is not near enough to "on_stopped"


def check_names(kind: type) -> None:
    """Raise ValueError for a name in the class's body that is nearly one of the framework's."""
    owner: Any = object.__new__(kind)
    for name, value in vars(kind).items():
        if any(name in vars(base) for base in kind.__mro__[1:]):
            if name in _HOOKS:
                _check_hook(f"{kind.__name__}.{name}", name, getattr(owner, name))
        elif inspect.isfunction(value):
            if name.startswith("on_"):
                _check_near(kind, name, _HOOKS, "hook")
        elif not hasattr(value, "__get__"):
            _check_near(kind, name, _DECLARATIONS, "declaration")


def _check_near(kind: type, name: str, names: Iterable[str], what: str) -> None:
    near = get_close_matches(name, names, 1, _NEAR)
    if near and near[0] != name:
        raise ValueError(
            f"{kind.__name__}.{name}: no {what} of that name (is it {near[0]}?); correct it, or "
            "name your own otherwise"
        )


def _check_hook(where: str, name: str, method: Any) -> None:
    if not callable(method):
        raise ValueError(f"{where} is {method!r}; a hook is a method")
    if inspect.iscoroutinefunction(method):
        raise ValueError(f"{where} {NOT_AWAITED}")
    given = [*inspect.signature(getattr(Hooks, name)).parameters.values()][1:]
    named = {each.name: each for each in given if each.kind is each.KEYWORD_ONLY}
    found = inspect.signature(method)
    try:
        found.bind(*[each.name for each in given if each.name not in named], **named)
    except TypeError:
        call = [f"{each.name}={each.name}" if each.name in named else each.name for each in given]
        raise ValueError(
            f"{where} has the parameters {found}, and is called by {name}({', '.join(call)}); "
            "give it these"
        ) from None
