"""A run's files beside its checkpoints: ``config.json``, ``metrics.jsonl``, TensorBoard events, lock."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from magicanimate.errors import InputError
from magicanimate.files import Unreadable, parse_json, read_json_object, write_bytes

log = logging.getLogger(__name__)

CONFIG, METRICS, SAMPLES, EVENTS = "config.json", "metrics.jsonl", "samples", "tensorboard"
LOCK = ".training.lock"


def check_settings(
    folder: Path, fixed: Mapping[str, Any], inputs: Mapping[str, Path | None] | None = None
) -> None:
    """Check that the run in ``folder``, if there is one, was started with these settings and inputs.

    Args:
        folder: the run's folder.
        fixed: settings that must not change, by dotted name. Settings that an older version did not write
            into ``config.json`` are not compared.
        inputs: folders and files of the data and of the initial weights, by dotted name; they must not change
            either.

    Raises:
        InputError: a setting or an input differs.
    """
    path = folder / CONFIG
    if not path.exists():
        # Figures without settings are somebody else's file; Metrics would cut it.
        if (folder / METRICS).exists() and not any(folder.glob("checkpoints/*")):
            raise InputError(f"{folder / METRICS} belongs to no run; move it or choose another folder.")
        return
    saved = read_config(path)
    for name, value in fixed.items():
        there = _value(saved, name)
        # JSON has no tuples: what was saved as one comes back as a list.
        now = list(value) if isinstance(value, tuple) else value
        if there is not _ABSENT and there != now:
            raise InputError(
                f"{folder} was begun with {name} = {there!r}, not {now!r}; give that again, or choose another"
                " folder for the new settings."
            )
    for name, chosen in (inputs or {}).items():
        there = _value(saved, name)
        if there is _ABSENT or _same_place(there, chosen):
            continue
        # data.videos is the only input whose option has another name.
        option = "--" + ("data" if name == "data.videos" else name.partition(".")[2].replace("_", "-"))
        raise InputError(
            f"{folder} was begun with {f'{option} {there}' if there else f'no {option}'}, now it is "
            f"{chosen or 'not given'}; give the same, or choose another folder for the run. (If it was only "
            f"moved, write its new place into {path}.)"
        )


def _value(saved: Mapping[str, Any], name: str) -> Any:
    """The saved value of a dotted name, or `_ABSENT`."""
    there: Any = saved
    for part in name.split("."):
        there = there.get(part, _ABSENT) if isinstance(there, Mapping) else _ABSENT
    return there


def _same_place(there: Any, path: Path | None) -> bool:
    if not there or path is None:
        return not there and path is None
    return isinstance(there, str) and Path(there).resolve() == path.resolve()


_ABSENT = object()


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a run's ``config.json``.

    Raises:
        InputError: it is damaged or belongs to something else.
    """
    try:
        saved = read_json_object(path)
    except Unreadable as error:
        raise InputError(
            f"{path} is damaged ({error.reason}); restore it or choose another folder for the run."
        ) from error
    # Every version has written these three.
    if not {"stage", "steps", "seed"} & saved.keys():
        raise InputError(f"{path} belongs to no training; choose another folder for the run.")
    return saved


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Lock a run's folder against other trainings; the lock of a killed process is released.

    Raises:
        InputError: another one is at work there.
    """
    lock = FileLock(folder / LOCK)
    try:
        # Waiting would not help: a training takes hours.
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"{folder} is being trained by another program; stop that one first.") from error
    try:
        yield
    finally:
        lock.release()


class Metrics:
    """Writes a line per logged step to ``metrics.jsonl``, and to TensorBoard if it is installed."""

    def __init__(self, folder: Path, *, step: int):
        """Continue after ``step``, dropping the lines of later steps, which will be taken again."""
        self.path = folder / METRICS
        if self.path.exists():
            with self.path.open(encoding="utf-8", errors="replace") as file:
                kept = [line for line in file if _step_of(line) <= step]
            write_bytes(self.path, "".join(f"{line.rstrip()}\n" for line in kept).encode())
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            log.info("tensorboard is not installed: figures go to %s only", self.path)
            self._events = None
        else:
            # purge_step hides what a killed run had logged beyond its last checkpoint.
            self._events = SummaryWriter(folder / EVENTS, purge_step=step + 1)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Append the figures of a step."""
        row = {"step": step, **{name: round(value, 9) for name, value in figures.items()}}
        log.info("%s", row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close TensorBoard's event file."""
        if self._events is not None:
            self._events.close()


def _step_of(line: str) -> float:
    """The step of a line; infinity for a line that a killed run did not finish, so that it is dropped."""
    try:
        step = parse_json(line)["step"]
        return step if isinstance(step, int) else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")
