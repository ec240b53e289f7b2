"""What the test kit keeps for a session: the platform, in the same state before each test.

The allocator's grants go to the protection unit from before the first buffer on. The unit is on at
each test's setup, also while fixtures of modules are set up and taken down, so that no result
depends on the test before. The mark ``unprotected`` turns it off for one test.
"""

from __future__ import annotations

from iobuffer import protection
from iobuffer.driver import Driver
from pci_sysfs import PciError
from platform_access import PlatformAccess
from platform_device import PlatformDevice


class Kit:
    """The platform and the driver's file of one session. On a board without a platform: neither."""

    def __init__(self, *, iommu: bool = False) -> None:
        """``iommu``: the device is behind one, which denies what is not mapped."""
        self._iommu = iommu
        self._platform: PlatformDevice | None = None
        self._access: PlatformAccess | None = None
        self._driver: Driver | None = None
        self._missing: PciError | None = None

    @property
    def platform(self) -> PlatformDevice:
        """The platform, told this guest's PAT and MTRRs; `PciError` where there is none."""
        if self._platform is None:
            raise self._missing or PciError("the platform is closed: no test runs")
        return self._platform

    @property
    def driver(self) -> Driver:
        """/dev/dma-rehearsal."""
        if self._driver is None:
            self._driver = Driver()
        return self._driver

    def begin(self, *, protected: bool = True) -> None:
        """Bring the platform into the state that each test begins in; find it, the first time."""
        if self._platform is None and self._missing is None:
            self._open()
        if self._platform is None:
            return
        if self._iommu:
            return
        protection.use(self._access)
        unit = self._platform.protection
        if unit.enabled is not protected:
            unit.enabled = protected

    def close(self) -> None:
        """Turn the unit off, and close everything; `begin` opens it again."""
        if self._platform is not None:
            protection.use(None)
            self._platform.protection.enabled = False
            self._platform.close()
        if self._driver is not None:
            self._driver.close()
        self._platform = self._access = self._driver = self._missing = None

    def _open(self) -> None:
        try:
            self._platform = PlatformDevice()
        except PciError as error:
            self._missing = error
            return
        self._platform.read_memory_types()
        self._access = PlatformAccess(self._platform.protection)
