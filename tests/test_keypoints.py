"""Keypoints and their drawing: colours where they should be, mirrored right, stored and read."""

from __future__ import annotations

import numpy as np
import pytest

from densepose_tools.keypoints import (
    BODY_COLOURS,
    BODY_LIMBS,
    BODY_POINTS,
    FLIP_PERMUTATION,
    HAND_BONES,
    Keypoints,
    draw_keypoints,
    flip_keypoints,
    read_keypoints,
    write_keypoints,
)
from magicanimate.errors import InputError
from tests.training_files import standing_points

SIZE = 512


def whole_body() -> np.ndarray:
    """One person of all 134 points: body, hands beside it, face dots in a row at the top."""
    points = np.ones((1, 134, 3))
    points[:, :18] = standing_points(1, width=SIZE, height=SIZE).points[0]
    points[:, 18:24, 2] = 0
    points[0, 24:92, :2] = np.stack([np.linspace(10, 500, 68), np.full(68, 12)], 1)
    for hand, x in ((slice(92, 113), 420), (slice(113, 134), 30)):
        k = np.arange(21)
        points[0, hand, :2] = np.stack([x + 16 * ((k + 3) // 4), 400 + 18 * ((k - 1) % 4)], 1)
        points[0, hand.start, :2] = x + 24, 380
    return points


def test_points_have_their_colour_and_limbs_a_darker_one():
    points = standing_points(1, width=SIZE, height=SIZE).points[0]
    drawn = draw_keypoints(points, width=SIZE, height=SIZE)
    assert drawn.shape == (SIZE, SIZE, 3) and drawn.dtype == np.uint8
    for number, (x, y, _) in enumerate(points[0]):
        assert tuple(drawn[round(float(y)), round(float(x))]) == BODY_COLOURS[number], BODY_POINTS[number]
    for limb, (a, b) in enumerate(BODY_LIMBS[:12]):
        x, y = (points[0, a, :2] + points[0, b, :2]) / 2
        assert tuple(drawn[round(float(y)), round(float(x))]) == tuple(
            int(0.6 * c) for c in BODY_COLOURS[limb]
        )
    assert (drawn == 0).all(-1).mean() > 0.9, "the rest is black"


def test_a_point_not_seen_takes_its_limbs_with_it():
    points = standing_points(1, width=SIZE, height=SIZE).points[0].copy()
    points[0, 3, 2] = 0.2  # right elbow
    drawn = draw_keypoints(points, width=SIZE, height=SIZE)
    x, y = points[0, 3, :2].round().astype(int)
    assert not drawn[y - 8 : y + 9, x - 8 : x + 9].any()
    wrist = points[0, 4, :2].round().astype(int)
    assert tuple(drawn[wrist[1], wrist[0]]) == BODY_COLOURS[4]
    assert not draw_keypoints(points * (1, 1, 0), width=SIZE, height=SIZE).any()


def test_hands_and_face():
    points = whole_body()
    drawn = draw_keypoints(points, width=SIZE, height=SIZE)
    for number in (*range(92, 134), 24, 60, 91):
        x, y = points[0, number, :2].round().astype(int)
        assert tuple(drawn[y, x]) == ((0, 0, 255) if number >= 92 else (255, 255, 255))
    a, b = HAND_BONES[5]
    x, y = ((points[0, 92 + a, :2] + points[0, 92 + b, :2]) / 2).round().astype(int)
    assert tuple(drawn[y, x]) == (128, 255, 0)  # hue 5/20


def test_small_drawings_are_large_ones_shrunk():
    large = draw_keypoints(whole_body(), width=SIZE, height=SIZE)
    small = draw_keypoints(whole_body() * (0.25, 0.25, 1), width=128, height=128)
    shrunk = large.reshape(128, 4, 128, 4, 3).mean((1, 3))
    assert np.abs(small - shrunk).mean() < 0.6
    assert draw_keypoints(whole_body()[:, :18], width=100, height=60).shape == (60, 100, 3)


def test_two_people_are_drawn():
    two = standing_points(1, width=SIZE, height=SIZE, people=2).points[0].copy()
    two[1, :, 0] += 120
    drawn = draw_keypoints(two, width=SIZE, height=SIZE)
    for person in two:
        x, y = person[0, :2].round().astype(int)
        assert tuple(drawn[y, x]) == BODY_COLOURS[0]


def test_flip_swaps_left_and_right_and_twice_is_identity():
    points = whole_body()
    flipped = flip_keypoints(points, width=SIZE)
    left, right = BODY_POINTS.index("left wrist"), BODY_POINTS.index("right wrist")
    assert flipped[0, left, 0] == SIZE - points[0, right, 0] and flipped[0, left, 1] == points[0, right, 1]
    assert np.allclose(flipped[0, 92:113, 1], points[0, 113:134, 1])
    np.testing.assert_allclose(flip_keypoints(flipped, width=SIZE), points, atol=1e-9)
    assert flip_keypoints(points[:, :18], width=SIZE).shape == (1, 18, 3)
    for number, name in enumerate(BODY_POINTS):
        mirrored = name.replace("left", "L").replace("right", "left").replace("L", "right")
        assert BODY_POINTS[FLIP_PERMUTATION[number]] == mirrored


def test_file_round_trip_and_refusals(tmp_path):
    path = tmp_path / "a.keypoints.npz"
    recorded = standing_points(3, width=96, height=64, people=2)
    write_keypoints(path, recorded)
    again = read_keypoints(path)
    assert np.array_equal(again.points, recorded.points) and (again.width, again.height) == (96, 64)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    left, top, right, bottom = again.person()
    assert 0.2 < left < 0.3 < 0.7 < right < 0.8 and 0.09 < top < 0.11 and 0.89 < bottom < 0.91
    assert Keypoints(recorded.points * np.float32([1, 1, 0]), 96, 64).person() is None
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="a.keypoints.npz"):
        read_keypoints(path)
    write_keypoints(path, Keypoints(np.zeros((3, 1, 17, 3)), 96, 64))
    with pytest.raises(InputError, match="17"):
        read_keypoints(path)
    with pytest.raises(ValueError, match="18 or 134"):
        draw_keypoints(np.zeros((1, 17, 3)), width=64, height=64)
