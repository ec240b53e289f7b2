# SPDX-License-Identifier: Apache-2.0
"""The exerciser as ``lspci -vvv -xxxx`` shows it in the guest, held against a golden text.

lspci is somebody else's parser of our configuration space, with QEMU and Linux between. After a
change that is meant: ``REGOLD=1 pytest -m vm tests/unit/device/pci/test_lspci.py``, then look
at the diff.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.exerciser.capabilities import OptionalCapability
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.runs import LIMIT_S, clean_environment
from tests.unit.device.pci.variants import EveryCapability, MessagesOnly

GOLDEN = Path(__file__).parent / "golden" / "exerciser.lspci"
# Each golden text with the endpoint that it is of; that one takes the place of the exerciser.
VARIANTS = {
    "exerciser": "",
    "every-capability": "tests.unit.device.pci.variants:EveryCapability",
    "messages-only": "tests.unit.device.pci.variants:MessagesOnly",
}
DUMP = """
from pathlib import Path

def test_dump(guest):
    shown = guest.run(["lspci", "-n", "-vvv", "-xxxx", "-d", "13b5:ed01"])
    Path("shown").write_text(shown.stdout.partition("\\n\\n")[0])  # the next one is the peer
"""
# Where firmware and kernel put the function differs from machine to machine.
_PLACES = (
    (r"^\S+ (?=[0-9a-f]{4}: )", "SLOT "),
    (r"(Memory at )[0-9a-f]+", r"\1ADDRESS"),
    (r"(routed to IRQ) \d+", r"\1 N"),
    (r"^\s*(Kernel |IOMMU |Physical Slot).*\n", ""),
)
_ROW = re.compile(r"^([0-9a-f]{2,3}): ((?:[0-9a-f]{2} ?){16})$")
_BARS, _INTERRUPT_LINE = range(0x10, 0x28), 0x3C
# QEMU makes an endpoint on the root bus an integrated one, which has no link, and owns the headers
# of the lists; BARs, command, status and the interrupt line are the machine's.
_QEMUS = {
    *range(0x04, 0x08),
    *_BARS,
    _INTERRUPT_LINE,
    *(0x34, 0x41, 0x42, 0x43),
    *range(0x4C, 0x54),
    *range(0x6C, 0x7C),
}


def normal(text: str) -> str:
    """Return lspci's text without what a machine decides, and without rows of zeros."""
    for pattern, replacement in _PLACES:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    lines = []
    for line in text.splitlines():
        row = _ROW.match(line)
        if row:
            if not any(bytes.fromhex(row[2])):
                continue
            start = int(row[1], 16)
            cells = [
                "--" if start + index in (*_BARS, _INTERRUPT_LINE) else cell
                for index, cell in enumerate(row[2].split())
            ]
            line = f"{row[1]}: {' '.join(cells)}"
        lines.append(line.rstrip())
    return "\n".join(lines).strip() + "\n"


def missing(found: str, golden: str) -> list[str]:
    """Return the capabilities that only the golden text has."""
    named = [
        [line.strip() for line in text.splitlines() if line.strip().startswith("Capabilities: [")]
        for text in (found, golden)
    ]
    return [line for line in named[1] if line not in named[0]]


def dump(folder: Path, *options: str) -> str:
    """Boot a guest and return what lspci says there."""
    (folder / "test_dump.py").write_text(DUMP)
    plugin = ("-p", "dma_rehearsal.host_harness.pytest_plugin")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "test_dump.py", *options],
        cwd=folder,
        env=clean_environment(PYTHONPATH=str(SOURCE)),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    print(done.stdout, done.stderr, sep="\n")
    assert done.returncode == 0
    return normal((folder / "shown").read_text())


@pytest.mark.vm
@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(each, marks=() if each == "exerciser" else pytest.mark.full)
        for each in VARIANTS
    ],
)
def test_as_the_guest_sees_it(tmp_path: Path, variant: str) -> None:
    served = [f"--vm-endpoint={VARIANTS[variant]}"] if VARIANTS[variant] else []
    found = dump(tmp_path, *served)
    golden = GOLDEN.with_stem(variant)
    if os.environ.get("REGOLD"):
        golden.write_text(found)
    assert not missing(found, golden.read_text())
    assert found == golden.read_text()


@pytest.mark.vm
@pytest.mark.full
def test_capability_that_is_hidden_is_named(tmp_path: Path) -> None:
    found = dump(tmp_path, "--vm-fault=device-capability-hidden")
    assert missing(found, GOLDEN.read_text()) == ["Capabilities: [7c] Power Management version 3"]
    assert found != GOLDEN.read_text()


def golden_bytes(variant: str) -> dict[int, int]:
    """Return the bytes of a golden text's dump, but for those that are masked."""
    found = dict.fromkeys(range(4096), 0)
    for offset in (*_BARS, _INTERRUPT_LINE):
        del found[offset]
    for line in GOLDEN.with_stem(variant).read_text().splitlines():
        start, colon, cells = line.partition(": ")
        if colon and re.fullmatch(r"[0-9a-f]{2,3}", start) and len(cells.split()) == 16:
            for index, cell in enumerate(cells.split()):
                if cell != "--":
                    found[int(start, 16) + index] = int(cell, 16)
    return found


def differences(endpoint: Endpoint, variant: str = "exerciser") -> set[int]:
    """Return where the model holds other bytes than the guest was seen to read."""
    if variant == "every-capability":  # with AER, Linux has errors reported
        endpoint.region_write(7, 0x48, b"\x1f\x28")
    if endpoint.vectors:
        endpoint.region_write(7, 0x86, struct.pack("<H", 1 << 15))  # Linux has MSI-X enabled
    seen = endpoint.region_read(7, 0, 4096)
    return {
        offset
        for offset, value in golden_bytes(variant).items()
        if offset not in _QEMUS and value != seen[offset]
    }


def test_golden_bytes_are_the_devices() -> None:
    """Without a VM: what the guest was seen to read is what the model still holds."""
    assert differences(Exerciser(Trace())) == set()
    assert differences(Exerciser(Trace(), vectors=8)) == {0x86}
    assert differences(Exerciser(Trace(), capabilities=())) >= {0x100, 0x108}


@pytest.mark.parametrize("left_out", OptionalCapability)
def test_each_optional_capability_is_in_its_golden_text(left_out: OptionalCapability) -> None:
    assert differences(EveryCapability(Trace()), "every-capability") == set()
    others = [each for each in OptionalCapability if each is not left_out]
    assert differences(Exerciser(Trace(), capabilities=others), "every-capability")


def test_messages_vendor_specific_and_dvsec_are_in_their_golden_text() -> None:
    assert differences(MessagesOnly(Trace()), "messages-only") == set()
    without = Exerciser(Trace(), capabilities=())
    assert differences(without, "messages-only") >= {0x8, 0x84, 0x100}


def test_machine_is_masked_and_the_device_is_not() -> None:
    text = "00:03.0 ed00: 13b5:ed01\n\tRegion 0: Memory at febf1000 (32-bit)\n10: " + "01 " * 16
    other = "00:04.0 ed00: 13b5:ed01\n\tRegion 0: Memory at fe000000 (32-bit)\n10: " + "02 " * 16
    assert normal(text) == normal(other)
    assert normal(text) != normal(text.replace("ed01", "ed02"))
