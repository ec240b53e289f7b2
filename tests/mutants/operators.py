# SPDX-License-Identifier: Apache-2.0
"""Mutations that cosmic-ray lacks: what reviewers try by hand in drivers.

Each is an operator of cosmic-ray's, beside its own in the same session.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import parso
from cosmic_ray import plugins
from cosmic_ray.operators.operator import Example, Operator
from parso.python.tree import ForStmt

Node = Any  # parso's, whose types leave out what most kinds have
Position = tuple[tuple[int, int], tuple[int, int]]
PROVIDER = "driver"


def _parse(code: str) -> Node:
    return parso.parse(code)  # type: ignore[no-untyped-call]


class DropCall(Operator):  # type: ignore[misc]
    """Leaves out a call whose result nobody takes: a check, a copy, a notification."""

    def mutation_positions(self, node: Node) -> Iterator[Position]:
        """Yield the call, when it is a statement of its own."""
        if node.type != "simple_stmt":
            return
        call = node.children[0]
        if call.type in ("atom_expr", "power") and call.children[-1].type == "trailer":
            trailer = call.children[-1]
            if trailer.children[0].value == "(":
                yield call.start_pos, call.end_pos

    def mutate(self, node: Node, index: int) -> Node:  # noqa: ARG002
        """Put ``pass`` into its place."""
        prefix = node.children[0].get_first_leaf().prefix
        node.children[0] = _parse(f"{prefix}pass")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """Return what it does to a line."""
        return (Example("check(x)\n", "pass\n"),)


class LeaveOutLast(Operator):  # type: ignore[misc]
    """Ends a loop before its last round: of several parts the last one is not handled."""

    def mutation_positions(self, node: Node) -> Iterator[Position]:
        """Yield what the loop goes over."""
        if isinstance(node, ForStmt):
            yield node.children[3].start_pos, node.children[3].end_pos

    def mutate(self, node: Node, index: int) -> Node:  # noqa: ARG002
        """Leave out the last element."""
        over = node.children[3].get_code().strip()
        node.children[3] = _parse(f" list({over})[:-1]")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """Return what it does to a loop."""
        return (Example("for x in y: pass", "for x in list(y)[:-1]: pass"),)


class LeaveOutFirst(LeaveOutLast):
    """Begins a loop with its second round."""

    def mutate(self, node: Node, index: int) -> Node:  # noqa: ARG002
        """Leave out the first element."""
        over = node.children[3].get_code().strip()
        node.children[3] = _parse(f" list({over})[1:]")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """Return what it does to a loop."""
        return (Example("for x in y: pass", "for x in list(y)[1:]: pass"),)


def register() -> None:
    """Let cosmic-ray find these operators by name, as it finds those of its plugins."""
    own = (DropCall, LeaveOutLast, LeaveOutFirst)
    plugins.OPERATOR_PROVIDERS[PROVIDER] = {operator.__name__: operator for operator in own}
