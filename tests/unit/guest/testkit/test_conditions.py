# SPDX-License-Identifier: Apache-2.0
"""The conditions of the mark ``rehearse``, and the tests that come of them."""

from __future__ import annotations

from typing import Any

import pytest

from dma_rehearsal.guest.session import SessionSettings, SettingsPlugin
from dma_rehearsal.guest.testkit.conditions import ALL, Condition, conditions

pytest_plugins = ["pytester"]


def words(marked: dict[str, Any], *, rehearsing: bool = False) -> list[str]:
    return [str(each) for each in conditions(marked, rehearsing=rehearsing)]


def test_conditions_have_words() -> None:
    assert [str(each) for each in ALL] == [
        *("eager", "held", "noncoherent", "held-noncoherent", "merge", "bounce", "hostile"),
        "every-failure",
    ]
    assert str(Condition(device_bits=28)) == "28-bits"
    assert str(Condition(plain=True)) == "plain"


def test_a_mark_asks_for_each_combination() -> None:
    assert words({}) == ["eager"]
    assert words({"timing": "held"}) == ["held"]
    assert words({"timing": ("eager", "held"), "coherent": (True, False)}) == [
        *("eager", "noncoherent", "held", "held-noncoherent"),
    ]


def test_a_rehearsal_takes_all_that_the_mark_allows() -> None:
    assert words({}, rehearsing=True) == [str(each) for each in ALL]
    assert words({"timing": "held"}, rehearsing=True) == ["held", "held-noncoherent"]
    assert words({"coherent": False, "merge": True}, rehearsing=True) == ["noncoherent-merge"]
    assert words({"plain": True}, rehearsing=True) == ["plain"]
    assert words({"device_bits": 28, "timing": "held"}, rehearsing=True) == [
        *("held-28-bits", "held-noncoherent-28-bits"),
    ]


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        ({"speed": 3}, "speed= is unknown; a condition has timing, coherent"),
        ({"timing": "late"}, "timing='late': one of 'eager', 'held', or a tuple"),
        ({"coherent": "no"}, "coherent='no': one of True, False"),
        ({"place": "nice"}, "place='nice': one of None, 'kind', 'hostile'"),
        ({"every_failure": 0}, "every_failure=0"),
        ({"device_bits": 65}, "device_bits=65: one of '0 to 64'"),
        ({"timing": ()}, "name at least one value"),
    ],
)
def test_a_wrong_mark_is_explained(marked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="=") as caught:
        conditions(marked)
    assert message in str(caught.value)


SOURCE = """
import pytest

@pytest.fixture
def driver(request):
    return getattr(request, "param", None)

@pytest.mark.rehearse(timing=("eager", "held"))
def test_both(driver): pass

@pytest.mark.rehearse(timing="held")
def test_one(driver): pass

@pytest.mark.rehearse(coherent=(True, False))
class TestInherits:
    @pytest.mark.rehearse(timing="held")
    def test_it(self, driver): pass

def test_other(): pass
"""
PLUGIN = """
from dma_rehearsal.guest.testkit.conditions import pytest_generate_tests
def pytest_configure(config):
    config.addinivalue_line("markers", "rehearse: conditions")
"""


class Keeps:
    """Keeps the names of what was collected."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.names += [each.name for each in items]


def collected(pytester: pytest.Pytester, *, rehearse: bool) -> list[str]:
    pytester.makeconftest(PLUGIN)
    path = pytester.makepyfile(SOURCE)
    settings = SettingsPlugin(SessionSettings(rehearse=rehearse))
    keeps = Keeps()
    arguments = "--collect-only", "-p", "no:terminal"
    pytester.inline_run(path, *arguments, plugins=[settings, keeps])
    return keeps.names


def test_a_test_runs_once_for_each_condition(pytester: pytest.Pytester) -> None:
    assert collected(pytester, rehearse=False) == [
        *("test_both[eager]", "test_both[held]", "test_one"),
        *("test_it[held]", "test_it[held-noncoherent]", "test_other"),
    ]


def test_a_rehearsal_runs_more(pytester: pytest.Pytester) -> None:
    found = collected(pytester, rehearse=True)
    assert "test_both[held-noncoherent]" in found
    assert "test_one[held]" in found
    assert "test_both[merge]" in found
    assert "test_one[merge]" not in found
    assert found[-1] == "test_other"
