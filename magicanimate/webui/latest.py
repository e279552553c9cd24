"""What somebody asked for last, so that slower work of before does not show over it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

_MOST_KEPT = 1000  # visitors; what one of longer ago still waits for stops


class Latest:
    """Tells work whether its visitor has asked for something else since."""

    def __init__(self) -> None:
        self._asked: OrderedDict[str, object] = OrderedDict()

    def begin(self, visitor: str) -> Callable[[], bool]:
        """Somebody asks for something; the answer tells at any time whether that is still the last."""
        mine = object()
        self._asked[visitor] = mine
        self._asked.move_to_end(visitor)
        while len(self._asked) > _MOST_KEPT:
            self._asked.popitem(last=False)
        return lambda: self._asked.get(visitor) is mine
