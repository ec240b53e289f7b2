# SPDX-License-Identifier: Apache-2.0
"""The state that an endpoint declares: what a migration carries, and what stands still for it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import ClassVar

import pytest

from dma_rehearsal.device.endpoints.bars import Bars, MemoryBar, RegisterBar
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.registers import Access, Register
from dma_rehearsal.device.endpoints.saved_state import StatePart
from dma_rehearsal.device.pci.config import Command, Identity
from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError
from dma_rehearsal.device.vfio_user.messages import DeviceState as S
from dma_rehearsal.device.vfio_user.migration import Migration

ROOT = Path(__file__).parents[4]


class Reg(IntEnum):
    """BAR0."""

    FIRST = 0
    COUNT = 4
    COMMAND = 8


class Counter(Endpoint):
    """Its state is half of a memory, the register COUNT, and a command that is never stored."""

    identity = Identity(vendor_id=0x1234, device_id=1, class_code=0xFF0000)
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            [
                Register(Reg.FIRST, Access.RW),
                Register(Reg.COUNT),
                Register(Reg.COMMAND, Access.WO),
            ]
        ),
        1: MemoryBar(4096),
        2: MemoryBar(4096, read_only=True),
    }
    state: ClassVar[Sequence[StatePart]] = (
        StatePart(1, 2048, 2048),
        StatePart(0, 4, 8),
        StatePart(2, 0, 4),
    )

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[str] = []

    def write_command(self, _value: int) -> None:
        """Never called by a migration."""
        self.phases.append("command")

    def on_load(self) -> None:
        """Refuse a count that cannot be."""
        self.phases.append("loaded")
        if self.registers(0)[Reg.COUNT] > 100:
            raise ValueError("a count above 100")

    def on_stopped(self) -> None:
        """Take note."""
        self.phases.append("stopped")

    def on_running(self) -> None:
        """Take note."""
        self.phases.append("running")


def migration(endpoint: Endpoint) -> Migration:
    assert endpoint.migration is not None
    return endpoint.migration


def saved(endpoint: Endpoint) -> bytes:
    migration(endpoint).set(S.STOP_COPY)
    return migration(endpoint).read(1 << 20)


def test_the_parts_go_over_in_their_order_and_nothing_else() -> None:
    source, target = Counter(), Counter()
    source.memory(1)[:] = bytes(range(256)) * 16
    source.memory(2)[:4] = b"only"
    source.registers(0)[Reg.FIRST] = 7
    source.registers(0)[Reg.COUNT] = 42
    state = saved(source)
    assert state == bytes(range(256)) * 8 + (42).to_bytes(8, "little") + b"only"
    migration(target).set(S.RESUMING)
    migration(target).write(state)
    migration(target).set(S.RUNNING)
    assert bytes(target.memory(1)) == bytes(2048) + bytes(range(256)) * 8
    assert bytes(target.memory(2)[:4]) == b"only"
    assert (target.registers(0)[Reg.FIRST], target.registers(0)[Reg.COUNT]) == (0, 42)
    assert source.phases == ["stopped"]
    assert target.phases == ["stopped", "loaded", "running"]


def test_a_state_that_the_device_cannot_have_is_refused() -> None:
    target = Counter()
    migration(target).set(S.RESUMING)
    migration(target).write(bytes(2048) + b"\xff" * 8 + bytes(4))
    with pytest.raises(RemoteProtocolError, match="a count above 100"):
        migration(target).set(S.STOP)
    assert migration(target).state is S.ERROR


@pytest.mark.parametrize(
    "part",
    [
        StatePart(0, 2, 4),
        StatePart(0, 0, 6),
        StatePart(0, 8, 8),
        StatePart(0, -4, 8),
        StatePart(1, 4000, 97),
        StatePart(1, -1, 4),
        StatePart(1, 0, 0),
        StatePart(3, 0, 4),
    ],
)
def test_a_part_that_no_bar_has(part: StatePart) -> None:
    class Wrong(Counter, complete=False):
        state = (part,)

    with pytest.raises(ValueError, match=re.escape(f"{part}: the endpoint has no such bytes")):
        Wrong()


def test_what_stands_still_has_no_timer_left() -> None:
    """Stopped for a migration, and after a reset."""
    endpoint = Counter()
    endpoint.timers.after(0, lambda: endpoint.phases.append("timer"))
    migration(endpoint).set(S.STOP)
    endpoint.timers.after(0, lambda: endpoint.phases.append("timer"))
    endpoint.device_reset()
    endpoint.timers.run_due()
    assert endpoint.phases == ["stopped"]


def test_without_a_state_there_is_no_migration() -> None:
    class Stateless(Counter):
        state = ()

    assert Stateless().migration is None


def test_bus_mastering_from_the_reset_on() -> None:
    class Sample(Counter):
        command_at_reset = Command.BUS_MASTER | Command.MEMORY_SPACE

    endpoint = Sample()
    assert endpoint.config.bus_master
    endpoint.region_write(7, 4, b"\2\0")
    assert not endpoint.config.bus_master
    endpoint.device_reset()
    assert endpoint.config.command == Sample.command_at_reset
    assert not Counter().config.bus_master


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_program_that_is_one_device_ends_by_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "socket"
    command = [sys.executable, "-m", "examples.timer", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 30
        while not path.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (0, "")
    assert list(tmp_path.iterdir()) == []
