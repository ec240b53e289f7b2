# SPDX-License-Identifier: Apache-2.0
"""The calls by which an endpoint gets work from other threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from dma_rehearsal.device.vfio_user.work import Work

R = TypeVar("R")


class WorkFromElsewhere:
    """A part of `Endpoint`: `post` and `post_future` may be called by any thread."""

    work: Work

    def post(self, action: Callable[[], None]) -> None:
        """Have the thread that serves the device run ``action`` soon; from any thread.

        Actions run one by one, in the order of posting, between register accesses, also while no
        client is connected. An action is like a timer's: a refused DMA that it does not catch ends
        it, and DMAs that it starts are done when it has returned. While HOLD has an action wait, or
        a migration holds the device, posted actions wait as well. A reset forgets those that were
        posted before it.

        TooMuchPosted when 65,536 wait: the poster is faster than the device for too long.
        """
        self.work.post(action)

    def post_future(self, function: Callable[[], R]) -> Future[R]:
        """Post ``function``; return the future of its result or exception. See `post`.

        A reset that comes first cancels the future: ``result`` then raises CancelledError. The
        thread that serves the device must not wait for it.
        """
        return self.work.post_future(function)
