"""Everything that chance decides about a sample, as pure functions of a numpy Generator.

Sample ``k`` of the global batch of step ``s`` takes all its numbers from ``sample_generator(seed, s, k)``,
and what a whole batch shares from ``step_generator(seed, s)``. So one process and many see the same batches,
and a resumed run sees those of an uninterrupted one. Whatever else is drawn has a stream of its own.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

import numpy as np

Kind = Literal["clip", "frame", "image"]


class Stream(IntEnum):
    """What random numbers are for. The streams are independent of each other.

    numpy fills up short seeds with zeros, so that ``[seed, step]`` and ``[seed, step, 0]`` would be one
    stream: every seed here has the same length, and begins with the stream's number.
    """

    STEP = 1
    SAMPLE = 2
    NOISE = 3
    DISTURBANCE = 4
    CROP = 5
    SAMPLING_STEP = 6


def generator(stream: Stream, seed: int, step: int, k: int = 0, attempt: int = 0) -> np.random.Generator:
    """Random numbers for sample ``k`` of a step, the same after a resume as without one.

    ``attempt`` counts how often the sample was drawn before.
    """
    return np.random.default_rng([stream, seed, step, k, attempt])


def step_generator(seed: int, step: int) -> np.random.Generator:
    """Random numbers of what a whole step shares."""
    return generator(Stream.STEP, seed, step)


def sample_generator(seed: int, step: int, k: int, *, attempt: int = 0) -> np.random.Generator:
    """Random numbers of sample ``k`` of the global batch of a step."""
    return generator(Stream.SAMPLE, seed, step, k, attempt)


def double_beta_pair(rng: np.random.Generator, num_frames: int) -> tuple[int, int]:
    """Positions of reference and target in a video (MagicAnimate supplement, section 3, first stage).

    One moment comes from Beta(2, 1), which favours the end, the other from Beta(1, 2), which favours the
    beginning; each is multiplied by the number of frames and rounded down; the earlier one comes first. This
    is how DIGAN (Yu et al., ICLR 2022) and, after it, PV3D (Xu et al., ICLR 2023) choose the two frames for
    their video discriminators. As a share of the video the two lie 2/5 apart on average, two uniform
    ones 1/3: reference and target differ more in pose than with uniform draws, and all gaps still occur,
    none at all included.

    Returns:
        reference, target: 0 <= reference <= target < num_frames.
    """
    late = int(rng.beta(2, 1) * num_frames)
    early = int(rng.beta(1, 2) * num_frames)
    # Beta draws lie below 1, but not always once rounded to a double and multiplied.
    late, early = min(late, num_frames - 1), min(early, num_frames - 1)
    return min(early, late), max(early, late)


def clip_interval(num_frames: int, *, length: int, interval: int) -> int:
    """The interval at which ``length`` frames fit into a video: as asked, or smaller; 0 if none fits."""
    if length == 1:
        return interval if num_frames else 0
    return min(interval, max(0, num_frames - 1) // (length - 1))


def clip_frames(rng: np.random.Generator, num_frames: int, *, length: int, interval: int) -> np.ndarray:
    """``length`` frames ``interval`` apart (16 and 4 in the paper), from a uniform start.

    In a video too short for that the interval shrinks.

    Returns:
        int64 (length,), ascending.

    Raises:
        ValueError: the video has fewer than ``length`` frames.
    """
    step = clip_interval(num_frames, length=length, interval=interval)
    if step == 0:
        raise ValueError(f"{length} frames do not fit into a video of {num_frames}")
    first = int(rng.integers(num_frames - (length - 1) * step))
    return first + step * np.arange(length)


def reference_frame(rng: np.random.Generator, num_frames: int) -> int:
    """Position of the reference for a clip: uniform over the video (supplement, section 3, second stage)."""
    return int(rng.integers(num_frames))


def joint_kind(rng: np.random.Generator, *, image_probability: float, frame_probability: float) -> Kind:
    """What a step of the second stage learns from (image-video joint training, paper section 3.5).

    The paper draws r from U(0, 1) and compares it with two thresholds: r <= tau_1 is an image of the image
    set, which is its own reference; tau_1 <= r <= tau_2 is one frame of a video, its reference another one;
    r >= tau_2 is a clip. So the thresholds add up: ``image_probability`` is tau_1 and
    ``frame_probability`` is tau_2 - tau_1 (TikTok 0.2 and 0; TED-talks 0.2 and 0.16).

    Raises:
        ValueError: the probabilities are negative or add up to more than 1.
    """
    if min(image_probability, frame_probability) < 0 or image_probability + frame_probability > 1 + 1e-9:
        raise ValueError(
            f"{image_probability} and {frame_probability} are no probabilities of two of three kinds"
        )
    r = rng.random()
    if r < image_probability:
        return "image"
    return "frame" if r < image_probability + frame_probability else "clip"
