# SPDX-License-Identifier: Apache-2.0
"""``--endpoint module:Class``: finds a device class, also one outside this project."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.trace import Trace

DEFAULT = "dma_rehearsal.device.exerciser.exerciser:Exerciser"


class EndpointNotFound(Exception):
    """The class that was named cannot be served; the message says why, and ``hint`` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def find(name: str) -> type[Endpoint]:
    """Return the class that ``module:Class`` names.

    The module is looked for in the current folder and on PYTHONPATH. EndpointNotFound says what is
    missing: the module, the class, or that it is an Endpoint.
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
    except Exception as error:
        raise EndpointNotFound(
            f"--endpoint {name}: {module_name} cannot be imported: {error!r}", f"fix {module_name}"
        ) from error
    found = getattr(module, class_name, None)
    if found is None:
        there = [each for each, kind in vars(module).items() if _is_endpoint(kind)]
        listed = f"; it has {', '.join(there)}" if there else ""
        raise EndpointNotFound(
            f"--endpoint {name}: {module_name} has no {class_name}{listed}",
            f"name a class of {module.__file__}",
        )
    if not _is_endpoint(found):
        raise EndpointNotFound(
            f"--endpoint {name}: {class_name} is not an Endpoint; subclass "
            "dma_rehearsal.device.endpoints.Endpoint",
            "docs/tutorial.md makes one",
        )
    chosen: type[Endpoint] = found
    return chosen


def _is_endpoint(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Endpoint) and found is not Endpoint


def make(chosen: Callable[..., Endpoint], name: str, trace: Trace, **options: Any) -> Endpoint:
    """Make the endpoint with the options that were given.

    EndpointNotFound when it does not take them. ValueError for options that are out of its range,
    and for declarations that no function can have.
    """
    try:
        inspect.signature(chosen).bind(trace, **options)
    except TypeError as error:
        given = "".join(f", {each}=..." for each in options)
        raise EndpointNotFound(
            f"--endpoint {name}: it cannot be made with (trace{given}): {error}",
            f"fix the constructor of {name.partition(':')[2]}, or leave out the options",
        ) from error
    try:
        return chosen(trace, **options)
    except ValueError:
        raise
    except Exception as error:
        raise EndpointNotFound(
            f"--endpoint {name}: it cannot be made: {error!r}", f"fix {name.partition(':')[2]}"
        ) from error
