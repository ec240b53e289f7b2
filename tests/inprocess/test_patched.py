# SPDX-License-Identifier: Apache-2.0
"""A fault leaves nothing behind, and what ran under it keeps what it set."""

from __future__ import annotations

import sys
import types

import pytest

from tests.inprocess.patched import patched


class Held:
    """A class of the package below."""

    def value(self) -> int:
        return 1


def test_what_the_patch_changed_is_undone_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = types.ModuleType("package_of_a_test")
    namespace = vars(module)
    namespace |= {"Held": Held, "state": "before"}
    monkeypatch.setattr(Held, "__module__", module.__name__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    sound = Held.value

    def patch() -> None:
        setattr(Held, "value", lambda _self: 2)  # noqa: B010
        namespace["new"] = "by the patch"

    with patched(module.__name__, patch):
        assert Held().value() == 2
        assert namespace["new"] == "by the patch"
        namespace["state"] = "by the run"
    assert Held.value is sound
    assert "new" not in namespace
    assert namespace["state"] == "by the run"
