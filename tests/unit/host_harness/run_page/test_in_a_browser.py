# SPDX-License-Identifier: Apache-2.0
"""Headless Chromium opens the page: the filter works, its policy permits it, and no script else."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.run_page import page
from tests.unit.host_harness.run_page.run_folders import TEST, folder, row

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is missing: apt-get install chromium"
)
_TIMEOUT_S = 120


def opened(place: Path, *options: str) -> tuple[str, str]:
    """Return the page's elements after its scripts ran, and what the browser logged."""
    command = [
        *(CHROMIUM or "", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
        *(f"--user-data-dir={place / 'profile'}", *options, "--dump-dom"),
        (place / page.FILE).as_uri() + "#failure-1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    return done.stdout, done.stderr


@needs_chromium
def test_scripts_run_as_the_policy_says(tmp_path: Path) -> None:
    page.write(folder(tmp_path))
    elements, logged = opened(tmp_path)
    assert re.search(r'<form id="filter" role="search"', elements)  # no longer hidden
    assert "2 of 2 promises" in elements
    assert re.search(r'<details class="failure" id="failure-1" open=', elements)
    assert "Content Security Policy" not in logged


@needs_chromium
def test_a_script_of_another_is_not_run(tmp_path: Path) -> None:
    """The right neighbour: the browser does look at the policy."""
    path = page.write(folder(tmp_path))
    injected = "<script>document.title = 'taken over'</script></body>"
    path.write_text(path.read_text().replace("</body>", injected))
    elements, logged = opened(tmp_path)
    assert "<title>taken over" not in elements
    assert "Content Security Policy" in logged


@needs_chromium
def test_a_narrow_window_shows_it_without_scrolling_sideways(tmp_path: Path) -> None:
    long = "0x" + "f" * 300
    path = page.write(folder(tmp_path, rows=[row(asked=long), row("broken", TEST, reason=long)]))
    script = "<script>document.title = `${document.documentElement.scrollWidth}`</script></body>"
    made = re.sub(r"<meta http-equiv[^>]*>", "", path.read_text()).replace("</body>", script)
    path.write_text(made)
    elements, _ = opened(tmp_path, "--window-size=500,900")
    (width,) = re.findall(r"<title>(\d+)</title>", elements)
    assert int(width) <= 500
