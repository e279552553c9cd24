"""Trainings that the page starts: each stage's run folder, what it shows, and the commands around it.

`training` writes a run's folder: ``config.json``, ``metrics.jsonl``, ``samples/``, ``checkpoints/``, at the
end ``pipeline/``. The process that was started here has its record beside them (`DetachedProcess`).
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from magicanimate.checkpoints.disk import model_index
from magicanimate.checkpoints.layout import MODEL_INDEX
from magicanimate.errors import InputError
from magicanimate.files import parse_json, read_json_object, write_json
from magicanimate.webui.training.config import (
    PROGRAM_FOLDER,
    STAGES,
    TrainingConfig,
    check_command,
    dancers_command,
    folder_named,
)
from magicanimate.webui.training.detached import ERROR_PREFIX, OUTPUT_AT_ONCE, DetachedProcess

State = Literal["none", "running", "stopping", "stopped", "finished", "failed"]

GRACE = 300.0
"""Seconds that a training gets to finish its step and its samples and to write a checkpoint."""
EXPORTED = "pipelines"
"""Folder beside the stages' folders that holds what was exported before a run was finished."""
_STOPPED_STATUS = 3  # of `python -m training` when it was asked to end and has written a checkpoint
_PIPELINE = "pipeline"


@dataclass(frozen=True)
class RunStatus:
    """The state of a run at a moment.

    Attributes:
        state: "none" if it was never started.
        step, steps: taken and in all; ``steps`` is ``None`` until the run has written its settings.
        checkpoint: step of the newest checkpoint, from which it would resume; 0 if there is none.
        seconds_left: ``None`` until it can be estimated, and when it does not run.
        words: its last line while it runs, the reason if it failed.
    """

    state: State
    step: int = 0
    steps: int | None = None
    checkpoint: int = 0
    seconds_left: float | None = None
    words: str = ""


@dataclass(frozen=True)
class Trial:
    """A pipeline that a training has written.

    Attributes:
        name: for people: stage and step.
        folder: that `Animator` takes.
    """

    name: str
    folder: Path


