# SPDX-License-Identifier: Apache-2.0
"""The build backend (PEP 517): setuptools, run on a copy of the sources.

In the checkout dma_rehearsal/ has links to device/, guest/ and host_harness/; the copy has the
folders themselves, and so have the archives. The copy also keeps the checkout clean. setuptools
writes ``dma_rehearsal.egg-info`` and ``build/lib`` beside the sources: pytest would load the plugin
that the first one names, and a later build would pack old files of the second.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path

from setuptools import build_meta

# An editable install refers to the checkout itself.
from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    prepare_metadata_for_build_editable,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

_ROOT = Path(__file__).resolve().parent.parent
_FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE")
_FOLDERS = ("dma_rehearsal", Path(__file__).parent.name)

Settings = Mapping[str, object] | None


@contextmanager
def _in_a_copy() -> Iterator[None]:
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    with tempfile.TemporaryDirectory(prefix="dma-rehearsal-build-") as folder:
        for name in _FILES:
            shutil.copy(_ROOT / name, folder)
        for name in _FOLDERS:
            shutil.copytree(_ROOT / name, Path(folder, name), ignore=ignored)  # follows the links
        with chdir(folder):
            yield


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """Return the requirements of a wheel's build beyond those in pyproject.toml."""
    with _in_a_copy():
        return list(build_meta.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_sdist(config_settings: Settings = None) -> list[str]:
    """Return the requirements of a source archive's build beyond those in pyproject.toml."""
    with _in_a_copy():
        return list(build_meta.get_requires_for_build_sdist(config_settings))


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Settings = None
) -> str:
    """Write the wheel's metadata folder; return its name."""
    target = str(Path(metadata_directory).absolute())
    with _in_a_copy():
        return str(build_meta.prepare_metadata_for_build_wheel(target, config_settings))


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Write the wheel; return its name."""
    target = str(Path(wheel_directory).absolute())
    metadata = str(Path(metadata_directory).absolute()) if metadata_directory else None
    with _in_a_copy():
        return str(build_meta.build_wheel(target, config_settings, metadata))


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """Write the source archive; return its name."""
    target = str(Path(sdist_directory).absolute())
    with _in_a_copy():
        return str(build_meta.build_sdist(target, config_settings))
