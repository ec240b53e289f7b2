# SPDX-License-Identifier: Apache-2.0
"""Writes docs/fixtures.md from the code: ``python -m tests.fixture_reference``.

A test compares the file with the code.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from dma_rehearsal.guest import drivers, testkit
from dma_rehearsal.guest.testkit import fixtures, marks

PAGE = Path(__file__).resolve().parents[1] / "docs" / "fixtures.md"
COMMAND = "python -m tests.fixture_reference"
_HEAD = f"""\
# Fixtures of guest tests

<!-- Written by {COMMAND}; change the docstrings in guest/testkit/. -->

A guest test takes these fixtures by name, in this project and in yours. Import their types from
`dma_rehearsal.guest.testkit` or `dma_rehearsal.guest.drivers`, and registers and reasons from
`dma_rehearsal.device.layout`.

| fixture | type | scope | purpose |
| --- | --- | --- | --- |"""
_MARKS = """
## Marks

| mark | meaning |
| --- | --- |"""
_ANNOTATION = re.compile(r"(: |-> )'([^']*)'")


def page() -> str:
    """Return the text of the page."""
    found = list(_fixtures())
    lines = [_HEAD]
    for name, kind, scope, words in found:
        purpose = words.partition("\n")[0]
        anchor = name.replace("_", "-")
        lines.append(f"| [`{name}`](#{anchor}) | `{kind}` | {scope} | {purpose} |")
    for name, kind, _, words in found:
        lines += ["", f"## {name}", "", f"`{name}: {kind}`", "", words]
        for each in kind.split(" | "):
            lines += _members(each)
    lines.append(_MARKS)
    for mark in marks.MARKS:
        name, _, words = mark.partition(": ")
        lines.append(f"| `{name}` | {words} |")
    return "\n".join(lines).replace("``", "`") + "\n"


def _fixtures() -> Iterator[tuple[str, str, str, str]]:
    """Yield name, type, scope and docstring of each public fixture."""
    tree = ast.parse(inspect.getsource(fixtures))
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        for decorator in map(ast.unparse, node.decorator_list):
            if decorator.startswith("pytest.fixture"):
                scope = "session" if "session" in decorator else "test"
                kind = ast.unparse(node.returns) if node.returns else ""
                kind = re.sub(r"^Iterator\[(.*)\]$", r"\1", kind)
                yield node.name, kind, scope, ast.get_docstring(node) or ""


def _members(kind: str) -> Iterator[str]:
    """Yield the lines about a type's own public members."""
    found = getattr(testkit, kind, None) or getattr(drivers, kind, None)
    if not inspect.isclass(found):
        return
    yield f"\n`{kind}`:\n"
    for name, member in vars(found).items():
        words = (inspect.getdoc(member) or "").partition("\n\n")[0].replace("\n", " ")
        if isinstance(member, property):
            shown = f".{name}"
        elif inspect.isfunction(member):
            shown = _signature("" if name == "__call__" else f".{name}", member)
        else:
            continue
        if name == "__call__" or not name.startswith("_"):
            yield f"- `{shown}`: {words}"


def _signature(name: str, member: object) -> str:
    if not callable(member):
        raise TypeError(name)
    text = _ANNOTATION.sub(r"\1\2", str(inspect.signature(member)))
    return name + re.sub(r"^\((self|cls)(, )?", "(", text)


def main() -> None:
    """Write the page, or print it with the argument ``-``."""
    if sys.argv[1:] == ["-"]:
        sys.stdout.write(page())
    else:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
