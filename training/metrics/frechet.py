"""Frechet distances (FID, FID-VID, FVD) on the features of a network that the user brings as a file.

No weights come with the program. A figure is worth nothing without its network, clip length and format, so
the result names them. Letters in shape comments: ``N`` samples, ``D`` features, ``F`` frames, ``H W`` pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from magicanimate.errors import InputError

_AT_ONCE = 8


@dataclass(frozen=True)
class FeatureNetwork:
    """A TorchScript file that turns pictures or clips into feature vectors.

    Attributes:
        path: the file.
        clip_length: frames a clip; 1 for a network of single pictures.
        arguments: keyword arguments of the network.
        name: what to call it in results.
    """

    path: Path
    clip_length: int = 1
    arguments: dict = field(default_factory=dict)
    name: str = "network"

    def load(self) -> torch.jit.ScriptModule:
        """Open the file.

        Raises:
            InputError: it is missing or not TorchScript.
        """
        if not Path(self.path).is_file():
            raise InputError(
                f"The feature network {self.path} is missing; FID and FVD need the TorchScript file of "
                "Inception or I3D, which does not come with this program."
            )
        try:
            return torch.jit.load(str(self.path), map_location="cpu").eval()
        except RuntimeError as error:
            raise InputError(f"The feature network {self.path} is not a TorchScript file.") from error


def inception(path: Path) -> FeatureNetwork:
    """The Inception network of StyleGAN's FID (``inception-2015-12-05.pt``): pictures of 0..255."""
    return FeatureNetwork(path, 1, {"return_features": True}, "Inception (2015-12-05)")


def i3d(path: Path, *, clip_length: int = 16) -> FeatureNetwork:
    """The I3D network of StyleGAN-V's FVD (``i3d_torchscript.pt``): clips of 0..255, resized by itself."""
    arguments = {"rescale": True, "resize": True, "return_features": True}
    return FeatureNetwork(path, clip_length, arguments, "I3D (Kinetics-400)")


@dataclass(frozen=True)
class FrechetResult:
    """A distance and what it depends on.

    Attributes:
        distance: 0 for equal distributions.
        samples: pictures or clips on each side.
        clip_length: frames of a clip, 1 for pictures.
        format: of the frames, as the caller says ("128x128 PNG").
        network: name, file name and SHA-256 of the file.
    """

    distance: float
    samples: tuple[int, int]
    clip_length: int
    format: str
    network: str


def frechet(
    truth: Iterable[np.ndarray], result: Iterable[np.ndarray], network: FeatureNetwork, *, format: str
) -> FrechetResult:
    """Distance between two sets of videos.

    Videos are cut into clips of the network's length without overlap; frames left over are not used.

    Args:
        truth, result: videos uint8 ``F H W 3``; the two sets need not be of one size.
        network: `inception` or `i3d`.
        format: how the frames were stored, to be kept with the figure.

    Raises:
        InputError: no network, or too few clips for a covariance.
    """
    module = network.load()
    features = [_features(module, network, videos) for videos in (truth, result)]
    if min(map(len, features)) < 2:
        raise InputError(
            f"A Frechet distance needs two or more clips of {network.clip_length} frames on each side; "
            f"there are {len(features[0])} and {len(features[1])}."
        )
    digest = hashlib.sha256(Path(network.path).read_bytes()).hexdigest()
    return FrechetResult(
        distance=frechet_distance(*features),
        samples=(len(features[0]), len(features[1])),
        clip_length=network.clip_length,
        format=format,
        network=f"{network.name}, {Path(network.path).name}, sha256 {digest}",
    )


def _features(
    module: torch.jit.ScriptModule, network: FeatureNetwork, videos: Iterable[np.ndarray]
) -> np.ndarray:
    """Features float64 ``N D`` of all clips."""
    found, length = [], network.clip_length
    for video in videos:
        count = len(video) // length
        frames = torch.from_numpy(np.array(video[: count * length])).float()
        clips = frames.reshape(count, length, *frames.shape[1:]).permute(0, 4, 1, 2, 3)  # N 3 F H W
        if length == 1:
            clips = clips[:, :, 0]
        with torch.inference_mode():
            found += [
                module(batch, **network.arguments).flatten(1) for batch in clips.split(_AT_ONCE) if count
            ]
    return torch.cat(found).double().numpy() if found else np.empty((0, 1))


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Frechet distance between Gaussians fitted to two sets of features ``N D``.

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``. The trace of the root is that of the symmetric matrix
    ``C1^(1/2) C2 C1^(1/2)``, whose eigenvalues are real and not negative, so that singular covariances (fewer
    samples than features) do no harm.

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
