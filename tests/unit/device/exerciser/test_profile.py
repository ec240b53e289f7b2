# SPDX-License-Identifier: Apache-2.0
"""Profiles: what is read, what is refused with which words, and the device that comes of one."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.exerciser.profile import PLAIN, Profile, ProfileError
from dma_rehearsal.device.layout import DmaRule, Ext, ExtFeature, ProfileFlag
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import answer, read32

MINE = """
vendor = 0x1234
class = 0x028000
buffer = "8 KiB"
vectors = 4
address_bits = 36
alignment = 8
length_alignment = 4
max_segment = "1 KiB"
boundary = "4 GiB"
max_segments = 16
max_transfer = 16_384
coherent = false
line_size = 128
latency_ns = 700
bandwidth_mb_s = 100
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_fifteen_lines_make_a_device(tmp_path: Path) -> None:
    found = profile.load(written(tmp_path, MINE))
    assert found == Profile(
        name="mine",
        vendor=0x1234,
        class_code=0x028000,
        buffer=8192,
        vectors=4,
        address_bits=36,
        alignment=8,
        length_alignment=4,
        max_segment=1024,
        boundary=1 << 32,
        max_segments=16,
        max_transfer=16384,
        coherent=False,
        line_size=128,
        latency_ns=700,
        bandwidth_mb_s=100,
    )


def test_empty_file_is_the_plain_exerciser(tmp_path: Path) -> None:
    assert profile.load(written(tmp_path, "")) == replace(PLAIN, name="mine")


WRONG = [
    ("adress_bits = 32", "adress_bits: there is no such key; do you mean address_bits?"),
    ("zzz = 1", "zzz: there is no such key; there are vendor, device"),
    ("address_bits = 31", "address_bits = 31: allowed is one of 24, 26, 28, 30, 32, 36"),
    ("address_bits = true", "address_bits = true: allowed is one of 24"),
    ("address_bits = '32'", 'address_bits = "32": allowed is one of 24'),
    ("vendor = 0xffff", "vendor = 65535: allowed is 0x0001 to 0xfffe"),
    ("class = 0x1000000", "class = 16777216: allowed is 0x000000 to 0xffffff"),
    ("buffer = 12288", "buffer = 12288: allowed is a power of two of bytes, 4096 to 16777216"),
    ("buffer = '4 kB'", 'buffer = "4 kB": allowed is a power of two of bytes, 4096 to 16777216'),
    ("alignment = 3", "alignment = 3: allowed is a power of two of bytes, 1 to 4096"),
    ("alignment = -4", "alignment = -4: allowed is"),
    ("boundary = '8 GiB'", "allowed is a power of two of bytes, 1024 to 4294967296"),
    ("max_segment = 1.5", "max_segment = 1.5: allowed is bytes, 1 to 4294967295"),
    ("max_segments = 0", "max_segments = 0: allowed is 1 to 4294967295"),
    ("vectors = 1", "vectors = 1: allowed is 2 to 2048"),
    ("rule = 'sgl'", 'rule = "sgl": allowed is one of none, prp'),
    ("rule = ['prp']", "rule = "),
    ("coherent = 1", "coherent = 1: allowed is true or false"),
    ("sloppy = 'yes'", 'sloppy = "yes": allowed is true or false'),
    ("bandwidth_mb_s = 0", "bandwidth_mb_s = 0: allowed is 1 to 1000000"),
    ("[dma]\naddress_bits = 32", "dma: there is no such key"),
    ("alignment = 4096\nmax_segment = 512", "max_segment = 512: allowed is 4096 and more"),
    ("max_segment = 512\nmax_transfer = 256", "max_segment = 512: allowed is up to max_transfer"),
    ("rule = 'prp'", "boundary = 0: allowed with rule prp is 4096"),
    ("rule = 'prp'\nboundary = 4096", "alignment = 0: allowed with rule prp is 4 and more"),
]


