"""Work in a thread of its own, followed by its progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from typing import TypeVar

from magicanimate.config import OnProgress, Progress, ShouldStop

Result = TypeVar("Result")

_NEWS_EVERY = 0.2  # seconds


def followed(work: Callable[[OnProgress, ShouldStop], Result]) -> Iterator[Progress | Result]:
    """Yield the newest progress a few times a second, and at last what ``work`` returns.

    Closing the iterator asks the work to stop, and waits until it has.

    Raises:
        Exception: what ``work`` raises.
    """
    newest: list[Progress] = []
    stop = threading.Event()

    def report(progress: Progress) -> None:
        newest[:] = [progress]

    with ThreadPoolExecutor(max_workers=1) as worker:
        job = worker.submit(work, report, stop.is_set)
        try:
            while True:
                try:
                    yield job.result(timeout=_NEWS_EVERY)
                    return
                except TimeoutError:
                    if job.done():  # then it is the work's own
                        raise
                if newest:
                    yield newest.pop()
        finally:
            stop.set()
