# SPDX-License-Identifier: Apache-2.0
"""JUnit XML, as pytest writes it ("xunit2"), with properties of the run and of each test."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from dma_rehearsal.host_harness.formats import clean_text
from dma_rehearsal.host_harness.formats.run_result import Case, Outcome, RunResult

_PROMISE = "promise: "  # begins the name of a property with the verdicts on a promise


def write(result: RunResult) -> str:
    """Return the result as XML."""
    counts = result.counts()
    root = Element("testsuites", name="dma-rehearsal")
    suite = SubElement(
        root,
        "testsuite",
        name="dma-rehearsal",
        errors=str(counts[Outcome.ERROR]),
        failures=str(counts[Outcome.FAILED]),
        skipped=str(counts[Outcome.SKIPPED] + counts[Outcome.XFAILED]),
        tests=str(len(result.cases)),
        time=f"{sum(each.seconds for each in result.cases):.3f}",
        timestamp=datetime.fromtimestamp(result.began, UTC).isoformat(),
        hostname=platform.node() or "localhost",
    )
    facts = {**result.facts, "status": str(result.status.value)}
    _properties(suite, facts.items())
    names = clean_text.unique(f"{_class(each)} {each.name}" for each in result.cases)
    for case, unique in zip(result.cases, names, strict=True):
        classname = _class(case)
        _case(suite, case, classname, unique.removeprefix(f"{classname} "))
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _class(case: Case) -> str:
    """Return the class of a test, as pytest names it: the file with dots, then its own class."""
    *classes, _ = case.name.split("::")
    path = case.group.removesuffix(".py").replace("/", ".")
    return ".".join([path, *classes])


def _case(suite: Element, case: Case, classname: str, name: str) -> None:
    *_, last = name.split("::")
    element = SubElement(
        suite, "testcase", classname=classname, name=last, time=f"{case.seconds:.3f}"
    )
    promises = [(f"{_PROMISE}{name}", verdicts) for name, verdicts in case.promises.items()]
    _properties(element, [*case.properties, *promises])
    if case.outcome.is_bad:
        tag = "failure" if case.outcome is Outcome.FAILED else "error"
        SubElement(element, tag, message=case.reason).text = case.text
    elif case.outcome is Outcome.SKIPPED:
        SubElement(element, "skipped", type="pytest.skip", message=case.reason)
    elif case.outcome is Outcome.XFAILED:
        SubElement(element, "skipped", type="pytest.xfail", message=case.reason)


def _properties(parent: Element, properties: Iterable[tuple[str, str]]) -> None:
    properties = list(properties)
    if not properties:
        return
    element = SubElement(parent, "properties")
    for name, value in properties:
        SubElement(element, "property", name=name, value=value)
