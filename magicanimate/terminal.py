"""Progress and Ctrl-C in a terminal."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator

from magicanimate.config import Progress, ShouldStop
from magicanimate.errors import Cancelled, InputError
from magicanimate.wording import STAGES, STAGES_IN_BYTES, time_left

OK, INPUT_ERROR, INTERRUPTED = 0, 2, 130


def exit_status(work: Callable[[], None], *, cancelled: str = "cancelled") -> int:
    """Do the work of a command: 0, or 2 for an `InputError`, 130 when interrupted, with a line on stderr."""
    try:
        work()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return INPUT_ERROR
    except (Cancelled, KeyboardInterrupt):
        print(cancelled, file=sys.stderr)
        return INTERRUPTED
    return OK


class ProgressBar:
    """An ``on_progress`` that draws a bar for each stage; draws nothing where there is no terminal."""

    def __init__(self, *, quiet: bool = False):
        from tqdm import tqdm

        self._tqdm = tqdm
        self._disable = True if quiet or not sys.stderr.isatty() else None
        self._stage, self._bar = "", None

    def __call__(self, progress: Progress) -> None:
        if progress.stage != self._stage or self._bar is None:
            self.close()
            self._stage = progress.stage
            self._bar = self._open(progress)
        self._bar.total = progress.total
        self._bar.set_postfix_str(time_left(progress.seconds_left), refresh=False)
        self._bar.update(progress.step - self._bar.n)

    def _open(self, progress: Progress):
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
def stop_on_interrupt(*, also: Iterable[int] = ()) -> Iterator[ShouldStop]:
    """Ctrl-C makes the yielded function true, so that work ends cleanly; a second one interrupts at once.

    Args:
        also: other signals that do the same.
    """
    pressed = False

    def handler(signum: int, frame) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        print("\nstopping; press Ctrl-C again to stop at once", file=sys.stderr)

    before = {signum: signal.signal(signum, handler) for signum in (signal.SIGINT, *also)}
    try:
        yield lambda: pressed
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, earlier)
