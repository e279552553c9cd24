"""Augmentation of rendered pictures and their part maps, strong enough to leave the renderer's look behind.

Letters in shape comments: ``B`` pictures, ``H W`` pixels.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from magicanimate.palette import FLIP_PERMUTATION

_BLUR_RADIUS = 4


def augment(
    rgb: np.ndarray, parts: np.ndarray, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change geometry, colours and sharpness at random; the labels follow.

    Args:
        rgb: uint8 ``B H W 3``.
        parts: uint8 ``B H W``, 0..24.
        rng: all chance comes from it.

    Returns:
        Images float32 ``B 3 H W`` in [-1, 1] and labels int64 ``B H W``.
    """
    mirrored = rng.random(len(rgb)) < 0.5
    rgb = np.where(mirrored[:, None, None, None], rgb[:, :, ::-1], rgb)
    parts = np.where(mirrored[:, None, None], FLIP_PERMUTATION[parts[:, :, ::-1]], parts)
    images = torch.from_numpy(rgb).movedim(-1, 1).float() / 255
    labels = torch.from_numpy(parts).long()
    images, labels = _transform(images, labels, rng)
    images = _recolour(images, rng)
    images, labels = _hide(images, labels, rng)
    images = _soften(images, rng)
    return _compress(images, rng) * 2 - 1, labels


def _uniform(rng: np.random.Generator, low: float, high: float, shape) -> torch.Tensor:
    return torch.from_numpy(rng.uniform(low, high, shape)).float()


def _chosen(rng: np.random.Generator, count: int, probability: float) -> np.ndarray:
    """Indices of the pictures something happens to."""
    return np.flatnonzero(rng.random(count) < probability)


def _transform(
    images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Zoom, stretch, turn and shift; what comes from outside the picture is a plain colour, label 0."""
    count = len(images)
    zoom = torch.exp(_uniform(rng, np.log(0.7), np.log(1.8), count))
    stretch = torch.exp(_uniform(rng, -0.12, 0.12, count))
    angle = _uniform(rng, -0.25, 0.25, count)
    shift = _uniform(rng, -0.3, 0.3, (count, 2))
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    rows = torch.stack([cos * stretch, -sin, shift[:, 0], sin, cos / stretch, shift[:, 1]], 1)
    grid = functional.affine_grid(rows.view(count, 2, 3), list(images.shape), align_corners=False)
    inside = (grid.abs() <= 1).all(-1)
    colour = _uniform(rng, 0, 1, (count, 3, 1, 1))
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    images = torch.where(inside[:, None], moved, colour)
    ids = functional.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
    return images, torch.where(inside, ids[:, 0].long(), 0)


def _recolour(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Gain, offset, gamma and saturation; now and then the channels change places."""
    count = len(images)
    for i in _chosen(rng, count, 0.15):
        images[i] = images[i][rng.permutation(3)]
    gain = _uniform(rng, 0.6, 1.4, (count, 1, 1, 1)) * _uniform(rng, 0.85, 1.15, (count, 3, 1, 1))
    gamma = torch.exp(_uniform(rng, -0.4, 0.4, (count, 1, 1, 1)))
    images = (images * gain + _uniform(rng, -0.12, 0.12, (count, 1, 1, 1))).clamp(1e-3, 1) ** gamma
    grey = images.mean(1, keepdim=True)
    return (grey + (images - grey) * _uniform(rng, 0, 1.4, (count, 1, 1, 1))).clamp(0, 1)


def _hide(
    images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put a box of colour or of another picture in front; things in front of a body are background."""
    size = images.shape[-1]
    others, other_labels = images.roll(1, 0), labels.roll(1, 0)
    for i in _chosen(rng, len(images), 0.4):
        height, width = rng.integers(size // 12, size // 3, 2)
        y, x = rng.integers(0, size - height), rng.integers(0, size - width)
        box = (slice(y, y + height), slice(x, x + width))
        if rng.random() < 0.5:
            images[i][:, box[0], box[1]] = _uniform(rng, 0, 1, (3, 1, 1))
            labels[i][box] = 0
        else:
            images[i][:, box[0], box[1]] = others[i][:, box[0], box[1]]
            labels[i][box] = other_labels[i][box]
    return images, labels


def _soften(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blur some, take the fine detail out of others, and add noise."""
    count, size = len(images), images.shape[-1]
    sigma = _uniform(rng, 0.4, 1.8, (count, 1)) * torch.from_numpy(rng.random((count, 1)) < 0.5) + 1e-3
    offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1.0)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None]
    flat = functional.pad(images, (_BLUR_RADIUS,) * 4, mode="replicate").reshape(
        1, 3 * count, size + 2 * _BLUR_RADIUS, -1
    )
    flat = functional.conv2d(flat, kernel[:, :, None], groups=3 * count)
    flat = functional.conv2d(flat, kernel[..., None], groups=3 * count)
    images = flat.reshape(images.shape)
    for i in _chosen(rng, count, 0.2):
        small = int(size * rng.uniform(0.35, 0.8))
        coarse = functional.interpolate(images[i : i + 1], size=small, mode="area")
        images[i] = functional.interpolate(coarse, size=size, mode="bilinear")[0]
    level = _uniform(rng, 0, 0.05, (count, 1, 1, 1)) * torch.from_numpy(rng.random((count, 1, 1, 1)) < 0.5)
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32))
    return (images + level * noise).clamp(0, 1)


def _compress(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """JPEG some of the pictures."""
    for i in _chosen(rng, len(images), 0.3):
        pixels = (images[i] * 255).round().to(torch.uint8).movedim(0, -1).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(25, 90)))
        images[i] = torch.from_numpy(np.array(Image.open(file))).movedim(-1, 0).float() / 255
    return images
