# SPDX-License-Identifier: Apache-2.0
"""A check of a document against a JSON Schema, with the keywords that the schemas here use.

JSON Schema draft 2020-12, Core and Validation. A run needs no package for it; the tests compare its
answers with those of ``jsonschema``. The documents' depth is the schema's, which refers to no
schema within itself, so the recursion ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_SHOWN = 60  # characters of a wrong value in a message
_IGNORED = {"$schema", "$id", "$defs", "title", "description", "x-unit"}


class Wrong(ValueError):
    """A value that the schema does not allow; the message has its place and what is allowed."""


def check(value: object, schema: Schema) -> None:
    """Raise `Wrong` for the first place of ``value`` that ``schema`` does not allow.

    ValueError, too, for a keyword of the schema that is not known here.
    """
    for place, words in _wrong(value, schema, schema, "document"):
        raise Wrong(f"{place} {words}")


def _wrong(value: object, schema: Schema, root: Schema, place: str) -> Iterator[tuple[str, str]]:
    """Yield the wrong places, each with what is wrong there."""
    for keyword, allowed in schema.items():
        if keyword in _IGNORED or keyword == "properties" or keyword == "additionalProperties":
            continue
        if keyword == "$ref":
            yield from _wrong(value, _referred(root, allowed), root, place)
        elif keyword == "oneOf":
            if sum(not any(_wrong(value, each, root, place)) for each in allowed) != 1:
                yield place, f"has none of the forms that it may have: {_shown(value)}"
        elif keyword == "items":
            for number, each in enumerate(value if isinstance(value, list) else ()):
                yield from _wrong(each, allowed, root, f"{place}[{number}]")
        elif keyword == "propertyNames":
            for name in value if isinstance(value, dict) else ():
                yield from _wrong(name, allowed, root, f"{place}, the name of a property,")
        elif words := _CHECKS[keyword](value, allowed):
            yield place, words
    if isinstance(value, dict):
        yield from _in_object(value, schema, root, place)


def _in_object(
    value: Mapping[str, object], schema: Schema, root: Schema, place: str
) -> Iterator[tuple[str, str]]:
    known = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    for name, each in value.items():
        below = f"{place}.{name}"
        if name in known:
            yield from _wrong(each, known[name], root, below)
        elif others is False:
            yield below, "is not a property that it may have"
        elif others is not True:
            yield from _wrong(each, others, root, below)


def _referred(root: Schema, reference: str) -> Schema:
    """Return the schema that a reference names: it is one of the same file's ``$defs``."""
    found: Schema = root["$defs"][reference.removeprefix("#/$defs/")]
    return found


def _is_a(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, _TYPES[kind])


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def _type(value: object, allowed: str | list[str]) -> str:
    kinds = [allowed] if isinstance(allowed, str) else allowed
    if any(_is_a(value, kind) for kind in kinds):
        return ""
    return f"is not of the type {' or '.join(kinds)}: {_shown(value)}"


def _same(value: object, due: object) -> bool:
    """Whether two scalars are the same to JSON, where 1 is not true."""
    return value == due and isinstance(value, bool) == isinstance(due, bool)


def _enum(value: object, allowed: list[object]) -> str:
    if any(_same(value, each) for each in allowed):
        return ""
    return f"is not one of {', '.join(map(repr, allowed))}: {_shown(value)}"


def _const(value: object, due: object) -> str:
    return "" if _same(value, due) else f"is not {due!r}: {_shown(value)}"


def _pattern(value: object, pattern: str) -> str:
    # ECMA-262: $ is the very end, before which Python's allows a line break.
    if not isinstance(value, str) or re.search(pattern.replace("$", r"\Z"), value):
        return ""
    return f"does not match {pattern}: {_shown(value)}"


def _minimum(value: object, least: float) -> str:
    wrong = _is_a(value, "number") and value < least  # type: ignore[operator]
    return f"is less than {least}: {_shown(value)}" if wrong else ""


def _maximum(value: object, most: float) -> str:
    wrong = _is_a(value, "number") and value > most  # type: ignore[operator]
    return f"is more than {most}: {_shown(value)}" if wrong else ""


def _min_length(value: object, least: int) -> str:
    wrong = isinstance(value, str) and len(value) < least
    return f"has fewer than {least} characters" if wrong else ""


def _required(value: object, names: list[str]) -> str:
    lacking = [name for name in names if name not in value] if isinstance(value, dict) else []
    return f"lacks {', '.join(lacking)}" if lacking else ""


_CHECKS: Mapping[str, Callable[[Any, Any], str]] = {
    "type": _type,
    "enum": _enum,
    "const": _const,
    "pattern": _pattern,
    "minimum": _minimum,
    "maximum": _maximum,
    "minLength": _min_length,
    "required": _required,
}


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return f"an {'object' if isinstance(value, dict) else 'array'} of {len(value)}"
    text = repr(value[: _SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
