# SPDX-License-Identifier: Apache-2.0
"""A saved machine state is parsed strictly, and QEMU is told how to save one."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.host_harness.machine import machine_state
from dma_rehearsal.host_harness.machine.machine_state import (
    MemoryTypeRegisters,
    SaveError,
    StreamError,
)
from dma_rehearsal.host_harness.machine.qmp import MonitorError
from tests.unit.host_harness.machine import saved_states
from tests.unit.host_harness.machine.saved_states import REGISTERS, Section, cpu, other, stream

WORD = st.integers(0, (1 << 64) - 1)
ANY_REGISTERS = st.builds(
    MemoryTypeRegisters,
    WORD,
    WORD,
    st.tuples(*[WORD] * 11),
    st.tuples(*[st.tuples(WORD, WORD)] * 8),
)


@given(st.lists(ANY_REGISTERS, min_size=1, max_size=3), st.binary(max_size=60))
def test_registers_of_each_cpu(cpus: list[MemoryTypeRegisters], ram: bytes) -> None:
    sections = [each for i, found in enumerate(cpus) for each in (other(ram), cpu(i, found))]
    assert machine_state.cpus_of(stream(sections, ram=ram)) == dict(enumerate(cpus))


def test_bytes_of_the_guest_are_not_taken_for_a_section() -> None:
    """A device holds what looks like a CPU's section, and like the end of a stream."""
    wrong = replace(REGISTERS, pat=0)
    bait = cpu(0, wrong).bytes(3) + stream([cpu(0, wrong), cpu(1, wrong)])
    found = machine_state.cpus_of(stream([other(bait), cpu(0), other(bait), cpu(1)], ram=bait))
    assert found == {0: REGISTERS, 1: REGISTERS}


def test_elements_that_are_described_one_by_one() -> None:
    """QEMU describes an array so whose elements may differ."""
    fields = []
    for described, data in saved_states.cpu_fields(REGISTERS):
        count = described.pop("array_len", None)
        size = described["size"]
        fields += [
            ({**described, "index": i} if count else described, data[i * size : (i + 1) * size])
            for i in range(count or 1)
        ]
    assert machine_state.cpus_of(stream([Section("cpu", 0, fields)])) == {0: REGISTERS}


