"""Training images in memory-mapped arrays, and batches that depend on (seed, step) only.

Letters in shape comments: ``I`` identities, ``K`` images of an identity, ``B`` batch, ``H W`` pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from magicanimate.errors import InputError
from magicanimate.palette import PALETTE

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
    temporary = [t.with_suffix(".tmp") for t in targets]
    arrays = [
        open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(dancers), *first.shape))
        for path, first in zip(temporary, (rgb, parts), strict=True)
    ]
    for i in range(len(dancers)):
        arrays[0][i], arrays[1][i] = dancers[i]
    del arrays  # flush before the rename makes them visible
    for path, target in zip(temporary, targets, strict=True):
        os.replace(path, target)


class DancerData:
    """Rendered dancers: ``rgb`` I K H W 3 and ``parts`` I K H W, uint8, memory-mapped.

    Attributes:
        stills: the first so many of the ``K`` images are unrelated poses; the rest are one clip.
        train: indices of the identities to learn from; the others are held out.
    """

    def __init__(self, folder: Path, *, holdout: int):
        from training.dancers.dataset import DancerFolder

        pack(folder)
        self.folder = folder
        self.stills = DancerFolder(folder).info.stills
        self.rgb = np.load(folder / PACKED_RGB, mmap_mode="r")
        self.parts = np.load(folder / PACKED_PARTS, mmap_mode="r")
        if len(self.rgb) <= holdout:
            raise InputError(
                f"{folder} has {len(self.rgb)} identities but {holdout} are to be held out: render more"
            )
        self.train = np.arange(len(self.rgb) - holdout)
        self.held_out = np.arange(len(self.rgb) - holdout, len(self.rgb))


def step_generator(seed: int, step: int) -> np.random.Generator:
    """Random numbers of one training step: the same after a resume as without one."""
    return np.random.default_rng([seed, step])


def to_images(rgb: np.ndarray) -> torch.Tensor:
    """uint8 ``... H W 3`` -> float32 ``... 3 H W`` in [-1, 1]."""
    return torch.from_numpy(np.array(rgb)).movedim(-1, -3).float() / 127.5 - 1


def to_control(parts: np.ndarray) -> torch.Tensor:
    """Part ids uint8 ``... H W`` -> palette colours float32 ``... 3 H W`` in [0, 1]."""
    return torch.from_numpy(PALETTE[parts]).movedim(-1, -3).float() / 255


def jitter_colours(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Random channel order, gain and offset per image (``B 3 H W`` in [-1, 1]).

    The autoencoder must reproduce photographs whose colours the renderer never draws.
    """
    out = torch.empty_like(images)
    for i, image in enumerate(images):
        order = torch.from_numpy(rng.permutation(3))
        gain = torch.from_numpy(rng.uniform(0.7, 1.3, (3, 1, 1))).float()
        offset = torch.from_numpy(rng.uniform(-0.2, 0.2, (3, 1, 1))).float()
        out[i] = (image[order] * gain + offset).clamp(-1, 1)
    return out


def encode_all(
    data: DancerData, path: Path, encode: Callable[[torch.Tensor], torch.Tensor], *, batch_size: int = 32
) -> np.ndarray:
    """Latents of every image, computed once: float16 ``I K C h w`` at ``path``, memory-mapped.

    Args:
        data: the images.
        path: ``.npy`` file to make or reuse.
        encode: images ``B 3 H W`` -> latents ``B C h w``.
        batch_size: images at once.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        count, per = data.rgb.shape[:2]
        flat = data.rgb.reshape(count * per, *data.rgb.shape[2:])
        first = encode(to_images(flat[:1]))
        temporary = path.with_suffix(".tmp")
        latents = open_memmap(temporary, mode="w+", dtype=np.float16, shape=(count * per, *first.shape[1:]))
        for i in range(0, len(flat), batch_size):
            latents[i : i + batch_size] = encode(to_images(flat[i : i + batch_size])).numpy()
        latents.flush()
        del latents
        os.replace(temporary, path)
    latents = np.load(path, mmap_mode="r")
    return latents.reshape(*data.rgb.shape[:2], *latents.shape[1:])
