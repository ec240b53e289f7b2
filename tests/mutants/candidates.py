# SPDX-License-Identifier: Apache-2.0
"""The mutants that there are in a tree, and a sample of them that a seed draws.

cosmic-ray finds them, with its operators and ours. First a place is drawn, then one of its mutants:
``+`` has eleven others, and a sample would have little but these. A draw depends on the seed and on
the mutated line alone, so that a change elsewhere leaves most of a sample as it was.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cosmic_ray.mutating
import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.ast.ast_query import ASTQuery

from tests.mutants import operators
from tests.mutants.unseen import Unseen

operators.register()

# Members of enumerations, small integers and None: the same by both.
_SAME = {
    *("core/ReplaceComparisonOperator_Is_Eq", "core/ReplaceComparisonOperator_IsNot_NotEq"),
    *("core/ReplaceComparisonOperator_Eq_Is", "core/ReplaceComparisonOperator_NotEq_IsNot"),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mutation, and where it stands. ``line`` is the first of ``lines``, from 1 on."""

    area: str
    file: str  # from the root of the tree
    function: str
    operator: str  # cosmic-ray's name of it
    occurrence: int
    start: tuple[int, int]
    end: tuple[int, int]
    draw: tuple[str, str]  # of its place, and among those of one place; the least come first
    in_body: bool  # of a function: else an import runs it, whichever test that was in

    @property
    def line(self) -> int:
        """The line where it begins."""
        return self.start[0]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A candidate with the source that it makes, and its diff: removed and added lines alone."""

    candidate: Candidate
    source: str
    diff: str


def sample(root: Path, areas: Iterable[str], count: int, seed: int) -> list[Mutant]:
    """Return up to ``count`` mutants of the areas: folders of modules, or single modules."""
    found = [candidate for area in areas for candidate in of_area(root, area, seed)]
    drawn: list[Mutant] = []
    places = set()
    for candidate in sorted(found, key=lambda each: each.draw):
        place = candidate.file, candidate.start, _kind(candidate.operator)
        if place in places:
            continue
        mutant = make(root, candidate)
        if mutant is not None:
            places.add(place)
            drawn.append(mutant)
        if len(drawn) == count:
            break
    return drawn


def make(root: Path, candidate: Candidate) -> Mutant | None:
    """Return the mutant, or None when it is the source that there is, or none that compiles."""
    source = (root / candidate.file).read_text()
    operator = cosmic_ray.plugins.get_operator(candidate.operator)()
    mutated = cosmic_ray.mutating.mutate_code(source, operator, candidate.occurrence)
    if mutated is None or mutated == source:
        return None
    try:
        compile(mutated, candidate.file, "exec")
    except SyntaxError:
        return None
    return Mutant(candidate, mutated, _diff(source, mutated))


def _diff(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return "\n".join(line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---"))


def _kind(operator: str) -> str:
    return operator.split("_")[0]


def of_area(root: Path, area: str, seed: int) -> Iterator[Candidate]:
    """Yield every candidate of a folder of modules, or of a single module."""
    folder = root / area
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
        yield from _module(path.read_text(), area, str(path.relative_to(root)), seed)


def _module(source: str, area: str, file: str, seed: int) -> Iterator[Candidate]:
    unseen, lines = Unseen(source), source.splitlines()
    nodes = list(ast_nodes(get_ast(source)))
    alike: Counter[tuple[str, ...]] = Counter()
    places: dict[tuple[str, tuple[int, int]], str] = {}
    for name in cosmic_ray.plugins.operator_names():
        operator = cosmic_ray.plugins.get_operator(name)
        if operator.arguments() or name in _SAME:
            continue
        kind = _kind(name)
        positions = (
            (node, *span) for node in nodes for span in operator().mutation_positions(node)
        )
        for occurrence, (node, start, end) in enumerate(positions):
            if (start, end) in unseen or _is_mark(node):
                continue
            function = ASTQuery(node).get_definition_name() or ""
            if (kind, start) not in places:
                key = file, function, kind, lines[start[0] - 1].strip()
                alike[key] += 1
                places[kind, start] = _hash(seed, *key, alike[key])
            place = places[kind, start]
            draw = place, _hash(place, name, occurrence)
            yield Candidate(
                area, file, function, name, occurrence, start, end, draw, _is_in_body(node)
            )


def _is_mark(node: Any) -> bool:
    """Whether this is the ``*`` or ``/`` of a signature, which cosmic-ray takes for an operator."""
    return node.type == "operator" and node.parent.type in ("parameters", "lambdef")


def _is_in_body(node: Any) -> bool:
    while node.parent is not None:
        if node.parent.type in ("funcdef", "lambdef") and node is node.parent.children[-1]:
            return True
        node = node.parent
    return False


def _hash(*parts: object) -> str:
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()
