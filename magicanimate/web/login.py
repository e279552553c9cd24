"""Who may log in, and how long a guess takes: the more went wrong lately, the longer."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar

caller: ContextVar[str] = ContextVar("caller", default="")
"""Address that the request at work came from, as the guard saw it."""

_FIRST, _LONGEST = 0.2, 5.0  # seconds to wait after one failure; it doubles with each, up to the longest
_FORGOTTEN_AFTER = 600.0  # seconds
_MOST_KEPT = 10_000  # accounts and addresses; beyond that the oldest are forgotten
_LONGEST_NAME = 100  # characters that are kept of what somebody says he is called


class LoginDelays:
    """Counts failures by account and by address, so that neither many addresses nor many names help.

    Nobody is locked out: who knows the password waits five seconds at most, whatever others do.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()  # count, last one

    def begin(self, name: str, address: str) -> float:
        """How many seconds an attempt has to wait; it counts as a failure until `forget` takes that back.

        It counts from the beginning since otherwise many at once would all be the first.
        """
        now = self._clock()
        most = 0
        for key in _keys(name, address):
            count, last = self._failures.pop(key, (0, now))
            if now - last > _FORGOTTEN_AFTER:
                count = 0
            most = max(most, count)
            self._failures[key] = (count + 1, now)  # at the end: the newest
        while len(self._failures) > _MOST_KEPT:
            self._failures.popitem(last=False)
        return min(_LONGEST, _FIRST * 2 ** min(most - 1, 16)) if most else 0.0

    def forget(self, name: str, address: str) -> None:
        """Somebody logged in."""
        for key in _keys(name, address):
            self._failures.pop(key, None)

    def __len__(self) -> int:
        return len(self._failures)


def _keys(name: str, address: str) -> tuple[tuple[str, str], ...]:
    return ("account", name[:_LONGEST_NAME]), ("address", address)


class Login:
    """The accounts of a page.

    Args:
        accounts: names and passwords.
        delays: how long attempts wait.
        wait: lets seconds pass without holding a thread.
    """

    def __init__(
        self,
        accounts: Iterable[tuple[str, str]],
        *,
        delays: LoginDelays | None = None,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        self._passwords = dict(accounts)
        self._delays = LoginDelays() if delays is None else delays
        self._wait = wait

    async def admits(self, name: str, password: str) -> bool:
        """Whether it is the password of an account, which is said after the delay that is due."""
        address = caller.get()
        await self._wait(self._delays.begin(name, address))
        known = self._passwords.get(name)
        right = hmac.compare_digest(password.encode(), (known or "").encode()) and known is not None
        if right:
            self._delays.forget(name, address)
        return right
