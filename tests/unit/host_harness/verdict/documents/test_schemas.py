# SPDX-License-Identifier: Apache-2.0
"""The schemas: they are JSON Schema, each property is described, and each refuses what is wrong.

What our own check says of a document is what ``jsonschema`` says of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.device.layout import DmaRule
from dma_rehearsal.host_harness.cli import schema as schema_command
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process.errors import Status, UsageError
from dma_rehearsal.host_harness.session.guest_states import StartKind
from dma_rehearsal.host_harness.verdict import ledger, promise
from dma_rehearsal.host_harness.verdict.documents import schema_check, schema_page
from dma_rehearsal.host_harness.verdict.documents.document import (
    ATTESTATIONS,
    DOCUMENTS,
    ENVIRONMENT,
    Document,
)
from tests import documents
from tests.unit.host_harness.verdict.documents.written import sound

ROOT = Path(__file__).parents[5]
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: each.name)
WRONG_VALUES: tuple[Any, ...] = (
    None,
    True,
    7,
    1.5,
    -1,
    "",
    "text",
    [],
    ["x"],
    {},
    {"x": 1},
    {"x": "y"},
)


def schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield the schema of each property, of each value of an object and of each item."""
    for each in [*schema.get("properties", {}).values(), schema.get("additionalProperties")]:
        if isinstance(each, dict):
            yield each
            yield from schemas(each)
    if "items" in schema:
        yield schema["items"]
    for each in schema.get("$defs", {}).values():
        yield each
        yield from schemas(each)


@each_document
def test_schema_is_json_schema(document: Document) -> None:
    Draft202012Validator.check_schema(document.schema())
    assert document.schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert document.schema()["$id"].endswith(f":{document.name}:{document.major}")


@each_document
def test_each_property_is_described_with_unit_and_range(document: Document) -> None:
    for each in schemas(document.schema()):
        assert "$ref" in each or each["description"].endswith("."), each
        if each.get("type") in ("integer", "number"):
            assert each["x-unit"], each
            assert "minimum" in each, each


@each_document
def test_schema_names_kind_and_version(document: Document) -> None:
    named = document.schema()["properties"]
    assert named["schema"]["const"] == document.kind
    assert named["version"]["pattern"].startswith(rf"^{document.major}\.")


def test_values_are_those_of_the_code() -> None:
    named = ATTESTATIONS.schema()["properties"]
    row = ATTESTATIONS.schema()["$defs"]["promise"]["properties"]
    limits = ENVIRONMENT.schema()["$defs"]["profile"]
    assert row["verdict"]["enum"] == list(ledger.VERDICTS)
    assert row["by"]["enum"] == [promise.BY_EVIDENCE, promise.BY_TEST]
    assert named["start"]["enum"] == [*(each.value for each in StartKind), None]
    assert named["place"]["enum"] == [run_options.KIND, run_options.HOSTILE]
    assert named["status"]["maximum"] == max(Status)
    assert named["vms"]["maximum"] == run_options.VMS_MAX
    assert list(limits["properties"]) == limits["required"] == list(profile.PLAIN.facts)
    assert limits["properties"]["rule"]["enum"] == [each.name for each in DmaRule]


def test_limits_of_each_profile_are_allowed() -> None:
    for name in profile.shipped():
        whole = sound(ENVIRONMENT) | {"profile": profile.find(name).facts}
        assert documents.errors(ENVIRONMENT, whole) == []


