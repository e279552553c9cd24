"""Trainings that the page starts: the last config, its run, and the commands around it."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from magicanimate.errors import InputError
from magicanimate.files import read_json_object, write_json
from magicanimate.webui.training.config import (
    PROGRAM_FOLDER,
    TrainingConfig,
    check_command,
    dancers_command,
    folder_named,
)
from magicanimate.webui.training.detached import ERROR_PREFIX, OUTPUT_AT_ONCE, DetachedProcess
from magicanimate.webui.training.run import GRACE, TrainingRun, export_folder

_USABLE = re.compile(r"(\d+) (?:videos with|rendered people)")
"""How the line of `python -m training.data check` begins that counts what can be used."""


class TrainingManager:
    """Starts and finds trainings; a program and a page that are started later find the same.

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
        """What was asked for last; the defaults if nothing was."""
        try:
            saved = TrainingConfig(**read_json_object(self._memory))
            _ = saved.run_folder  # a file of another version may know other presets
            return saved
        except (OSError, ValueError, TypeError):
            return TrainingConfig()

    def run(self, config: TrainingConfig) -> TrainingRun:
        """The run of a config, begun or not.

        Raises:
            InputError: the config names none.
        """
        folder = config.run_folder
        with self._lock:
            return self._runs.setdefault(folder, TrainingRun(folder))

    def start(self, config: TrainingConfig) -> None:
        """Start or resume a training, and remember its config.

        Before a training begins its data are looked at: what cannot work is said at once.

        Raises:
            InputError: the data do not suffice, or as `TrainingRun.start`.
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
        """Lines that say what a training would use of a folder, and what not.

        Raises:
            InputError: nothing of it can be used.
        """
        return _lines(check_command(data))

    def export(self, config: TrainingConfig) -> Path:
        """Write the newest checkpoint of a run, with those of the stages before it, as a pipeline folder.

        Raises:
            InputError: there is no checkpoint, or an earlier stage is missing.
        """
        out = export_folder(self.run(config))
        for _ in _lines(config.export_command(out)):
            pass
        return out

    def rendering(self, data: str) -> DetachedProcess:
        """The rendering of synthetic people into a folder, begun or not.

        Raises:
            InputError: no folder is given.
        """
        folder = folder_named(data, "the data")
        with self._lock:
            return self._renderings.setdefault(folder, DetachedProcess(folder, "rendering"))

    def render(self, data: str, *, count: int, preset: str) -> None:
        """Start to render synthetic people for a preset, or go on with it.

        Raises:
            InputError: the renderer is not installed, or is at work in that folder.
        """
        command = dancers_command(data, count=count, preset=preset)
        self.rendering(data).start(command, cwd=PROGRAM_FOLDER)

    def stop_rendering(self, data: str) -> None:
        """End the rendering; people that are done are kept."""
        self.rendering(data).stop(grace=GRACE)


def _lines(command: Sequence[str]) -> Iterator[str]:
    """The lines that a short command prints, as they come; it ends when nobody wants them any more.

    Raises:
        InputError: what it says when it fails.
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
