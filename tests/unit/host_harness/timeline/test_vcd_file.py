# SPDX-License-Identifier: Apache-2.0
"""The value change dump, read back by pyvcd's own reader."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path

from vcd.reader import TokenKind, tokenize

from dma_rehearsal.host_harness.timeline import vcd_file
from dma_rehearsal.host_harness.timeline.timeline import Timeline
from tests.unit.host_harness.timeline import runs
from tests.unit.host_harness.timeline.runs import RING, at
from tests.unit.host_harness.traces import of_platform, request

_Values = dict[str, list[tuple[int, int | str]]]


def changes(timeline: Timeline) -> _Values:
    """Each signal's changes after its first value: (time, value), by its path."""
    text = io.StringIO()
    vcd_file.write(timeline, text)
    names: dict[str, str] = {}
    scopes: list[str] = []
    found: _Values = defaultdict(list)
    time, initial = 0, False
    for token in tokenize(io.BytesIO(text.getvalue().encode())):
        if token.kind is TokenKind.SCOPE:
            scopes.append(token.scope.ident)
        elif token.kind is TokenKind.UPSCOPE:
            scopes.pop()
        elif token.kind is TokenKind.VAR:
            names[token.var.id_code] = ".".join([*scopes, token.var.reference])
        elif token.kind is TokenKind.CHANGE_TIME:
            time = token.time_change
        elif token.kind in (TokenKind.DUMPVARS, TokenKind.END):
            initial = token.kind is TokenKind.DUMPVARS
        elif token.kind is TokenKind.CHANGE_SCALAR and not initial:
            change = token.scalar_change
            found[names[change.id_code]].append((time, int(change.value)))
        elif token.kind is TokenKind.CHANGE_VECTOR and not initial:
            vector = token.vector_change
            found[names[vector.id_code]].append((time, int(str(vector.value), 0)))
        elif token.kind is TokenKind.CHANGE_STRING and not initial:
            word = token.string_change
            found[names[word.id_code]].append((time, word.value))
    return found


def test_signals_of_a_device(tmp_path: Path) -> None:
    refused = request(2, (0x2000, 16), write=False, reason="PROTECTION_OUTSIDE", byte=0x2000)
    found = changes(
        runs.timeline(
            tmp_path,
            at(0.999_99, of_platform("attach")),
            at(1, request(1, moved=64), test=RING),
            at(1.000_01, refused, test=RING, snooped=False),
            at(1.000_02, runs.interrupt(), test=RING),
        )
    )
    dma = found["vm1.exerciser.dma"]
    assert dma == [(10_000, 1), (11_000, 0), (20_000, 1), (21_000, 0)]
    assert found["vm1.exerciser.address"] == [(10_000, 0x1000), (20_000, 0x2000)]
    assert found["vm1.exerciser.length"] == [(10_000, 64), (20_000, 16)]
    assert found["vm1.exerciser.write"] == [(10_000, 1), (20_000, 0)]
    assert found["vm1.exerciser.granted"] == [(10_000, 1), (20_000, 0)]
    assert found["vm1.exerciser.snooped"] == [(10_000, 1), (20_000, 0)]
    assert found["vm1.exerciser.irq"] == [(30_000, 1), (31_000, 0)]
    assert found["vm1.exerciser.vector"] == [(30_000, 3)]
    assert found["vm1.test"][0] == (10_000, RING)


def test_requests_close_together_are_apart(tmp_path: Path) -> None:
    found = changes(
        runs.timeline(
            tmp_path,
            at(0.5, of_platform("attach")),
            at(1, request(1), test=None),
            at(1.000_000_3, request(2), test=None),
            at(1.000_000_3, request(3), test=None),
        )
    )
    times = [time for time, _ in found["vm1.exerciser.dma"]]
    values = [value for _, value in found["vm1.exerciser.dma"]]
    assert values == [1, 0, 1, 0]
    assert times == sorted(times)


def test_doorbells_and_names_that_no_scope_can_have(tmp_path: Path) -> None:
    runs.write_trace(tmp_path, [at(0, of_platform("attach"))])
    runs.write_accesses(
        tmp_path,
        runs.named(0, "port.0"),
        runs.named(1, "port_0"),
        runs.register(0, 8, "GO", acts=True),
        runs.register(1, 8, "GO", acts=True),
        runs.access(1, 8, 1),
        runs.access(2, 8, 1, function=1),
    )
    found = changes(Timeline.of(tmp_path))
    assert [value for _, value in found["vm1.port_0.doorbell"]] == [1, 0]
    assert found["vm1.port_0_.doorbell"][0] == (2_000_000_000, 1)
    assert found["vm1.port_0.offset"] == [(1_000_000_000, 8)]


def test_a_run_without_requests(tmp_path: Path) -> None:
    assert changes(runs.timeline(tmp_path)) == {}