def places(whole: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to each value of a document."""
    yield path
    if isinstance(whole, dict):
        for name, each in whole.items():
            yield from places(each, (*path, name))
    elif isinstance(whole, list):
        for number, each in enumerate(whole):
            yield from places(each, (*path, number))


def mutants(whole: Any) -> Iterator[tuple[str, Any]]:
    """Yield documents with one value replaced, one removed or one added, each with a name."""
    for path in filter(None, places(whole)):
        for value in (*WRONG_VALUES, "absent"):
            changed = copy.deepcopy(whole)
            place = changed
            for step in path[:-1]:
                place = place[step]
            if value == "absent":
                del place[path[-1]]
            else:
                place[path[-1]] = value
            yield f"{path}: {value!r}", changed
    yield "one more property", {**whole, "unknown": 1}


def allowed(whole: Any, schema: dict[str, Any]) -> bool:
    try:
        schema_check.check(whole, schema)
    except schema_check.Wrong:
        return False
    return True


@each_document
def test_mutants_are_judged_as_by_jsonschema(document: Document) -> None:
    """Also where a schema allows named properties alone."""
    for schema in (document.schema(), documents.closed(document.schema())):
        judge = Draft202012Validator(schema)
        assert judge.is_valid(sound(document))
        found = {
            name: (judge.is_valid(whole), allowed(whole, schema))
            for name, whole in mutants(sound(document))
        }
        assert {name: each for name, each in found.items() if each[0] != each[1]} == {}
        assert sum(not each for each, _ in found.values()) > len(found) / 2


def objects(document: Document) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield a document with each of its objects that a schema names: the schema of the latter."""
    schema = document.schema()
    defined = list(schema["$defs"].values())
    for number, form in enumerate([schema, *defined]):
        whole = sound(document)
        for path in places(whole):
            place: Any = whole
            for step in path:
                place = place[step]
            if isinstance(place, dict) and set(place) == set(form.get("properties", ())):
                yield whole, place
                break
        else:
            assert "properties" not in form, number


@each_document
def test_each_required_property_is_missed(document: Document) -> None:
    wanted = [document.schema(), *document.schema()["$defs"].values()]
    tried = set()
    for whole, place in objects(document):
        for name in list(place):
            value = place.pop(name)
            needed = any(
                name in form.get("required", ()) and set(place) < set(form["properties"])
                for form in wanted
            )
            assert allowed(whole, document.schema()) is not needed, name
            place[name] = value
            tried.add(name)
    assert tried >= {name for form in wanted for name in form.get("required", ())}


@each_document
def test_values_outside_an_enumeration_are_refused(document: Document) -> None:
    seen = 0
    for path in places(sound(document)):
        schema: Any = _schema_of(document, path)
        if "enum" not in schema and "const" not in schema:
            continue
        seen += 1
        whole: Any = sound(document)
        place = whole
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = f"{place[path[-1]]}x"
        assert documents.errors(document, whole), path
        assert not allowed(whole, document.schema())
    assert seen >= 2


def _schema_of(document: Document, path: tuple[Any, ...]) -> Any:
    root = document.schema()
    schema: Any = root
    for step in path:
        below = schema.get("properties", {}).get(step) or schema.get("additionalProperties")
        schema = schema["items"] if isinstance(step, int) else below
        if "oneOf" in schema:
            schema = schema["oneOf"][1]
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return schema


def test_message_names_the_place_and_cuts_the_value() -> None:
    whole = sound(ATTESTATIONS)
    whole["promises"][0]["verdict"] = "yes" * 1000
    with pytest.raises(schema_check.Wrong) as caught:
        schema_check.check(whole, ATTESTATIONS.schema())
    assert str(caught.value).startswith("document.promises[0].verdict is not one of 'kept', ")
    assert len(str(caught.value)) < 200


def test_keyword_that_is_not_known_is_an_error_of_the_schema() -> None:
    with pytest.raises(KeyError, match="multipleOf"):
        schema_check.check(1, {"multipleOf": 2})


def test_page_has_the_tables_of_the_schemas() -> None:
    """`dma-rehearsal schema --markdown` prints them again."""
    assert f"\n{schema_page.markdown()}\n" in (ROOT / "docs" / "attestations.md").read_text()


def test_command_prints_a_schema() -> None:
    for each in DOCUMENTS:
        assert schema_command.text(each.name, markdown=False) == each.schema_path.read_text()[:-1]
    assert schema_command.text("attestations", markdown=True) == schema_page.markdown()
    with pytest.raises(UsageError, match="no document is called 'other'"):
        schema_command.text("other", markdown=False)
