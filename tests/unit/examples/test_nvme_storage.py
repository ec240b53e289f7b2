# SPDX-License-Identifier: Apache-2.0
"""The NVMe example's namespaces, its longest transfers, its interrupts, its size, its profile."""

from __future__ import annotations

import ast
import io
import struct
import tokenize
from dataclasses import replace
from pathlib import Path

import pytest

from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.device.exerciser.request_limits import RequestLimits
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.messages import Irq
from examples.nvme import controller, prp
from examples.nvme.controller import Nvme
from examples.nvme.layout import BLOCK, PAGE, TRANSFER_PAGES, Command, Reg, Status
from tests.unit.device.fakes import BASE, FakeClient
from tests.unit.examples.nvme_host import DATA, NAMESPACE, Admin, Host, Io, Pair

LINES_MAX = 400
OK = Status.SUCCESS


@pytest.fixture
def host() -> Host:
    return Host()


def connected(nvme: Nvme) -> tuple[Host, Pair]:
    host = Host(nvme=nvme)
    return host, host.io_pair(host.enable())


def test_namespaces_are_apart(host: Host) -> None:
    pair = host.io_pair(host.enable())
    host.put(DATA, b"2" * BLOCK)
    assert host.do(pair, Io.WRITE, 7, 0, 0, namespace=2, prp=(DATA, 0))[0] is OK
    first, second = host.nvme.namespaces.values()
    assert second.data[7 * BLOCK : 8 * BLOCK] == b"2" * BLOCK
    assert not any(bytes(first.data))
    beyond = second.blocks
    done = host.do(pair, Io.READ, beyond, 0, 0, namespace=2, prp=(DATA, 0))
    assert done[0] is Status.LBA_OUT_OF_RANGE
    assert host.do(pair, Io.READ, beyond, 0, 0, namespace=1, prp=(DATA, 0))[0] is OK


def test_a_file_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "first.img", tmp_path / "second.img"]
    for size, each in enumerate(files, 1):
        each.write_bytes(bytes(size * PAGE + 100))  # whole blocks count
    monkeypatch.setenv("NVME_FILES", ",".join(map(str, files)))
    host, pair = connected(Nvme(Trace()))
    assert [each.blocks for each in host.nvme.namespaces.values()] == [8, 16]
    host.put(DATA, b"f" * BLOCK)
    assert host.do(pair, Io.WRITE, 15, 0, 0, namespace=2, prp=(DATA, 0))[0] is OK
    assert host.do(pair, Io.FLUSH, namespace=0xFFFF_FFFF)[0] is OK
    assert files[1].read_bytes()[15 * BLOCK : 16 * BLOCK] == b"f" * BLOCK
    host, pair = connected(Nvme(Trace()))
    assert host.do(pair, Io.READ, 15, 0, 0, namespace=2, prp=(DATA, 0))[0] is OK
    assert host.get(DATA, BLOCK) == b"f" * BLOCK


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVME_FILES", str(tmp_path / "missing.img"))
    with pytest.raises(FileNotFoundError, match=r"missing\.img"):
        Nvme(Trace())


class Failing:
    """The data of a disk that is full."""

    def flush(self) -> None:
        raise OSError(28, "no space left")


