# SPDX-License-Identifier: Apache-2.0
"""The test kit as a test meets it: announced refusals, protection, dropped buffers, claims."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from tests.inprocess.rig.machine import Machine
from tests.inprocess.rig.suite_run import SuiteRunner

pytest_plugins = ["pytester"]

HEAD = """
import pytest
from dma_rehearsal.guest.drivers.exerciser_features import held_dma
from dma_rehearsal.guest.iobuffer import *
from dma_rehearsal.guest.iobuffer import IOBufferMemoryDescriptor, current_task
from dma_rehearsal.device.layout import DmaReason

create = IOBufferMemoryDescriptor.inTaskWithOptions
DIRECTION, OUTSIDE = DmaReason.PROTECTION_DIRECTION, DmaReason.PROTECTION_OUTSIDE

def wrong_way(bench, memory):
    bench.device.dma(memory.getPhysicalAddress(), 64, write_memory=True)
"""


class Reports:
    """The reports of a session, by the test's name and the phase."""

    def __init__(self) -> None:
        self.all: dict[str, dict[str, pytest.TestReport]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("::")[2]
        self.all.setdefault(name, {})[report.when or ""] = report

    def properties(self, name: str, key: str) -> list[Any]:
        """Return the values of a property, as a test's last report has them."""
        return [value for each, value in self.all[name]["teardown"].user_properties if each == key]

    def text(self, name: str) -> str:
        """Return why a test failed."""
        failed = [each for each in self.all[name].values() if each.failed]
        return "\n".join(each.longreprtext for each in failed)

    @property
    def passed(self) -> set[str]:
        """The tests all of whose phases passed."""
        return {name for name, each in self.all.items() if all(r.passed for r in each.values())}


Run = Callable[..., Reports]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run guest tests on a machine in this process."""
    rig = SuiteRunner(pytester, monkeypatch)

    def run(source: str, kind: type[Machine] = Machine, *args: str) -> Reports:
        path = pytester.path / "test_written.py"
        path.write_text(HEAD + textwrap.dedent(source))
        reports = Reports()
        rig.run(kind, *args, tests=path, plugins=[reports])
        return reports

    yield run
    assert dma_platform.access_control is None, "nobody is told of grants when a session is over"


def test_announced_refusals_are_listed_and_recorded(run: Run) -> None:
    reports = run(
        """
        def test_device(bench, buffer):
            with bench.device.expects(DIRECTION, OUTSIDE) as refused:
                wrong_way(bench, buffer(kIODirectionOut, 64))
                wrong_way(bench, buffer(kIODirectionOut, 64))
            assert [each.reason for each in refused] == [DIRECTION] * 2
            assert refused[0].length == 64

        def test_fixture(bench, buffer, expects):
            with expects(DIRECTION, count=1):
                wrong_way(bench, buffer(kIODirectionOut, 64))

        def test_platform(bench, buffer):
            with bench.platform.expects(DIRECTION, count=1):
                wrong_way(bench, buffer(kIODirectionOut, 64))
        """
    )
    assert reports.passed == {"test_device", "test_fixture", "test_platform"}
    (said,) = reports.properties("test_device", "expects")
    assert said["reasons"] == ["PROTECTION_DIRECTION", "PROTECTION_OUTSIDE"]
    assert said["last"] == said["first"] + 2
    assert not reports.properties("test_device", "memory")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("pass", "PROTECTION_OUTSIDE: 0 were; nothing was refused"),
        (
            "wrong_way(bench, buffer(kIODirectionOut, 64))",
            "PROTECTION_OUTSIDE: 0 were; refused were 1 PROTECTION_DIRECTION (WRITE_MEMORY of 64",
        ),
    ],
    ids=["none", "another reason"],
)
def test_a_refusal_that_does_not_come_fails_the_test(run: Run, body: str, says: str) -> None:
    reports = run(
        f"""
        def test_it(bench, buffer):
            with bench.device.expects(OUTSIDE):
                {body}
        """
    )
    assert says in reports.text("test_it")
    assert "expected.py" not in reports.text("test_it"), "the rig's frames explain nothing"
    assert len(reports.properties("test_it", "expects")) == 1


def test_a_count_is_exact(run: Run) -> None:
    reports = run(
        """
        def test_it(bench, buffer):
            with bench.device.expects(DIRECTION, count=2):
                wrong_way(bench, buffer(kIODirectionOut, 64))
        """
    )
    assert "2 requests to be refused for PROTECTION_DIRECTION: 1 were" in reports.text("test_it")


def test_an_error_within_is_not_hidden(run: Run) -> None:
    reports = run(
        """
        def test_it(bench, buffer):
            with bench.device.expects(DIRECTION):
                wrong_way(bench, buffer(kIODirectionOut, 64))
                raise LookupError("the test's own")
        """
    )
    assert "LookupError: the test's own" in reports.text("test_it")
    assert len(reports.properties("test_it", "expects")) == 1


def test_a_test_may_be_skipped_where_it_announces(run: Run) -> None:
    reports = run(
        """
        def test_at_once(bench):
            with bench.device.expects(DIRECTION):
                pytest.skip("not on this device")

        def test_after_it(bench, buffer):
            with bench.device.expects(DIRECTION):
                wrong_way(bench, buffer(kIODirectionOut, 64))
                pytest.skip("that is all there is to see")

        def test_after_another(bench, buffer):
            with bench.device.expects(OUTSIDE):
                wrong_way(bench, buffer(kIODirectionOut, 64))
                pytest.skip("too late")
        """
    )
    assert reports.all["test_at_once"]["call"].skipped
    assert reports.all["test_after_it"]["call"].skipped
    assert "PROTECTION_DIRECTION, and the test did not announce" in reports.text(
        "test_after_another"
    )


def test_fixtures_announce_for_the_test_that_uses_them(run: Run) -> None:
    reports = run(
        """
        @pytest.fixture
        def refused(bench, buffer):
            memory = buffer(kIODirectionOut, 64)
            with bench.device.expects(DIRECTION, count=1):
                wrong_way(bench, memory)
            yield
            with bench.device.expects(DIRECTION, count=1):
                wrong_way(bench, memory)

        def test_it(refused): pass
        """
    )
    assert reports.passed == {"test_it"}
    assert len(reports.properties("test_it", "expects")) == 2
    assert not reports.properties("test_it", "memory")
    assert not reports.properties("test_it", "unannounced")


def test_what_lay_where_is_told_when_a_refusal_was_not_announced(run: Run) -> None:
    reports = run(
        """
        def test_it(bench, buffer):
            memory = buffer(kIODirectionOut, 64)
            wrong_way(bench, memory)

        def test_fails(buffer):
            buffer(kIODirectionOut, 64)
            assert False

        def test_neither(bench, buffer): buffer(kIODirectionOut, 64)

        def test_just_before_announcing(bench, buffer):
            memory = buffer(kIODirectionOut, 64)
            wrong_way(bench, memory)
            with bench.device.expects(DIRECTION):
                wrong_way(bench, memory)
        """
    )
    assert reports.properties("test_just_before_announcing", "memory")
    (rows,) = reports.properties("test_it", "memory")
    assert len(rows) <= 256
    row = rows[0]
    assert row["made"].endswith("test_written.py:15")
    assert (row["length"], row["direction"]) == (64, "kIODirectionOut")
    assert row["released"], "the fixture has released it by then"
    assert reports.properties("test_fails", "memory")
    assert not reports.properties("test_neither", "memory")
    unannounced = {name for name in reports.all if reports.properties(name, "unannounced")}
    assert unannounced == {"test_it", "test_just_before_announcing"}


ORDER = """
def test_bench(bench, buffer): pass

def test_device(device, buffer):
    with device.expects(DIRECTION, count=1):
        device.dma(buffer(kIODirectionOut, 64).getPhysicalAddress(), 64, write_memory=True)

def test_leaves_it_off(platform): platform.protection.enabled = False

def test_after(device, buffer):
    with device.expects(DIRECTION, count=1):
        device.dma(buffer(kIODirectionOut, 64).getPhysicalAddress(), 64, write_memory=True)

@pytest.mark.unprotected
def test_unprotected(device, buffer):
    memory = buffer(kIODirectionOut, 64)
    assert device.dma(memory.getPhysicalAddress(), 64, write_memory=True).ok
"""


@pytest.mark.parametrize(
    "selected",
    [
        "test_bench or test_device",
        "test_device",
        "test_leaves_it_off or test_after",
        "test_unprotected",
        "test_bench or test_unprotected",
    ],
)
def test_protection_is_the_same_alone_and_after_others(run: Run, selected: str) -> None:
    reports = run(ORDER, Machine, "-k", selected)
    assert reports.passed == set(selected.split(" or "))


def test_a_dropped_buffer_fails_its_test_by_name(run: Run) -> None:
    reports = run(
        """
        def test_dropped(device):
            create(current_task(), kIODirectionIn, 640)

        def test_in_a_cycle(device):
            ring = [create(current_task(), kIODirectionIn, 64)]
            ring.append(ring)

        def test_raises(device):
            memory = create(current_task(), kIODirectionIn, 64)
            raise LookupError

        def test_after(buffer): buffer(kIODirectionIn, 64)

        def test_released(device):
            create(current_task(), kIODirectionIn, 64).release()
        """
    )
    assert reports.passed == {"test_after", "test_released"}
    text = reports.text("test_dropped")
    assert "dropped without release(): IOBufferMemoryDescriptor of 640 bytes" in text
    assert "test_written.py:15" in text
    assert "dropped without release()" in reports.text("test_in_a_cycle")
    assert "LookupError" in reports.text("test_raises")


def test_a_buffer_of_another_test_is_not_this_ones_to_release(run: Run) -> None:
    """A buffer of an earlier test, kept in a module, may go at any time; this test's may not."""
    reports = run(
        """
        kept = []

        def test_keeps(device):
            kept.append(create(current_task(), kIODirectionIn, 640))

        def test_drops(device):
            kept.clear()

        def test_drops_its_own(device):
            kept.append(create(current_task(), kIODirectionIn, 64))
            kept.clear()
        """
    )
    assert reports.passed == {"test_keeps", "test_drops"}
    assert "of 64 bytes" in reports.text("test_drops_its_own")


def test_a_buffer_that_a_fixture_drops_fails_the_test_by_name(run: Run) -> None:
    reports = run(
        """
        import unittest

        @pytest.fixture
        def returned(device):
            return create(current_task(), kIODirectionIn, 640)

        @pytest.fixture
        def yielded(device):
            memory = create(current_task(), kIODirectionIn, 640)
            yield memory

        @pytest.fixture
        def released(device):
            memory = create(current_task(), kIODirectionIn, 640)
            yield memory
            memory.release()

        @pytest.fixture(scope="module")
        def of_module(_bench):
            with create(current_task(), kIODirectionIn, 640) as memory:
                yield memory

        def test_returned(returned): pass

        def test_yielded(yielded): pass

        def test_released(released): pass

        def test_first(of_module, returned): returned.release()

        def test_second(of_module): pass

        class TestOfUnittest(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def take(self, device): pass

            def test_dropped(self):
                create(current_task(), kIODirectionIn, 640)
        """
    )
    assert reports.passed == {"test_released", "test_first", "test_second"}
    for name in "test_returned", "test_yielded", "test_dropped":
        assert "dropped without release(): IOBufferMemoryDescriptor of 640" in reports.text(name)


def test_what_a_test_leaves_to_the_next_one_fails_it(run: Run) -> None:
    reports = run(
        """
        from dma_rehearsal.guest.drivers.platform.cache_unit import CacheModelMode

        def test_grants(platform):
            platform.protection.grant(0, 1 << 40, 3, 77)

        def test_grants_of_its_own_process(platform):
            platform.protection.grant(0, 64, 3)

        def test_withdrawn(platform):
            platform.protection.grant(0, 1 << 40, 3, 77)
            platform.protection.withdraw_owner(77)

        @pytest.fixture(scope="module")
        def granted(platform):
            platform.protection.grant(0x1000, 64, 3, 78)
            yield
            platform.protection.withdraw_owner(78)

        def test_first(granted): pass

        def test_second(granted): pass

        def test_guarded(guarded):
            guarded.grant(0x1000, 64, IODirection.kIODirectionIn)

        def test_cache_model(platform):
            platform.cache.configure(CacheModelMode.STRICT)

        def test_after_cache_model(platform):
            assert platform.cache.mode is CacheModelMode.OFF

        def test_noncoherent(noncoherent): pass
        """
    )
    failed = {"test_grants", "test_grants_of_its_own_process", "test_cache_model"}
    assert set(reports.all) - reports.passed == failed
    assert "leaves 1 grants in force that it made by hand" in reports.text("test_grants")
    assert "leaves the cache model in mode STRICT" in reports.text("test_cache_model")


def test_claims_say_what_the_host_judges_them_by(run: Run) -> None:
    reports = run(
        """
        @pytest.mark.promise("kIODirectionIn")
        def test_it(bench, buffer, data, attest):
            bench.device_writes(buffer(kIODirectionIn, 64), data.take(64))
            memory = buffer(kIODirectionIn | kIOMapWriteCombineCache, 5000, 256)
            bench.device_writes(memory, data.take(5000))
            attest.direction(memory)
            attest.alignment(memory, 256)
            attest.contiguous(memory)
            attest.cache(memory)
            with create(current_task(), kIODirectionOut, 64) as gone:
                bench.device_reads(gone, data.take(64))
            attest.released(gone)
        """
    )
    assert reports.passed == {"test_it"}, reports.text("test_it")
    claims = reports.properties("test_it", "claim")
    kinds = ["direction", "alignment", "contiguous", "cache", "released"]
    assert [each["kind"] for each in claims] == kinds
    first, alignment, contiguous, cache, released = claims
    assert first["promise"] == first["direction"] == "kIODirectionIn"
    ((address, length),) = first["ranges"]
    assert length == 5000
    assert first["made"].endswith("test_written.py:17")
    assert 0 < first["first"] < first["last"]
    assert alignment["alignment"] == 256
    assert contiguous["promise"] == "kIOMemoryPhysicallyContiguous"
    assert contiguous["length"] == 5000
    assert (cache["promise"], cache["mode"]) == ("kIOMapWriteCombineCache", "WC")
    assert contiguous["mark"] < cache["mark"] < released["mark"]
    assert released["ranges"] != [[address, length]]


class Scattered(Machine):
    """Its driver maps write-back whatever is asked."""

    def given_mode(self, mode: Any) -> Any:
        return type(mode).COPYBACK


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("attest.alignment(memory, 1 << 30)", "alignment is broken: asked 1073741824; attested 0x"),
        ("attest.cache(memory)", "kIOMapInhibitCache is broken: asked UC on 64 bytes; attested WB"),
        ("attest.released(memory)", "release() it, then attest"),
    ],
)
def test_what_the_guest_sees_itself_fails_at_once(run: Run, line: str, says: str) -> None:
    reports = run(
        f"""
        def test_it(bench, buffer, attest):
            memory = buffer(kIODirectionIn | kIOMapInhibitCache, 64)
            {line}
        """,
        Scattered,
    )
    text = reports.text("test_it")
    assert says in text
    assert reports.properties("test_it", "claim") == []


def test_the_line_of_a_buffer_is_that_of_the_fixture_or_else_of_the_test(run: Run) -> None:
    reports = run(
        """
        import inspect

        def here():
            return f"test_written.py:{inspect.currentframe().f_back.f_lineno}"

        @pytest.fixture
        def made(buffer):
            return buffer(kIODirectionIn, 64), here()

        def test_own_fixture(made):
            memory, line = made
            assert memory.made_at.endswith(line)

        def test_called(buffer):
            memory, line = buffer(kIODirectionIn, 64), here()
            assert memory.made_at.endswith(line)

        def test_asked_for(request):
            assert request.getfixturevalue("bench").staging.made_at == "the fixture bench"

        """
    )
    assert reports.passed == {"test_own_fixture", "test_called", "test_asked_for"}
    reports = run(
        """
        def test_of_the_kit(bench):
            assert bench.staging.made_at == "the fixture bench"
        """
    )
    assert reports.passed == {"test_of_the_kit"}
