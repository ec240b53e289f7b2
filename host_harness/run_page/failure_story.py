# SPDX-License-Identifier: Apache-2.0
"""The story of a failed test: asked and seen, the host's words, pictures, events, replay."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterable, Sequence

from dma_rehearsal.host_harness.run_page import memory_map
from dma_rehearsal.host_harness.run_page.markup import Html, element, joined, plain, text
from dma_rehearsal.host_harness.run_page.moments import Moment
from dma_rehearsal.host_harness.run_page.run_record import RunRecord
from dma_rehearsal.host_harness.run_page.trace_story import Story
from dma_rehearsal.host_harness.verdict.failure_record import Failure
from dma_rehearsal.host_harness.verdict.guest_buffers import Memory
from dma_rehearsal.host_harness.verdict.promise import Promise

_ADDRESS = re.compile(r"0x([0-9a-f]{4,16})\b")
_KEY = re.compile(r"  (?:why|there|call|buffer|nearest grant|condition|next|the second witness): ")
_PLACE = re.compile(r"^(\S+\.py:\d+):", re.MULTILINE)
_ADDRESSES_MAX = 64
_BYTES_MAX = 256  # of a report's line
_BUFFERS_MAX = 16
_FIRST_MAX = 240  # characters of a failure's first line


def story(
    failure: Failure, rows: Sequence[Promise], trace: Story | None, record: RunRecord, number: int
) -> Html:
    """Return a failure as an element that opens. ``rows`` are those of its test."""
    own = Story() if trace is None else trace
    parts = [
        *_asked_and_seen(rows),
        element("h3", "Reason"),
        _words(_reason(failure)),
        *(
            part
            for name, words in failure.sections
            for part in (element("h3", name), _words(words))
        ),
        *_source(failure),
        *_pictures(failure, rows, own, number),
        *_reports(own),
        *_events(own, trace is None),
        *_buffers(failure.memory),
        *_logs(failure, record),
        *_replay(failure, record),
    ]
    wrong = dict.fromkeys(f"{row.verdict}: {row.promise}" for row in rows if row.verdict != "kept")
    badges = [element("span", each, class_="badge broken") for each in list(wrong)[:4]]
    head = element(
        "summary",
        element("span", failure.test, class_="test"),
        *badges,
        element("span", first_line(failure), class_="first"),
    )
    return element("details", head, *parts, class_="failure", id=f"failure-{number}")


def first_line(failure: Failure) -> str:
    """Return the line that says what is wrong."""
    lines = [line for line in failure.text.splitlines() if line.strip()]
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    found = (errors or lines or ["it failed without a message"])[0]
    words = found.strip().removeprefix("dma_rehearsal.guest.testkit.attestation.")
    shown = plain(words[:_FIRST_MAX], _FIRST_MAX)
    return shown if len(words) <= _FIRST_MAX else f"{shown} …"


def _asked_and_seen(rows: Sequence[Promise]) -> Iterable[Html]:
    if not rows:
        return
    yield element("h3", "Asked and attested")
    head = element("tr", *(element("th", each, scope="col") for each in _COLUMNS))
    body = [
        element(
            "tr",
            element("td", row.promise),
            element("td", row.asked or "-"),
            element("td", row.attested or "-"),
            element("td", verdict(row)),
            element("td", row.reason or "-"),
        )
        for row in sorted(rows, key=lambda row: row.verdict == "kept")[:40]
    ]
    yield element(
        "div",
        element("table", head, *body),
        class_="scroll",
        tabindex=0,
        role="group",
        aria_label="Asked and attested",
    )


_COLUMNS = ("promise", "asked", "attested by the device", "verdict", "reason")


def verdict(row: Promise) -> Html:
    """Return the verdict of a row, and who decided it."""
    by = ", by the test" if row.by == "test" else ""
    expected = ", expected to fail" if row.xfail else ""
    shown = element("span", row.verdict or "?", class_=f"badge {_class(row.verdict)}")
    return joined([shown, by, expected])


def _class(name: str) -> str:
    return name if name in ("kept", "broken", "unattested", "unsupported") else "unattested"


def _reason(failure: Failure) -> str:
    """Return pytest's lines of the error, or the whole text where it has none."""
    lines = failure.text.splitlines()
    errors = [line[1:] for line in lines if line.startswith("E ")]
    return textwrap.dedent("\n".join(errors)) if errors else failure.text


def _source(failure: Failure) -> Iterable[Html]:
    if failure.text != _reason(failure):
        places = [each for each in _PLACE.findall(failure.text) if "/lib/python" not in each]
        where = places[0] if places else failure.text.strip().rpartition("\n")[2]
        head = element("summary", f"The test's code, where it failed: {plain(where, 200)}")
        yield element("details", head, _words(failure.text))


def _words(words: str) -> Html:
    """Return lines, with the keys of the host's findings in bold."""
    shown = []
    for line in plain(words.strip("\n"), 24_000).split("\n"):
        key = _KEY.match(line)
        if key:
            shown += [element("b", key[0]), text(line[key.end() :])]
        else:
            shown.append(text(line))
        shown.append(Html("\n"))
    return element("pre", *shown, tabindex=0)


def _pictures(failure: Failure, rows: Sequence[Promise], own: Story, number: int) -> Iterable[Html]:
    said = [failure.text, *(words for _, words in failure.sections)]
    said += [f"{row.attested} {row.reason}" for row in rows if row.verdict != "kept"]
    addresses = [int(each, 16) for each in _ADDRESS.findall(" ".join(said))[:_ADDRESSES_MAX]]
    found = memory_map.regions(own, failure.memory, addresses)
    if not found:
        return
    yield element("h3", "Who touched which memory, and when")
    yield _LEGEND
    drawn = [
        memory_map.draw(region, own, failure.memory, f"{number}-{count}")
        for count, region in enumerate(found)
    ]
    telling = max(1, sum(region.weight >= memory_map.TELLING for region in found))
    yield from drawn[:telling]
    if rest := drawn[telling:]:
        yield element("details", element("summary", "Other memory of this test"), *rest)


