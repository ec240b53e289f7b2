# SPDX-License-Identifier: Apache-2.0
"""``--endpoint module:Class``: finds device classes, also those outside this project."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.multi_function import MultiFunction
from dma_rehearsal.device.trace import Trace

DEFAULT = "dma_rehearsal.device.exerciser.exerciser:Exerciser"


Device = Endpoint | MultiFunction
_KINDS = (Endpoint, MultiFunction)
_PACKAGE = str(Path(__file__).parent)


class EndpointNotFound(Exception):
    """The class that was named cannot be served; the message says why, and ``hint`` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def names(text: str) -> list[str]:
    """Return what ``module:Class,module:Class`` names. EndpointNotFound for an empty name."""
    found = [each.strip() for each in text.split(",")]
    if "" in found:
        raise EndpointNotFound(
            f"--endpoint {text}: a comma has no class beside it",
            "write module:Class, or several with a comma between two of them",
        )
    return found


def find(name: str) -> type[Device]:
    """Return the class that ``module:Class`` names.

    The module is looked for in the current folder and on PYTHONPATH. EndpointNotFound says what is
    missing: the module, the class, or that it is an Endpoint or a MultiFunction.
    """
    module_name, colon, class_name = name.partition(":")
    if not (module_name and colon and class_name.isidentifier()):
        raise EndpointNotFound(f"--endpoint {name}: write module:Class, such as {DEFAULT}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise EndpointNotFound(
                f"--endpoint {name}: {module_name} imports {error.name}, which is not there",
                f"install {error.name}, or put its folder on PYTHONPATH",
            ) from error
        raise EndpointNotFound(
            f"--endpoint {name}: there is no module {module_name} in {here} or on PYTHONPATH",
            "name MODULE:CLASS, with the module's folder current or on PYTHONPATH",
        ) from error
    except ValueError as error:  # a declaration that no device can have says what to do
        raise EndpointNotFound(
            f"--endpoint {name}: {module_name} cannot be imported: {_place(error)}{error}",
            f"fix {module_name}",
        ) from error
    except Exception as error:
        raise EndpointNotFound(
            f"--endpoint {name}: {module_name} cannot be imported: {error!r}", f"fix {module_name}"
        ) from error
    found = getattr(module, class_name, None)
    if found is None:
        there = [each for each, kind in vars(module).items() if _is_device(kind)]
        listed = f"; it has {', '.join(there)}" if there else ""
        raise EndpointNotFound(
            f"--endpoint {name}: {module_name} has no {class_name}{listed}",
            f"name a class of {module.__file__}",
        )
    if not _is_device(found):
        raise EndpointNotFound(
            f"--endpoint {name}: {class_name} is not an Endpoint; subclass "
            "dma_rehearsal.device.endpoints.Endpoint",
            "docs/tutorial.md makes one",
        )
    chosen: type[Device] = found
    return chosen


def _is_device(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, _KINDS) and found not in _KINDS


def _place(error: Exception) -> str:
    """Return the line of the author's code that failed, such as "nic.py:12: "."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        each
        for each in frames
        if not each.filename.startswith((_PACKAGE, "<"))
        and Path(each.filename).is_file()
        and "importlib" not in Path(each.filename).parts
    ]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}: " if own else ""


def make(chosen: Callable[..., Device], name: str, trace: Trace, **options: Any) -> Device:
    """Make the device with the options that were given.

    EndpointNotFound when it does not take them. ValueError for options that are out of its range,
    and for declarations that no function can have.
    """
    try:
        inspect.signature(chosen).bind(trace, **options)
    except TypeError as error:
        given = "".join(f", {each}=..." for each in options)
        raise EndpointNotFound(
            f"--endpoint {name}: it cannot be made with (trace{given}): {error}",
            f"leave out the options, or fix the constructor of {name.partition(':')[2]}: "
            "def __init__(self, trace=None), which calls super().__init__(trace)",
        ) from error
    try:
        made = chosen(trace, **options)
    except ValueError:
        raise
    except Exception as error:
        raise EndpointNotFound(
            f"--endpoint {name}: it cannot be made: {_place(error)}{error!r}",
            f"fix {name.partition(':')[2]}",
        ) from error
    for each in made.endpoints.values() if isinstance(made, MultiFunction) else [made]:
        if not hasattr(each, "bus"):
            raise EndpointNotFound(
                f"--endpoint {name}: the constructor of {type(each).__name__} did not call "
                "Endpoint's",
                "begin it with super().__init__(trace)",
            )
    return made
