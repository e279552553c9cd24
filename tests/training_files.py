"""Training data of every kind, small and drawn here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from densepose_tools.keypoints import Keypoints, write_keypoints
from magicanimate.palette import colourise
from tests.media_files import part_labels, write_clip


def numbered_frame(number: int, *, width: int, height: int) -> np.ndarray:
    """A grey frame whose brightness tells its number (0..55, then over again)."""
    return np.full((height, width, 3), 20 + 4 * (number % 56), dtype=np.uint8)


def number_in(picture: np.ndarray) -> int:
    """The number of a frame of ``numbered_frame``, whatever compression did to it."""
    return round((float(np.median(picture)) - 20) / 4)


def shifted_labels(number: int, *, width: int, height: int) -> np.ndarray:
    """A figure that stands further right in every frame."""
    return part_labels(width=width, height=height, shift=number % 24)


def write_video(
    folder: Path,
    name: str,
    count: int,
    *,
    width: int = 64,
    height: int = 64,
    key_every: int = 10,
    maps: bool = True,
) -> None:
    """``NAME.mp4`` and ``NAME.densepose.mp4``."""
    options = {"crf": "4", "g": str(key_every)}
    frames = [numbered_frame(i, width=width, height=height) for i in range(count)]
    write_clip(folder / f"{name}.mp4", frames, options=options)
    if maps:
        drawn = [colourise(shifted_labels(i, width=width, height=height)) for i in range(count)]
        write_clip(folder / f"{name}.densepose.mp4", drawn, options=options)


def write_picture(folder: Path, name: str, number: int, *, width: int = 64, height: int = 64) -> None:
    """``NAME.png`` and ``NAME.densepose.png``."""
    Image.fromarray(numbered_frame(number, width=width, height=height)).save(folder / f"{name}.png")
    labels = shifted_labels(number, width=width, height=height)
    Image.fromarray(colourise(labels)).save(folder / f"{name}.densepose.png")


def standing_points(count: int, *, width: int, height: int, people: int = 1) -> Keypoints:
    """A figure of 18 points, in every frame a little further right."""
    share = [
        *((0.50, 0.12), (0.50, 0.25), (0.38, 0.27), (0.30, 0.42), (0.28, 0.56), (0.62, 0.27), (0.70, 0.42)),
        *((0.72, 0.56), (0.42, 0.56), (0.41, 0.74), (0.40, 0.90), (0.58, 0.56), (0.59, 0.74), (0.60, 0.90)),
        *((0.47, 0.10), (0.53, 0.10), (0.44, 0.11), (0.56, 0.11)),
    ]
    points = np.ones((count, people, 18, 3), np.float32)
    points[..., :2] = np.array(share) * (width, height)
    points[..., 0] += np.arange(count)[:, None, None]
    return Keypoints(points, width, height)


def write_points(folder: Path, name: str, count: int, *, width: int = 64, height: int = 64) -> None:
    """``NAME.keypoints.npz``."""
    write_keypoints(folder / f"{name}.keypoints.npz", standing_points(count, width=width, height=height))
