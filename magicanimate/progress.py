"""Progress of long work: its stages and times, the bar on a terminal; a command's exit status and Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from magicanimate.config import OnProgress, Progress, ShouldStop
from magicanimate.errors import Cancelled, InputError
from magicanimate.files import remove_unfinished

if TYPE_CHECKING:
    from types import FrameType

STAGES = {
    "wait": "waiting for other work",
    "load": "loading the network",
    "download": "downloading the weights",
    "convert": "converting the weights",
    "edit": "editing the video",
    "read": "reading photo and clip",
    "encode": "encoding the photo",
    "denoise": "denoising",
    "detail": "refining faces and hands",
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
        self._notes: list[str] = []
        self.seconds: dict[str, float] = {}

    def begin(self, stage: str, total: int, *, frames_to_decode: int = 0) -> None:
        """Enter a stage of ``total`` units; ``frames_to_decode`` wait behind it."""
        self.finish()
        self._stage, self._began, self._frames_to_decode = stage, time.monotonic(), frames_to_decode
        self._report(Progress(stage, 0, total, note=self._note))

    def update(
        self,
        step: int,
        total: int,
        *,
        preview: Any = None,
        preview_fps: float | None = None,
        denoising_step: tuple[int, int] | None = None,
    ) -> None:
        """``step`` of ``total`` units of the stage are done."""
        left = None
        if step:
            # The units of a stage take equally long; other stages are added where their time is known.
            left = (time.monotonic() - self._began) / step * (total - step)
            if self._frames_to_decode and self._seconds_per_decoded_frame is not None:
                left += self._seconds_per_decoded_frame * self._frames_to_decode
        self._report(
            Progress(self._stage, step, total, left, preview, denoising_step, self._note, preview_fps)
        )

    def note(self, sentence: str) -> None:
        """Add a sentence to every report from now on, after those that are there."""
        if sentence not in self._notes:
            self._notes.append(sentence)

    @property
    def _note(self) -> str:
        return "\n".join(self._notes)

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


OK, INPUT_ERROR, INTERRUPTED = 0, 2, 130
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
"""What asks a program to end: Ctrl-C, ``kill``, a terminal that is closed; on Windows also Ctrl-Break."""


def exit_status(work: Callable[[], int | None], *, cancelled: str = "cancelled") -> int:
    """Do the work of a command: its status, 2 for what the user can mend, 130 when interrupted.

    Whatever ends it is one line on standard error. Nobody need listen to that, nor to standard output: a
    closed pipe is no error.
    """
    try:
        with _usable_streams():
            status = work()
            sys.stdout.flush()
            return status or OK
    except InputError as error:
        say(f"error: {error}")
        return INPUT_ERROR
    except (Cancelled, KeyboardInterrupt):
        say(cancelled)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return OK
    except OSError as error:  # such as a full disk, which names its file
        _drop_output()
        what = error.filename or "A file"
        say(f"error: {what} cannot be read or written ({error.strerror or error}); check the place.")
        return INPUT_ERROR


@contextlib.contextmanager
def _usable_streams() -> Iterator[None]:
    """Standard output and error that take any text: also names that are not UTF-8, also when closed."""
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            # Libraries write to these streams without asking whether they exist.
            if getattr(sys, name) is None:  # closed before the program began
                setattr(sys, name, stack.enter_context(open(os.devnull, "w", encoding="utf-8")))
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(
                errors="surrogateescape" if sys.stdout.encoding.lower() == "utf-8" else "backslashreplace"
            )
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def say(line: str) -> None:
    """Print a line on standard error, if that is open."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(line, file=sys.stderr, flush=True)


def _drop_output() -> None:
    """Send what is still to be printed nowhere, or Python would try again at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class ProgressBar:
    """An ``on_progress`` that draws a bar for each stage; draws nothing where there is no terminal."""

    def __init__(self, *, quiet: bool = False):
        from tqdm import tqdm

        self._tqdm = tqdm
        self._disable = True if quiet or not (sys.stderr and sys.stderr.isatty()) else None
        self._stage = ""
        self._bar: Any = None

    def __call__(self, progress: Progress) -> None:
        if progress.stage != self._stage or self._bar is None:
            self.close()
            self._stage = progress.stage
            self._bar = self._open(progress)
        # A total may be corrected on the way, such as the frames of a damaged clip.
        self._bar.total = progress.total
        self._bar.set_postfix_str(time_left(progress.seconds_left), refresh=False)
        # tqdm takes the difference, the callback tells the sum.
        self._bar.update(progress.step - self._bar.n)

    def _open(self, progress: Progress) -> Any:
        in_bytes = progress.stage in STAGES_IN_BYTES
        return self._tqdm(
            total=progress.total,
            desc=STAGES.get(progress.stage, progress.stage),
            unit="B" if in_bytes else "",
            unit_scale=in_bytes,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {postfix}",
            file=sys.stderr,
            disable=self._disable,
            leave=False,
            dynamic_ncols=True,
        )

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[ShouldStop]:
    """One of `STOP_SIGNALS` makes the yielded function true, so that work ends cleanly; a second one ends
    the program at once, even in the middle of a long computation.

    Only for the main thread. Python runs handlers of signals between two of its own instructions, and a
    network may take minutes for one; so signals wake a thread that waits for them.
    """
    heard = threading.Event()
    ours, theirs = socket.socketpair()
    # Python requires it of the socket to which it writes the numbers of signals.
    ours.setblocking(False)

    def listen() -> None:
        times = 0
        while number := theirs.recv(1):
            times += number[0] in STOP_SIGNALS
            if times > 1:
                remove_unfinished()
                # An ordinary exit would wait for the computation that the user wants to end.
                os._exit(128 + number[0])
            heard.set()
            say("\nstopping; once more (Ctrl-C) to stop at once")

    def handle(signum: int, frame: FrameType | None) -> None:
        heard.set()

    # A signal that is ignored, as under nohup, stays so.
    handled = [each for each in STOP_SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    wakeup = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
    before = {each: signal.signal(each, handle) for each in handled}
    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    try:
        yield heard.is_set
    finally:
        for each, earlier in before.items():
            signal.signal(each, earlier)
        signal.set_wakeup_fd(wakeup)
        ours.close()
        listener.join()
        theirs.close()
