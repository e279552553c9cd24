"""What a run leaves beside its checkpoints: ``config.json``, ``metrics.jsonl``, events for TensorBoard."""

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
    """Whether the run in ``folder``, if there is one, was begun with these settings and inputs.

    Args:
        folder: of the run.
        fixed: settings that must not change, by dotted name. One that the run's file does not have, as
            it was begun by an older version, is not compared.
        inputs: folders and files of data and first weights, by dotted name, which must not change either.

    Raises:
        InputError: a setting differs.
    """
    path = folder / CONFIG
    if not path.exists():
        if (folder / METRICS).exists() and not any(folder.glob("checkpoints/*")):
            raise InputError(f"{folder / METRICS} belongs to no run; move it or choose another folder.")
        return
    saved = read_config(path)
    for name, value in fixed.items():
        there = _value(saved, name)
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
        option = "--" + ("data" if name == "data.videos" else name.partition(".")[2].replace("_", "-"))
        raise InputError(
            f"{folder} was begun with {f'{option} {there}' if there else f'no {option}'}, now it is "
            f"{chosen or 'not given'}; give the same, or choose another folder for the run. (If it was only "
            f"moved, write its new place into {path}.)"
        )


def _value(saved: Mapping[str, Any], name: str) -> Any:
    """What a file of settings says under a dotted name."""
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
    """The settings of a run as its ``config.json`` has them.

    Raises:
        InputError: it is damaged or belongs to something else.
    """
    try:
        saved = read_json_object(path)
    except Unreadable as error:
        raise InputError(
            f"{path} is damaged ({error.reason}); restore it or choose another folder for the run."
        ) from error
    if not {"stage", "steps", "seed"} & saved.keys():
        raise InputError(f"{path} belongs to no training; choose another folder for the run.")
    return saved


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a run's folder; also a killed one lets go of it.

    Raises:
        InputError: another one is at work there.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"{folder} is being trained by another program; stop that one first.") from error
    try:
        yield
    finally:
        lock.release()


class Metrics:
    """One row per logged step in ``metrics.jsonl``, and the same for TensorBoard if it is installed."""

    def __init__(self, folder: Path, *, step: int):
        """Go on after ``step``: rows of later steps, which will be taken again, are dropped."""
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
            self._events = SummaryWriter(folder / EVENTS, purge_step=step + 1)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add the row of a step."""
        row = {"step": step, **{name: round(value, 9) for name, value in figures.items()}}
        log.info("%s", row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what TensorBoard still holds back."""
        if self._events is not None:
            self._events.close()


def _step_of(line: str) -> float:
    """The step of a row; infinity for one that a killed run did not finish."""
    try:
        step = parse_json(line)["step"]
        return step if isinstance(step, int) else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")
