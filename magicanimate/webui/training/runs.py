"""Trainings that the page starts: their settings, command lines and run folders.

The commands run as processes of their own, so that a training outlives the page; nothing here imports
`training`, which writes a run's folder: ``config.json``, ``metrics.jsonl``, ``samples/``, ``checkpoints/``,
at the end ``pipeline/``. The process that was started here has its record beside them (`DetachedProcess`).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from magicanimate.checkpoints.disk import model_index
from magicanimate.checkpoints.layout import MODEL_INDEX
from magicanimate.errors import InputError
from magicanimate.files import parse_json, read_json_object, write_json
from magicanimate.webui.training.detached import ERROR_PREFIX, OUTPUT_AT_ONCE, DetachedProcess

PROGRAM_FOLDER = Path(__file__).resolve().parents[3]
"""Where ``python -m training`` is found."""

PRESETS = {
    "mini": "Small networks from nothing, 128 × 128, then 256 × 256 pixels; days on a CPU",
    "tiny": "32 × 32 pixels and a few steps, to see in seconds that everything works",
    "paper_tiktok": "The paper's settings for TikTok dances; needs a GPU and Stable Diffusion 1.5",
    "paper_ted": "The paper's settings for TED talks; needs a GPU and Stable Diffusion 1.5",
    "paper_applications": "The paper's settings behind its applications; no pictures in stage2",
}
STAGES = {
    "vae": "First: the autoencoder, which turns pictures into latents",
    "base": "Second: all networks for single pictures together, from nothing",
    "controlnet": "The pose ControlNet on single pictures; the paper's first stage",
    "stage1": "Appearance encoder and ControlNet on pairs of frames; the paper's second stage",
    "stage2": "The temporal layers on clips, after base or stage1",
    "distill": "A student of the finished networks, which needs few steps and no guidance",
    "sharpen": "Last: the autoencoder's decoder, for sharper pictures of the finished networks",
}
HOLDOUT = {"mini": 16, "tiny": 1}
"""Videos that a preset keeps for checking if there are enough; the others keep 4."""
FROM_NOTHING = ("mini", "tiny")
NEW_STAGES = ("vae", "base", "distill", "sharpen")
"""Stages that only presets from nothing have; the others begin with Stable Diffusion's networks."""
_RENDERER_NEEDS = ("anny", "numba", "cv2")
_RENDERED = {
    "mini": ("--size", "256", "--framing", "close"),
    "tiny": ("--size", "32", "--frames", "8", "--stills", "4"),
}
"""Options of the renderer for a preset, where its defaults do not suit."""


def stages_of(preset: str) -> tuple[str, ...]:
    """The stages of a preset, in the order in which they are trained."""
    return tuple(stage for stage in STAGES if preset in FROM_NOTHING or stage not in NEW_STAGES)


