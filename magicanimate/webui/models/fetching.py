"""The released model fetched in the background: begun, paused, gone on with, given up."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from magicanimate.checkpoints.disk import downloads_folder
from magicanimate.checkpoints.locate import fetch_full
from magicanimate.config import OnProgress, Progress, ShouldStop
from magicanimate.errors import Cancelled, InputError

FetchState = Literal["idle", "running", "paused", "failed", "done"]
Fetch = Callable[..., Path]


@dataclass(frozen=True)
class FetchStatus:
    """A moment of the download.

    Attributes:
        state: "idle" if it was never begun, or given up.
        progress: the last that was told.
        error: why it failed, a sentence.
    """

    state: FetchState = "idle"
    progress: Progress | None = None
    error: str = ""


class ModelFetch:
    """At most one download at a time. Every method may be called from any thread.

    Args:
        fetch: see `magicanimate.checkpoints.locate.fetch_full`, which goes on where it was stopped.
    """

    def __init__(self, fetch: Fetch = fetch_full):
        self._fetch = fetch
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        # What an earlier program has fetched already lies in a folder that goes when all is there.
        paused = any(downloads_folder().rglob("*")) if downloads_folder().is_dir() else False
        self._status = FetchStatus("paused" if paused else "idle")

    @property
    def status(self) -> FetchStatus:
        """How it stands."""
        with self._lock:
            return self._status

    def start(self) -> None:
        """Begin, or go on; nothing happens while it runs."""
        with self._lock:
            if self._status.state == "running":
                return
            self._stop = threading.Event()
            self._status = FetchStatus("running", self._status.progress)
            self._thread = threading.Thread(target=self._run, args=(self._stop,), daemon=True)
            self._thread.start()

    def pause(self) -> None:
        """Stop; what was fetched is kept."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def cancel(self) -> None:
        """Stop, and delete what was fetched."""
        self.pause()
        shutil.rmtree(downloads_folder(), ignore_errors=True)
        with self._lock:
            self._status = FetchStatus()

    def _run(self, stop: threading.Event) -> None:
        def report(progress: Progress) -> None:
            with self._lock:
                self._status = replace(self._status, progress=progress)

        on_progress: OnProgress = report
        should_stop: ShouldStop = stop.is_set
        try:
            self._fetch(on_progress=on_progress, should_stop=should_stop)
            told: dict = {"state": "done"}
        except Cancelled:
            told = {"state": "paused"}
        except InputError as error:
            told = {"state": "failed", "error": str(error)}
        with self._lock:
            self._status = replace(self._status, **told)
