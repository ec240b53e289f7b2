# SPDX-License-Identifier: Apache-2.0
"""The host's message "files": sources that changed since a parked guest was saved."""

from __future__ import annotations

import base64
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Final

from dma_rehearsal.device.layout.result_frames import Message

ROOT: Final = Path("/opt/dma-rehearsal")
"""All paths in a message are below this folder."""

_BYTECODE: Final = "__pycache__"


class PayloadFiles:
    """Takes the files of one park.

    A source that goes or changes takes its old bytecode with it: that of the guest's files is never
    compared with them. Bytecode which came in the same park stays, in whatever order they come.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = root or ROOT
        self._written: set[Path] = set()

    def take(self, message: Message) -> Message:
        """Remove and write what the message names; return the reply, which says what failed.

        ValueError for a malformed message; then nothing was changed.
        """
        removed = [self._path(name) for name in _list(message, "remove")]
        written = [self._file(each) for each in _list(message, "files")]
        reply: Message = {"type": "filed"}
        path = self._root
        try:
            for path in removed:
                self._remove(path)
            for path, mode, data in written:
                self._write(path, mode, data)
        except OSError as error:
            reply["error"] = f"{path}: {error.strerror}"
        return reply

    def _remove(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
            self._drop_bytecode(path)

    def _write(self, path: Path, mode: int, data: bytes | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(data)
            # As in the archive of a boot; an older pytest compares its bytecode with the time.
            os.utime(path, (0, 0))
            self._written.add(path)
            self._drop_bytecode(path)
        path.chmod(mode)

    def _drop_bytecode(self, source: Path) -> None:
        if source.suffix == ".py":
            for path in (source.parent / _BYTECODE).glob(f"{source.stem}.*.pyc"):
                if path not in self._written:
                    path.unlink()

    def _file(self, value: object) -> tuple[Path, int, bytes | None]:
        """Return the path, the mode and the contents, None for a folder."""
        if not isinstance(value, list) or len(value) != 3:
            raise ValueError(f"files: {value!r:.100} is not a path, a mode and data")
        name, mode, data = value
        if type(mode) is not int or not 0 <= mode <= 0o777:
            raise ValueError(f"files: the mode of {name!r:.100} is {mode!r:.100}")
        if not isinstance(data, str):
            raise ValueError(f"files: the data of {name!r:.100} is not a text")
        contents = base64.b64decode(data, validate=True)
        path = self._path(name)
        if not name.endswith("/"):
            return path, mode, contents
        if contents:
            raise ValueError(f"files: the folder {name!r:.100} has data")
        return path, mode, None

    def _path(self, name: object) -> Path:
        path = PurePosixPath(name) if isinstance(name, str) and "\0" not in name else None
        if path is None or path.is_absolute() or not path.parts or ".." in path.parts:
            raise ValueError(f"files: {name!r:.100} is not a path below {self._root}")
        return self._root / path


def _list(message: Message, key: str) -> list[object]:
    value = message.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"files: {key} is {value!r:.100}, not a list")
    return value
