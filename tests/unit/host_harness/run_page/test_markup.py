# SPDX-License-Identifier: Apache-2.0
"""Text never becomes markup."""

from __future__ import annotations

import pytest

from dma_rehearsal.host_harness.run_page.markup import element, plain, text


def test_text_is_escaped_in_children_and_attributes() -> None:
    made = element("p", "<b>&", element("i", "in"), None, title="\"'<")
    assert made == '<p title="&quot;&#x27;&lt;">&lt;b&gt;&amp;<i>in</i></p>'


def test_what_cannot_be_seen_is_replaced() -> None:
    assert plain("a\x1b[31mb\x00c\u202ed\ud800", 100) == "ab\ufffdc\ufffdd\ufffd"
    assert plain("two\nlines\tkept", 100) == "two\nlines\tkept"


def test_a_cut_is_told() -> None:
    assert text("x" * 12, 10) == "x" * 10 + " [... 2 more characters]"


@pytest.mark.parametrize("name", ["onclick", "on_click", "a b", 'x"y'])
def test_scripts_are_no_attributes(name: str) -> None:
    with pytest.raises(ValueError, match="not an attribute"):
        element("p", **{name: "x"})


def test_elements_have_names() -> None:
    with pytest.raises(ValueError, match="not an element"):
        element("p><script")
