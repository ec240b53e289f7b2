# SPDX-License-Identifier: Apache-2.0
"""The named faults of the cache model, one for each of its rules; see `faults`."""

from __future__ import annotations

from dma_rehearsal.device.layout.faults.fault import Fault, Place
from dma_rehearsal.host_harness.process.errors import Status


def _cache(name: str, promise: str, tests: str, description: str, words: str) -> Fault:
    return Fault(
        f"cache-{name}",
        Place.DEVICE,
        Status.FAILED,
        (promise,),
        f"the cache model {description}",
        words=words,
        tests=f"test_cache_{tests}.py",
    )


CACHE = (
    _cache(
        "clean-noop",
        "cache maintenance",
        "truth",
        "cleans nothing",
        "after sync_for_device() neither old nor new bytes",
    ),
    _cache(
        "invalidate-noop",
        "cache maintenance",
        "truth",
        "invalidates nothing",
        "after sync_for_cpu() old bytes",
    ),
    _cache(
        "clean-one-line-short",
        "cache line",
        "lines",
        "leaves out a clean's last line",
        "WRITE_TO_DIRTY_LINE",
    ),
    _cache(
        "writethrough-copies-whole-line",
        "cache line",
        "lines",
        "takes the whole line of a write-through store to memory",
        "device and CPU write different bytes of one line",
    ),
    _cache(
        "snoop-as-no-snoop",
        "cache maintenance",
        "truth",
        "does not snoop the caches at any access",
        "snooped True",
    ),
    _cache(
        "no-snoop-as-snoop",
        "cache maintenance",
        "truth",
        "snoops the caches at every access",
        "CPU store, no-snoop read: old bytes): the device reads new bytes",
    ),
    _cache(
        "snooped-write-not-in-image",
        "cache maintenance",
        "truth",
        "does not take snooped writes to memory",
        "snooped True",
    ),
    _cache(
        "written-mark-forgotten",
        "driver mistakes",
        "mistakes",
        "forgets which bytes were written without a snoop",
        "reports due: RELEASED_UNREAD; there are none",
    ),
    _cache(
        "dirty-not-seen",
        "driver mistakes",
        "mistakes",
        "does not see the stores of the CPU to write-back memory",
        "reports due: RELEASED_DIRTY; there are none",
    ),
    _cache(
        "stale-read-forgotten",
        "driver mistakes",
        "mistakes",
        "forgets that a device has read older bytes than were stored",
        "reports due: RELEASED_DIRTY; there are none",
    ),
    _cache(
        "owner-forgotten",
        "right drivers",
        "right_drivers",
        "reports at the release whatever is dirty, whoever owns it",
        "reports due: none; RELEASED_DIRTY",
    ),
    _cache(
        "maintenance-takes-nothing-back",
        "right drivers",
        "right_drivers",
        "gives the CPU nothing back by a flush",
        "reports due: none; RELEASED_DIRTY",
    ),
    _cache(
        "shared-line-not-seen",
        "driver mistakes",
        "mistakes",
        "does not see that a line has two owners",
        "missing: sync_for_device()",
    ),
    _cache(
        "snapshot-before-maintenance",
        "cache maintenance",
        "truth",
        "remembers what the device got as it was before the maintenance",
        "STORED_WHILE_DEVICE_OWNS",
    ),
    _cache(
        "snapshot-never-compared",
        "driver mistakes",
        "mistakes",
        "never compares what the device got with what is there",
        "reports due: STORED_WHILE_DEVICE_OWNS; there are none",
    ),
    _cache(
        "reports-lost",
        "driver mistakes",
        "mistakes",
        "loses its reports",
        "reports due: RELEASED_DIRTY; there are none",
    ),
    _cache(
        "untracked-reached",
        "cache maintenance",
        "truth",
        "lets no-snoop accesses reach memory that no buffer tracks",
        "refused for CACHE_UNTRACKED: 0 were",
    ),
    Fault(
        "cache-enable-ignored",
        Place.DEVICE,
        Status.FAILED,
        ("cache maintenance",),
        "the device does not snoop though its Enable No Snoop is clear",
        words="enabled False",
        tests="test_cache_truth.py",
    ),
)
