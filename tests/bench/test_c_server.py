# SPDX-License-Identifier: Apache-2.0
"""The rows against libvfio-user: without its sources, without a compiler, and the client's part."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.device.layout import DmaStatus, Ext, Reg
from tests.bench import c_server, libvfio_user


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the library's sources."""
    folder = tmp_path / "library"
    for name in ("include/libvfio-user.h", "lib/tran.c", "lib/tran_pipe.c"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    monkeypatch.setenv(libvfio_user.VARIABLE, str(folder))
    return folder


@pytest.fixture
def exerciser(tmp_path: Path) -> Iterator[c_server._Server]:
    """A device process with the bench's client."""
    socket = tmp_path / "exerciser"
    command = [
        *(sys.executable, "-m", "dma_rehearsal.device", "--buffer-size", str(c_server.MIB)),
        *("--exerciser-socket", str(socket), "--platform-socket", str(tmp_path / "platform")),
    ]
    with c_server._memory() as memory, c_server._started(command, socket, memory) as server:
        yield server


def test_bench_goes_on_without_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(libvfio_user.VARIABLE, raising=False)
    assert list(c_server.c_server()) == []
    assert "next: git clone" in capsys.readouterr().out
    monkeypatch.setenv(libvfio_user.VARIABLE, str(tmp_path))
    assert libvfio_user.sources() is None


def test_build_that_fails_says_why(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert libvfio_user.sources() == library
    monkeypatch.setenv("CC", str(tmp_path / "missing"))
    with pytest.raises(RuntimeError, match="no C compiler"):
        libvfio_user.build(library, tmp_path, 4096)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(RuntimeError, match="does not build"):
        libvfio_user.build(library, tmp_path, 4096)


def test_build_takes_the_library_without_its_pipes(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\necho "$@" > "$(dirname "$0")/words"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    libvfio_user.build(library, tmp_path, 4096)
    words = (tmp_path / "words").read_text().split()
    assert str(library / "lib" / "tran.c") in words
    assert str(library / "lib" / "tran_pipe.c") not in words
    assert f"-DDMACTL={int(Reg.DMACTL)}" in words


def test_each_case_does_what_it_measures(exerciser: c_server._Server) -> None:
    lengths = []
    for case in c_server._cases():
        case.prepare(exerciser)
        before = exerciser.client.read32(3, Ext.DMA_COUNT)
        assert case.once(exerciser) > 0
        assert exerciser.client.read32(0, Reg.DMASTATUS) == DmaStatus.OK
        if exerciser.client.read32(3, Ext.DMA_COUNT) > before:
            lengths.append(exerciser.client.read32(0, Reg.DMA_LEN))
    assert lengths == [c_server.PAGE] * 2 + [c_server.MIB] * 2


def test_processes_are_pinned_and_let_go(exerciser: c_server._Server) -> None:
    mine = os.sched_getaffinity(0)
    cpu = min(mine)
    with c_server._pinned(cpu, cpu, [exerciser.process]):
        assert os.sched_getaffinity(0) == os.sched_getaffinity(exerciser.process) == {cpu}
    assert os.sched_getaffinity(0) == os.sched_getaffinity(exerciser.process) == mine


def test_server_that_ends_at_once_is_an_error(tmp_path: Path) -> None:
    with (
        c_server._memory() as memory,
        pytest.raises(RuntimeError, match="ended with status 1"),
        c_server._started(["false"], tmp_path / "socket", memory),
    ):
        pass
