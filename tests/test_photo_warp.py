"""The photo, its body segments moved into a pose: what some checkpoints begin with instead of noise."""

from __future__ import annotations

from math import cos, radians, sin

import cv2
import numpy as np
import pytest
import torch

from magicanimate.palette import FLIP_PERMUTATION, PALETTE
from magicanimate.photo_warp import PhotoWarp, WarpedPhoto, filled_smoothly, with_photo_detail
from magicanimate.pipeline import MagicAnimatePipeline
from tests.dancer_files import control_frames

TORSO, UPPER_ARM, FOREARM, SIZE = 2, 16, 20, 128


def body(*, shoulder: float, elbow: float = 0.0, moved: int = 0) -> np.ndarray:
    """Labels of a torso and one arm; angles in degrees from hanging down."""
    labels = np.zeros((SIZE, SIZE), np.uint8)
    cv2.rectangle(labels, (50 + moved, 30), (80 + moved, 90), TORSO, -1)
    place, angle = np.array([50 + moved, 36]), 0.0
    for part, turn in ((UPPER_ARM, shoulder), (FOREARM, elbow)):
        angle += turn
        end = place + 24 * np.array([-sin(radians(angle)), cos(radians(angle))])
        along, across = end - place, 5 * np.array([cos(radians(angle)), sin(radians(angle))])
        corners = np.stack([place - across, place + across, place + across + along, place - across + along])
        cv2.fillConvexPoly(labels, corners.round().astype(np.int32), part)
        place = end
    return labels


def painted(labels: np.ndarray) -> np.ndarray:
    """A photo of a body: red torso, an arm that goes from green to blue, on grey."""
    photo = np.full((*labels.shape, 3), 128, np.uint8)
    for part, colour in ((TORSO, (200, 40, 40)), (UPPER_ARM, (40, 200, 40)), (FOREARM, (40, 40, 200))):
        photo[labels == part] = colour
    return photo


def test_in_its_own_pose_the_photo_stays_as_it_is():
    labels = body(shoulder=30)
    photo = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    photo = cv2.GaussianBlur(photo, (0, 0), 2)
    assert np.abs(PhotoWarp(photo, labels)(labels).frame.astype(int) - photo)[labels > 0].mean() < 2


@pytest.mark.parametrize("shoulder", [0, 60, 120])
def test_limbs_take_their_colours_along(shoulder):
    before, after = body(shoulder=15), body(shoulder=shoulder, elbow=30, moved=8)
    moved = PhotoWarp(painted(before), before)(after).frame.astype(int)
    assert np.abs(moved - painted(after))[after > 0].mean() < 4
    assert np.abs(moved[after == 0] - 128).mean() < 2, "what the arm hid is as grey as what is around it"


def test_a_turned_segment_keeps_its_ends_apart():
    before, after = body(shoulder=0), body(shoulder=170)
    photo = painted(before)
    upper = np.argwhere(before == UPPER_ARM)
    near = upper[upper[:, 0] < np.median(upper[:, 0])]  # at the shoulder
    photo[tuple(near.T)] = (250, 250, 0)
    moved = PhotoWarp(photo, before)(after).frame
    y, x = np.nonzero(after == UPPER_ARM)
    yellow = moved[y, x, 0] > 150
    assert y[yellow].mean() > y[~yellow].mean() + 8, "the arm points up, so its shoulder's end is below"


def test_what_the_photo_does_not_show_comes_from_the_other_side_of_the_body():
    before = body(shoulder=40)
    photo = painted(before)
    other = FLIP_PERMUTATION[before[:, ::-1]]
    moved = PhotoWarp(photo, before)(other).frame.astype(int)
    assert np.abs(moved - photo[:, ::-1])[other > 0].mean() < 4


def test_a_photo_without_people_stays_as_it_is():
    photo = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    assert np.array_equal(PhotoWarp(photo, np.zeros((SIZE, SIZE), np.uint8))(body(shoulder=10)).frame, photo)


def test_labels_may_be_smaller_than_the_photo():
    labels = body(shoulder=30)
    photo = painted(labels)
    small = PhotoWarp(photo, labels[1::2, 1::2])(labels).frame.astype(int)
    assert np.abs(small - photo)[labels > 0].mean() < 6


