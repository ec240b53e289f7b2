# SPDX-License-Identifier: Apache-2.0
"""A test that never ends."""

from __future__ import annotations

import threading


def test_waits() -> None:
    print("words before")
    threading.Event().wait()
