# SPDX-License-Identifier: Apache-2.0
"""pytest's options and the guest: which are forwarded, which are refused, which select tests."""

from __future__ import annotations

import pytest

from dma_rehearsal.host_harness.process import advice

# Options that act where a test runs, which is in the guest: their values go there.
_FORWARDED = {
    "tbstyle": "--tb={}",
    "showlocals": "--showlocals",
    "runxfail": "--runxfail",
    "log_level": "--log-level={}",
    "pythonwarnings": "-W={}",
}
_FORWARDED_INI = ("markers", "python_files", "python_classes", "python_functions")
# With these, as with node ids, a run is one of a few tests, for which a second VM need not boot.
_SELECTING = (
    *("keyword", "markexpr", "deselect", "lf", "failedfirst", "newfirst", "stepwise"),
    "collectonly",
)
# Options that cannot act there are refused, so that none is ignored silently.
_REFUSED = {
    "usepdb": "--pdb",
    "trace": "--trace",
    "setupplan": "--setup-plan",  # implies the next two
    "setuponly": "--setup-only",
    "setupshow": "--setup-show",
    "ignore": "--ignore",
    "ignore_glob": "--ignore-glob",
    "stepwise_skip": "--stepwise-skip",
    "numprocesses": "--numprocesses",  # pytest-xdist's; VMS=N is what they look for
}


def refuse(config: pytest.Config) -> None:
    """Raise pytest.UsageError for an option that cannot act on tests of a guest."""
    for name, option in _REFUSED.items():
        if getattr(config.option, name, None):
            raise pytest.UsageError(
                f"{option} cannot act on tests that run in a guest (try {advice.command('shell')})"
            )


def selects(config: pytest.Config) -> bool:
    """Whether an option selects some of the tests."""
    return any(getattr(config.option, name, None) for name in _SELECTING)


def forwarded(config: pytest.Config) -> list[str]:
    """Return the arguments for the guest's pytest that match the options of this pytest."""
    words = []
    for name, form in _FORWARDED.items():
        value = getattr(config.option, name, None)
        values = value if isinstance(value, list) else [value] if value else []
        words += [form.format(each) for each in values if (name, each) != ("tbstyle", "auto")]
    for name in _FORWARDED_INI:
        lines = [str(each) for each in config.getini(name)]
        words += ["-o", f"{name}=" + "\n".join(lines)] if lines else []
    return words
