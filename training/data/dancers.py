"""Rendered dancers as training data, decoded once into memory-mapped arrays.

Letters in shape comments: ``I`` identities, ``K`` images of an identity, ``H W`` pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from magicanimate.errors import InputError
from magicanimate.palette import PALETTE
from training.data.cropping import SquareCrop
from training.data.sources import Frames

PACKED_RGB, PACKED_PARTS = "rgb.npy", "parts.npy"


def pack(folder: Path) -> None:
    """Decode a folder of rendered dancers once into ``rgb.npy`` and ``parts.npy`` (uint8, I K H W [3]).

    Does nothing when the packed files are newer than the folder's ``dataset.json``.

    Raises:
        InputError: the folder holds no dancers.
    """
    from training.dancers.dataset import DancerFolder

    targets = [folder / PACKED_RGB, folder / PACKED_PARTS]
    made = (folder / "dataset.json").stat().st_mtime if (folder / "dataset.json").exists() else 0.0
    if made and all(t.exists() and t.stat().st_mtime >= made for t in targets):
        return
    dancers = DancerFolder(folder)
    if len(dancers) == 0:
        raise InputError(
            f"{folder} holds no rendered dancers: run `python -m training.dancers --out {folder}`"
        )
    rgb, parts = dancers[0]
    temporary = [t.with_suffix(f".{os.getpid()}.tmp") for t in targets]
    arrays = [
        open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(dancers), *first.shape))
        for path, first in zip(temporary, (rgb, parts), strict=True)
    ]
    for i in range(len(dancers)):
        arrays[0][i], arrays[1][i] = dancers[i]
    del arrays  # flush before the rename makes them visible
    for path, target in zip(temporary, targets, strict=True):
        os.replace(path, target)


class DancerVideos:
    """Rendered dancers as a ``VideoSet``: each identity is a video, its stills first, then its clip.

    ``rgb`` I K H W 3 and ``parts`` I K H W, uint8, are memory-mapped. A set pickles by its folder, so that
    workers map the arrays themselves.
    """

    def __init__(
        self, folder: Path | str, *, size: int | None = None, signals: Sequence[str] = ("densepose",)
    ):
        """Open a rendered folder, decoding it first if nobody has yet.

        Args:
            folder: written by ``python -m training.dancers``.
            size: of the pictures; as rendered when ``None``.
            signals: "densepose", and "keypoints" if those were written too.

        Raises:
            InputError: no dancers, or no keypoints, in the folder.
        """
        from training.dancers.dataset import DancerFolder

        self.folder, self.signals = Path(folder), tuple(signals)
        pack(self.folder)
        dancers = DancerFolder(self.folder)
        self.stills = dancers.info.stills
        self.size = size or dancers.info.size
        self._resize = self.size != dancers.info.size
        self._map_arrays()
        self._identities = dancers.indices[: len(self.rgb)]
        if "keypoints" in self.signals:
            if len(dancers) != len(self.rgb):
                raise InputError(
                    f"{self.folder} has {len(dancers)} rendered people and had {len(self.rgb)} when decoded; "
                    f"remove {PACKED_RGB} and {PACKED_PARTS} there to have them decoded again."
                )
            self._keypoints_file(0)

    def _map_arrays(self) -> None:
        self.rgb = np.load(self.folder / PACKED_RGB, mmap_mode="r")
        self.parts = np.load(self.folder / PACKED_PARTS, mmap_mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("rgb", "parts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map_arrays()

    def __len__(self) -> int:
        return len(self.rgb)

    def num_frames(self, video: int) -> int:
        return self.rgb.shape[1]

    def name(self, video: int) -> str:
        return f"{self.folder} identity {self._identities[video]}"

    def read(self, video: int, frames: Sequence[int]) -> Frames:
        frames = list(frames)
        crop = SquareCrop(self.size, None)
        pixels, control = self.rgb[video, frames], {}
        if self._resize:
            pixels = np.stack([crop.picture(frame) for frame in pixels])
        for signal in self.signals:
            if signal == "keypoints":
                control[signal] = self._drawings(video, frames)
                continue
            drawn = PALETTE[self.parts[video, frames]]
            control[signal] = np.stack([crop.part_map(f) for f in drawn]) if self._resize else drawn
        return Frames(np.asarray(pixels), control)

    def _drawings(self, video: int, frames: list[int]) -> np.ndarray:
        from densepose_tools.keypoints import draw_keypoints, read_keypoints

        recorded = read_keypoints(self._keypoints_file(video))
        scale = np.float32([self.size / recorded.width, self.size / recorded.height, 1])
        points = recorded.points[frames] * scale
        return np.stack([draw_keypoints(p, width=self.size, height=self.size) for p in points])

    def _keypoints_file(self, video: int) -> Path:
        from training.dancers.dataset import keypoints_path

        path = keypoints_path(self.folder, self._identities[video])
        if not path.exists():
            raise InputError(
                f"{path} is missing; write the keypoints with "
                f"`python -m training.dancers --keypoints --out {self.folder}`."
            )
        return path
