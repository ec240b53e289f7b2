# SPDX-License-Identifier: Apache-2.0
"""The table of promises, with every cell whole: a row for each promise and verdict, which opens."""

from __future__ import annotations

from collections.abc import Sequence

from dma_rehearsal.host_harness.run_page.failure_story import verdict
from dma_rehearsal.host_harness.run_page.markup import Html, element, joined
from dma_rehearsal.host_harness.verdict.promise import Promise

_WORST_FIRST = ("broken", "unattested", "unsupported", "kept")
_HEAD = ("promise", "asked", "attested by the device", "verdict")
_SPENT_MAX = 1 << 21  # characters of markup
_GROUP_MAX = 1 << 19  # of them, of one promise


def table(rows: Sequence[Promise]) -> Html:
    """Return the table; rows past its bound are counted, and left out."""
    groups: dict[tuple[str, str, str, bool], list[Promise]] = {}
    for row in rows:
        groups.setdefault((row.verdict, row.promise, row.by, bool(row.xfail)), []).append(row)
    order = {name: at for at, name in enumerate(_WORST_FIRST)}
    ranked = sorted(groups.items(), key=lambda each: order.get(each[0][0], 0))
    bodies: list[Html] = []
    spent, left_out = 0, 0
    for _, alike in ranked:
        body = _group(alike)
        if spent + len(body) > _SPENT_MAX:
            left_out += len(alike)
            continue
        spent += len(body)
        bodies.append(body)
    note = (
        element("p", f"{left_out} rows are left out here; attestations.json has them.")
        if left_out
        else None
    )
    head = element("thead", element("tr", *(element("th", each, scope="col") for each in _HEAD)))
    whole = element("table", head, *bodies, id="promises")
    return joined(
        [
            element(
                "div",
                whole,
                class_="scroll",
                tabindex=0,
                role="group",
                aria_label="Table of promises",
            ),
            note,
        ]
    )


def _group(alike: Sequence[Promise]) -> Html:
    first = alike[0]
    count = f" x{len(alike)}" if len(alike) > 1 else ""
    shown = joined([verdict(first), count])
    cells = _cells(first) if len(alike) == 1 else _of_several(alike)
    return element(
        "tbody",
        element("tr", element("th", first.promise, scope="row"), *cells, element("td", shown)),
        data_verdict=first.verdict,
    )


def _cells(row: Promise) -> list[Html]:
    test = element("div", row.test, class_="test")
    return [
        element("td", row.asked or "-", test),
        element("td", _attested(row)),
    ]


def _attested(row: Promise) -> Html:
    said = [row.attested] if row.attested else []
    said += [row.reason] if row.reason and row.reason not in row.attested else []
    said += [f"expected to fail: {row.xfail}"] if row.xfail else []
    return joined(["; ".join(said) or "-"])


def _of_several(alike: Sequence[Promise]) -> list[Html]:
    """Return one cell over two columns: the span of what was asked, and all rows when it opens."""
    asked = list(dict.fromkeys(row.asked for row in alike if row.asked))
    words = asked[0] if len(asked) == 1 else f"{asked[0]} … {asked[-1]}" if asked else "-"
    lines: list[Html] = []
    spent = 0
    for row in alike:
        test = element("div", row.test, class_="test")
        line = element("tr", element("td", row.asked or "-", test), element("td", _attested(row)))
        if (spent := spent + len(line)) > _GROUP_MAX:
            more = f"{len(alike) - len(lines)} rows are left out here; attestations.json has them"
            lines.append(element("tr", element("td", more, colspan=2, class_="hint")))
            break
        lines.append(line)
    return [
        element(
            "td",
            element(
                "details",
                element(
                    "summary", words, " ", element("span", f"{len(alike)} rows", class_="hint")
                ),
                element("table", *lines, class_="inner"),
            ),
            colspan=2,
        )
    ]
