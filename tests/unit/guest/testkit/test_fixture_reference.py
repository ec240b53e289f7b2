# SPDX-License-Identifier: Apache-2.0
"""docs/fixtures.md lists the fixtures as the code has them."""

from __future__ import annotations

import pytest

from dma_rehearsal.guest.testkit import marks
from tests import fixture_reference


def test_page_is_what_the_code_says() -> None:
    written = fixture_reference.PAGE.read_text()
    assert written == fixture_reference.page(), f"next: {fixture_reference.COMMAND}"


def test_page_has_signatures_of_the_fixtures_types() -> None:
    page = fixture_reference.page()
    assert "| [`data`](#data) | `Patterns` | test |" in page
    assert "- `.take(length: int) -> bytes`: " in page
    assert "mask: int = 0" in page, "the signature of the fixture buffer"
    assert "_protection" not in page


def test_a_change_of_the_code_is_a_change_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "MARKS", (*marks.MARKS, "fresh: a new mark"))
    assert fixture_reference.page() != fixture_reference.PAGE.read_text()