class TrainingRun:
    """The run of one stage.

    Args:
        folder: the run's, ``RUNS/STAGE``.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.process = DetachedProcess(folder, "training")
        self._metrics = _Metrics(folder / "metrics.jsonl")

    def start(self, config: TrainingConfig) -> None:
        """Start, or resume, the training in a process of its own.

        Raises:
            InputError: it runs already, or the config cannot be used. What only the training itself finds
                out is said by `status`.
        """
        self.process.start(config.command(), cwd=PROGRAM_FOLDER)

    def holdout(self) -> int | None:
        """How many videos a run that has begun keeps for checking; it cannot resume with another number."""
        try:
            kept = read_json_object(self.folder / "config.json").get("holdout")
        except (OSError, ValueError):
            return None
        return kept if isinstance(kept, int) and self.checkpoint() else None

    def stop(self) -> None:
        """Ask it to write a checkpoint and end; a second call ends it at once. Returns without waiting."""
        self.process.stop(grace=GRACE)

    def status(self) -> RunStatus:
        """What it does now, read from its folder."""
        state = self._state()
        rows, steps, checkpoint = self._metrics.read(), self._steps(), self.checkpoint()
        step = max(int(rows[-1]["step"]) if rows else 0, checkpoint)
        left, words = None, ""
        if state in ("running", "stopping"):
            words = self.process.output(lines=1)
            paces = [row["seconds_per_step"] for row in rows[-3:] if "seconds_per_step" in row]
            left = paces[-1] * max(0, steps - step) if paces and steps else None
        elif state == "failed":
            words = self.process.last_words()
        return RunStatus(state, step, steps, checkpoint, left, words)

    def _state(self) -> State:
        running = self.process.running  # before the record is read: it may end in between
        record = self.process.record
        if record is None:
            begun, steps = bool(self.checkpoint()), self._steps()
            if not begun:
                return "none"
            return "finished" if steps and self.checkpoint() >= steps else "stopped"
        if running:
            return "stopping" if record.asked_to_stop else "running"
        complete = 0 < (self._steps() or 0) <= self.checkpoint()
        complained = any(line.startswith(ERROR_PREFIX) for line in self.process.output().splitlines())
        if complete and (record.exit_status == 0 or (record.exit_status is None and not complained)):
            return "finished"
        if record.asked_to_stop or record.exit_status in (0, _STOPPED_STATUS):
            return "stopped"
        return "failed" if record.exit_status is not None or complained else "stopped"

    def _steps(self) -> int | None:
        try:
            return int(read_json_object(self.folder / "config.json")["steps"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def checkpoint(self) -> int:
        """Step of the newest checkpoint, 0 if there is none."""
        steps = [int(path.stem.removeprefix("step_")) for path in self.folder.glob("checkpoints/step_*.pt")]
        return max(steps, default=0)

    def curve(self, *, points: int = 400) -> list[tuple[int, float, str]]:
        """(step, loss, "one step" or "mean") of at most ``points`` recorded steps, evenly spread."""
        rows = [row for row in self._metrics.read() if "loss" in row]
        every = max(1, -(-len(rows) // points))
        kept = rows[::-1][::every][::-1]  # counted from the end, so that the newest is always kept
        return [
            (int(row["step"]), float(row[key]), name)
            for name, key in (("one step", "loss"), ("mean", "mean_loss"))
            for row in kept
            if key in row
        ]

    def samples(self, suffix: str) -> list[Path]:
        """Pictures (".png") or clips (".mp4") of held-out data, the newest first."""
        return sorted((self.folder / "samples").glob(f"[0-9]*{suffix}"), reverse=True)


def trials(runs: Path) -> list[Trial]:
    """The pipelines that the runs of a folder have written, the newest first."""
    folders = {runs / stage / _PIPELINE: f"{stage}, finished" for stage in STAGES}
    for folder in (runs / EXPORTED).glob("[!.]*"):
        stage, _, step = folder.name.rpartition("_")
        folders[folder] = f"{stage}, step {int(step)}" if step.isdecimal() else folder.name
    made = {
        folder: (folder / MODEL_INDEX).stat().st_mtime
        for folder in folders
        if model_index(folder) is not None
    }
    return [Trial(folders[folder], folder) for folder in sorted(made, key=made.get, reverse=True)]


def export_folder(run: TrainingRun) -> Path:
    """Where the newest checkpoint of a run is exported to.

    Raises:
        InputError: there is no checkpoint yet.
    """
    step = run.checkpoint()
    if not step:
        raise InputError(f"{run.folder.name} has no checkpoint yet; let it train a little longer.")
    return run.folder.parent / EXPORTED / f"{run.folder.name}_{step:06d}"


class _Metrics:
    """Rows of ``metrics.jsonl``, of which each call reads only the new ones."""

    def __init__(self, path: Path):
        self._path = path
        self._lock = threading.Lock()
        self._rows: list[dict[str, Any]] = []
        self._offset, self._inode = 0, None

    def read(self) -> list[dict[str, Any]]:
        """All rows that are complete."""
        with self._lock:
            try:
                with self._path.open("rb") as file:
                    self._read_new(file)
            except OSError:
                self._rows, self._offset = [], 0
            return self._rows[:]

    def _read_new(self, file) -> None:
        found = self._path.stat()
        if found.st_ino != self._inode or found.st_size < self._offset:
            # Another file: a resumed run writes it again without the steps that it will repeat.
            self._rows, self._offset, self._inode = [], 0, found.st_ino
        file.seek(self._offset)
        for line in file:
            if not line.endswith(b"\n"):
                break  # still being written
            self._offset += len(line)
            try:
                row = parse_json(line)
            except ValueError:
                continue
            if isinstance(row, dict) and type(row.get("step")) is int:
                self._rows.append({name: value for name, value in row.items() if _is_number(value)})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_USABLE = re.compile(r"(\d+) (?:videos with|rendered people)")
"""The line of `python -m training.data check` that counts what can be used."""


class TrainingManager:
    """Starts trainings and finds them again, also those that an earlier program started.

    Methods raise `InputError` if a config cannot be used or a command fails; the message is the command's
    own.

    Args:
        memory: file that keeps the last config.
    """

    def __init__(self, memory: Path):
        self._memory = memory
        self._runs: dict[Path, TrainingRun] = {}
        self._renderings: dict[Path, DetachedProcess] = {}
        self._lock = threading.Lock()

    @property
    def config(self) -> TrainingConfig:
        """The last config that was started; the defaults if there was none."""
        try:
            saved = TrainingConfig(**read_json_object(self._memory))
            _ = saved.run_folder  # raises if this version has no such preset or stage
            return saved
        except (OSError, ValueError, TypeError):
            return TrainingConfig()

    def run(self, config: TrainingConfig) -> TrainingRun:
        """The run of a config, started or not."""
        folder = config.run_folder
        with self._lock:
            return self._runs.setdefault(folder, TrainingRun(folder))

    def start(self, config: TrainingConfig) -> None:
        """Start or resume a training, and remember its config.

        Its data are checked before it begins, so that what cannot work is said at once.
        """
        run = self.run(config)
        if (kept := run.holdout()) is not None:
            config = replace(config, holdout=kept if config.holdout is None else config.holdout)
        elif not run.process.running:
            counted = map(_USABLE.match, self.check(config.data))
            config = config.with_holdout(max((int(found[1]) for found in counted if found), default=0))
        run.start(config)
        write_json(self._memory, asdict(config))

    def check(self, data: str) -> Iterator[str]:
        """Lines that say what a training would use of a folder and what it would leave out."""
        return _lines(check_command(data))

    def export(self, config: TrainingConfig) -> Path:
        """Write the newest checkpoint of a run, with those of the stages before it, as a pipeline folder."""
        out = export_folder(self.run(config))
        for _ in _lines(config.export_command(out)):
            pass
        return out

    def rendering(self, data: str) -> DetachedProcess:
        """The rendering of synthetic people into a folder, started or not."""
        folder = folder_named(data, "the data")
        with self._lock:
            return self._renderings.setdefault(folder, DetachedProcess(folder, "rendering"))

    def render(self, data: str, *, count: int, preset: str) -> None:
        """Start or resume rendering synthetic people for a preset."""
        command = dancers_command(data, count=count, preset=preset)
        self.rendering(data).start(command, cwd=PROGRAM_FOLDER)

    def stop_rendering(self, data: str) -> None:
        """Stop rendering; people that are finished are kept."""
        self.rendering(data).stop(grace=GRACE)


def _lines(command: Sequence[str]) -> Iterator[str]:
    """The lines that a short command prints, as they come; closing the iterator ends the command.

    Raises:
        InputError: it failed; the message is the command's own.
    """
    with subprocess.Popen(
        command,
        cwd=PROGRAM_FOLDER,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | OUTPUT_AT_ONCE,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            last = error = ""
            for line in map(str.rstrip, process.stdout):
                last = line or last
                if line.startswith(ERROR_PREFIX):
                    error = line.removeprefix(ERROR_PREFIX)
                else:
                    yield line
            if process.wait():
                raise InputError(error or last or f"The command ended with status {process.returncode}.")
        finally:
            process.kill()
