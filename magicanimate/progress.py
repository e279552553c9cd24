"""Turns counts of work done into progress with the time left."""

from __future__ import annotations

import time
from typing import Any

from magicanimate.config import OnProgress, Progress


class ProgressMeter:
    """Reports stages to a callback and measures how long each takes.

    Attributes:
        seconds: time spent by stage, complete after `finish`.
    """

    def __init__(self, on_progress: OnProgress | None, *, seconds_per_decoded_frame: float | None = None):
        self._report = on_progress or (lambda _: None)
        self._decode_pace = seconds_per_decoded_frame
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
            if self._frames_to_decode and self._decode_pace is not None:
                left += self._decode_pace * self._frames_to_decode
        self._report(Progress(self._stage, step, total, left, preview, denoising_step, self._note))

    def note(self, sentence: str) -> None:
        """From now on every report says this, too."""
        self._note = sentence

    def finish(self) -> None:
        """Leave the current stage."""
        if self._stage:
            spent = time.monotonic() - self._began
            self.seconds[self._stage] = round(self.seconds.get(self._stage, 0.0) + spent, 3)
            self._stage = ""
