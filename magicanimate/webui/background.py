"""Work in a thread of its own, followed by its progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from typing import TypeVar

from magicanimate.config import OnProgress, Progress, ShouldStop

Result = TypeVar("Result")

_UPDATE_EVERY, _AT_LEAST_EVERY = 0.2, 1.0  # seconds


def run_with_progress(work: Callable[[OnProgress, ShouldStop], Result]) -> Iterator[Progress | Result]:
    """Yield the newest progress a few times a second, and at last what ``work`` returns.

    Progress is yielded again each second although there is none that is newer: Gradio closes the iterator of
    a visitor who has left only after the next thing that it yields. Closing it asks the work to stop, and
    waits until it has.

    Raises:
        Exception: what ``work`` raises.
    """
    newest: Progress | None = None
    told: Progress | None = None
    told_at = 0.0
    stop = threading.Event()

    def report(progress: Progress) -> None:
        nonlocal newest
        newest = progress

    with ThreadPoolExecutor(max_workers=1) as worker:
        job = worker.submit(work, report, stop.is_set)
        try:
            while True:
                try:
                    yield job.result(timeout=_UPDATE_EVERY)
                    return
                except TimeoutError:
                    if job.done():  # then it is the work's own
                        raise
                update, now = newest, time.monotonic()
                if update is not None and (update is not told or now - told_at >= _AT_LEAST_EVERY):
                    told, told_at = update, now
                    yield update
        finally:
            stop.set()
