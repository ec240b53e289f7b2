# SPDX-License-Identifier: Apache-2.0
"""Places where a mutation changes nothing that a test could see: annotations, and texts for people.

From ``from __future__ import annotations`` on, an annotation is never evaluated.
"""

from __future__ import annotations

import ast
from bisect import bisect_right
from collections.abc import Iterator

_LOGS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
# Declarations for the type checker; what they forbid, no right program does.
_DECLARATIONS = {"override", "final", "overload", "abstractmethod", "runtime_checkable", "unique"}
_FLAGS = {"slots", "frozen", "repr", "kw_only"}
_TEXT_FUNCTIONS = {"__repr__", "__str__"}

Position = tuple[int, int]


class Unseen:
    """Knows these places of one source."""

    def __init__(self, source: str) -> None:
        self._lines = source.splitlines()
        self._ranges = sorted(self._of(ast.parse(source)))

    def __contains__(self, span: tuple[Position, Position]) -> bool:
        """Return whether this span of lines (from 1 on) and columns lies in such a place."""
        start, end = span
        index = bisect_right(self._ranges, (start, (1 << 30, 0)))
        return any(start >= first and end <= last for first, last in self._ranges[:index])

    def _span(self, node: ast.expr | ast.stmt) -> tuple[Position, Position]:
        # ast counts bytes, parso characters.
        def column(line: int, offset: int) -> int:
            return len(self._lines[line - 1].encode()[:offset].decode())

        last, end = node.end_lineno or node.lineno, node.end_col_offset or 0
        return (
            (node.lineno, column(node.lineno, node.col_offset)),
            (last, column(last, end)),
        )

    def _of(self, tree: ast.AST) -> Iterator[tuple[Position, Position]]:
        for node in ast.walk(tree):
            yield from map(self._span, _places(node))
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                for decorator in node.decorator_list:
                    if _name(decorator) in _DECLARATIONS:
                        (line, column), end = self._span(decorator)
                        yield (line, column - 1), (end[0] + 1, 0)  # with the @ and the newline


def _places(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            if node.returns:
                yield node.returns
            if node.name in _TEXT_FUNCTIONS:
                yield from node.body
        case ast.arg(annotation=ast.expr() as annotation):
            yield annotation
        case ast.AnnAssign():
            yield node.annotation
            if _name(node.annotation) == "TypeAlias" and node.value:
                yield node.value
        case ast.Assign(value=ast.BinOp() as value) if _is_union(value):
            yield value
        case ast.If(test=test) if _name(test) == "TYPE_CHECKING":
            yield node
        case ast.ClassDef():
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and _name(decorator) == "dataclass":
                    yield from (word.value for word in decorator.keywords if word.arg in _FLAGS)
        case ast.Raise(exc=ast.Call() as call):
            yield from _texts(call)
        case ast.Call(func=ast.Attribute(attr=attr, value=value)):
            if attr in _LOGS and _name(value).strip("_").lower() in ("log", "logger", "logging"):
                yield node
            if _name(node) == "warn":
                yield from _texts(node)
        case ast.Call(func=ast.Name(id="cast")) if node.args:
            yield node.args[0]


def _texts(call: ast.Call) -> Iterator[ast.expr]:
    for argument in (*call.args, *(word.value for word in call.keywords)):
        if _is_text(argument):
            yield argument


def _is_text(node: ast.expr) -> bool:
    match node:
        case ast.JoinedStr() | ast.Constant(value=str()):
            return True
        case ast.IfExp(body=body, orelse=orelse):
            return _is_text(body) or _is_text(orelse)
        case ast.BinOp(left=left, right=right, op=ast.Add()):
            return _is_text(left) or _is_text(right)
        case ast.BinOp(left=left, op=ast.Mod()):
            return _is_text(left)
        case ast.Call(func=ast.Attribute(value=value, attr="join")):
            return _is_text(value)
    return False


def _is_union(node: ast.expr) -> bool:
    """Whether this joins types: names that begin with a capital, or those of built-in types."""
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _is_union(left) and _is_union(right)
        case ast.Name(id=name):
            return name in _BUILT_IN or (name[0].isupper() and not name.isupper())
        case ast.Subscript(value=value):
            return _is_union(value)
        case ast.Constant(value=None):
            return True
    return False


_BUILT_IN = {
    *("int", "str", "bytes", "bytearray", "memoryview", "float", "bool"),
    *("list", "dict", "set", "tuple"),
}


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=function):
            return _name(function)
    return ""
