"""The settings of a training, and its command lines.

The commands run as processes of their own, so that a training outlives the page; nothing here imports
`training`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path

from magicanimate.errors import InputError

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
