# SPDX-License-Identifier: Apache-2.0
"""HTML and SVG that are safe by construction: text is escaped, and only `Html` is not.

A run's files hold words of the guest and of devices. They reach the page as children or attributes
of `element`, which escapes each ``str`` that is not `Html`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

_VOID = frozenset(("br", "circle", "input", "line", "link", "meta", "path", "rect"))
_NAME = re.compile(r"[a-z][a-zA-Z0-9-]*")
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?")
# Characters that no HTML may have, and those that reorder or hide what is around them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff"
    "\ud800-\udfff]"
)


class Html(str):
    """Markup, which is not escaped again. `element`, `text` and `joined` make it."""

    __slots__ = ()


Child = str | None  # Html as it is, other text escaped; None: nothing


def plain(words: str, limit: int) -> str:
    """Return text of at most ``limit`` characters, without what cannot be seen; a cut is told."""
    cut = len(words) - limit
    words = _UNSEEN.sub("\ufffd", _ESCAPES.sub("", words[:limit]))
    return f"{words} [... {cut} more characters]" if cut > 0 else words


def text(words: str, limit: int = 4000) -> Html:
    """Return text as markup, as `plain` cuts and cleans it."""
    return Html(html.escape(plain(words, limit)))


def joined(children: Iterable[Child]) -> Html:
    """Return the children one after the other."""
    return Html("".join(_escaped(each) for each in children if each is not None))


def element(tag: str, *children: Child, **attributes: str | int | bool | None) -> Html:
    """Return an element. An attribute's trailing "_" is left out, other "_" are "-".

    None and False leave an attribute out, and True gives it without a value. ValueError for a name
    that is not one of HTML or SVG.
    """
    parts = [tag]
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if not _NAME.fullmatch(name) or name.startswith("on"):
            raise ValueError(f"not an attribute for this page: {name!r}")
        if value is None or value is False:
            continue
        shown = html.escape(plain(str(value), 4000))
        parts.append(name if value is True else f'{name}="{shown}"')
    if not _NAME.fullmatch(tag):
        raise ValueError(f"not an element: {tag!r}")
    head = " ".join(parts)
    if tag in _VOID and not children:
        return Html(f"<{head}/>" if tag in ("circle", "line", "path", "rect") else f"<{head}>")
    return Html(f"<{head}>{joined(children)}</{tag}>")


def _escaped(child: str) -> str:
    return child if isinstance(child, Html) else text(child)
