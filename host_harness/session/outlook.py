# SPDX-License-Identifier: Apache-2.0
"""The outlook: how the next run would start, and the saved states in the cache. Makes nothing."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.environment import build_cache, manifest, payload
from dma_rehearsal.host_harness.environment.build_cache import Kind
from dma_rehearsal.host_harness.environment.guest_image import Image
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.environment.qemu import Qemu
from dma_rehearsal.host_harness.machine import device_process, plugged_functions
from dma_rehearsal.host_harness.machine.plugged_functions import PluggedFunction
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.options.run_options import Options
from dma_rehearsal.host_harness.session import guest_states
from dma_rehearsal.host_harness.session.agent_client import Request
from dma_rehearsal.host_harness.session.guest_states import Start, StartKind


@dataclass(frozen=True, slots=True)
class SavedStates:
    """The saved states of both kinds: their numbers, bytes on the disk, seconds since a use."""

    booted: int
    collected: int
    size: int
    unused_s: float


def saved_states() -> SavedStates:
    """Count the saved states; ``unused_s`` is of the one that was used last, 0 without any."""
    booted = build_cache.entries(build_cache.BOOTED)
    collected = build_cache.entries(build_cache.COLLECTED)
    uses = []
    for path in (*booted, *collected):
        with contextlib.suppress(OSError):  # removed meanwhile
            uses.append((path / "manifest.json").stat().st_mtime)
    return SavedStates(
        len(booted),
        len(collected),
        sum(build_cache.usage(path) for path in (*booted, *collected)),
        max(0.0, time.time() - max(uses)) if uses else 0.0,
    )


def next_start(options: Options, found: Qemu, image: Image, accelerator: str) -> Start:
    """Return how the next run of this project's suite would start.

    Options of pytest for the guest, such as ``--runxfail``, are not looked at. A user's endpoints
    are asked for their functions; UsageError or NoVerdict when they cannot be served.
    """
    if reason := guest_states.why_cold(options):
        return Start(StartKind.COLD, reason)
    functions = _functions(options)
    booted = guest_states.booted_key(found, image, accelerator, options, functions, isolated=True)
    request = Request.of(options, GuestTests(), options.place or run_options.KIND)
    digest = payload.digest(image.tree, request.tests)
    collected = guest_states.collected_key(booted, digest, request, options)
    if options.state != run_options.BOOTED and not request.fault:
        wanted = _without_arguments(collected)
        if any(_without_arguments(key) == wanted for key in _keys(build_cache.COLLECTED)):
            return Start(StartKind.COLLECTED)
    wanted = build_cache.digest_of(booted)
    if any(build_cache.digest_of(key) == wanted for key in _keys(build_cache.BOOTED)):
        return Start(StartKind.BOOTED, "no state has the tests of guest/ as it is now")
    return Start(StartKind.COLD, "no saved state fits this checkout and this machine")


def _functions(options: Options) -> tuple[PluggedFunction, ...]:
    """Return the functions that a run has; a device process is started for a moment to ask it."""
    if options.endpoint is None:
        return plugged_functions.usual(options, Path())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dma-rehearsal-")))
        return device_process.start(stack, options, folder).functions()


def _without_arguments(key: Mapping[str, Any]) -> str:
    """Return a digest of a collected state's key, whatever options pytest had."""
    request = key.get("request")
    if not isinstance(request, dict):
        return ""
    return build_cache.digest_of({**key, "request": {**request, "args": None}})


def _keys(kind: Kind) -> list[Mapping[str, Any]]:
    """Return the keys of a kind's states."""
    return [key for path in build_cache.entries(kind) if (key := _key(path))]


def _key(path: Path) -> Mapping[str, Any]:
    try:
        found = manifest.read(path)["inputs"]
    except (OSError, ValueError, KeyError):  # a damaged one, which no run uses
        return {}
    return found if isinstance(found, dict) else {}
