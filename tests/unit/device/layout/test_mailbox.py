# SPDX-License-Identifier: Apache-2.0
"""The mailbox's record, its C header, and the words of the driver's reports."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import pytest

from dma_rehearsal.device.layout import CacheStatus, ProtectionStatus, mailbox
from dma_rehearsal.device.layout.driver_reports import DRIVER_REPORT_WORDS, DriverReportKind
from dma_rehearsal.device.layout.mailbox import (
    DMA_CALL_ENDS,
    DmaCall,
    MailCommand,
    MailRecord,
    MailStatus,
)
from tests import mailbox_header

RECORD = MailRecord(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, (12, 13, 14, 15), (16, 17), (18, 19))


def test_a_record_comes_back_as_it_went() -> None:
    data = RECORD.pack()
    assert len(data) == MailRecord.SIZE == 128
    assert MailRecord.unpack(data) == RECORD
    assert MailRecord.unpack(bytes(128)) == MailRecord(0)
    ends = replace(RECORD, address=2**64 - 1, tag=2**32 - 1)
    assert MailRecord.unpack(ends.pack()) == ends


def test_the_header_is_made_from_the_layout() -> None:
    assert mailbox_header.HEADER.read_text() == mailbox_header.text(), (
        "run: python -m tests.mailbox_header > guest/dma_ops/dma_rehearsal_mailbox.h"
    )


def test_a_compiler_finds_the_same_numbers_and_offsets(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: install gcc and libc6-dev")
    names = [
        *mailbox_header.defined(),
        *(f"offsetof(struct dr_mail_record, {each.name})" for each in fields(MailRecord)),
    ]
    shows = "\n".join(f'printf("%llu\\n", (unsigned long long)({each}));' for each in names)
    source = tmp_path / "mailbox.c"
    source.write_text(
        "#include <stdio.h>\n#include <stddef.h>\n"
        f'#include "{mailbox_header.HEADER.name}"\nint main(void) {{ {shows} return 0; }}\n'
    )
    binary = tmp_path / "mailbox"
    include = f"-I{mailbox_header.HEADER.parent}"
    command = [compiler, "-Wall", "-Werror", include, str(source), "-o", str(binary)]
    subprocess.run(command, check=True)
    output = subprocess.run([binary], check=True, capture_output=True, text=True).stdout
    offsets = []
    for each in fields(MailRecord):
        value = getattr(RECORD, each.name)
        first = value[0] if isinstance(value, tuple) else value
        offsets.append(RECORD.pack().index(first))
    assert [int(line) for line in output.split()] == [*mailbox_header.defined().values(), *offsets]


def test_tags_and_owners_are_apart_from_those_of_others() -> None:
    assert mailbox.MAIL_TAG_BASE == 1 << 31
    assert not mailbox.MAIL_OWNER_BASE & (mailbox.MAIL_TAG_END - 1)
    assert not mailbox.MAIL_OWNER_BASE >> 63, "bit 63 is of owners that are processes"


def test_statuses_that_come_from_a_model_have_its_names() -> None:
    for each in MailStatus:
        if each >> 8 == 1:
            assert each.name == f"PROTECTION_{ProtectionStatus(each & 0xFF).name}"
        elif each >> 8 == 2 and each is not MailStatus.CACHE_OFF:
            assert each.name == f"CACHE_{CacheStatus(each & 0xFF).name}"


def test_no_command_and_no_kind_is_0() -> None:
    assert 0 not in [*MailCommand, *DriverReportKind]


def test_each_call_that_begins_a_mapping_has_one_that_ends_it() -> None:
    assert {call for call in DmaCall if 0 < call < 16} == set(DMA_CALL_ENDS)
    assert {call for call in DmaCall if 16 < call < 32} == set(DMA_CALL_ENDS.values())


@pytest.mark.parametrize("kind", DriverReportKind)
def test_each_kind_of_report_has_words(kind: DriverReportKind) -> None:
    words = DRIVER_REPORT_WORDS[kind]
    for text in words.description, words.next:
        assert text
        assert "\n" not in text
        assert not text.endswith(".")
