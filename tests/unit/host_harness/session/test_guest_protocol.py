# SPDX-License-Identifier: Apache-2.0
"""A hostile guest's messages about its tests are refused: never believed, and never a crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.host_harness.machine import channel
from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.session import guest_protocol
from dma_rehearsal.host_harness.verdict import device_trace
from dma_rehearsal.host_harness.verdict.device_trace import DeviceTrace

ITEM = {
    "nodeid": "suite/test_x.py::test_y[1]",
    "path": "suite/test_x.py",
    "lineno": 3,
    "name": "test_y[1]",
    "keywords": ["y"],
    "marks": ["promise"],
    "promises": ["alignment"],
}


PLACE = {"filename": "t.py", "line": 1}


def collected(**changes: Any) -> list[guest_protocol.CollectedItem]:
    return guest_protocol.collected_items({"type": "collected", "items": [{**ITEM, **changes}]})


def test_sound_item() -> None:
    (item,) = collected()
    assert (item.nodeid, item.line, item.marks) == (ITEM["nodeid"], 3, ("promise",))


@pytest.mark.parametrize(
    "changes",
    [
        {"nodeid": "--junitxml=x"},
        {"nodeid": "a\nb"},
        {"nodeid": ""},
        {"nodeid": 5},
        {"path": "/etc/passwd"},
        {"path": "../x.py"},
        {"lineno": "3"},
        {"lineno": -1},
        {"keywords": None},
        {"marks": [3]},
        {"promises": "alignment"},
        {"name": None},
    ],
)
def test_item_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(GuestProtocolError):
        collected(**changes)


def test_marks_that_pytest_would_choke_on_are_left_out() -> None:
    (item,) = collected(marks=["_x", "a:b", "", "slow"])
    assert item.marks == ("slow",)


def test_one_test_named_twice() -> None:
    with pytest.raises(GuestProtocolError, match="twice"):
        guest_protocol.collected_items({"items": [ITEM, ITEM]})


def data(request: pytest.FixtureRequest, **changes: Any) -> dict[str, Any]:
    report = pytest.TestReport(
        nodeid="t.py::t", location=("t.py", 1, "t"), keywords={}, outcome="passed", longrepr=None,
        when="call",
    )  # fmt: skip
    hook = request.config.hook
    whole = hook.pytest_report_to_serializable(config=request.config, report=report)
    return {**whole, **changes}


def test_sound_report(request: pytest.FixtureRequest) -> None:
    found = guest_protocol.report(request.config, data(request), "t.py::t")
    assert found.passed


@pytest.mark.parametrize(
    "changes",
    [
        {"nodeid": "t.py::another"},
        {"outcome": "weird"},
        {"when": "lunch"},
        {"outcome": "failed", "wasxfail": "reason: known"},
        {"user_properties": [1]},
        {"$report_type": "CollectReport"},
        {"$report_type": "Nothing"},
    ],
)
def test_report_that_cannot_be(request: pytest.FixtureRequest, changes: dict[str, Any]) -> None:
    with pytest.raises(GuestProtocolError):
        guest_protocol.report(request.config, data(request, **changes), "t.py::t")


def test_report_cannot_send_escapes_to_the_terminal(request: pytest.FixtureRequest) -> None:
    escape = "\x1b]0;owned\x07\x1b[2J"
    said = data(
        request,
        outcome="failed",
        longrepr=f"def test():\n\tx{escape}\nE   no",
        sections=[[f"Captured{escape} stdout", f"a{escape}\nb"]],
        location=["t.py", 3, f"t{escape}"],
    )
    found = guest_protocol.report(request.config, said, "t.py::t")
    assert found.longreprtext == "def test():\n        x\nE   no"
    assert [tuple(each) for each in found.sections] == [("Captured stdout", "a\nb")]
    assert found.location[2] == "t"
    message = {"warnings": [{"category": "UserWarning", "message": f"w{escape}", **PLACE}]}
    assert [each.message for each in guest_protocol.warned(message)] == ["w"]
    errors = {"errors": [{"nodeid": "t.py", "longrepr": f"E  {escape}x"}, escape]}
    assert guest_protocol.collection_errors(errors) == "t.py:\nE  x\n"


def test_report_nested_without_end_is_refused(request: pytest.FixtureRequest) -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(GuestProtocolError):
        guest_protocol.report(request.config, data(request, sections=nested), "t.py::t")


@pytest.mark.parametrize("value", [None, [], 3, {}])
def test_no_report(request: pytest.FixtureRequest, value: object) -> None:
    with pytest.raises(GuestProtocolError):
        guest_protocol.report(request.config, value, "t.py::t")


def reports(*phases: tuple[str, str]) -> list[pytest.TestReport]:
    return [
        pytest.TestReport("t", ("t", 1, "t"), {}, outcome, None, when)  # type: ignore[arg-type]
        for when, outcome in phases
    ]


@pytest.mark.parametrize(
    "phases",
    [
        [],
        [("setup", "passed")],
        [("setup", "passed"), ("teardown", "passed")],  # the call never ran
        [("call", "passed"), ("teardown", "passed")],
        [("setup", "passed"), ("call", "passed")],
        [("setup", "failed"), ("call", "passed"), ("teardown", "passed")],
        [("setup", "passed"), ("call", "passed"), ("call", "passed"), ("teardown", "passed")],
    ],
)
def test_order_that_cannot_be(phases: list[tuple[str, str]]) -> None:
    with pytest.raises(GuestProtocolError, match="reports are missing"):
        guest_protocol.check_order(reports(*phases))


def test_orders_that_can() -> None:
    guest_protocol.check_order(
        reports(("setup", "passed"), ("call", "failed"), ("teardown", "failed"))
    )
    guest_protocol.check_order(reports(("setup", "skipped"), ("teardown", "passed")))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@given(JSON)
def test_any_words_are_cleaned_or_refused(value: object) -> None:
    def printable(each: object) -> bool:
        if isinstance(each, str):
            return all(part.isprintable() for part in each.split("\n"))
        if isinstance(each, dict):
            return all(printable(k) and printable(v) for k, v in each.items())
        return not isinstance(each, list) or all(map(printable, each))

    cleaned = channel.cleaned(value)
    assert printable(cleaned)
    json.dumps(cleaned)
    message = cleaned if isinstance(cleaned, dict) else {"items": cleaned, "errors": cleaned}
    for parse in guest_protocol.collected_items, guest_protocol.collection_errors:
        try:
            parse(message)
        except GuestProtocolError:
            continue


def test_trace_gives_what_the_device_did_since_the_last_look(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    trace = DeviceTrace(path)
    assert trace.take() == []
    with path.open("w") as file:
        for event in ("attach", "dma"):
            file.write(json.dumps({"event": event}) + "\n")
        file.write('{"event": "half')
        file.flush()
        assert [each["event"] for each in trace.take()] == ["attach", "dma"]
        file.write(' a line"}\n')
        file.flush()
        assert [each["event"] for each in trace.take()] == ["half a line"]
    assert trace.take() == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"\n", "line 2: not an event"),
        (b"[" * 100_000 + b"\n", "line 2: not an event"),
        (b"\xff\xfe\n", "line 2: not an event"),
        (b"[1]\n", "line 2: an event without a name"),
        (b'{"event": 3}\n', "line 2: an event without a name"),
        (b"a" * ((1 << 20) + 1), "line 2: an event of more than 1048576 bytes"),
    ],
)
def test_trace_that_is_no_trace_is_no_verdict(tmp_path: Path, line: bytes, words: str) -> None:
    path = tmp_path / "trace"
    path.write_bytes(b'{"event": "dma"}\n' + line)
    with pytest.raises(NoVerdict, match=words):
        DeviceTrace(path).take()


def test_trace_of_one_test_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_trace, "_EVENTS_MAX", 2)
    path = tmp_path / "trace"
    trace = DeviceTrace(path)
    path.write_text('{"event": "dma"}\n{"event": "command"}\n')
    assert len(trace.take()) == 2
    path.write_text(path.read_text() + '{"event": "dma"}\n' * 3)
    with pytest.raises(NoVerdict, match="more than 2 events in one test"):
        trace.take()


@pytest.mark.parametrize("count", [-1, 0, 1 << 40, "3", None, 1.5, True])
def test_number_of_tests_left_out_is_checked(count: object) -> None:
    assert guest_protocol.left_out({"left_out": {"for another": 3}}) == {"for another": 3}
    assert guest_protocol.left_out({}) == {}
    with pytest.raises(GuestProtocolError, match="left out"):
        guest_protocol.left_out({"left_out": {"for another": count}})


@pytest.mark.parametrize("said", [3, None, ["a"], {"\x1b[2J": 1}, {"x" * 300: 1}, {1: 1}])
def test_reasons_for_leaving_out_are_checked(said: object) -> None:
    with pytest.raises(GuestProtocolError):
        guest_protocol.left_out({"left_out": said})


def test_reasons_for_leaving_out_are_few() -> None:
    with pytest.raises(GuestProtocolError, match="are malformed"):
        guest_protocol.left_out({"left_out": {str(number): 1 for number in range(21)}})


def test_reports_of_parts_stand_beside_those_of_their_test() -> None:
    whole = reports(
        ("setup", "passed"), ("call", "failed"), ("call", "passed"), ("teardown", "passed")
    )
    with pytest.raises(GuestProtocolError):
        guest_protocol.check_order(whole)
    setattr(whole[1], "context", None)  # noqa: B010
    guest_protocol.check_order(whole)


def test_skip_is_told_as_pytests_plugins_demand(request: pytest.FixtureRequest) -> None:
    said = data(request, outcome="skipped", longrepr=["t.py", 3, "Skipped: not here"])
    assert guest_protocol.report(request.config, said, "t.py::t").longrepr == (
        "t.py",
        3,
        "Skipped: not here",
    )
    expected = data(request, outcome="skipped", longrepr="E  1 == 2", wasxfail="known")
    assert guest_protocol.report(request.config, expected, "t.py::t").longrepr == "E  1 == 2"


@pytest.mark.parametrize("longrepr", [None, "words", ["t.py", 3], ["t.py", "3", "x"], [1, 2, "x"]])
def test_skip_that_cannot_be(request: pytest.FixtureRequest, longrepr: object) -> None:
    said = data(request, outcome="skipped", longrepr=longrepr)
    with pytest.raises(GuestProtocolError, match="was skipped"):
        guest_protocol.report(request.config, said, "t.py::t")


WARNED = {"category": "UserWarning", "message": "old", "filename": "/etc/shadow", "line": 1}


def test_warning_is_told_without_a_look_at_this_machines_files() -> None:
    (found,) = guest_protocol.warned({"warnings": [WARNED]})
    message = found.as_message()
    assert message.category is UserWarning
    assert str(message.message) == "old"
    assert message.line == "", "formatwarning() looks for it otherwise"
    (own,) = guest_protocol.warned({"warnings": [{**WARNED, "category": "print"}]})
    assert issubclass(own.as_message().category, Warning)
    assert guest_protocol.warned({}) == []


@pytest.mark.parametrize(
    "said",
    [
        None,
        [3],
        [WARNED] * (guest_protocol.WARNINGS_MAX + 1),
        [{**WARNED, "category": "a b"}],
        [{**WARNED, "category": 3}],
        [{**WARNED, "line": -1}],
        [{**WARNED, "line": True}],
        [{**WARNED, "message": None}],
    ],
)
def test_warnings_that_cannot_be(said: object) -> None:
    with pytest.raises(GuestProtocolError):
        guest_protocol.warned({"warnings": said})


def test_count_of_the_guests_pytest_is_that_of_its_list() -> None:
    found = guest_protocol.collected_items({"items": [ITEM]})
    guest_protocol.check_count({"count": 1}, found)
    for count in (0, 2, None, "1"):
        with pytest.raises(GuestProtocolError, match="and 1 were named"):
            guest_protocol.check_count({"count": count}, found)


def test_dropped_tests_are_named() -> None:
    assert guest_protocol.dropped({}) == []
    assert guest_protocol.dropped({"dropped": ["t.py::t\x1b[2J"]}) == ["t.py::t"]
    for said in (None, "t.py", ["x"] * 21):
        with pytest.raises(GuestProtocolError, match="dropped tests"):
            guest_protocol.dropped({"dropped": said})