@dataclass(frozen=True)
class TrainingConfig:
    """One stage to train. Folders are as typed; ``None`` and "" leave a setting to the preset.

    Properties and methods raise `InputError` if a setting is missing or out of range.

    Attributes:
        preset, stage: of `PRESETS` and `STAGES`.
        data: folder of the videos, or of rendered dancers.
        runs: folder of the runs of all stages.
        steps: of the optimizer, in all.
        batch_size: samples a step.
        learning_rate: peak rate of AdamW.
        holdout: videos that are kept for checking and never learned from.
        images: folder of pictures for the joint training.
        pipeline: pipeline folder to go on from.
        stable_diffusion, vae, motion: released weights that the paper's presets begin with.
    """

    preset: str = "mini"
    stage: str = "vae"
    data: str = "data/dancers"
    runs: str = "runs/mine"
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    holdout: int | None = None
    images: str = ""
    pipeline: str = ""
    stable_diffusion: str = ""
    vae: str = ""
    motion: str = ""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the fields, in order."""
        return tuple(f.name for f in fields(cls))

    @property
    def runs_folder(self) -> Path:
        """Folder of the runs of all stages."""
        return folder_named(self.runs, "the runs")

    @property
    def run_folder(self) -> Path:
        """Folder of this stage's run."""
        self._check_choice()
        return self.runs_folder / self.stage

    def with_holdout(self, videos: int) -> TrainingConfig:
        """The config with a number of videos kept for checking: the preset's, but at most a quarter of all.

        Args:
            videos: number that can be used.
        """
        if videos < 2:
            raise InputError("One video is too few: one is kept for checking. Add more videos.")
        if self.holdout is None:
            usual = HOLDOUT.get(self.preset, 4)
            return replace(self, holdout=max(1, min(usual, videos // 4)))
        if self.holdout >= videos:
            raise InputError(
                f"Too few videos: {videos} found, {self.holdout} kept for checking. "
                f"Keep {max(1, videos // 4)} (under More)."
            )
        return self

    def command(self) -> list[str]:
        """The command line that trains; running it again resumes."""
        self._check_choice()
        words = [self.stage, "--data", str(folder_named(self.data, "the data")), *self._common()]
        if self.images:
            words += ["--images", str(folder_named(self.images, "the pictures"))]
        for option, what, value in (
            ("--steps", "The number of steps", self.steps),
            ("--batch-size", "The batch size", self.batch_size),
            ("--learning-rate", "The learning rate", self.learning_rate),
            ("--holdout", "The number of videos kept for checking", self.holdout),
        ):
            if value is not None:
                if not value > 0:
                    raise InputError(f"{what} must be more than 0, not {value:g}; or leave it empty.")
                words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
        return python("training", *words)

    def export_command(self, out: Path) -> list[str]:
        """The command line that writes the newest checkpoints of all stages as a pipeline folder."""
        self._check_choice()
        return python("training", "export", "--out", str(out), *self._common())

    def _common(self) -> list[str]:
        """Options of training and export."""
        words = ["--preset", self.preset, "--runs", str(self.runs_folder)]
        for option, value in (
            ("--pipeline", self.pipeline),
            ("--stable-diffusion", self.stable_diffusion),
            ("--vae", self.vae),
            ("--motion", self.motion),
        ):
            if value:
                words += [option, str(folder_named(value, option))]
        return words

    def _check_choice(self) -> None:
        for what, value, known in (("preset", self.preset, PRESETS), ("stage", self.stage, STAGES)):
            if value not in known:
                raise InputError(f"There is no {what} {value!r}; choose from {', '.join(known)}.")
        if self.stage not in stages_of(self.preset):
            raise InputError(
                f"{self.preset} has no stage {self.stage}; choose from {', '.join(stages_of(self.preset))}."
            )


def check_command(data: str) -> list[str]:
    """The command line that says what a training would use of a folder.

    Raises:
        InputError: no folder is given.
    """
    return python("training.data", "check", str(folder_named(data, "the data")))


def dancers_command(data: str, *, count: int, preset: str) -> list[str]:
    """The command line that renders synthetic people for a preset; running it again resumes.

    Raises:
        InputError: no folder or less than one person is asked for, or the renderer is not installed.
    """
    if not count or count < 1:
        raise InputError("Give the number of people to render, 1 or more.")
    folder = folder_named(data, "the data")
    missing = [name for name in _RENDERER_NEEDS if find_spec(name) is None]
    if missing:
        install = shown([sys.executable, "-m", "pip", "install", "-r", "requirements-train.txt"])
        raise InputError(
            f"Rendering people needs {' and '.join(missing)}, not installed yet; run `{install}` in "
            f"{PROGRAM_FOLDER} and start the program again."
        )
    workers = max(1, (os.cpu_count() or 1) // 2)
    options = ["--identities", str(count), "--fps", "12.5", "--workers", str(workers)]
    return python("training.dancers", "--out", str(folder), *options, *_RENDERED.get(preset, ()))


def folder_named(text: str, what: str) -> Path:
    """The absolute path of a folder that was typed or pasted, perhaps in quotation marks.

    Raises:
        InputError: the field is empty.
    """
    text = (text or "").strip().strip("\"'")
    if not text:
        raise InputError(f"Give the folder of {what}.")
    return Path(text).expanduser().absolute()


def python(module: str, *words: str) -> list[str]:
    """The command line that runs one of this project's modules."""
    return [sys.executable, "-m", module, *words]


def shown(command: Sequence[str]) -> str:
    """A command line as it would be typed in the program's folder."""
    program = Path(command[0])
    if program.is_relative_to(PROGRAM_FOLDER):
        program = program.relative_to(PROGRAM_FOLDER)
    words = [str(program), *command[1:]]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


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
    return [Trial(folders[folder], folder) for folder in sorted(made, key=made.__getitem__, reverse=True)]


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
        self._offset = 0
        self._inode: int | None = None

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
            for line in map(str.rstrip, process.stdout or ()):
                last = line or last
                if line.startswith(ERROR_PREFIX):
                    error = line.removeprefix(ERROR_PREFIX)
                else:
                    yield line
            if process.wait():
                raise InputError(error or last or f"The command ended with status {process.returncode}.")
        finally:
            process.kill()
