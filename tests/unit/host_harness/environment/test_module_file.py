# SPDX-License-Identifier: Apache-2.0
"""The facts of a built module, and why a kernel would refuse it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import module_file
from dma_rehearsal.host_harness.environment.module_file import ModuleFile, ModuleFileError
from tests.unit.host_harness.environment.elf_module import module, with_sections

VERMAGIC = "6.1.0-57 SMP preempt mod_unload modversions "


def versions(**crcs: int) -> bytes:
    return b"".join(struct.pack("<Q56s", crc, name.encode()) for name, crc in crcs.items())


def made(vermagic: str = VERMAGIC, **crcs: int) -> ModuleFile:
    information = f"name=my_drv\0vermagic={vermagic}\0".encode()
    data = with_sections({b".modinfo": information, b"__versions": versions(**crcs)})
    return module_file.of(data, "my-drv.ko")


def test_facts(tmp_path: Path) -> None:
    words = (
        b"license=GPL\0name=my_drv\0depends=uio,libata\0softdep=pre: crc32 lz4 post: zlib\0"
        b"vermagic=6.1 SMP \0"
    )
    (tmp_path / "my-drv.ko").write_bytes(module(words))
    found = module_file.read(tmp_path / "my-drv.ko")
    assert found == ModuleFile("my_drv", "6.1 SMP", ("uio", "libata"), ("crc32", "lz4"), {})
    assert found.release == "6.1"


def test_name_is_that_of_the_file_where_nothing_else_tells() -> None:
    assert module_file.of(module(b"vermagic=6.1\0depends=\0"), "my-drv.ko.xz") == ModuleFile(
        "my_drv", "6.1", (), (), {}
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"int x;", "not a 64-bit ELF file"),
        (module(b"license=GPL\0"), "no vermagic"),
        (module(b"vermagic=6.1\0", b".text"), "no section .modinfo"),
        (module(b"vermagic=6.1\0")[:-40], "cut off"),
        (b"\x7fELF\x02\x01".ljust(64, b"\xff"), "cut off"),
        (b"\x7fELF\x02\x01", "unpack_from requires"),
    ],
)
def test_file_that_is_not_a_module(data: bytes, words: str) -> None:
    with pytest.raises(ModuleFileError, match=words):
        module_file.of(data, "x.ko")


def test_symbols_of_a_kernel() -> None:
    text = "0x1234abcd\tdma_pool_alloc\tvmlinux\tEXPORT_SYMBOL\t\nnonsense\n0x00000001\tx\tm\tE\t\n"
    assert module_file.symbol_versions(text) == {"dma_pool_alloc": 0x1234ABCD, "x": 1}


KERNEL = {"module_layout": 7, "dma_pool_alloc": 9, "kfree": 3}


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (made(), ""),
        (made(module_layout=7, dma_pool_alloc=9), ""),
        (made("6.12.1 SMP "), "built for kernel 6.12.1, and the guest's kernel is 6.1.0-57"),
        (made("6.1.0-57 SMP mod_unload "), "its vermagic is"),
        (made(module_layout=7, dma_pool_alloc=8), "another dma_pool_alloc than"),
        (made(gone=1, dma_pool_alloc=8), "does not export gone, which"),
        (made(a=1, b=1, c=1, d=1), "a, b, c and 1 more"),
    ],
)
def test_why_a_kernel_refuses_it(file: ModuleFile, words: str) -> None:
    why = module_file.why_refused(file, VERMAGIC, KERNEL)
    assert words in why
    assert bool(why) == bool(words)


def test_kernel_without_checksums_compares_its_vermagic_alone() -> None:
    assert module_file.why_refused(made(gone=1), VERMAGIC, {}) == ""
