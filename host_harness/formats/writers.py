# SPDX-License-Identifier: Apache-2.0
"""The writer of each format by its name, as `options.outputs` names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dma_rehearsal.host_harness.formats import (
    github_annotations,
    github_summary,
    junit,
    ktap,
    lava,
    sarif,
    tap,
)
from dma_rehearsal.host_harness.formats.run_result import RunResult

WRITERS: Mapping[str, Callable[[RunResult], str]] = {
    "ktap": ktap.write,
    "tap": tap.write,
    "junit": junit.write,
    "sarif": sarif.write,
    "lava": lava.write,
    "github-annotations": github_annotations.write,
    "github-summary": github_summary.write,
}
