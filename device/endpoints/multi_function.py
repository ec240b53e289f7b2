# SPDX-License-Identifier: Apache-2.0
"""MultiFunction: several endpoints that share one slot, as the functions of one device.

    class Card(MultiFunction):
        functions = (Nic, Dma)

Each function is an endpoint with a configuration space, BARs and interrupts of its own, and each is
served by a thread of its own. They reach memory BARs of each other by DMA, and find each other in
``siblings``. Function 0 must be there: software looks for others only where it finds that one (PCI
Local Bus 3.0, 3.2.2.3.4).
"""

from __future__ import annotations

import inspect
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar

from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.routing import Fabric
from dma_rehearsal.device.pci.config import Header
from dma_rehearsal.device.trace import Trace

FUNCTIONS_MAX = 8  # of a slot: a function number has three bits
_MULTI_FUNCTION = 1 << 7  # PCI Express Base 5.0, 7.5.1.1.9: the Header Type register

Functions = Sequence[type[Endpoint]] | Mapping[int, type[Endpoint]]


class MultiFunction:
    """One device with up to eight functions.

    A subclass declares ``functions``: endpoint classes in the order of their numbers, or a mapping
    from numbers (0 to 7) to classes. ``endpoints`` has the functions that were made, by number.
    What they share can be members of a subclass; each function finds it as ``self.card``.
    ``lock`` guards what several functions change, for each runs in a thread of its own. ValueError
    for a declaration that no device can have.
    """

    functions: ClassVar[Functions] = ()

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if "functions" in vars(cls):
            _numbered(cls.__name__, cls.functions)

    def __init__(self, trace: Trace | None = None) -> None:
        self.trace = trace or Trace()
        self.lock = threading.RLock()
        kinds = _numbered(type(self).__name__, self.functions)
        self.endpoints: Mapping[int, Endpoint] = {
            number: self.make(number, kind) for number, kind in kinds.items()
        }
        fabric = Fabric()
        for number, each in self.endpoints.items():
            each.card, each.function_number = self, number
            each.siblings = {n: other for n, other in self.endpoints.items() if n != number}
            each.bus.fabric = fabric
            if len(kinds) > 1:
                header = each.config.word(Header.HEADER_TYPE)
                each.config.set_word(Header.HEADER_TYPE, header | _MULTI_FUNCTION)
        self._tell_apart()

    def make(self, number: int, kind: type[Endpoint]) -> Endpoint:
        """Make a function. A subclass overrides this for constructors with more arguments."""
        try:
            inspect.signature(kind).bind(self.trace)
        except TypeError as error:
            raise TypeError(
                f"function {number}, {kind.__name__}, cannot be made with (trace): {error}; write "
                "def __init__(self, trace=None), which calls super().__init__(trace), or override "
                "make"
            ) from None
        return kind(self.trace)

    def reset(self) -> None:
        """Have all functions reset themselves soon, as a reset register of the card does.

        Each does so in its own thread, and forgets its DMAs, timers and posted work. Configuration
        spaces and MSI-X tables stay as software has set them (`Endpoint.reset_by_device`).
        """
        for each in self.endpoints.values():
            each.posted.post_once(each.reset_by_device)

    def _tell_apart(self) -> None:
        """Give functions of one name their numbers, as port.0 and port.1, for the trace."""
        count = Counter(each.name for each in self.endpoints.values())
        for number, each in self.endpoints.items():
            if count[each.name] > 1:
                each.name = f"{each.name}.{number}"


def _numbered(name: str, functions: object) -> dict[int, type[Endpoint]]:
    """Return the classes by their numbers, ascending. ValueError names the class and the remedy."""
    if isinstance(functions, Mapping):
        found = dict(functions)
    elif isinstance(functions, Sequence) and not isinstance(functions, str):
        found = dict(enumerate(functions))
    else:
        raise ValueError(
            f"{name}.functions is {functions!r:.60}; list endpoint classes: functions = (Nic, Dma)"
        )
    for number, kind in found.items():
        if not (isinstance(kind, type) and issubclass(kind, Endpoint)):
            raise ValueError(
                f"{name}.functions: function {number!r:.20} is {kind!r:.60}, not an Endpoint "
                "class; name subclasses of Endpoint"
            )
    if len(found) > FUNCTIONS_MAX:
        raise ValueError(
            f"{name}.functions has {len(found)} functions, and a slot has {FUNCTIONS_MAX}; serve "
            "the others as a device of their own: ENDPOINT=module:Class,module:Class"
        )
    for number in found:
        if type(number) is not int or not 0 <= number < FUNCTIONS_MAX:
            raise ValueError(
                f"{name}.functions: {number!r:.20} is not the number of a function; use 0 to "
                f"{FUNCTIONS_MAX - 1}"
            )
    if 0 not in found:
        raise ValueError(
            f"{name}.functions has no function 0, without which software finds none of the "
            "others; give one of them the number 0"
        )
    return {number: found[number] for number in sorted(found)}
