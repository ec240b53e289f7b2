# SPDX-License-Identifier: Apache-2.0
"""Faults of HOLD: an action that does not wait, or waits too long, or is overtaken."""

from __future__ import annotations

from dma_rehearsal.device.endpoints.hold_board import HoldRules
from dma_rehearsal.device.faults.fault import DeviceFault
from dma_rehearsal.device.platform.platform import PlatformModels

_NEVER = 1 << 62  # reads


def _rules(rules: HoldRules) -> DeviceFault:
    return DeviceFault(platform=lambda: PlatformModels(hold=rules))


IMPLEMENTATIONS: dict[str, DeviceFault] = {
    "hold-ignored": _rules(HoldRules(waits=False)),
    "hold-release-lost": _rules(HoldRules(releases=False)),
    "hold-overtaken": _rules(HoldRules(ordered=False)),
    "hold-poll-ignored": _rules(HoldRules(polls=_NEVER)),
}
