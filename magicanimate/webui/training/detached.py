"""A process that outlives the page and the program that started it.

Its folder holds ``NAME.process.json``, which identifies the process, and ``NAME.log``, its output since the
last start. A process is identified by its number and its start time, since systems reuse the numbers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from magicanimate.errors import InputError
from magicanimate.files import process_start, read_json_object, write_json

ERROR_PREFIX = "error: "
"""What this project's commands print before the sentence that says why they failed."""
OUTPUT_AT_ONCE = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
"""Environment for a command whose output is read while it runs."""
_SAME_START = 0.1  # seconds
_TAIL_BYTES = 16_384


@dataclass(frozen=True)
class Record:
    """The process that was started last.

    Attributes:
        pid, began: its number and start time, see `magicanimate.files.process_start`.
        asked_to_stop: whether `DetachedProcess.stop` was called.
        exit_status: ``None`` while it runs, and if it ended while this program did not run.
    """

    pid: int
    began: float
    asked_to_stop: bool = False
    exit_status: int | None = None


class DetachedProcess:
    """Starts one process at a time in a folder, and finds it there again.

    Args:
        folder: for the record and the output; made by `start`.
        name: of both files.
    """

    def __init__(self, folder: Path, name: str):
        self.folder = folder
        self.log = folder / f"{name}.log"
        self._file = folder / f"{name}.process.json"
        self._lock = threading.RLock()
        self._child: subprocess.Popen | None = None

    @property
    def record(self) -> Record | None:
        """The last process; ``None`` if there was none."""
        with self._lock:
            record = self._read()
            if record and self._child and self._child.pid == record.pid and record.exit_status is None:
                status = self._child.poll()
                if status is not None:
                    record = replace(record, exit_status=status)
                    self._write(record)
            return record

    @property
    def running(self) -> bool:
        """Whether it runs now, whoever started it."""
        return _process(self.record) is not None

    def start(self, command: Sequence[str], *, cwd: Path) -> None:
        """Start a process.

        Args:
            command: program and arguments.
            cwd: folder it runs in.

        Raises:
            InputError: one is running here already, or it cannot be started.
        """
        with self._lock:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with FileLock(self._file.with_suffix(".lock")):
                    self._start(command, cwd)
            except OSError as error:
                raise InputError(
                    f"Nothing can be started in {self.folder} ({error.strerror or error}); "
                    "choose a folder that can be written to."
                ) from error

    def _start(self, command: Sequence[str], cwd: Path) -> None:
        if self.running:
            raise InputError(f"{self.folder} is being worked on already; stop that first.")
        apart: dict[str, Any] = {"start_new_session": True}  # Ctrl-C in our terminal is not meant for it
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | OUTPUT_AT_ONCE,
                **apart,
            )
        try:
            began = process_start(self._child.pid)
        except psutil.NoSuchProcess:  # it has ended already
            began = 0.0
        self._write(Record(self._child.pid, began))

    def stop(self, *, grace: float) -> None:
        """Ask the process to end; a second call ends it at once. Returns without waiting.

        Args:
            grace: seconds after which it is killed.
        """
        with self._lock:
            record = self.record
            process = _process(record)
            if record is None or process is None:
                return
            if record.asked_to_stop:
                _kill(process)
                return
            self._write(replace(record, asked_to_stop=True))
            try:
                if sys.platform == "win32":
                    process.send_signal(signal.CTRL_BREAK_EVENT)  # reaches it from the same console only
                else:
                    process.terminate()
            except (psutil.Error, OSError):
                _kill(process)
                return
        patience = threading.Timer(grace, _kill, [process])
        patience.daemon = True
        patience.start()

    def output(self, *, lines: int = 40) -> str:
        """The last lines that it printed; of a line that was overwritten (a progress bar) the last state."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, os.path.getsize(self.log) - _TAIL_BYTES))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
        shown = [line.rstrip().rpartition("\r")[2].rstrip() for line in text.split("\n")]
        return "\n".join([line for line in shown if line][-lines:])

    def last_words(self) -> str:
        """The error it ended with, or its last line."""
        lines = self.output().splitlines()
        errors = [line.removeprefix(ERROR_PREFIX) for line in lines if line.startswith(ERROR_PREFIX)]
        return (errors or lines or [""])[-1]

    def _read(self) -> Record | None:
        try:
            record = Record(**read_json_object(self._file))
            whole = type(record.pid) is int and record.pid > 0 and isinstance(record.began, (int, float))
            return record if whole and isinstance(record.exit_status, (int, type(None))) else None
        except (OSError, ValueError, TypeError):
            return None  # never started, or a damaged file

    def _write(self, record: Record) -> None:
        write_json(self._file, asdict(record), indent=None)


def _process(record: Record | None) -> psutil.Process | None:
    """The process of a record, if it is still alive."""
    if record is None or record.exit_status is not None:
        return None
    try:
        process = psutil.Process(record.pid)
        same = abs(process_start(record.pid) - record.began) < _SAME_START
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _kill(process: psutil.Process) -> None:
    """Kill a process and those that it started; psutil checks that the number is still the same one's."""
    try:
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
