# SPDX-License-Identifier: Apache-2.0
"""The documentation: commands exist, imports resolve, named files exist, the site builds."""

from __future__ import annotations

import argparse
import ast
import doctest
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.device import __main__ as device_process
from dma_rehearsal.host_harness.cli import command_line
from dma_rehearsal.host_harness.options.run_options import OPTIONS
from dma_rehearsal.host_harness.process import deadlines

ROOT = Path(__file__).parents[3]
README = ROOT / "README.md"
README_LINES_MAX = 150
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
WORKFLOWS = sorted((ROOT / ".github").rglob("*.yml"))
# A file's path, from the root or from the place that the page speaks of.
_PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|c|h|toml|md|sh|ini|txt|yml))`")
# Files that only a run or a user makes.
_MADE = re.compile(r"^(build|guest_tests|golden)/|test_mine\.py$|^docs/(interop|specs|devel)/")
_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^    (?!\S*[|│])(\S[^\n]*)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_fences(text: str) -> str:
    return _FENCE.sub("", text)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command: in an indented block, in a `sh` fence, or in backticks."""
    shown = [match[1] for match in _INDENTED.finditer(without_fences(text))]
    shown += [
        line for match in _FENCE.finditer(text) if match[1] == "sh" for line in match[3].split("\n")
    ]
    shown += re.findall(r"`((?:make|dma-rehearsal|pytest|python -m) [^`]+)`", text)
    for line in shown:
        for part in re.split(r" && |; ", line.partition("  #")[0]):
            try:
                words = shlex.split(part)
            except ValueError:
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and words[0] in ("make", "dma-rehearsal", "pytest", "python"):
                yield words


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def variables() -> set[str]:
    text = (ROOT / "Makefile").read_text()
    listed = re.search(r"^VARIABLES := ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert listed
    return set(listed[1].replace("\\", " ").split())


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {text for action in parser._actions for text in action.option_strings}


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (
        each
        for each in command_line._parser()._actions
        if isinstance(each, argparse._SubParsersAction)
    )
    return dict(action.choices)


def wrong(words: list[str]) -> str:
    """Return what is wrong with a command; empty if it can be run."""
    program, *arguments = words
    if program == "make":
        for word in arguments:
            name, equals, _ = word.partition("=")
            if equals and name not in variables():
                return f"nothing reads {name}="
            if not equals and not word.startswith("-") and name not in targets():
                return f"the Makefile lacks the target {name}"
    elif program == "dma-rehearsal":
        return _wrong_options(arguments)
    elif program == "python" and arguments[:1] == ["-m"]:
        module, *rest = arguments[1:]
        if module == "dma_rehearsal.host_harness":
            return _wrong_options(rest)
        if module == "dma_rehearsal.device":
            known = options_of(device_process._parser())
            return _unknown(rest, known)
        if module.startswith("dma_rehearsal") and not _can_be_found(module):
            return f"no module {module}"
    elif program == "pytest":
        known = {f"--vm-{option.name}" for option in OPTIONS} | {"--vm", "--vm-runs", "--help"}
        return _unknown(arguments, known)
    return ""


def _wrong_options(arguments: list[str]) -> str:
    if not arguments or arguments[0] == "--help":
        return ""
    command, *rest = arguments
    known = subcommands()
    if command not in known:
        return f"dma-rehearsal lacks the command {command}"
    if command in ("test", "soak", "order", "device"):  # the rest is pytest's, or the device's
        return ""
    return _unknown(rest, options_of(known[command]))


def _unknown(arguments: list[str], known: set[str]) -> str:
    given = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    return ", ".join(f"no option {word}" for word in given if word not in known)


def _can_be_found(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("page", [*PAGES, *WORKFLOWS], ids=name_of)
def test_commands_exist(page: Path) -> None:
    text = page.read_text()
    if page.suffix == ".yml":
        text = "\n".join(f"    {line}" for line in re.findall(r"run: (make .*)", text))
    found = {shlex.join(words): wrong(words) for words in commands(text)}
    assert not {command: error for command, error in found.items() if error}


def test_every_option_of_a_run_is_documented() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    found = re.findall(r"^\| `([A-Z_]+=.*?)` \| ", text, re.MULTILINE)
    assert [each.replace("\\|", "|") for each in found] == [
        f"{each.variable}={each.metavar}" for each in OPTIONS
    ]


def test_every_deadline_is_documented() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    found = re.findall(r"^\| `([\w ]+)` \| (\d+) \|$", text, re.MULTILINE)
    assert {name: float(seconds) for name, seconds in found} == deadlines.DEFAULTS_S


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("make test-vm FAULT=device-read-flip", ""),
        ("make test-vm FAULTS=x", "nothing reads FAULTS="),
        ("make everything", "the Makefile lacks the target everything"),
        ("dma-rehearsal shell --attach build/runs/latest", ""),
        ("dma-rehearsal shell --detach", "no option --detach"),
        ("dma-rehearsal fly", "dma-rehearsal lacks the command fly"),
        ("pytest --vm guest_tests --vm-profile=nvme", ""),
        ("pytest --vm guest_tests --vm-nothing", "no option --vm-nothing"),
        ("python -m dma_rehearsal.device --endpoint x:Y", ""),
        ("python -m dma_rehearsal.device --endpont x:Y", "no option --endpont"),
        ("python -m dma_rehearsal.nothing", "no module dma_rehearsal.nothing"),
    ],
)
def test_wrong_commands_are_found(command: str, error: str) -> None:
    assert wrong(shlex.split(command)) == error


def python_blocks(text: str) -> list[str]:
    return [match[3] for match in _FENCE.finditer(text) if match[1] == "python"]


def test_blocks_and_commands_are_found_in_a_page() -> None:
    text = (
        "Run `make lint`:\n\n    SEED=1 make test-vm && make faults  # both\n\n"
        "```python\nx = 1\n```\n"
    )
    assert python_blocks(text) == ["x = 1\n"]
    assert list(commands(text)) == [["make", "test-vm"], ["make", "faults"], ["make", "lint"]]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_parse_and_import_what_exists(page: Path) -> None:
    lacking = []
    for block in python_blocks(page.read_text()):
        if re.match(r" +def ", block):  # a method, shown alone
            block = "class _:\n" + block
        elif re.search(r"^return ", block, re.MULTILINE):  # a function's body
            block = "def _():\n" + re.sub("^", "    ", block, flags=re.MULTILINE)
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dma_rehearsal"):
                module = importlib.import_module(str(node.module))
                lacking += [
                    f"{node.module}.{each.name}"
                    for each in node.names
                    if not hasattr(module, each.name)
                    and not _can_be_found(f"{node.module}.{each.name}")
                ]
    assert not lacking


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_doctests(page: Path) -> None:
    """Also those of fenced blocks, which an empty line ends."""
    result = doctest.testfile(str(page), module_relative=False)
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    named = _PATH.findall(without_fences(page.read_text()))
    places = (ROOT, ROOT / "guest", ROOT / "device", ROOT / "host_harness", page.parent)
    lacking = [
        name
        for name in named
        if not _MADE.search(name) and not any((place / name).exists() for place in places)
    ]
    assert not lacking


def test_some_pages_have_doctests() -> None:
    parser = doctest.DocTestParser()
    with_examples = {page.name for page in PAGES if parser.get_examples(page.read_text())}
    assert with_examples >= {
        "endpoint-bars.md",
        "endpoint-registers.md",
        "iobuffer.md",
        "profiles.md",
    }


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= README_LINES_MAX


def test_rows_of_the_readme_were_printed() -> None:
    """They are rows of the run whose picture is at its top."""
    block = next(match[3] for match in _FENCE.finditer(README.read_text()) if "promise" in match[3])
    printed = (ROOT / "docs" / "pictures" / "run.txt").read_text().splitlines()
    assert sum(not line.startswith(" ") for line in block.splitlines()) == 2 + 4
    assert [line for line in block.splitlines() if line not in printed] == []


# Patterns of a non-native's English, each with what is better.
STILTED = {
    r"\b(?:is|are|was|were) no (?!longer\b|more\b|fewer\b|less\b|later\b|such\b)": "is not a",
    r"\bthat is none\b": "that is not one",
    r"\bstands? in\b": "is in",
    r"\bcomes? along\b": "is included",
    r"\blets? \w+ (?:\w+ )?be\b": "leaves alone",
    r"\b(?:come|came|comes) about\b": "happen",
    r"\w's 's\b|\bone's is\b": "of the",
}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_english_is_plain(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "CODE", without_fences(page.read_text()))
    found = [
        f"{match[0]!r}: better {better!r}: {text[max(0, match.start() - 30) : match.end() + 30]!r}"
        for pattern, better in STILTED.items()
        for match in re.finditer(pattern, text)
    ]
    assert not found


@pytest.mark.parametrize(
    "words",
    ["it is no number", "a value that is none", "it stands in DRAM", "one that comes along"],
)
def test_stilted_english_is_found(words: str) -> None:
    assert any(re.search(pattern, words) for pattern in STILTED)


def test_site_builds(tmp_path: Path) -> None:
    """A link that leads nowhere, or a page that is in no table of contents, fails the build."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-b",
            "html",
            "docs",
            tmp_path,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").exists()
