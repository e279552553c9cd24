"""Fréchet distances (FID, FID-VID, FVD) between the features of images or clips.

The networks are in `training.evaluation.networks`. A distance means nothing without its network, clip length
and video format, so results name them. Letters in shape comments: ``N`` samples, ``D`` features, ``F``
frames, ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from magicanimate.errors import InputError

_AT_ONCE = 8


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that maps images or clips to feature vectors.

    Attributes:
        name: its name in results, with file and hash.
        clip_length: frames of a clip; 1 for a network of single images.
        features: clips, uint8 ``N F H W 3``, at most 8 at a time -> features, float ``N D``.
    """

    name: str
    clip_length: int
    features: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class FrechetResult:
    """A Fréchet distance and what it depends on.

    Attributes:
        distance: 0 for equal distributions.
        samples: numbers of images or clips in the two sets.
        clip_length: frames of a clip; 1 for images.
        format: format of the frames, such as "128x128 PNG".
        network: name of the network.
    """

    distance: float
    samples: tuple[int, int]
    clip_length: int
    format: str
    network: str


class Frechet:
    """Collects features of two sets of videos, one video at a time, and computes the distance of the sets.

    Videos are cut into clips of the network's length without overlap; remaining frames are not used.

    Args:
        network: the feature network.
        format: how the frames were stored, to be named in the result.
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
    """Features of the clips of a video: arrays ``N D`` of at most 8 clips each."""
    length = network.clip_length
    count = len(video) // length
    clips = np.asarray(video[: count * length]).reshape(count, length, *video.shape[1:])
    return [network.features(clips[i : i + _AT_ONCE]) for i in range(0, count, _AT_ONCE)]


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of features ``N D``.

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``. The trace of the root is that of the symmetric matrix
    ``C1^(1/2) C2 C1^(1/2)``, whose eigenvalues are real and not negative, so that singular covariances (fewer
    samples than features) do no harm. The libraries (torch-fidelity, torchmetrics, cd-fvd) take the root of
    ``C1 C2`` itself, which is not symmetric. When it is singular, rounding gives it negative and complex
    eigenvalues, and cd-fvd's method fails with SciPy 1.18. When it is not, all agree (tests).

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (NeurIPS 2017), equation 6.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    covariances = [np.atleast_2d(np.cov(features, rowvar=False)) for features in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    mixed = root @ covariances[1] @ root
    # Symmetric by construction; the mean removes what rounding has added.
    mixed = np.linalg.eigvalsh((mixed + mixed.T) / 2)
    gap = first.mean(0) - second.mean(0)
    traces = sum(float(np.trace(c)) for c in covariances)
    return max(0.0, float(gap @ gap) + traces - 2 * float(np.sqrt(np.maximum(mixed, 0)).sum()))
