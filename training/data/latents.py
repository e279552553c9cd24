"""Latents of a fixed set of pictures, computed once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from training.data.dancers import DancerVideos
from training.data.tensors import to_images

log = logging.getLogger(__name__)
LOGGED = 8192  # images between two lines of progress


def encode_all(
    data: DancerVideos,
    path: Path,
    encode: Callable[[torch.Tensor], torch.Tensor],
    *,
    batch_size: int = 8,
) -> np.ndarray:
    """Latents of every image, computed once: float16 ``I K C h w`` at ``path``, memory-mapped.

    Args:
        data: the images.
        path: ``.npy`` file to make or reuse.
        encode: images ``B 3 H W`` -> latents ``B C h w``.
        batch_size: images at once; few, so that a CPU keeps them in its caches.
    """
    count, per = data.rgb.shape[:2]
    if not path.exists() or len(np.load(path, mmap_mode="r")) != count * per:  # of fewer identities, say
        path.parent.mkdir(parents=True, exist_ok=True)
        flat = data.rgb.reshape(count * per, *data.rgb.shape[2:])
        first = encode(to_images(flat[:1]))
        temporary = path.with_suffix(".tmp")
        latents = open_memmap(temporary, mode="w+", dtype=np.float16, shape=(count * per, *first.shape[1:]))
        for i in range(0, len(flat), batch_size):
            latents[i : i + batch_size] = encode(to_images(flat[i : i + batch_size])).numpy()
            if i % LOGGED == 0:
                log.info("encoded %d of %d images", i, len(flat))
        latents.flush()
        del latents
        os.replace(temporary, path)
    latents = np.load(path, mmap_mode="r")
    return latents.reshape(*data.rgb.shape[:2], *latents.shape[1:])
