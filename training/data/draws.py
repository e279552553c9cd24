"""All random decisions about a sample, as pure functions of a numpy Generator.

Sample ``k`` of the global batch of step ``s`` draws all its numbers from ``sample_generator(seed, s, k)``,
and what a whole step shares comes from ``step_generator(seed, s)``. So any number of processes sees the same
batches, and a resumed run those of an uninterrupted one. Everything else that is drawn has a stream of its
own.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

import numpy as np

Kind = Literal["clip", "frame", "image"]


class Stream(IntEnum):
    """Purposes of random numbers, whose streams are independent of each other.

    numpy pads short seeds with zeros, so ``[seed, step]`` and ``[seed, step, 0]`` would be the same stream.
    Therefore every seed here has the same length and begins with the number of its stream.
    """

    STEP = 1
    SAMPLE = 2
    NOISE = 3
    DISTURBANCE = 4
    CROP = 5
    SAMPLING_STEP = 6


def generator(stream: Stream, seed: int, step: int, k: int = 0, attempt: int = 0) -> np.random.Generator:
    """The generator of one stream for sample ``k`` of a step.

    ``attempt`` counts how often the sample was drawn before, as after an unreadable file.
    """
    return np.random.default_rng([stream, seed, step, k, attempt])


def step_generator(seed: int, step: int) -> np.random.Generator:
    """The generator of what a whole step shares."""
    return generator(Stream.STEP, seed, step)


def sample_generator(seed: int, step: int, k: int, *, attempt: int = 0) -> np.random.Generator:
    """The generator of sample ``k`` of a step's global batch."""
    return generator(Stream.SAMPLE, seed, step, k, attempt)


def double_beta_pair(rng: np.random.Generator, num_frames: int) -> tuple[int, int]:
    """Draw the positions of reference and target, for the first stage (supplement, section 3).

    One position comes from Beta(2, 1), which favours the end of the video, the other from Beta(1, 2), which
    favours its beginning; the earlier one becomes the reference. DIGAN (Yu et al., ICLR 2022) and PV3D (Xu et
    al., ICLR 2023) choose the two frames for their video discriminators like this. On average the two lie 2/5
    of the video apart, two uniform draws 1/3: reference and target differ more in pose, and still any
    distance occurs, 0 included.

    Returns:
        reference, target: 0 <= reference <= target < num_frames.
    """
    # Truncation, so that every frame covers an equal part of 0..1.
    late = int(rng.beta(2, 1) * num_frames)
    early = int(rng.beta(1, 2) * num_frames)
    # Beta draws lie below 1, but not always once rounded to a double and multiplied.
    late, early = min(late, num_frames - 1), min(early, num_frames - 1)
    return min(early, late), max(early, late)


def clip_interval(num_frames: int, *, length: int, interval: int) -> int:
    """The largest interval up to ``interval`` at which ``length`` frames fit into a video; 0 if none fits."""
    if length == 1:
        return interval if num_frames else 0
    # The last frame is (length - 1) intervals after the first.
    return min(interval, max(0, num_frames - 1) // (length - 1))


def clip_frames(rng: np.random.Generator, num_frames: int, *, length: int, interval: int) -> np.ndarray:
    """Draw a clip of ``length`` frames, ``interval`` apart (16 and 4 in the paper), with a uniform start.

    In a video that is too short the interval is reduced.

    Returns:
        int64 (length,), ascending.

    Raises:
        ValueError: the video has fewer than ``length`` frames.
    """
    step = clip_interval(num_frames, length=length, interval=interval)
    if step == 0:
        raise ValueError(f"{length} frames do not fit into a video of {num_frames}")
    # All starts from which the clip still fits, with equal probability.
    first = int(rng.integers(num_frames - (length - 1) * step))
    return first + step * np.arange(length)


def reference_frame(rng: np.random.Generator, num_frames: int) -> int:
    """Draw the reference of a clip, uniformly from its video (supplement, section 3, second stage)."""
    return int(rng.integers(num_frames))


def joint_kind(rng: np.random.Generator, *, image_probability: float, frame_probability: float) -> Kind:
    """Draw what a step of the second stage trains on (image-video joint training, paper section 3.5).

    The paper draws r from U(0, 1) and compares it with two thresholds: up to tau_1 it takes an image of the
    image set, which is its own reference; up to tau_2 a frame of a video, whose reference is another frame;
    above that a clip. So ``image_probability`` is tau_1 and ``frame_probability`` is tau_2 - tau_1 (TikTok:
    0.2 and 0; TED talks: 0.2 and 0.16).

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
