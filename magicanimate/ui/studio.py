"""One animator for every visitor: loaded in the background, one animation at a time, each can be stopped."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from magicanimate.animator import Animator, ModelDefaults
from magicanimate.checkpoints.locate import describe_models
from magicanimate.config import AnimationRequest, AnimationResult, Progress
from magicanimate.errors import Cancelled

# Of the released weights, for the page before they are fetched.
FULL_DEFAULTS = ModelDefaults("full", 512, 512, 25, 7.5)
_UPDATES_EVERY = 0.2  # seconds between updates of the page


class Studio:
    """Runs requests of many visitors on one `Animator`.

    Args:
        model, device, dtype, offline: as `Animator` takes them.
        output: folder of the results.
    """

    def __init__(
        self,
        model: str | Path,
        output: Path,
        *,
        device: str | None = None,
        dtype: str | None = None,
        offline: bool = False,
    ):
        self.output = output
        self.animator = Animator(
            model, device=device, dtype=dtype, offline=offline, on_progress=self._while_loading
        )
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="animator")
        self._stops: dict[str, threading.Event] = {}
        self._loading: Progress | None = None
        self._closed = threading.Event()

    def defaults(self) -> ModelDefaults:
        """The checkpoint's own settings, without fetching anything.

        Raises:
            InputError: there is no such checkpoint.
        """
        absent = {model.name for model in describe_models() if not model.available}
        if self.animator.model == "full" and "full" in absent:
            return FULL_DEFAULTS
        return self.animator.defaults

    def start_loading(self) -> None:
        """Load the checkpoint in the background; an error shows when somebody animates."""
        self._worker.submit(self.animator.load)

    def admit(self, visitor: str) -> None:
        """A visitor pressed Animate: from now on `cancel` concerns this animation."""
        self._stops[visitor] = threading.Event()

    def cancel(self, visitor: str) -> None:
        """Stop the visitor's animation, waiting or running."""
        if visitor in self._stops:
            self._stops[visitor].set()

    def animate(self, visitor: str, request: AnimationRequest) -> Iterator[Progress | AnimationResult]:
        """Yield progress, a few times a second, and at last the result. Closing the iterator stops it.

        Raises:
            InputError: as `Animator.animate`.
            Cancelled: stopped by `cancel`.
        """
        stop = self._stops.setdefault(visitor, threading.Event())
        reports: queue.Queue[Progress] = queue.Queue()
        job = self._worker.submit(self.animator.animate, request, reports.put, stop.is_set)
        try:
            while not job.done():
                if stop.is_set() and job.cancel():
                    raise Cancelled("stopped before it began")
                progress = _newest(reports) or (None if job.running() else self._loading)
                if progress is not None:
                    yield progress
                _wait(job)
            yield job.result()
        finally:
            stop.set()
            if self._stops.get(visitor) is stop:
                del self._stops[visitor]

    def close(self) -> None:
        """Stop everything and let the thread end."""
        self._closed.set()
        for stop in list(self._stops.values()):
            stop.set()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _while_loading(self, progress: Progress) -> None:
        if self._closed.is_set():
            raise Cancelled("the program ends")
        self._loading = progress


def _newest(reports: queue.Queue[Progress]) -> Progress | None:
    """The last report, with the last preview of those that came with it."""
    newest, preview = None, None
    while not reports.empty():
        newest = reports.get()
        preview = newest.preview if newest.preview is not None else preview
    return newest if newest is None else replace(newest, preview=preview)


def _wait(job: Future) -> None:
    finished = threading.Event()
    job.add_done_callback(lambda _: finished.set())
    finished.wait(_UPDATES_EVERY)
