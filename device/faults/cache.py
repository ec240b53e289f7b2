# SPDX-License-Identifier: Apache-2.0
"""What the platform's cache model does, and whether the exerciser may go past it."""

from __future__ import annotations

from dma_rehearsal.device.cache_model.model import CacheModel
from dma_rehearsal.device.cache_model.names import GuestMemory, Mode
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.faults import cache_model as cache_faults
from dma_rehearsal.device.faults.fault import Fault
from dma_rehearsal.device.platform.platform import Platform


def _with_model(model: type[CacheModel]) -> type[Platform]:
    """Return a platform whose cache model breaks one rule."""

    class Broken(Platform):
        def make_cache(self, memory: GuestMemory, mode: Mode, line: int, seed: int) -> CacheModel:
            return model(memory, mode, line, seed)

    return Broken


class _EnableNoSnoopIgnored(Exerciser):
    @property
    def no_snoop_enabled(self) -> bool:
        return True


FAULTS: dict[str, Fault] = {
    name: Fault(description, platform=_with_model(cache_faults.FAULTS[name]))
    for name, description in {
        "cache-clean-noop": "cleans nothing",
        "cache-invalidate-noop": "invalidates nothing",
        "cache-clean-one-line-short": "leaves out the last line of each clean",
        "cache-writethrough-copies-whole-line": (
            "takes the whole line of a write-through store to memory"
        ),
        "cache-snoop-as-no-snoop": "does not snoop the caches at any access",
        "cache-no-snoop-as-snoop": "snoops the caches at every access",
        "cache-snooped-write-not-in-image": "does not take snooped writes to memory",
        "cache-written-mark-forgotten": "forgets which bytes were written without a snoop",
        "cache-dirty-not-seen": "does not see the stores of the CPU to write-back memory",
        "cache-stale-read-forgotten": "forgets that a device has read older bytes than were stored",
        "cache-owner-forgotten": "reports at the release whatever is dirty, whoever owns it",
        "cache-maintenance-takes-nothing-back": "gives the CPU nothing back by a flush",
        "cache-shared-line-not-seen": "does not see that a line has two owners",
        "cache-snapshot-before-maintenance": (
            "remembers what the device got as it was before the maintenance"
        ),
        "cache-snapshot-never-compared": "never compares what the device got with what is there",
        "cache-reports-lost": "loses its reports",
        "cache-untracked-reached": "lets no-snoop accesses reach memory that no buffer tracks",
    }.items()
} | {
    "cache-enable-ignored": Fault(
        "does not snoop though its Enable No Snoop is clear", exerciser=_EnableNoSnoopIgnored
    ),
}
