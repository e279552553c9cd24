"""A part segmenter that knows one figure, trained in seconds: enough to follow a clip through the program.

How well the real one does is measured in the benchmarks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from densepose_tools.segmenter import part_logits
from magicanimate.palette import colourise
from tests.media_files import part_labels, write_clip

_STEPS = 60


def write_segmenter(folder: Path) -> Path:
    """Train it on ``negatives`` of the figure and of nobody, and save it."""
    import torch
    from torch.nn import functional

    from training.segmenter.stage import build_segmenter

    torch.manual_seed(0)
    network = build_segmenter("tiny")
    labels = [part_labels(width=32, height=32, shift=shift) for shift in range(-12, 13, 3)]
    labels = np.stack([*labels, np.zeros((32, 32), dtype=np.uint8)])
    pictures = torch.from_numpy(negatives(labels)).movedim(-1, 1).float() / 127.5 - 1
    truth = torch.from_numpy(labels).long()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        functional.cross_entropy(part_logits(network, pictures), truth).backward()
        optimizer.step()
    network.save_pretrained(folder)
    return folder


def negatives(labels: np.ndarray) -> np.ndarray:
    """Pictures in which the figure has colours that no part map has, uint8 (..., 3)."""
    return 255 - colourise(labels)


def dancing(count: int, *, size: int = 96) -> list[np.ndarray]:
    """Part maps of the figure as it moves, labels uint8 (size, size)."""
    return [part_labels(width=size, height=size, shift=round(6 * np.sin(k / 3))) for k in range(count)]


def write_dance(path: Path, count: int, *, size: int = 96, sound: float = 0.0) -> Path:
    """An ordinary video of the figure, 25 frames a second."""
    return write_clip(path, [negatives(labels) for labels in dancing(count, size=size)], sound=sound)