@pytest.mark.parametrize("shape", [(40, 56), (33, 17), (1, 9)])
def test_filling_keeps_what_is_known_and_takes_the_rest_from_around(shape):
    picture = np.full((*shape, 3), 90, np.float32)
    hidden = np.zeros(shape, bool)
    hidden[shape[0] // 4 : shape[0] // 2 + 1, shape[1] // 4 : shape[1] // 2] = True
    picture[hidden] = 255
    assert np.allclose(filled_smoothly(picture, hidden), 90, atol=1e-3)
    assert np.isfinite(filled_smoothly(picture, np.ones(shape, bool))).all()


def test_only_the_very_part_is_trusted():
    before = body(shoulder=30)
    back = np.where(before == TORSO, 1, before).astype(np.uint8)
    trust = PhotoWarp(painted(before), before)(back).trust
    assert trust[before == UPPER_ARM].mean() > 0.9 and not trust[before == TORSO].any()
    assert not trust[before == 0].any(), "there is no part of the photo's people"


def test_frames_get_the_photos_detail_where_both_agree():
    labels = body(shoulder=30)
    fine = np.random.default_rng(0).integers(-30, 30, (SIZE, SIZE, 1))
    photo = (painted(labels) + np.where(labels[..., None] > 0, fine, 0)).clip(0, 255).astype(np.uint8)
    blurred = cv2.GaussianBlur(photo, (0, 0), 4)
    blurred[70:] = (0, 0, 255)  # the networks have quite another colour there
    (frame,) = with_photo_detail([blurred], WarpedPhoto(photo, labels, PALETTE[labels][None]))
    alike, other = (slice(35, 58), slice(52, 78)), (slice(78, 88), slice(52, 78))
    error, before = (np.abs(each.astype(int) - photo)[alike].mean() for each in (frame, blurred))
    assert error < before / 3
    assert frame[other][..., 2].mean() > 180 > 90 > frame[other][..., 0].mean(), (
        "what the networks say counts"
    )
    assert np.array_equal(frame[:20], blurred[:20]), "nobody is there"


@pytest.fixture(scope="module")
def warping(tiny_model) -> MagicAnimatePipeline:
    pipe = MagicAnimatePipeline.from_pretrained(tiny_model, first_latents="warped_photo")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_checkpoint_can_begin_with_the_warped_photo(warping, tiny_model, tmp_path):
    plain = MagicAnimatePipeline.from_pretrained(tiny_model)
    plain.set_progress_bar_config(disable=True)
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    control = control_frames(3, 32)
    labels = np.full((32, 32), TORSO, np.uint8)
    given = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent"}
    made = warping(photo, control, photo_labels=labels, **given).latents
    warped = WarpedPhoto(photo, labels, control)
    first = torch.cat([plain.encode_image(warped[i]) for i in range(3)]).transpose(0, 1)[None]
    assert torch.allclose(made, plain(photo, control, latents=first, **given).latents, atol=1e-4)
    assert not torch.allclose(made, plain(photo, control, **given).latents, atol=1e-2)
    assert torch.equal(made, warping(photo, control, photo_labels=labels, seed=7, **given).latents)
    videos = [np.stack([other] * 3) for other in (photo, photo[::-1])]
    begun = [
        warping(photo, control, video=v, strength=0.5, seed=3, **given).latents for v in (*videos, videos[0])
    ]
    assert torch.equal(begun[0], begun[2]) and not torch.allclose(begun[0], begun[1], atol=1e-2)
    warping.save_pretrained(tmp_path / "saved")
    assert MagicAnimatePipeline.from_pretrained(tmp_path / "saved").config.first_latents == "warped_photo"


def test_frames_of_part_maps_are_warped_as_their_labels(warping):
    labels = body(shoulder=15)
    photo, pose = painted(labels), body(shoulder=70)
    assert np.array_equal(
        WarpedPhoto(photo, labels, PALETTE[pose][None])[0], PhotoWarp(photo, labels)(pose).frame
    )


def pair(*, between: int) -> np.ndarray:
    """Labels of two people; what lies between them is an arm of the left one, so long."""
    labels = np.zeros((SIZE, SIZE), np.uint8)
    for left in (12, 84):
        labels[40:100, left : left + 26] = TORSO
    labels[48:56, 38 : 38 + between] = UPPER_ARM
    return labels


@pytest.mark.parametrize("between", [20, 46], ids=["apart", "touching"])
def test_several_people_stay_who_they_are(between):
    before, after = pair(between=12), pair(between=between)
    photo = painted(before)
    photo[before > 0] = (200, 40, 40)
    photo[:, 80:][before[:, 80:] > 0] = (40, 40, 200)
    warped = PhotoWarp(photo, before)(after)
    assert np.abs(warped.frame[45:95, 14:36].astype(int) - (200, 40, 40)).mean() < 3
    assert np.abs(warped.frame[45:95, 86:108].astype(int) - (40, 40, 200)).mean() < 3
    assert warped.trust[after == TORSO].mean() > 0.9


def test_who_is_who_is_not_guessed():
    """Two people of a photo, and one in the pose: which of them that is nobody knows."""
    before = pair(between=12)
    assert not PhotoWarp(painted(before), before)(np.where(np.arange(SIZE) < 80, before, 0)).trust.any()


def test_the_beginning_does_not_wait_for_the_end_to_be_warped(warping, monkeypatch):
    photo, labels = np.full((32, 32, 3), 120, np.uint8), np.full((32, 32), TORSO, np.uint8)
    control = control_frames(40, 32)
    given = {"num_inference_steps": 2, "guidance_scale": 1.0, "photo_labels": labels}
    whole = warping(photo, control, **given).frames
    asked = []
    plain = WarpedPhoto.__getitem__
    monkeypatch.setattr(WarpedPhoto, "__getitem__", lambda self, n: (asked.append(n), plain(self, n))[1])
    frames = warping(photo, control, output_type="stream", beginning_first=True, **given).frames
    first = next(frames)
    assert max(asked) < 30
    streamed = np.stack([first, *frames])
    assert sorted(asked) == list(range(40))
    assert np.abs(streamed.astype(int) - whole).max() <= 1
