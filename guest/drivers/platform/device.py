# SPDX-License-Identifier: Apache-2.0
"""The platform device from user space: its witness, and the way to its other models.

Several processes may have it open; a command belongs to one process while it lasts.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from dma_rehearsal.device.layout import (
    PLATFORM_DEVICE_ID,
    PLATFORM_MAGIC,
    PLATFORM_VENDOR_ID,
    PLATFORM_VERSION,
    WITNESS_TRIGGER,
    DmaReason,
    Plat,
    PlatformBar,
    PlatformFeature,
    WitnessRun,
    WitnessStatus,
)
from dma_rehearsal.guest.drivers.pci_sysfs import PciFunction
from dma_rehearsal.guest.drivers.platform import refusals
from dma_rehearsal.guest.drivers.platform.board_unit import BoardUnit
from dma_rehearsal.guest.drivers.platform.cache_unit import CacheUnit
from dma_rehearsal.guest.drivers.platform.command import CommandLock, PlatformDeviceError
from dma_rehearsal.guest.drivers.platform.mailbox_unit import MailboxUnit
from dma_rehearsal.guest.drivers.platform.protection_unit import ProtectionUnit
from dma_rehearsal.guest.drivers.platform.request_log import RefusedRequest, RequestLog
from dma_rehearsal.guest.iobuffer.base.closing import Closing
from dma_rehearsal.guest.linux import memory_types
from dma_rehearsal.guest.linux.memory_types import Mtrrs

_MTRR_RANGE_SIZE: Final = 16  # PHYSBASE lo, hi, PHYSMASK lo, hi


@dataclass(frozen=True, slots=True)
class WitnessReport:
    """The witness's report on one virtual range.

    ``runs`` cover the range from its start up to ``fault_va``, or to its end when ``status`` is OK
    (fault_va is None then). ``pages`` is the number of leaf entries looked at.
    """

    status: WitnessStatus
    runs: tuple[WitnessRun, ...]
    pages: int
    fault_va: int | None


class PlatformDevice(Closing):
    """1234:da7a, found by its id, enabled, with bus mastering on. A context manager.

    Set its memory types (`set_memory_types` or `read_memory_types`) before you ask for
    effective types.
    """

    def __init__(self, function: PciFunction | None = None) -> None:
        self.pci = function or PciFunction.find(PLATFORM_VENDOR_ID, PLATFORM_DEVICE_ID)
        self.pci.enable()
        self.pci.bus_master = True
        self._control = self.pci.bar(PlatformBar.CONTROL)
        self._results = self.pci.bar(PlatformBar.RESULTS)
        magic, version = self._control[Plat.MAGIC], self._control[Plat.VERSION]
        if magic != PLATFORM_MAGIC or version >> 16 != PLATFORM_VERSION >> 16:
            self.close()
            raise PlatformDeviceError(
                f"{self.pci.address}: magic {magic:#x} version {version:#x}, "
                f"not {PLATFORM_MAGIC:#x} and {PLATFORM_VERSION:#x}"
            )
        self.features = PlatformFeature(self._control[Plat.FEATURES])
        self._lock = CommandLock(self.pci.address)

    @property
    def protection(self) -> ProtectionUnit:
        """The protection unit; `PlatformDeviceError` when this platform has none."""
        if PlatformFeature.PROTECTION not in self.features:
            raise PlatformDeviceError(f"{self.pci.address}: there is no protection unit")
        return ProtectionUnit(self._control, self._lock, self.pci.address)

    @property
    def cache(self) -> CacheUnit:
        """The cache model; `PlatformDeviceError` when this platform has none."""
        if PlatformFeature.CACHE not in self.features:
            raise PlatformDeviceError(f"{self.pci.address}: there is no cache model")
        return CacheUnit(self._control, self._results, self._lock, self.pci.address)

    @property
    def mailbox(self) -> MailboxUnit:
        """The mailbox; `PlatformDeviceError` when this platform has none."""
        if PlatformFeature.MAILBOX not in self.features:
            raise PlatformDeviceError(f"{self.pci.address}: there is no mailbox")
        return MailboxUnit(self._control, self._lock, self.pci.address)

    @property
    def board(self) -> BoardUnit:
        """The board's switches: snooping, held DMA."""
        return BoardUnit(self._control)

    @property
    def requests(self) -> RequestLog:
        """The request log; `PlatformDeviceError` when this platform has none."""
        if PlatformFeature.REQUESTS not in self.features:
            raise PlatformDeviceError(f"{self.pci.address}: there is no request log")
        return RequestLog(self._control, self._lock, self.pci.address)

    def expects(
        self, *reasons: DmaReason, count: int | None = None
    ) -> AbstractContextManager[list[RefusedRequest]]:
        """Expect refusals within the ``with``, of any function; see `refusals.expects`."""
        return refusals.expects(*reasons, count=count)

    def set_memory_types(self, pat: int, mtrrs: Mtrrs) -> None:
        """Give the witness the processor's PAT and MTRRs."""
        with self._lock.held():
            self._set_memory_types(pat, mtrrs)

    def _set_memory_types(self, pat: int, mtrrs: Mtrrs) -> None:
        control = self._control
        control.set64(Plat.PAT_LO, pat)
        control.set64(Plat.MTRR_DEF_TYPE_LO, mtrrs.def_type)
        control[Plat.PHYSICAL_BITS] = mtrrs.physical_bits
        control[Plat.MTRR_COUNT] = len(mtrrs.ranges)
        for index, (base, mask) in enumerate(mtrrs.ranges):
            offset = Plat.MTRR_RANGES + index * _MTRR_RANGE_SIZE
            control.set64(offset, base)
            control.set64(offset + 8, mask)
        for index, value in enumerate(mtrrs.fixed):
            control.set64(Plat.MTRR_FIXED + 8 * index, value)

    def read_memory_types(self) -> None:
        """Read PAT and MTRRs in this guest, and give them to the witness."""
        self.set_memory_types(memory_types.read_pat(), memory_types.read_mtrrs())

    def witness(self, root: int, va: int, length: int, levels: int = 4) -> WitnessReport:
        """Walk the tables at physical ``root`` for [va, va + length); return the mapping's report.

        ``levels`` is 4 or 5. A walk that fails is a report with another status than OK.
        Root and levels come from the driver (`iobuffer.os.driver.Driver.query`), or from
        outside the guest.
        """
        with self._lock.held():
            return self._walk(root, va, length, levels)

    def _walk(self, root: int, va: int, length: int, levels: int) -> WitnessReport:
        control = self._control
        control.set64(Plat.WITNESS_ROOT_LO, root)
        control.set64(Plat.WITNESS_VA_LO, va)
        control.set64(Plat.WITNESS_LENGTH_LO, length)
        control[Plat.WITNESS_LEVELS] = levels
        control[Plat.WITNESS_CTL] = WITNESS_TRIGGER
        status = self._status()
        count = control[Plat.WITNESS_RUN_COUNT]
        size = WitnessRun.STRUCT.size
        quads = self._results.data.cast("Q")
        if count > len(quads) * 8 // size:
            raise PlatformDeviceError(f"{self.pci.address}: {count} runs, more than BAR1 holds")
        try:
            runs = tuple(
                WitnessRun.unpack(
                    b"".join(q.to_bytes(8, "little") for q in quads[i : i + size // 8])
                )
                for i in range(0, count * size // 8, size // 8)
            )
        except ValueError as error:
            raise PlatformDeviceError(f"{self.pci.address}: a malformed run: {error}") from error
        finally:
            quads.release()
        faulted = status != WitnessStatus.OK
        fault_va = control.get64(Plat.WITNESS_FAULT_VA_LO) if faulted else None
        return WitnessReport(status, runs, control[Plat.WITNESS_PAGE_COUNT], fault_va)

    def close(self) -> None:
        """Unmap the BARs."""
        self.pci.close()

    def _status(self) -> WitnessStatus:
        value = self._control[Plat.WITNESS_STATUS]
        try:
            return WitnessStatus(value)
        except ValueError as error:
            raise PlatformDeviceError(f"{self.pci.address}: witness status {value:#x}") from error
