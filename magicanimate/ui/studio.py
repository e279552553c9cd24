"""One animator for every visitor: loaded in the background, one job at a time, each can be stopped."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from densepose_tools.engine_choice import EngineChoice, Forecast
from densepose_tools.one_click import Findings, MadeMotion, Wish, examine, make_motion
from magicanimate.animator import Animator, ModelDefaults
from magicanimate.checkpoints.locate import describe_models
from magicanimate.config import AnimationRequest, AnimationResult, OnProgress, Progress, ShouldStop
from magicanimate.errors import Cancelled
from magicanimate.memory.profiles import AUTO

# Of the released weights, for the page before they are fetched.
FULL_DEFAULTS = ModelDefaults("full", 512, 512, 25, 7.5)
_UPDATES_EVERY = 0.2  # seconds between updates of the page

Result = TypeVar("Result")


class Studio:
    """Runs requests of many visitors on one `Animator`, and makes motion clips of their videos.

    A visitor is named by any string; one who has two jobs at a time needs two names.

    Args:
        model, device, dtype, offline, memory: as `Animator` takes them.
        output: folder of the results.
        engine: finds people in ordinary videos; by default the best on the same device.
    """

    def __init__(
        self,
        model: str | Path,
        output: Path,
        *,
        device: str | None = None,
        dtype: str | None = None,
        offline: bool = False,
        memory: str = AUTO,
        engine: EngineChoice | None = None,
    ):
        self.output = output
        self._engine = engine or EngineChoice(device=device, offline=offline)
        self._playable = tempfile.TemporaryDirectory(prefix="magicanimate-", ignore_cleanup_errors=True)
        self.animator = Animator(
            model,
            device=device,
            dtype=dtype,
            offline=offline,
            memory=memory,
            on_progress=self._while_loading,
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
        """A visitor wants something done: from now on `cancel` concerns this job."""
        self._stops[visitor] = threading.Event()

    def cancel(self, visitor: str) -> None:
        """Stop the visitor's job, waiting or running."""
        if visitor in self._stops:
            self._stops[visitor].set()

    def animate(self, visitor: str, request: AnimationRequest) -> Iterator[Progress | AnimationResult]:
        """Yield progress, a few times a second, and at last the result. Closing the iterator stops it.

        Raises:
            InputError: as `Animator.animate`.
            Cancelled: stopped by `cancel`.
        """
        return self._run(visitor, partial(self.animator.animate, request))

    def examine(self, clip: Path) -> Findings:
        """What a clip is.

        Raises:
            InputError: it cannot be read.
        """
        return examine(clip)

    def forecast(self) -> Forecast:
        """What will find the people in an ordinary video.

        Raises:
            InputError: nothing can; the message says what to do.
        """
        return self._engine.forecast()

    def make_motion(
        self, visitor: str, clip: Path, wish: Wish, *, earlier: MadeMotion | None = None
    ) -> Iterator[Progress | MadeMotion]:
        """Make a motion clip, as `animate` does an animation; copies that browsers play go with the program.

        Raises:
            InputError: as `densepose_tools.one_click.make_motion`.
            Cancelled: stopped by `cancel`; the same again goes on from there.
        """
        work = partial(
            make_motion,
            clip,
            self.output,
            engine=self._engine,
            wish=wish,
            copies=Path(self._playable.name),
            earlier=earlier,
        )
        return self._run(visitor, lambda progress, stop: work(on_progress=progress, should_stop=stop))

    def _run(
        self, visitor: str, work: Callable[[OnProgress, ShouldStop], Result]
    ) -> Iterator[Progress | Result]:
        """Do something in the worker; see `animate`."""
        stop = self._stops.setdefault(visitor, threading.Event())
        reports: queue.Queue[Progress] = queue.Queue()
        job = self._worker.submit(work, reports.put, stop.is_set)
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
        self._playable.cleanup()

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