_LEGEND = element(
    "p",
    element("span", "the device reads", class_="key read"),
    element("span", "the device writes", class_="key write"),
    element("span", "refused", class_="key refused"),
    element("span", "report", class_="key fault"),
    element("span", "driver, cache, walk", class_="key call"),
    element("span", "granted", class_="key grant"),
    element("span", "mapped or tracked", class_="key mapping"),
    element("span", "buffer (dashed: released)", class_="key buffer"),
    " A diamond is the first byte at fault.",
    class_="legend",
)


def _reports(own: Story) -> Iterable[Html]:
    """Show the bytes of the cache model's reports, expected and seen."""
    reports = [each for _, each in own.kept if each.report and any(each.report)]
    if not reports:
        return
    yield element("h3", "The cache line at fault")
    for each in reports[:4]:
        yield element("p", each.what)
        yield _bytes(*(each.report or (b"", b"")))


def _bytes(expected: bytes, seen: bytes) -> Html:
    expected, seen = expected[:_BYTES_MAX], seen[:_BYTES_MAX]
    shown: list[str] = []
    for start in range(0, max(len(expected), len(seen)), 16):
        sides = expected[start : start + 16], seen[start : start + 16]
        if start and sides[0] == sides[1] and not any(sides[0]):
            continue  # nothing to see in zeros that are alike
        for name, own, other in (("expected", *sides), ("seen", *sides[::-1])):
            shown.append(f"{start:4}  {name:8} ")
            for at, byte in enumerate(own):
                alike = at < len(other) and other[at] == byte
                shown += [" ", f"{byte:02x}" if alike else element("mark", f"{byte:02x}")]
            shown.append("\n")
    return element("pre", *shown, tabindex=0)


def _events(own: Story, missing: bool) -> Iterable[Html]:
    yield element("h3", "Record of DMA and events")
    if missing or not own.count:
        yield element("p", "The device's trace has no event of this test.")
        return
    rows: list[Html] = []
    last = -1
    for at, moment in own.kept:
        if at > last + 1 and (gap := _gap(last, at)):
            rows.append(gap)
        rows.append(_event(moment, own.began))
        last = at
    if own.count > last + 1:
        rows.append(_gap(last, own.count))
    head = element("tr", *(element("th", each, scope="col") for each in ("ms", "who", "what")))
    unreadable = f" {own.unreadable} could not be read." if own.unreadable else ""
    reds = sum(each.red for _, each in own.kept)
    yield element(
        "details",
        element("summary", f"{own.count} events, {reds} of them refusals or reports.{unreadable}"),
        element(
            "div",
            element("table", head, *rows),
            class_="scroll",
            tabindex=0,
            role="group",
            aria_label="Events",
        ),
        open=len(rows) <= 40,
    )


def _gap(last: int, at: int) -> Html:
    words = f"{at - last - 1} events are left out here; device-trace.jsonl has them"
    return element("tr", element("td", words, colspan=3, class_="hint"))


def _event(moment: Moment, began: float) -> Html:
    return element(
        "tr",
        element("td", f"{1000 * (moment.time - began):.2f}"),
        element("td", moment.who),
        element("td", text(moment.what, 600)),
        class_=moment.mood if moment.red else None,
    )


def _buffers(memory: Sequence[Memory]) -> Iterable[Html]:
    if not memory:
        return
    names = ("address", "bytes", "direction", "buffer", "made at", "released at")
    head = element("tr", *(element("th", each, scope="col") for each in names))
    rows = [
        element(
            "tr",
            element("td", f"{each.address:#x}"),
            element("td", str(each.length)),
            element("td", each.direction),
            element("td", each.name),
            element("td", each.made),
            element(
                "td",
                f"{each.released}, after request {each.released_after}" if each.released else "-",
            ),
        )
        for each in sorted(memory, key=lambda each: each.ago)[:_BUFFERS_MAX]
    ]
    more = len(memory) - len(rows)
    words = (
        f"Buffers of the guest, the newest first{f' ({more} older ones are left out)' * (more > 0)}"
    )
    yield element(
        "details",
        element("summary", words),
        element(
            "div",
            element("table", head, *rows),
            class_="scroll",
            tabindex=0,
            role="group",
            aria_label="Buffers",
        ),
    )


def _logs(failure: Failure, record: RunRecord) -> Iterable[Html]:
    prefix = "" if failure.vm == 1 else f"vm{failure.vm}/"
    for name in ("console.log", "dmesg.log", "device.log"):
        lines = record.logs.get(prefix + name, ())[-12:]
        if lines:
            head = element("summary", f"The end of {prefix}{name}")
            yield element("details", head, _words("\n".join(lines)))


def _replay(failure: Failure, record: RunRecord) -> Iterable[Html]:
    if record.replay:
        yield element("h3", "Run it again")
        yield element("pre", replay_of(failure.test, record), tabindex=0, class_="command")
    yield element("h3", "All events of the test, in one order")
    words = ["dma-rehearsal", "explain", record.folder.resolve().name, failure.test]
    yield element("pre", shlex.join(words), tabindex=0, class_="command")


def replay_of(test: str, record: RunRecord) -> str:
    """Return the command that repeats one test; the whole run's where it names no tests."""
    try:
        words = shlex.split(record.replay)
    except ValueError:
        return record.replay
    failed = record.failed_tests
    if test not in words:
        return record.replay
    return shlex.join(each for each in words if each == test or each not in failed).replace(
        "'&&'", "&&"
    )