@given(st.data())
def test_truncated_anywhere(data: st.DataObject) -> None:
    whole = stream()
    with pytest.raises(StreamError):
        machine_state.cpus_of(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(st.binary(max_size=300), st.sampled_from([b"", b"QEVM\0\0\0\3"]))
def test_foreign_bytes(data: bytes, header: bytes) -> None:
    with pytest.raises(StreamError):
        machine_state.cpus_of(header + data)


@given(st.data())
def test_changed_anywhere(data: st.DataObject) -> None:
    """Nothing but values or a StreamError comes of a byte that is wrong."""
    whole = bytearray(stream())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = machine_state.cpus_of(bytes(whole))
    except StreamError:
        return
    assert all(isinstance(each, MemoryTypeRegisters) for each in found.values())


ABSURD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def places(value: object, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the ways to all that is in the description."""
    inner = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        inner = enumerate(value)  # type: ignore[assignment]
    return [way, *(each for key, part in inner for each in places(part, (*way, key)))]


@given(st.data(), ABSURD)
def test_description_that_cannot_be(data: st.DataObject, absurd: object) -> None:
    sections = [cpu(0), other(), cpu(1)]
    told: Any = {"": copy.deepcopy(saved_states.described(sections))}
    *way, last = data.draw(st.sampled_from(places(told)[1:]))
    place = told
    for key in way:
        place = place[key]
    place[last] = absurd
    try:
        found = machine_state.cpus_of(stream(sections, description=told[""]))
    except StreamError:
        return
    assert found == {0: REGISTERS, 1: REGISTERS}


@pytest.mark.parametrize(
    ("way", "value"),
    [
        (("devices", 0, "fields", 1, "size"), 1 << 31),
        (("devices", 0, "fields", 1, "size"), 1 << 400),
        (("devices", 0, "fields", 2, "array_len"), 10),
        (("devices", 0, "fields", 2, "array_len"), (1 << 32) - 1),
        (("devices", 0, "fields", 1, "name"), "env.tap"),
        (("devices", 0, "fields", 6, "name"), "env.pat"),
        (("devices", 0, "fields", 5, "struct", "fields", 0, "name"), "mask"),
        (("devices", 0, "fields", 5, "struct"), None),
        (("devices", 0, "version"), 11),
        (("devices", 0, "instance_id"), False),
        (("devices", 0, "name"), "pci"),
        (("devices", 1, "instance_id"), 1),
        (("devices", 2, "subsections", 0, "vmsd_name"), "cpu"),
        (("devices", 2, "subsections", 0, "vmsd_name"), "x" * 256),
        (("devices", 2, "subsections"), []),
        (("devices",), []),
        (("devices",), {}),
    ],
)
def test_description_of_another_stream(way: tuple[Any, ...], value: object) -> None:
    sections = [cpu(0), other(), cpu(1)]
    told: Any = copy.deepcopy(saved_states.described(sections))
    place = told
    for key in way[:-1]:
        place = place[key]
    place[way[-1]] = value
    with pytest.raises(StreamError):
        machine_state.cpus_of(stream(sections, description=told))


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"devices":[' + b"9" * 5000 + b"]}", b"\xff"])
def test_description_that_is_not_one(text: bytes) -> None:
    whole = b"QEVM\0\0\0\3" + b"\0\6" + len(text).to_bytes(4, "big") + text
    with pytest.raises(StreamError, match="description"):
        machine_state.cpus_of(whole)


@pytest.mark.parametrize("place", ["kind", "number", "name", "instance", "footer", "end"])
def test_frame_of_a_section_that_is_wrong(place: str) -> None:
    """A byte that is no field's value; the last section is followed by the stream's end."""
    whole = stream([cpu(0)])
    start = whole.index(b"\x04\0\0\0\3\3cpu")
    footer = whole.rindex(b"\x7e\0\0\0\3")
    offset = {"kind": start, "number": start + 4, "name": start + 7, "instance": start + 12}
    at = offset | {"footer": footer, "end": footer + 5}
    assert machine_state.cpus_of(whole)
    with pytest.raises(StreamError):
        machine_state.cpus_of(whole[: at[place]] + b"\x55" + whole[at[place] + 1 :])


def test_devices_do_not_reach_into_the_header() -> None:
    whole = stream([cpu(0)], ram=b"")
    header = len(b"QEVM\0\0\0\3\7\0\0\0\1q")
    assert machine_state.cpus_of(whole)
    with pytest.raises(StreamError, match="shorter"):
        machine_state.cpus_of(b"QEVM\0\0\0\3" + whole[header + 1 :])


def test_section_of_another_device_of_the_cpus() -> None:
    common = Section("cpu_common", 0, saved_states.cpu_fields(replace(REGISTERS, pat=0)))
    assert machine_state.cpus_of(stream([common, cpu(0)])) == {0: REGISTERS}


def test_cpu_twice_and_none() -> None:
    with pytest.raises(StreamError, match="CPU 0 twice"):
        machine_state.cpus_of(stream([cpu(0), cpu(0)]))
    with pytest.raises(StreamError, match="no CPU"):
        machine_state.cpus_of(stream([other()]))


def test_too_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = stream()
    monkeypatch.setattr(machine_state, "_STREAM_MAX", len(whole))
    assert machine_state.cpus_of(whole)
    path = tmp_path / "state"
    path.write_bytes(whole + bytes(1 << 20))
    with pytest.raises(StreamError, match="more than"):
        machine_state.read_cpus(path)
    monkeypatch.setattr(machine_state, "_DESCRIPTION_MAX", 100)
    with pytest.raises(StreamError, match="too long"):
        machine_state.cpus_of(whole)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="No such file"):
        machine_state.read_cpus(tmp_path / "nothing")


class Qemu:
    """A monitor of a QEMU that saves. ``said`` are its answers to query-migrate."""

    def __init__(self, *said: dict[str, Any], refuses: str = "") -> None:
        self.said = list(said) or [{}, {"status": "active"}, {"status": "completed"}]
        self.refuses = refuses
        self.commands: list[tuple[str, dict[str, Any]]] = []

    @property
    def capability(self) -> list[bool]:
        set_to = [each for name, each in self.commands if name == "migrate-set-capabilities"]
        assert all(each["capabilities"][0]["capability"] == "x-ignore-shared" for each in set_to)
        return [each["capabilities"][0]["state"] for each in set_to]

    def command(self, name: str, **arguments: Any) -> Any:
        self.commands.append((name, arguments))
        if name == self.refuses:
            raise MonitorError(f"{name}: refused")
        if name == "migrate":
            (channel,) = arguments["channels"]
            Path(channel["addr"]["filename"]).write_bytes(stream())
        if name == "query-migrate":
            return self.said.pop(0) if len(self.said) > 1 else self.said[0]
        return {}


def save(qemu: Any, path: Path, limit_s: float = 5) -> None:
    machine_state.save(qemu, path, limit_s)


def test_saved_and_read(tmp_path: Path) -> None:
    qemu, path = Qemu(), tmp_path / "with,offset=8"
    save(qemu, path)
    assert machine_state.read_cpus(path) == {0: REGISTERS, 1: REGISTERS}
    assert qemu.capability == [True, False]
    assert not {"cont", "stop"} & {name for name, _ in qemu.commands}


@pytest.mark.parametrize("name", ["migrate-set-capabilities", "migrate", "query-migrate"])
def test_qemu_that_refuses(tmp_path: Path, name: str) -> None:
    qemu, path = Qemu(refuses=name), tmp_path / "state"
    with pytest.raises(SaveError, match=f"{name}: refused"):
        save(qemu, path)
    assert not path.exists()
    assert qemu.commands[-1][0] == "migrate-set-capabilities"


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_qemu_that_fails(tmp_path: Path, status: str) -> None:
    qemu, path = Qemu({"status": status, "error-desc": "No space left on device"}), tmp_path / "s"
    with pytest.raises(SaveError, match="No space left"):
        save(qemu, path)
    assert not path.exists()
    assert qemu.capability == [True, False]


def test_qemu_that_does_not_complete(tmp_path: Path) -> None:
    qemu, path = Qemu({"status": "active"}), tmp_path / "state"
    with pytest.raises(SaveError, match="deadline"):
        save(qemu, path, limit_s=0)
    assert ("migrate_cancel", {}) in qemu.commands
    assert not path.exists()
