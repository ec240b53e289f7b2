# SPDX-License-Identifier: Apache-2.0
"""Options of ``pytest --vm``: the command line's come before the configuration file's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from dma_rehearsal.host_harness import pytest_plugin


class FakeConfig:
    """The options and the settings that pytest would have."""

    def __init__(self, options: Mapping[str, str], settings: Mapping[str, str]) -> None:
        self._options, self._settings = options, settings

    def getoption(self, name: str) -> Any:
        return self._options.get(name)

    def getini(self, name: str) -> Any:
        return self._settings.get(name, "")


@pytest.mark.parametrize(
    ("options", "endpoint"),
    [({}, "mine:Mine"), ({"--vm-endpoint": "a:B"}, "a:B"), ({"--vm-endpoint": ""}, None)],
    ids=["the file's", "the command line's", "an empty one takes the file's back"],
)
def test_command_line_comes_first(options: Mapping[str, str], endpoint: str | None) -> None:
    config = cast("pytest.Config", FakeConfig(options, {"vm_endpoint": "mine:Mine"}))
    assert pytest_plugin._given(config).endpoint == endpoint
