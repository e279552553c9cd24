"""What chance decides about training samples: distributions against what they should be by calculation."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from training.data.draws import (
    Stream,
    clip_frames,
    clip_interval,
    double_beta_pair,
    generator,
    joint_kind,
    reference_frame,
    sample_generator,
    step_generator,
)

DRAWS = 20_000


def pairs(num_frames: int, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([double_beta_pair(rng, num_frames) for _ in range(DRAWS)])


def exact_pair_distribution(num_frames: int) -> np.ndarray:
    """Of (reference, target), by the distribution functions x^2 of Beta(2, 1) and 1-(1-x)^2 of Beta(1, 2)."""
    edges = np.arange(num_frames + 1) / num_frames
    late, early = np.diff(edges**2), np.diff(1 - (1 - edges) ** 2)
    both = np.outer(early, late)
    return np.triu(both) + np.triu(both.T, 1)


def test_gap_of_the_pair_is_two_fifths_of_the_video():
    """E|x - y| is the integral of F(1-G) + G(1-F): 2/5 for Beta(2, 1) and Beta(1, 2), 1/3 for uniform."""
    gaps = np.diff(pairs(1000)).ravel() / 1000
    error = gaps.std() / np.sqrt(DRAWS)
    assert abs(gaps.mean() - 0.4) < 4 * error
    assert gaps.mean() - 1 / 3 > 20 * error
    assert gaps.min() < 0.01 and gaps.max() > 0.95


def test_every_pair_comes_as_often_as_calculated():
    exact = exact_pair_distribution(6)
    assert exact.sum() == pytest.approx(1)
    counts = np.zeros((6, 6))
    np.add.at(counts, tuple(pairs(6).T), 1)
    assert (counts[exact == 0] == 0).all(), "the reference is never the later frame"
    expected = exact[exact > 0] * DRAWS
    chi_square = ((counts[exact > 0] - expected) ** 2 / expected).sum()
    assert chi_square < 45  # 20 degrees of freedom: 45 is passed once in 900 times


def test_pair_of_a_single_frame_is_that_frame_twice():
    assert set(map(tuple, pairs(1))) == {(0, 0)}


def test_clip_is_consecutive_and_starts_anywhere():
    rng = np.random.default_rng(0)
    clips = [clip_frames(rng, 70, length=16, interval=4) for _ in range(400)]
    assert all((np.diff(clip) == 4).all() and len(clip) == 16 for clip in clips)
    assert {int(clip[0]) for clip in clips} == set(range(10))
    assert max(clip[-1] for clip in clips) == 69


@pytest.mark.parametrize(("num_frames", "interval"), [(61, 4), (60, 3), (46, 3), (31, 2), (16, 1)])
def test_interval_shrinks_in_short_videos(num_frames, interval):
    assert clip_interval(num_frames, length=16, interval=4) == interval
    clip = clip_frames(np.random.default_rng(0), num_frames, length=16, interval=4)
    assert (np.diff(clip) == interval).all() and clip[0] >= 0 and clip[-1] < num_frames


def test_too_short_video_is_refused_and_a_clip_of_one_frame_fits_anything():
    assert clip_interval(15, length=16, interval=4) == 0
    with pytest.raises(ValueError, match="16 frames do not fit"):
        clip_frames(np.random.default_rng(0), 15, length=16, interval=4)
    rng = np.random.default_rng(0)
    assert {int(clip_frames(rng, 3, length=1, interval=4)[0]) for _ in range(50)} == {0, 1, 2}


def test_reference_is_uniform():
    rng = np.random.default_rng(0)
    counts = Counter(reference_frame(rng, 5) for _ in range(5000))
    assert set(counts) == set(range(5))
    assert all(abs(count - 1000) < 130 for count in counts.values())


@pytest.mark.parametrize(("image", "frame"), [(0.2, 0.0), (0.2, 0.16), (0.0, 0.0)])
def test_joint_kinds_come_with_their_probabilities(image, frame):
    rng = np.random.default_rng(0)
    counts = Counter(joint_kind(rng, image_probability=image, frame_probability=frame) for _ in range(10_000))
    assert abs(counts["image"] / 10_000 - image) < 0.017
    assert abs(counts["frame"] / 10_000 - frame) < 0.017
    assert abs(counts["clip"] / 10_000 - (1 - image - frame)) < 0.02


def test_impossible_probabilities_are_refused():
    with pytest.raises(ValueError, match="probabilities"):
        joint_kind(np.random.default_rng(0), image_probability=0.7, frame_probability=0.4)


def test_numbers_depend_on_seed_step_and_place_in_the_batch_only():
    first = sample_generator(1, 2, 3).random(4)
    assert (first == sample_generator(1, 2, 3).random(4)).all()
    others = [sample_generator(*key).random(4) for key in ((1, 2, 4), (1, 3, 3), (2, 2, 3))]
    others.append(step_generator(1, 2).random(4))
    assert all((first != other).all() for other in others)


def test_what_a_step_is_of_says_nothing_of_its_samples():
    """With one stream for a step and for its first sample only some of the frames would be seen.

    With the probabilities of `paper_ted` and a video of 300 frames.
    """
    seen: dict[str, list[int]] = {"clip": [], "frame": []}
    for step in range(4000):
        kind = joint_kind(step_generator(0, step), image_probability=0.2, frame_probability=0.16)
        if kind == "clip":
            seen[kind].append(int(clip_frames(sample_generator(0, step, 0), 300, length=16, interval=4)[0]))
        elif kind == "frame":
            seen[kind].append(reference_frame(sample_generator(0, step, 0), 300))
    for kind, largest in (("clip", 239), ("frame", 299)):
        eighths = np.bincount(np.array(seen[kind]) * 8 // (largest + 1), minlength=8)
        assert (eighths > 0.7 * len(seen[kind]) / 8).all(), kind


def test_streams_are_told_apart_whatever_is_left_out():
    keys = [(1, 2), (1, 2, 0), (1, 2, 0, 0), (1, 2, 1), (1, 2, 0, 1), (2, 1)]
    first = {(stream, key): generator(stream, *key).integers(2**60) for stream in Stream for key in keys}
    assert len(set(first.values())) == len(Stream) * (len(keys) - 2)  # what is left out is 0


def dependence(first: list[float], second: list[float]) -> float:
    """Chi-square of 8 x 8 cells against independence of two series of numbers in 0..1; 49 on average."""
    counts = np.histogram2d(first, second, bins=8, range=[[0, 1], [0, 1]])[0]
    expected = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((Stream.STEP, 0), (Stream.SAMPLE, 0)),  # these were one stream
        *(((one, 0), (other, 0)) for one in Stream for other in Stream if one < other and one > 1),
        ((Stream.SAMPLE, 0), (Stream.SAMPLE, 1)),  # of the batch
        ((Stream.NOISE, 0), (Stream.NOISE, 7)),
        ((Stream.SAMPLE, 0, 0), (Stream.SAMPLE, 0, 1)),  # drawn again
        ((Stream.SAMPLE, 1, 0), (Stream.SAMPLE, 0, 1)),
    ],
)
def test_streams_are_independent_in_every_step(one, other):
    """The joint distribution of two streams' first numbers, over the steps of a run; and of a step and the
    next one."""
    steps = range(3000)
    drawn = [[generator(stream, 5, step, *key).random() for step in steps] for stream, *key in (one, other)]
    # 49 degrees of freedom: 100 is passed once in 40,000 times.
    assert dependence(*drawn) < 100
    assert dependence(drawn[0][1:], drawn[1][:-1]) < 100


def test_dependence_is_seen():
    """The fault that the streams are there for: numpy fills up short seeds with zeros."""
    old = [[np.random.default_rng([5, step, *key]).random() for step in range(1000)] for key in ((), (0,))]
    assert dependence(*old) > 1000
