"""Frechet distances (FID, FID-VID, FVD) on what a network sees in pictures or clips.

No weights come with the program. A figure is worth nothing without its network, clip length and format, so
the result names them. Letters in shape comments: ``N`` samples, ``D`` features, ``F`` frames, ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from magicanimate.errors import InputError

_AT_ONCE = 8


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that turns pictures or clips into feature vectors.

    Attributes:
        name: what results call it, with file and hash.
        clip_length: frames a clip; 1 for a network of single pictures.
        features: clips, uint8 ``N F H W 3``, at most 8 at a time -> features, float ``N D``.
    """

    name: str
    clip_length: int
    features: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class FrechetResult:
    """A distance and what it depends on.

    Attributes:
        distance: 0 for equal distributions.
        samples: pictures or clips on each side.
        clip_length: frames of a clip, 1 for pictures.
        format: of the frames, as the caller says ("128x128 PNG").
        network: its name.
    """

    distance: float
    samples: tuple[int, int]
    clip_length: int
    format: str
    network: str


class Frechet:
    """Gathers what a network sees in two sets of videos, one video after the other, and tells their distance.

    Videos are cut into clips of the network's length without overlap; frames left over are not used.

    Args:
        network: see `training.evaluation.networks`.
        format: how the frames were stored, to be kept with the figure.
    """

    def __init__(self, network: FeatureNetwork, *, format: str):
        self.network, self.format = network, format
        self._found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])

    def add(self, truth: np.ndarray, result: np.ndarray) -> None:
        """Add a video to each set, uint8 ``F H W 3``; the two need not be of one size."""
        for video, found in zip((truth, result), self._found, strict=True):
            found += _features(self.network, video)

    def result(self) -> FrechetResult:
        """The distance between the two sets.

        Raises:
            InputError: too few clips for a covariance.
        """
        counts = tuple(sum(map(len, found)) for found in self._found)
        if min(counts) < 2:
            raise InputError(
                f"A Frechet distance needs two or more clips of {self.network.clip_length} frames on each "
                f"side; there are {counts[0]} and {counts[1]}."
            )
        return FrechetResult(
            distance=frechet_distance(*map(np.concatenate, self._found)),
            samples=counts,
            clip_length=self.network.clip_length,
            format=self.format,
            network=self.network.name,
        )


def _features(network: FeatureNetwork, video: np.ndarray) -> list[np.ndarray]:
    """Features ``N D`` of the clips of a video, so many at a time as the network takes."""
    length = network.clip_length
    count = len(video) // length
    clips = np.asarray(video[: count * length]).reshape(count, length, *video.shape[1:])
    return [network.features(clips[i : i + _AT_ONCE]) for i in range(0, count, _AT_ONCE)]


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Frechet distance between Gaussians fitted to two sets of features ``N D``.

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``. The trace of the root is that of the symmetric matrix
    ``C1^(1/2) C2 C1^(1/2)``, whose eigenvalues are real and not negative, so that singular covariances (fewer
    samples than features) do no harm. The libraries (torch-fidelity, torchmetrics, cd-fvd) take the root of
    ``C1 C2`` itself, which is not symmetric: rounding gives it negative and complex eigenvalues as soon as it
    is singular, and cd-fvd's way breaks with SciPy 1.18. Where it is not singular, all agree (tests).

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (NeurIPS 2017), equation 6.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    covariances = [np.atleast_2d(np.cov(features, rowvar=False)) for features in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    mixed = root @ covariances[1] @ root
    mixed = np.linalg.eigvalsh((mixed + mixed.T) / 2)
    gap = first.mean(0) - second.mean(0)
    traces = sum(float(np.trace(c)) for c in covariances)
    return max(0.0, float(gap @ gap) + traces - 2 * float(np.sqrt(np.maximum(mixed, 0)).sum()))
