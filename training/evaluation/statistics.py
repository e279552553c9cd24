"""Uncertainty of means over test videos: bootstrap intervals, and a paired comparison of two reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from magicanimate.errors import InputError

RESAMPLES = 2000
_LEVEL = 95.0


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % confidence interval.

    Attributes:
        mean: mean over the videos that have a figure.
        low, high: ends of the percentile bootstrap interval, which is empty for a single video.
        videos: number of videos that have a figure.
    """

    mean: float
    low: float
    high: float
    videos: int

    def as_json(self) -> dict[str, float]:
        """The fields, rounded, for JSON."""
        return {name: round(value, 8) for name, value in asdict(self).items()}


def bootstrap(values: Sequence[float]) -> Mean | None:
    """Mean with a bootstrap interval; ``None`` if no value is finite.

    Whole videos are resampled, since the frames of a video are far from independent.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3.
    """
    known = np.array([value for value in values if math.isfinite(value)])
    if not known.size:
        return None
    rng = np.random.default_rng(0)
    # A fixed seed, so that a report can be reproduced exactly.
    means = known[rng.integers(len(known), size=(RESAMPLES, len(known)))].mean(axis=1)
    low, high = np.percentile(means, [(100 - _LEVEL) / 2, (100 + _LEVEL) / 2])
    return Mean(float(known.mean()), float(low), float(high), len(known))


def paired(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Compare two reports of one protocol on the same videos, metric by metric.

    Args:
        first, second: reports as `training.evaluation.run.evaluate` writes them.

    Returns:
        metric -> "difference" (second minus first, mean over videos); "low" and "high", its 95 % bootstrap
        interval; "p" of a two-sided sign-flip test (how often chance alone makes such a difference); and
        "videos".

    Raises:
        InputError: the reports are not of one protocol and the same videos.
    """
    if first["protocol"]["digest"] != second["protocol"]["digest"]:
        raise InputError(
            f"The two reports are of different protocols ({first['protocol']['name']}, "
            f"{second['protocol']['name']}), whose figures cannot be compared."
        )
    one, other = ({video["name"]: video["figures"] for video in run["videos"]} for run in (first, second))
    if one.keys() != other.keys():
        strange = min(one.keys() ^ other.keys())
        raise InputError(f"The two reports are of different videos; {strange} is in one of them only.")
    rng, found = np.random.default_rng(0), {}
    for metric in dict.fromkeys(key for figures in one.values() for key in figures):
        pairs = [(one[name].get(metric), other[name].get(metric)) for name in one]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        if not known:
            continue
        differences = np.array([b - a for a, b in known])
        interval = bootstrap(differences.tolist())
        flips = rng.choice([-1.0, 1.0], size=(RESAMPLES, len(differences)))
        # If there were no difference, the sign of each video's would be as good as random.
        by_chance = np.abs((flips * differences).mean(axis=1)) >= abs(interval.mean) - 1e-12
        found[metric] = {
            "difference": interval.mean,
            "low": interval.low,
            "high": interval.high,
            # Plus one: the data themselves are one of the possible sign patterns, so p is never 0.
            "p": float((1 + by_chance.sum()) / (1 + RESAMPLES)),
            "videos": len(known),
        }
    return found
