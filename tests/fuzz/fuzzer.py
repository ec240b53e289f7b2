# SPDX-License-Identifier: Apache-2.0
"""A coverage-guided loop around the targets of ``fuzz.py``, in the standard library alone.

    python -m tests.fuzz.fuzzer [TARGET [SECONDS]]    run one, or all; go on from the corpus
    python -m tests.fuzz.fuzzer --replay FILE         run what failed once more

Coverage makes the server slower by a factor of ten and more. So what looks like a hang is run once
more without it, and is one if it takes too long then.

An input that reaches a line or a pair of lines of device/ that none before reached is kept
in build/fuzz/TARGET. One that fails is kept as crash-*, and the replay's command is printed.
"""

from __future__ import annotations

import hashlib
import logging
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz import (  # noqa: F401  # they add their targets
    device_target,
    example_targets,
    exerciser_target,
    mailbox_target,
)
from tests.fuzz.targets import TARGETS, Hang

CORPUS = Path("build/fuzz")
WATCHED = ("device/vfio_user/", "device/endpoints/", "device/platform/")
MAX_INPUT = 512


class Coverage:
    """The pairs of lines, one after the other, that ran in the watched modules."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self._last = 0

    def run(self, target: Callable[[bytes], None], data: bytes) -> bool:
        """Run a target; return whether it reached something new."""
        before = len(self.seen)
        sys.settrace(self._call)
        try:
            target(data)
        except Hang:
            sys.settrace(None)
            target(data)
        finally:
            sys.settrace(None)
        return len(self.seen) > before

    def _call(self, frame: FrameType, _event: str, _argument: object) -> Any:
        name = frame.f_code.co_filename
        return self._line if any(each in name for each in WATCHED) else None

    def _line(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            here = hash((frame.f_code.co_filename, frame.f_lineno))
            self.seen.add(here ^ self._last >> 1)
            self._last = here
        return self._line


def mutated(rng: random.Random, corpus: list[bytes]) -> bytes:
    """Return an input: a new one, or one of the corpus with some changes."""
    if not corpus or rng.random() < 0.1:
        return rng.randbytes(rng.randrange(MAX_INPUT))
    data = bytearray(rng.choice(corpus))
    for _ in range(1 << rng.randrange(4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 1:
            del data[at : at + rng.randrange(1, 9)]
        elif kind == 2:
            other = rng.choice(corpus)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        elif at < len(data):
            data[at] = rng.choice([0, 1, 2, 255, rng.randrange(256), data[at] ^ 1])
    return bytes(data[:MAX_INPUT])


def examples(target: Callable[[bytes], None], count: int, seed: int) -> None:
    """Run a target on ``count`` inputs, always the same ones."""
    rng = random.Random(seed)
    corpus = [rng.randbytes(64) for _ in range(20)]
    for number in range(count):
        data = mutated(rng, corpus)
        corpus[number % len(corpus)] = data
        try:
            target(data)
        except Exception as error:
            error.add_note(f"the input is bytes.fromhex('{data.hex()}')")
            raise


def fuzz(name: str, seconds: float) -> int:
    """Run a target for so long; return how many failures were found."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    corpus = [each.read_bytes() for each in sorted(folder.glob("input-*"))]
    coverage, rng, found, runs = Coverage(), random.Random(), 0, 0
    waiting, end = list(corpus), time.monotonic() + seconds
    while waiting or time.monotonic() < end:
        data = waiting.pop() if waiting else mutated(rng, corpus)
        runs += 1
        digest = hashlib.sha256(data).hexdigest()[:16]
        try:
            if coverage.run(TARGETS[name], data) and data not in corpus:
                corpus.append(data)
                (folder / f"input-{digest}").write_bytes(data)
        except Exception:
            found += 1
            crash = folder / f"crash-{digest}"
            crash.write_bytes(data)
            traceback.print_exc()
            print(f"replay: {sys.executable} -m tests.fuzz.fuzzer --replay {crash}")
            break
    print(
        f"{name}: {runs} inputs, {len(coverage.seen)} pairs of lines, corpus {len(corpus)}, "
        f"{found} failures",
        flush=True,
    )
    return found


def main(argv: list[str]) -> int:
    """See the module's documentation. Return 1 when something failed."""
    logging.disable(logging.CRITICAL)
    if argv[:1] == ["--replay"] and len(argv) == 2:
        path = Path(argv[1])
        TARGETS[path.parent.name](path.read_bytes())
        print(f"{path}: passes")
        return 0
    name, seconds = (argv + ["all", "60"][len(argv) :])[:2]
    chosen = list(TARGETS) if name == "all" else [name]
    if not set(chosen) <= set(TARGETS):
        print(f"no target {name}; there are: all, {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    return int(sum(fuzz(each, float(seconds) / len(chosen)) for each in chosen) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
