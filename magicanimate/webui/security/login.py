"""Accounts and passwords; guessing is slowed down."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import ContextVar

caller: ContextVar[str] = ContextVar("caller", default="")
"""Address of the current request's sender, set by the guard."""

_FIRST, _LONGEST = 0.2, 5.0  # seconds to wait after one failure; it doubles with each, up to the longest
_FORGOTTEN_AFTER = 600.0  # seconds
_MOST_KEPT = 10_000  # accounts and addresses; beyond that the oldest are forgotten
_LONGEST_NAME = 100  # characters of a name that are kept
_MOST_WAITING = {"account": 20, "address": 3}  # attempts at the same time


class LoginDelays:
    """Counts failures by account and by address, so that neither many addresses nor many names help.

    An attempt never waits longer than five seconds, whatever others do.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()  # count, last one

    def begin(self, name: str, address: str) -> float:
        """Seconds that an attempt has to wait; it counts as a failure until `forget` takes that back."""
        # Counted now and not when it fails, or many attempts at once would all count as the first.
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


class WaitingPlaces:
    """Limits attempts at the same time to 3 of an address and 20 for an account."""

    def __init__(self) -> None:
        self._taken: Counter[tuple[str, str]] = Counter()

    @contextlib.contextmanager
    def taking(self, name: str, address: str) -> Iterator[bool]:
        """Take a place as long as the context lasts; yields whether there was one."""
        keys = _keys(name, address)
        if any(self._taken[kind, of] >= _MOST_WAITING[kind] for kind, of in keys):
            yield False
            return
        self._taken.update(keys)
        try:
            yield True
        finally:
            for key in keys:
                self._taken[key] -= 1
                if not self._taken[key]:  # or every name that was ever tried would stay in memory
                    del self._taken[key]

    def __len__(self) -> int:
        """Accounts and addresses that places are taken for."""
        return len(self._taken)


class Login:
    """The accounts of a page.

    After some wrong guesses at an account each one takes five seconds, and 20 run at a time: about four a
    second at most, from however many addresses. The price: while somebody occupies all places of an account
    or address, others are refused there too, even with the right password, until five seconds after that
    ends. Visitors behind a proxy or public link count as one address.

    Args:
        accounts: names and passwords.
        delays: how long attempts wait.
        wait: sleeps without blocking a thread.
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
        self.places = WaitingPlaces()

    async def admits(self, name: str, password: str) -> bool:
        """Whether it is the password of the account, after the delay that is due.

        Refused at once, unchecked, if too many attempts of the address or for the account are under way.
        """
        address = caller.get()
        with self.places.taking(name, address) as free:
            if not free:
                return False
            await self._wait(self._delays.begin(name, address))
        known = self._passwords.get(name)
        right = hmac.compare_digest(password.encode(), (known or "").encode()) and known is not None
        if right:
            self._delays.forget(name, address)
        return right
