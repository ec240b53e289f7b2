# SPDX-License-Identifier: Apache-2.0
"""The files that a reader of the tutorial writes, from its blocks with a title."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "checksum"
TITLES = (
    "checksum_device.py",
    "pyproject.toml",
    "guest_tests/checksum.py",
    "guest_tests/test_checksum.py",
)
_TITLED = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_MISTAKES = re.compile(r"^```python\n(def test_wrong_direction.*?)^```$", re.MULTILINE | re.DOTALL)
_IMPORTS = """\
import pytest
from checksum import PolledEngine

from dma_rehearsal.guest.iobuffer import kIODirectionIn, kIODirectionOut


@pytest.fixture
def polled():
    with PolledEngine() as engine:
        yield engine


"""


def _text() -> str:
    return (ROOT / "docs" / "tutorial.md").read_text()


def files() -> dict[str, str]:
    """Return each file's text: the blocks with its name as their title, in order."""
    found: dict[str, list[str]] = {}
    for title, text in _TITLED.findall(_text()):
        found.setdefault(title, []).append(text)
    return {title: "\n".join(blocks) for title, blocks in found.items()}


def mistakes() -> str:
    """Return the guest tests of the section on protection: each of them fails."""
    found = _MISTAKES.search(_text())
    assert found, "the tutorial has no block of mistakes"
    return _IMPORTS + found[1]


def refusal() -> str:
    """Return what the run says of one of the mistakes, as the tutorial prints it."""
    section = _text().partition("## 8. ")[2]
    return section.partition("```\nchecksum: ")[2].partition("```")[0]


def wrong_device() -> str:
    """Return the variant of the device that breaks it."""
    found = re.search(r"^```python\n(from checksum_device .*?)^```$", _text(), re.M | re.S)
    assert found, "the tutorial has no wrong device"
    return found[1]


def unit_test() -> str:
    """Return the test of the model without a VM."""
    found = re.search(
        r"^```python\n(import zlib\n\nfrom .*?FakeHost.*?)^```$", _text(), re.M | re.S
    )
    assert found, "the tutorial has no test without a VM"
    return found[1]


def messages() -> str:
    """Return the methods of the model that reaches memory by messages, as a class has them."""
    found = re.search(
        r"^```python\n(def write_doorbell.*?async def .*?)^```$", _text(), re.M | re.S
    )
    assert found, "the tutorial has no model that waits"
    return "class Waiting(Checksum):\n" + textwrap.indent(found[1], "    ")


def write(project: Path) -> None:
    """Write the project of the tutorial into a folder."""
    for title, text in files().items():
        path = project / title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def shell_commands() -> list[str]:
    """Return what the tutorial types into the guest's shell."""
    section = _text().partition("Look around in the guest\n")[2].partition("\n## ")[0]
    _, commands = re.findall(r"(?:^    \S.*\n)+", section, re.MULTILINE)
    return [line.strip() for line in commands.splitlines()]
