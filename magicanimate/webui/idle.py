"""Something that is done when nothing has happened for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable


class IdleTimer:
    """Calls ``action`` in a thread of its own, once for each stretch of idleness.

    Args:
        seconds: of idleness; 0 never calls it.
        action: what to do.
    """

    def __init__(self, seconds: float, action: Callable[[], None]):
        self._seconds, self._action = seconds, action
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def idle(self) -> None:
        """Idleness begins (again) now."""
        with self._lock:
            self._cancel()
            if self._seconds > 0:
                self._timer = threading.Timer(self._seconds, self._action)
                self._timer.daemon = True
                self._timer.start()

    def busy(self) -> None:
        """Something happens; wait for the next `idle`."""
        with self._lock:
            self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
