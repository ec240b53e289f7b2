# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/attestations.md, from the schemas: a table for each object of a document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dma_rehearsal.host_harness.verdict.documents.document import DOCUMENTS, Document

_HEADER = ("| property | value | unit | required | meaning |", "| --- " * 5 + "|")
_TYPES = {"string": "text", "boolean": "true or false"}


def markdown() -> str:
    """Return the sections of all documents."""
    return "\n\n".join(_section(each) for each in DOCUMENTS)


def _section(document: Document) -> str:
    schema = document.schema()
    lines = [f"## {document.file}", "", f"Version {document.version}. {schema['description']}"]
    lines += ["", *_table(schema)]
    for name, each in schema["$defs"].items():
        lines += ["", f"### {name}", "", each["description"], "", *_table(each)]
    return "\n".join(lines)


def _table(schema: Mapping[str, Any]) -> Iterator[str]:
    yield from _HEADER
    required = schema.get("required", ())
    for name, each in schema.get("properties", {}).items():
        yield _row(f"`{name}`", each, "yes" if name in required else "no")
    if others := schema.get("additionalProperties"):
        names = schema.get("propertyNames", {}).get("enum")
        yield _row(f"one of {_listed(names)}" if names else "any name", others, "no")


def _row(name: str, schema: Mapping[str, Any], required: str) -> str:
    unit = schema.get("x-unit", "")
    unit = "" if unit == "none" else unit
    meaning = schema.get("description", "").replace("|", "\\|")
    return f"| {name} | {_value(schema)} | {unit} | {required} | {meaning} |"


def _value(schema: Mapping[str, Any]) -> str:
    if reference := schema.get("$ref"):
        return f"an object, {reference.removeprefix('#/$defs/')}"
    if forms := schema.get("oneOf"):
        return " or ".join(map(_value, forms))
    if "const" in schema:
        return _json(schema["const"])
    if values := schema.get("enum"):
        return _listed(values)
    kind = schema["type"]
    if isinstance(kind, list):
        return " or ".join(_value({**schema, "type": each}) for each in kind)
    if kind in ("integer", "number"):
        return _range(kind, schema)
    if kind == "array":
        return f"a list; each: {_value(schema['items'])}"
    if kind == "object":
        return f"an object; each value: {_value(schema['additionalProperties'])}"
    return "`null`" if kind == "null" else _TYPES[kind]


def _range(kind: str, schema: Mapping[str, Any]) -> str:
    words = "" if kind == "integer" else "a number, "
    if "maximum" in schema:
        return f"{words}{schema['minimum']} to {schema['maximum']}"
    return f"{words}{schema['minimum']} or more"


def _listed(values: list[object]) -> str:
    return ", ".join(map(_json, values))


def _json(value: object) -> str:
    if value is None:
        return "`null`"
    return f'`"{value}"`'
