"""The fixed test set "SynthDance": rendered people, clothes, places and dances that no training sees."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from magicanimate.errors import InputError
from magicanimate.palette import PALETTE

SEED = 20311  # the training data is seed 0, the examples 7001
IDENTITIES, SIZE, FRAMES, FPS = 12, 128, 48, 25.0
_RENDERER_NEEDS = ("anny", "numba", "cv2")


@dataclass(frozen=True)
class Task:
    """One photo and one motion clip.

    Attributes:
        name: for files.
        photo: uint8 ``H W 3``; photo_parts: its labels, uint8 ``H W``.
        parts: labels of the motion, uint8 ``F H W``.
        truth: what should come out, uint8 ``F H W 3``; ``None`` where nobody knows.
    """

    name: str
    photo: np.ndarray
    photo_parts: np.ndarray
    parts: np.ndarray
    truth: np.ndarray | None

    @property
    def control(self) -> np.ndarray:
        """The motion as the pipeline takes it, uint8 ``F H W 3``."""
        return PALETTE[self.parts]

    def first(self, frames: int) -> Task:
        """The same with the first so many frames."""
        truth = None if self.truth is None else self.truth[:frames]
        return Task(self.name, self.photo, self.photo_parts, self.parts[:frames], truth)

    def at(self, size: int) -> Task:
        """The same at another size, pixels: pictures averaged, labels of the nearest pixel."""
        if len(self.photo) == size:
            return self
        truth = None if self.truth is None else scaled(self.truth, size)
        photo = scaled(self.photo[None], size)[0]
        near = (2 * np.arange(size) + 1) * len(self.photo) // (2 * size)
        photo_parts, parts = (labels[..., near, :][..., near] for labels in (self.photo_parts, self.parts))
        return Task(self.name, photo, photo_parts, parts, truth)


def scaled(video: np.ndarray, size: int) -> np.ndarray:
    """Frames uint8 ``F H W 3`` -> ``F size size 3``, averaged over the pixels."""
    small = [Image.fromarray(frame).resize((size, size), Image.Resampling.BOX) for frame in video]
    return np.stack([np.asarray(frame) for frame in small])


def render(folder: Path, *, size: int = SIZE) -> None:
    """Render what is missing of the test set in ``folder``; a whole set is left as it is.

    The people, clothes and dances are the same at every ``size`` (pixels).

    Raises:
        InputError: the renderer is not installed, or the folder holds another data set.
    """
    from training.dancers.dataset import DatasetInfo, Spec, is_written, write_info

    spec = Spec(size=size, stills=1, frames=FRAMES, fps=FPS)
    info = DatasetInfo.of(spec, seed=SEED, count=IDENTITIES)
    todo = [i for i in range(IDENTITIES) if not is_written(folder, i)]
    missing = [name for name in _RENDERER_NEEDS if find_spec(name) is None]
    if todo and missing:
        raise InputError(
            f"The test set is rendered on demand, which needs {', '.join(missing)}; run "
            "`pip install -r requirements-train.txt`."
        )
    write_info(folder, info)
    if todo:
        from training.dancers.clip import render_all

        for index in render_all(folder, info, todo, workers=1):
            print(f"rendered test person {index + 1} of {IDENTITIES}", flush=True)


def self_tasks(folder: Path, *, people: int) -> list[Task]:
    """Self-reenactment: the first frame of each person's clip is the photo, as in the paper.

    Raises:
        InputError: the folder has fewer people.
    """
    tasks = []
    for i in range(people):
        _, _, clip, parts = _person(folder, i, people)
        tasks.append(Task(f"self_{i:02d}", clip[0], parts[0], parts, clip))
    return tasks


def still_tasks(folder: Path, *, people: int) -> list[Task]:
    """Self-reenactment from a separate photo of the same person, in another pose, turn and framing.

    Raises:
        InputError: the folder has fewer people.
    """
    tasks = []
    for i in range(people):
        still, still_parts, clip, parts = _person(folder, i, people)
        tasks.append(Task(f"still_{i:02d}", still, still_parts, parts, clip))
    return tasks


def cross_tasks(folder: Path, *, people: int) -> list[Task]:
    """Cross-identity: a separate photo of each person with the motion of the next one in the folder."""
    tasks = []
    for i in range(people):
        still, still_parts, _, _ = _person(folder, i, people)
        _, _, _, motion = _person(folder, i + 1, people)
        tasks.append(Task(f"cross_{i:02d}", still, still_parts, motion, None))
    return tasks


def _person(folder: Path, index: int, people: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Photo, its labels, clip and its labels of one person; after the last comes the first."""
    from training.dancers.dataset import DancerFolder

    dancers = DancerFolder(folder)
    if not 1 <= people <= len(dancers):
        raise InputError(f"{folder} has {len(dancers)} people and {people} are asked for; choose fewer.")
    rgb, parts = (np.array(strip) for strip in dancers[index % len(dancers)])
    stills = dancers.info.stills
    return rgb[0], parts[0], rgb[stills:], parts[stills:]
