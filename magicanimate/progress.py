"""Progress: the stages of the work in words, how long each takes, and the time left."""

from __future__ import annotations

import time
from typing import Any

from magicanimate.config import OnProgress, Progress

STAGES = {
    "wait": "waiting for other work",
    "load": "loading the network",
    "download": "downloading the weights",
    "convert": "converting the weights",
    "edit": "editing the video",
    "read": "reading photo and clip",
    "encode": "encoding the photo",
    "denoise": "denoising",
    "detail": "second look at details",
    "decode": "writing frames",
    "detect": "finding people",
    "write": "writing frames",
}

STAGES_IN_BYTES = ("download", "convert")


class ProgressMeter:
    """Reports stages to a callback and measures how long each takes.

    Attributes:
        seconds: time spent by stage, complete after `finish`.
    """

    def __init__(self, on_progress: OnProgress | None, *, seconds_per_decoded_frame: float | None = None):
        self._report = on_progress or (lambda _: None)
        self._seconds_per_decoded_frame = seconds_per_decoded_frame
        self._stage, self._began = "", 0.0
        self._frames_to_decode = 0
        self._note = ""
        self.seconds: dict[str, float] = {}

    def begin(self, stage: str, total: int, *, frames_to_decode: int = 0) -> None:
        """Enter a stage of ``total`` units; ``frames_to_decode`` wait behind it."""
        self.finish()
        self._stage, self._began, self._frames_to_decode = stage, time.monotonic(), frames_to_decode
        self._report(Progress(stage, 0, total, note=self._note))

    def update(
        self, step: int, total: int, *, preview: Any = None, denoising_step: tuple[int, int] | None = None
    ) -> None:
        """``step`` of ``total`` units of the stage are done."""
        left = None
        if step:
            left = (time.monotonic() - self._began) / step * (total - step)
            if self._frames_to_decode and self._seconds_per_decoded_frame is not None:
                left += self._seconds_per_decoded_frame * self._frames_to_decode
        self._report(Progress(self._stage, step, total, left, preview, denoising_step, self._note))

    def note(self, sentence: str) -> None:
        """Add a sentence to every report from now on."""
        self._note = sentence

    def finish(self) -> None:
        """Leave the current stage."""
        if self._stage:
            spent = time.monotonic() - self._began
            self.seconds[self._stage] = round(self.seconds.get(self._stage, 0.0) + spent, 3)
            self._stage = ""


def time_left(seconds: float | None) -> str:
    """``75.2`` -> "1:15 left"; empty while unknown."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    return f"{clock} left"


def duration(seconds: float) -> str:
    """A rough time for people: "8 s", "3 min", "2.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
