"""Refining heads and hands: following them, cutting them out, and blending them back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from magicanimate import ASSETS
from magicanimate.animator import Animator
from magicanimate.config import AnimationRequest
from magicanimate.detail import (
    HANDS,
    HEAD,
    Crops,
    blend,
    count_details,
    crop,
    find_tracks,
    photo_crops,
    times_as_long,
    tracks_of,
)
from magicanimate.errors import Cancelled
from magicanimate.palette import PALETTE, nearest_labels
from tests.media_files import part_labels, part_maps, write_clip


def two_people(number: int) -> np.ndarray:
    """Labels of two figures that move apart, uint8 ``H W``."""
    return np.concatenate([part_labels(shift=-number), part_labels(shift=number)], 1)


def test_heads_are_followed_apart():
    control = PALETTE[np.stack([two_people(number) for number in range(10)])]
    left, right = find_tracks(control, (HEAD,))
    assert left.seen.all() and right.seen.all()
    np.testing.assert_allclose(np.diff(left.centres[:, 0])[3:-3], -1, atol=0.1)
    np.testing.assert_allclose(np.diff(right.centres[:, 0])[3:-3], 1, atol=0.1)
    assert abs(left.centres[5, 0] - (45.5 - 5)) < 1 and abs(right.centres[5, 0] - (96 + 45.5 + 5)) < 1


def test_hands_are_two_and_gaps_are_bridged_but_not_painted():
    labels = np.stack([part_labels(shift=number) for number in range(12)])
    labels[5][np.isin(labels[5], (3, 23, 24))] = 0
    head, right, left = find_tracks(PALETTE[labels], (HEAD, *HANDS))
    assert [track.part.name for track in (head, right, left)] == ["head", "right hand", "left hand"]
    assert not head.seen[5] and left.seen[5]
    assert abs(head.centres[5, 0] - (45.5 + 5)) < 1
    frame = np.zeros((96, 96, 3), np.uint8)
    new = np.full((64, 64, 3), 255, np.uint8)
    assert not blend(frame, labels[5], head, 5, new).any()
    assert blend(frame, labels[4], head, 4, new).any()


def test_specks_are_no_heads():
    labels = np.stack([part_labels()] * 4)
    labels[:, 80:83, 5:8] = 23
    assert len(find_tracks(PALETTE[labels], (HEAD,))) == 1


def test_some_people_are_refined_and_what_it_costs_is_known_before():
    control = PALETTE[np.stack([two_people(number) for number in range(6)])]
    tracks = find_tracks(control, (HEAD, *HANDS))
    second = tracks_of(tracks, (2,))
    assert [track.part.name for track in second] == ["head", "right hand", "left hand"]
    assert all(track.centres[0, 0] > 96 for track in second) and tracks_of(tracks, ()) == tracks
    assert count_details(control, (HEAD, *HANDS), below=1000, crop_size=512) == 6
    assert count_details(control, (HEAD, *HANDS), below=1, crop_size=512) == 0
    assert times_as_long(6, size=96, width=192, height=96) == 1 + 6 / 2


def test_nobody_has_two_right_hands():
    """Compression scatters the labels of hands over small maps."""
    labels = np.stack([part_labels()] * 4)
    real = find_tracks(PALETTE[labels], HANDS)
    labels[:, 70:74, 5:9] = labels[:, 88:91, 60:64] = 3
    again = find_tracks(PALETTE[labels], HANDS)
    assert [track.part.name for track in again] == ["right hand", "left hand"]
    np.testing.assert_allclose(again[0].centres, real[0].centres)


def test_people_of_photo_and_clip_are_paired_from_left_to_right():
    tracks = find_tracks(PALETTE[np.stack([two_people(0)] * 3)], (HEAD,))
    found = photo_crops(two_people(6), tracks)
    assert abs(found[0][0] - (45.5 - 6)) < 1 and abs(found[1][0] - (96 + 45.5 + 6)) < 1
    assert photo_crops(part_labels(), tracks)[1] == photo_crops(part_labels(), tracks)[0], "one serves both"
    assert photo_crops(np.zeros((96, 96), np.uint8), tracks) == [None, None]


def smooth_picture() -> np.ndarray:
    y, x = np.mgrid[0:96, 0:96]
    return np.stack([128 + 90 * np.sin(x / 9), 128 + 90 * np.cos(y / 8), (x + y) * 1.2], -1).astype(np.uint8)


def test_what_is_cut_out_fits_back_where_it_was():
    """Blending the unchanged cutting back changes the frame by interpolation only."""
    labels = np.stack([part_labels(shift=number) for number in range(4)])
    (head,) = find_tracks(PALETTE[labels], (HEAD,))
    frame = smooth_picture()
    back = blend(frame, labels[2], head, 2, crop(frame, head.centres[2], head.sides[2], 128))
    assert np.abs(back.astype(int) - frame).max() <= 6
    assert np.abs(back.astype(int) - frame).mean() < 0.2


def test_only_the_part_and_a_little_around_it_is_replaced():
    labels = np.stack([part_labels()] * 3)
    (head,) = find_tracks(PALETTE[labels], (HEAD,))
    changed = blend(np.zeros((96, 96, 3), np.uint8), labels[1], head, 1, np.full((64, 64, 3), 255, np.uint8))
    mask = np.isin(labels[1], (23, 24))
    assert changed[mask].mean() > 200
    assert changed[40:].max() == 0
    steps = np.abs(np.diff(changed[16, :, 0].astype(int)))
    assert steps.max() < 130, "the edge is soft"


def test_maps_stay_maps_and_their_outlines_have_no_steps():
    labels = np.stack([part_labels()] * 3)
    (head,) = find_tracks(PALETTE[labels], (HEAD,))
    enlarged = Crops(PALETTE[labels], head, 128, is_map=True)
    assert len(enlarged) == 3 and enlarged[[0, 2]].shape == (2, 128, 128, 3)
    found, distance = nearest_labels(enlarged[0])
    assert distance.max() == 0 and set(np.unique(found)) <= {0, 2, 16, 15, 23, 24}
    share = np.isin(found, (23, 24)).mean() * (head.sides[0] / 96) ** 2
    assert abs(share - np.isin(labels[0], (23, 24)).mean()) < 0.15 * share


@pytest.fixture(scope="module")
def animator(tiny_model) -> Animator:
    return Animator(tiny_model, device="cpu")


@pytest.fixture
def request_(tmp_path) -> AnimationRequest:
    write_clip(tmp_path / "motion.mp4", part_maps(18, width=64, height=64))
    return AnimationRequest(
        ASSETS / "examples" / "arms_photo.jpg",
        tmp_path / "motion.mp4",
        tmp_path / "out",
        num_inference_steps=2,
        width=64,
        height=64,
        credentials=False,
        detail="faces",
    )


def frames_of(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))])


def test_refining_changes_the_head_and_nothing_else(animator, request_, tmp_path):
    seen = []
    second = frames_of(animator.animate(request_, seen.append).output)
    first = frames_of(animator.animate(replace(request_, detail="off", output=tmp_path / "off")).output)
    changed = (second != first).any((0, 3))
    labels = part_labels(width=64, height=64)
    assert changed[np.isin(labels, (23, 24))].mean() > 0.9
    assert not changed[32:].any()
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == ["load", "read", "denoise", "detail", "decode"]
    told = [progress for progress in seen if progress.stage == "detail"]
    assert told[-1].step == told[-1].total > 1
    assert "1 head makes it take about 1.2 times as long" in told[0].note


def test_cancelling_the_refining_leaves_nothing(animator, request_):
    now = []
    with pytest.raises(Cancelled):
        animator.animate(request_, now.append, lambda: now[-1].stage == "detail" and now[-1].step > 0)
    assert not request_.output.exists()


def test_large_parts_are_left_as_they_are(animator, request_, tmp_path):
    wanted = replace(request_, detail="faces+hands", detail_below=2)
    second = frames_of(animator.animate(wanted).output)
    first = frames_of(animator.animate(replace(request_, detail="off", output=tmp_path / "off")).output)
    np.testing.assert_array_equal(first, second)