def test_a_flush_that_fails(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = host.io_pair(host.enable())
    monkeypatch.setattr(host.nvme.namespaces[1], "data", Failing())
    assert host.do(pair, Io.FLUSH, namespace=NAMESPACE)[0] is Status.INTERNAL_ERROR


@pytest.mark.parametrize("offset", [0, 512])
def test_the_longest_transfer(host: Host, offset: int) -> None:
    """By a list of as many pages as MDTS allows, and one more at an offset."""
    pair = host.io_pair(host.enable())
    count = TRANSFER_PAGES * PAGE // BLOCK
    pages = [DATA + PAGE * (each % 2) for each in range(1, TRANSFER_PAGES + 1)]
    host.put(BASE + 0x1_7000, struct.pack(f"<{len(pages)}Q", *pages))
    for each in range(2):
        host.put(DATA + PAGE * each, bytes((each + 1,)) * PAGE)
    prp = DATA + offset, BASE + 0x1_7000
    assert host.move(pair, Io.WRITE, 0, count, prp) is OK
    data = host.nvme.namespaces[1].data
    assert {*data[: PAGE - offset]} == {1}
    assert {*data[PAGE - offset : 2 * PAGE - offset]} == {2}
    assert host.move(pair, Io.READ, 0, count, prp) is OK
    assert host.move(pair, Io.READ, 0, count + 1, prp) is Status.INVALID_FIELD


def test_deallocation_is_bounded(host: Host) -> None:
    pair = host.io_pair(host.enable())
    whole = struct.pack("<IIQ", 0, host.nvme.namespaces[1].blocks, 0)
    host.put(DATA, 2 * whole)
    for ranges, status in (1, OK), (2, Status.INVALID_FIELD):
        done = host.do(pair, Io.DATASET_MANAGEMENT, ranges - 1, 4, namespace=1, prp=(DATA, 0))
        assert done[0] is status


def test_intx_is_up_until_all_completions_are_taken(host: Host) -> None:
    host.take_away_msix()
    admin = host.enable()
    line = host.nvme.interrupts.intx
    assert not line.level
    host.submit(admin, Admin.GET_FEATURES, 6)
    host.submit(admin, Admin.GET_FEATURES, 6)
    assert line.level
    assert host.client.interrupts == [(Irq.INTX, 0)]
    host.write(Reg.CQHDBL, 1)
    assert line.level
    host.write(Reg.CQHDBL, 2)
    assert not line.level


def test_its_limits_are_those_of_the_profile() -> None:
    """What a driver may give it is what the exerciser with this profile takes."""
    limits = profile.find("nvme")
    assert limits.max_transfer == PAGE * TRANSFER_PAGES
    assert limits.max_segments == TRANSFER_PAGES + 1
    assert (limits.boundary, limits.alignment) == (PAGE, 4)
    assert limits.class_code == Nvme.identity.class_code


def limited(**values: object) -> tuple[Host, Pair]:
    """Return a controller that is held to the limits of the profile nvme, or tighter ones."""
    host = Host()
    described = replace(profile.find("nvme"), **values)  # type: ignore[arg-type]
    host.nvme.bus.limits = RequestLimits(described).check
    return host, host.io_pair(host.enable())


def at_the_limit(host: Host, pair: Pair) -> Status:
    """Write as much as one command may, from the second dword of a page on; return the status."""
    pages = [DATA + PAGE * (index % 32) for index in range(TRANSFER_PAGES)]
    host.put(DATA - PAGE, struct.pack(f"<{len(pages)}Q", *pages))
    blocks = PAGE * TRANSFER_PAGES // BLOCK
    return host.move(pair, Io.WRITE, 0, blocks, (DATA + 4, DATA - PAGE))


def test_it_keeps_to_the_profile() -> None:
    """Its queues, lists and data are within the limits, to the last segment of a command."""
    assert at_the_limit(*limited()) is Status.SUCCESS


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"max_segments": TRANSFER_PAGES}, "MAX_SEGMENTS"),
        ({"max_transfer": PAGE * TRANSFER_PAGES - 4}, "MAX_TRANSFER"),
    ],
)
def test_what_it_takes_beyond_a_profile_is_refused(
    values: dict[str, object], reason: str, tmp_path: Path
) -> None:
    """As by a device whose controller told the driver more than its engine can do."""
    host, pair = limited(**values)
    host.nvme.bus.trace = Trace(tmp_path / "trace")
    assert at_the_limit(host, pair) is Status.DATA_TRANSFER_ERROR
    host.nvme.bus.trace.close()
    assert f'"reason": "{reason}"' in (tmp_path / "trace").read_text()


def test_a_controller_that_joins_pages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def joined(_read: prp.Read, command: Command, length: int) -> list[tuple[int, int]]:
        return [(command.prp1, length)]

    host, pair = limited()
    assert host.move(pair, Io.WRITE, 0, 2 * PAGE // BLOCK, (DATA, DATA + PAGE)) is Status.SUCCESS
    monkeypatch.setattr(prp, "ranges", joined)
    refused = host.move(pair, Io.WRITE, 0, 2 * PAGE // BLOCK, (DATA, DATA + PAGE))
    assert refused is Status.DATA_TRANSFER_ERROR


def code_lines(source: str) -> int:
    """Return the lines that have code: no blank lines, comments and docstrings."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped and token.type != tokenize.ENDMARKER:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node):
            lines -= {*range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)}
    return len(lines)


def test_it_is_small() -> None:
    files = Path(controller.__file__).parent.glob("*.py")
    assert sum(code_lines(each.read_text()) for each in files) <= LINES_MAX
    assert code_lines('"""Text."""\n\n# A comment\nx = [\n    1,\n]\n') == 3


def test_no_client_is_needed_to_make_it() -> None:
    assert isinstance(Host(client=FakeClient()).nvme, Nvme)
