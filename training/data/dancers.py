"""Rendered dancers as training data. WebP and PNG are decoded once, into memory-mapped arrays.

Letters in shape comments: ``I`` identities, ``K`` images of an identity, ``H W`` pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from densepose_tools.arrays import map_array
from magicanimate.errors import InputError
from magicanimate.palette import PALETTE
from training.data.cropping import SquareCrop
from training.data.sources import Frames

PACKED_RGB, PACKED_PARTS, PACKED_POINTS = "rgb.npy", "parts.npy", "points.npy"


def pack(folder: Path) -> None:
    """Decode a folder of rendered dancers into uint8 arrays.

    These are ``rgb.npy`` (I K H W 3), ``parts.npy`` (I K H W) and ``points.npy`` (I K M M 4, see
    `training.dancers.render.render_points`). Nothing is done if they are newer than the folder's
    ``dataset.json``.

    Raises:
        InputError: the folder holds no dancers.
    """
    # Late, since a training on real videos does not need the renderer's packages.
    from training.dancers.dataset import DancerFolder

    targets = [folder / name for name in (PACKED_RGB, PACKED_PARTS, PACKED_POINTS)]
    made = (folder / "dataset.json").stat().st_mtime if (folder / "dataset.json").exists() else 0.0
    if made and all(t.exists() and t.stat().st_mtime >= made for t in targets):
        return
    dancers = DancerFolder(folder)
    if len(dancers) == 0:
        raise InputError(
            f"{folder} holds no rendered dancers: run `python -m training.dancers --out {folder}`"
        )
    temporary = [t.with_suffix(f".{os.getpid()}.tmp") for t in targets]
    arrays = [
        open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(dancers), *first.shape))
        for path, first in zip(temporary, (*dancers[0], dancers.points(0)), strict=True)
    ]
    for i in range(len(dancers)):
        arrays[0][i], arrays[1][i] = dancers[i]
        arrays[2][i] = dancers.points(i)
    del arrays  # flush before the rename makes them visible
    for path, target in zip(temporary, targets, strict=True):
        os.replace(path, target)


class DancerVideos:
    """Rendered dancers as a `VideoSet`: each identity is a video, its stills first, then its clip.

    Attributes:
        rgb: the images as rendered, uint8 ``I K H W 3``, memory-mapped.
        parts: their part ids, uint8 ``I K H W``.
        points: their body points, uint8 ``I K M M 4``.
    """

    def __init__(
        self, folder: Path | str, *, size: int | None = None, signals: Sequence[str] = ("densepose",)
    ):
        """Open a rendered folder, decoding it first if that was not done yet.

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
        # People rendered after the arrays were made are not in them yet.
        self._identities = dancers.indices[: len(self.rgb)]
        if "keypoints" in self.signals:
            # Identities are numbered by position: with a different
            # number the keypoints might be somebody else's.
            if len(dancers) != len(self.rgb):
                raise InputError(
                    f"{self.folder} has {len(dancers)} rendered people and had {len(self.rgb)} when decoded; "
                    f"remove {PACKED_RGB} and {PACKED_PARTS} there to have them decoded again."
                )
            self._keypoints_file(0)

    def _map_arrays(self) -> None:
        self.rgb = map_array(self.folder / PACKED_RGB)
        self.parts = map_array(self.folder / PACKED_PARTS)
        self.points = map_array(self.folder / PACKED_POINTS)

    def __getstate__(self) -> dict[str, Any]:
        # Pickled without its maps, for data loader workers, which open them themselves.
        mapped = ("rgb", "parts", "points")
        return {key: value for key, value in self.__dict__.items() if key not in mapped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map_arrays()

    def __len__(self) -> int:
        return len(self.rgb)

    def num_frames(self, video: int) -> int:
        return self.rgb.shape[1]

    def name(self, video: int) -> str:
        return f"{self.folder} identity {self._identities[video]}"

    @property
    def labels(self) -> np.ndarray:
        """Part ids at a training size that divides the rendered one, uint8 ``I K S S``, memory-mapped."""
        stride = self.parts.shape[-1] // self.size
        return self.parts[..., stride // 2 :: stride, stride // 2 :: stride]

    def pictures(self, video: int, frames: Sequence[int]) -> np.ndarray:
        """Some images at the training size, uint8 ``N S S 3``."""
        pixels = self.rgb[video, list(frames)]
        if not self._resize:
            return np.asarray(pixels)
        crop = SquareCrop(self.size, None)
        return np.stack([crop.picture(frame) for frame in pixels])

    def read(self, video: int, frames: Sequence[int]) -> Frames:
        frames = list(frames)
        control = {}
        if "densepose" in self.signals:
            drawn = PALETTE[self.parts[video, frames]]
            if self._resize:
                crop = SquareCrop(self.size, None)
                drawn = np.stack([crop.part_map(frame) for frame in drawn])
            control["densepose"] = drawn
        return Frames(self.pictures(video, frames), control | self.control_images(video, frames))

    def control_images(self, video: int, frames: Sequence[int]) -> dict[str, np.ndarray]:
        """Control images that cannot be drawn from labels: keypoints, uint8 ``N S S 3``, if wanted."""
        if "keypoints" not in self.signals:
            return {}
        from densepose_tools.keypoints import draw_keypoints, read_keypoints

        recorded = read_keypoints(self._keypoints_file(video))
        scale = np.float32([self.size / recorded.width, self.size / recorded.height, 1])
        points = recorded.points[list(frames)] * scale
        drawn = [draw_keypoints(p, width=self.size, height=self.size) for p in points]
        return {"keypoints": np.stack(drawn)}

    def _keypoints_file(self, video: int) -> Path:
        from training.dancers.dataset import keypoints_path

        path = keypoints_path(self.folder, self._identities[video])
        if not path.exists():
            raise InputError(
                f"{path} is missing; write the keypoints with "
                f"`python -m training.dancers --keypoints --out {self.folder}`."
            )
        return path
