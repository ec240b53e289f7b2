# SPDX-License-Identifier: Apache-2.0
"""A server in a thread, for the length of a block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dma_rehearsal.device.vfio_user.model import DeviceModel
from dma_rehearsal.device.vfio_user.server import VfioUserServer


@contextmanager
def serving(path: Path, model: DeviceModel, *, spin: bool = True) -> Iterator[Path]:
    """Serve a model in a thread."""
    served = VfioUserServer(path, model, spin=spin)
    served.listen()
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    try:
        yield path
    finally:
        served.close()
        thread.join(10)
        assert not thread.is_alive(), "the server did not stop"
        assert not path.exists(), "the socket's name is left"