@pytest.mark.parametrize(("text", "words"), WRONG, ids=[text for text, _ in WRONG])
def test_wrong_value_is_named_with_its_file_and_what_is_allowed(
    tmp_path: Path, text: str, words: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ProfileError) as error:
        profile.load(path)
    assert f"{path}: {words}" in str(error.value) or words in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as error:
        profile.load(written(tmp_path, "vectors = 0\nfoo = 1\naddress_bits = 7"))
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"address_bits 32", "not TOML: Expected '='"),
        (b"\xff\xfe", "not TOML: 'utf-8'"),
        (b"#" * 70000, "longer than 65536 bytes"),
        (None, "No such file"),
    ],
)
def test_no_profile_at_all(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ProfileError, match=words) as error:
        profile.find(str(path))
    assert str(path) in str(error.value)


def test_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(ProfileError, match=r"do you mean nvme\?.*isa-24.*ends in \.toml"):
        profile.find("nvmes")


@pytest.mark.parametrize("name", profile.shipped())
def test_shipped(name: str) -> None:
    """Each is a profile of some fifteen lines, names its source, and can be made a device."""
    text = (profile.SHIPPED / f"{name}.toml").read_text()
    assert text.startswith("# ")
    assert len([line for line in text.splitlines() if not line.startswith("#")]) <= 15
    found = profile.find(name)
    assert found.name == name
    made = Exerciser(Trace(), profile=found)
    answer(made)
    assert made.region_read(7, 0, 2) == found.vendor.to_bytes(2, "little")
    assert read32(made, 3, Ext.ADDRESS_BITS) == found.address_bits


def test_shipped_are_all_different() -> None:
    names = profile.shipped()
    assert len(names) >= 8
    assert len({profile.find(name).crc32 for name in names} | {PLAIN.crc32}) == len(names) + 1


def test_documentation_has_every_key_and_every_profile() -> None:
    text = Path("docs/profiles.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| .* \| .* \| .* \|", text, re.MULTILINE)[:21] == [
        *profile._KEYS
    ]
    listed = re.findall(r"^\| `([a-z]+-?\d*)` \| ", text, re.MULTILINE)
    assert listed[-len(profile.shipped()) :] == profile.shipped()
    block = text.partition("```toml\n")[2].partition("```")[0]
    assert profile.parse(tomllib.loads(block), "mydevice").address_bits == 36


def test_checksum_is_of_the_values_and_not_of_the_name() -> None:
    assert replace(PLAIN, name="other").crc32 == PLAIN.crc32
    assert replace(PLAIN, sloppy=True).crc32 != PLAIN.crc32


def test_registers_show_the_profile(tmp_path: Path) -> None:
    found = profile.load(written(tmp_path, MINE))
    made = Exerciser(Trace(), profile=found)
    answer(made)
    shown = {each: read32(made, 3, each) for each in Ext}
    assert shown[Ext.FEATURES] & ExtFeature.PROFILE
    assert shown[Ext.BUFFER_SIZE] == made.region_size(1) == 8192
    assert made.irq_count(2) == 4
    for register, value in (
        (Ext.ADDRESS_BITS, 36),
        (Ext.ALIGNMENT, 8),
        (Ext.LENGTH_ALIGNMENT, 4),
        (Ext.MAX_SEGMENT, 1024),
        (Ext.BOUNDARY, 0),
        (Ext.BOUNDARY_HI, 1),
        (Ext.MAX_SEGMENTS, 16),
        (Ext.MAX_TRANSFER, 16384),
        (Ext.PROFILE, 0),
        (Ext.PROFILE_CRC32, found.crc32),
        (Ext.PROFILE_RULE, DmaRule.NONE),
        (Ext.LINE_SIZE, 128),
        (Ext.LATENCY_NS, 700),
        (Ext.BANDWIDTH_MB_S, 100),
    ):
        assert shown[register] == value, register.name
    plain = Exerciser(Trace())
    answer(plain)
    assert read32(plain, 3, Ext.PROFILE) == ProfileFlag.COHERENT


def test_options_take_the_place_of_the_profiles() -> None:
    made = Exerciser(Trace(), profile=replace(PLAIN, vectors=4), buffer_size=8192, vectors=8)
    assert (made.vectors, len(made.buffer)) == (8, 8192)
