"""Crop, pad and stretch of photos and part maps."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from magicanimate.errors import InputError
from magicanimate.media.fit import (
    fit_photo,
    largest_window,
    person_box,
    plan_motion_fit,
    resize_map,
    same_shape,
)
from magicanimate.media.motion import open_motion
from magicanimate.palette import BACKGROUND, PALETTE, colourise, nearest_labels
from tests.media_files import part_labels, part_maps


def ramp(width: int, height: int) -> np.ndarray:
    """Red grows to the right, green downwards."""
    picture = np.full((height, width, 3), 50, dtype=np.uint8)
    picture[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    picture[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return picture


def test_shapes_are_compared_however_different_the_sizes():
    uhd, small, hd = (3840, 2160), (426, 240), (1920, 1080)  # 16:9, each rounded to whole or even pixels
    for one in (uhd, small, hd):
        assert all(same_shape(one, other) for other in (uhd, small, hd))
    for other in ((640, 480), (1080, 1920), (1920, 1050), (430, 236)):
        assert not same_shape(hd, other) and not same_shape(other, hd)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(64, 64), (128, 72), (40, 96)])
def test_sizes_come_out_as_asked(fit, size):
    for source in (ramp(80, 50), ramp(50, 80), ramp(1, 1), ramp(300, 2), ramp(2, 300)):
        photo = fit_photo(source, width=size[0], height=size[1], fit=fit)
        assert photo.shape == (size[1], size[0], 3) and photo.dtype == np.uint8
        plan = plan_motion_fit(source.shape[1::-1], None, width=size[0], height=size[1], fit=fit)
        frame = plan.apply(source)
        assert frame.shape == (size[1], size[0], 3) and frame.dtype == np.uint8


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_what_fits_already_is_not_touched(fit):
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    np.testing.assert_array_equal(fit_photo(picture, width=64, height=48, fit=fit), picture)
    plan = plan_motion_fit((64, 48), (3, 3, 9, 9), width=64, height=48, fit=fit)
    np.testing.assert_array_equal(plan.apply(picture), picture)


def test_stretch_is_bicubic_as_published():
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    expected = np.array(Image.fromarray(picture).resize((32, 40), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(fit_photo(picture, width=32, height=40, fit="stretch"), expected)
    plan = plan_motion_fit((64, 48), None, width=32, height=40, fit="stretch")
    np.testing.assert_array_equal(plan.apply(picture), expected)


def test_photo_crop_keeps_the_aspect_and_the_upper_part():
    wide = fit_photo(ramp(200, 100), width=100, height=100, fit="crop")
    assert abs(int(wide[50, 0, 0]) - 64) <= 3 and abs(int(wide[50, -1, 0]) - 191) <= 3
    tall = fit_photo(ramp(100, 200), width=100, height=100, fit="crop")
    assert abs(int(tall[0, 50, 1]) - 19) <= 3 and abs(int(tall[-1, 50, 1]) - 146) <= 3


def test_photo_pad_shows_all_and_continues_a_plain_background():
    photo = np.full((100, 50, 3), (120, 90, 200), dtype=np.uint8)
    photo[30:70, 15:35] = (250, 10, 10)
    padded = fit_photo(photo, width=100, height=100, fit="pad")
    np.testing.assert_array_equal(padded[:, 25:75], photo)
    assert np.abs(padded[:, :25].astype(int) - (120, 90, 200)).max() < 40
    assert np.abs(padded[:, :5].astype(int) - (120, 90, 200)).max() <= 1


def test_largest_window():
    assert largest_window((1920, 1080), width=512, height=512) == (1080, 1080)
    assert largest_window((1080, 1920), width=512, height=768) == (1080, 1620)
    assert largest_window((512, 512), width=128, height=128) == (512, 512)
    assert largest_window((3, 900), width=900, height=1) == (3, 1)


def window(clip, box, width, height):
    return plan_motion_fit(clip, box, width=width, height=height, fit="crop").window


def test_motion_crop_follows_the_person():
    assert window((400, 200), (250, 20, 350, 180), 100, 100) == (200, 0, 400, 200)
    assert window((400, 200), (20, 20, 60, 180), 100, 100) == (0, 0, 200, 200)
    assert window((400, 200), (140, 20, 200, 180), 100, 100) == (70, 0, 270, 200)
    assert window((400, 200), None, 100, 100) == (100, 0, 300, 200)
    # Low in a tall clip.
    assert window((200, 400), (80, 300, 120, 390), 100, 100) == (0, 200, 200, 400)


def test_motion_crop_keeps_the_head_of_who_does_not_fit():
    x0, y0, x1, y1 = window((200, 400), (80, 60, 120, 390), 100, 100)
    assert (x0, x1, y1 - y0) == (0, 200, 200) and 40 <= y0 <= 60
    assert window((200, 400), (80, 0, 120, 400), 100, 100) == (0, 0, 200, 200)


def test_motion_crop_is_of_the_largest_window_and_inside():
    rng = np.random.default_rng(0)
    for _ in range(200):
        clip = tuple(int(v) for v in rng.integers(16, 400, 2))
        size = [int(v) * 8 for v in rng.integers(1, 40, 2)]
        xs, ys = np.sort(rng.integers(0, clip[0] + 1, 2)), np.sort(rng.integers(0, clip[1] + 1, 2))
        x0, y0, x1, y1 = window(clip, (int(xs[0]), int(ys[0]), int(xs[1]), int(ys[1])), *size)
        assert 0 <= x0 < x1 <= clip[0] and 0 <= y0 < y1 <= clip[1]
        assert (x1 - x0, y1 - y0) == largest_window(clip, width=size[0], height=size[1])
        if xs[1] - xs[0] <= x1 - x0 and ys[1] - ys[0] <= y1 - y0:
            assert x0 <= xs[0] and xs[1] <= x1 and y0 <= ys[0] and ys[1] <= y1


def crossing(count: int = 60) -> list[tuple[int, int, int, int]]:
    """Boxes of somebody who waits, then walks from left to right through a frame of 400 x 100."""
    return [(x, 10, x + 40, 95) for x in [20] * 20 + np.linspace(20, 340, count - 20).astype(int).tolist()]


@pytest.mark.parametrize("fit", ["auto", "crop"])
def test_the_window_follows_who_crosses_the_frame(fit):
    boxes = [None, *crossing(), None]
    plan = plan_motion_fit((400, 100), boxes, width=100, height=100, fit=fit)
    assert plan.path is not None and len(plan.path) == len(boxes) and not plan.loses_people
    for (x0, y0), box in zip(plan.path, boxes, strict=True):
        assert 0 <= x0 <= 300 and y0 == 0
        assert box is None or (x0 <= box[0] and box[2] <= x0 + 100)
    steps = np.diff([x0 for x0, _ in plan.path])
    assert not steps[:8].any()  # it stands while the person does, and starts softly
    assert steps.min() >= 0 and steps.max() <= 12  # and moves as steadily as the person, 8 a frame
    frame = np.zeros((100, 400, 3), dtype=np.uint8)
    frame[:, 200:] = 255
    assert plan.apply(frame, 0).max() == 0 and plan.apply(frame, 60).min() == 255


def test_people_whom_no_window_holds_are_padded_or_told():
    apart = [(10, 10, 390, 95)] * 10
    padded = plan_motion_fit((400, 100), apart, width=100, height=100, fit="auto")
    assert padded.window == (0, 0, 400, 100) and padded.place == (0, 37, 100, 62)
    assert not padded.loses_people
    cropped = plan_motion_fit((400, 100), apart, width=100, height=100, fit="crop")
    assert cropped.loses_people and cropped.window[2] - cropped.window[0] == 100
    tall = plan_motion_fit((100, 400), [(10, 5, 90, 395)] * 10, width=100, height=100, fit="auto")
    assert tall.place == (37, 0, 62, 100)
    once = [(10, 10, 60, 95)] * 99 + [(10, 10, 390, 95)]  # a mistake in one frame of a hundred
    assert plan_motion_fit((400, 100), once, width=100, height=100, fit="auto").place == (0, 0, 100, 100)


def test_photos_are_cropped_on_the_person():
    photo = np.full((100, 300, 3), 200, dtype=np.uint8)
    photo[20:, 10:50] = 0
    for fit in ("auto", "crop"):
        found = fit_photo(photo, width=100, height=100, fit=fit, person=(10, 20, 50, 100))
        np.testing.assert_array_equal(found, photo[:, :100])
    wide = fit_photo(photo, width=100, height=100, fit="auto", person=(0, 20, 290, 100))
    np.testing.assert_array_equal(wide, fit_photo(photo, width=100, height=100, fit="pad"))
    unknown = fit_photo(photo, width=100, height=100, fit="auto")
    np.testing.assert_array_equal(unknown, photo[:, 100:200])


def test_motion_pad_fills_with_the_background_of_part_maps():
    frame = part_maps(1, width=96, height=48)[0]
    padded = plan_motion_fit((96, 48), None, width=96, height=96, fit="pad").apply(frame)
    np.testing.assert_array_equal(padded[24:72], frame)
    assert (padded[:24] == BACKGROUND).all() and (padded[72:] == BACKGROUND).all()


def test_unknown_fit():
    with pytest.raises(InputError, match="crop, pad, stretch"):
        fit_photo(ramp(8, 8), width=8, height=8, fit="zoom")
    with pytest.raises(InputError, match="crop, pad, stretch"):
        plan_motion_fit((8, 8), None, width=8, height=8, fit="zoom")


# Scaling of part maps


@pytest.mark.parametrize("size", [(48, 48), (64, 32), (150, 170), (96, 33)])
def test_scaled_maps_have_no_new_colours_and_no_new_parts(size):
    frame = colourise(part_labels())
    scaled = resize_map(frame, width=size[0], height=size[1])
    labels, distance = nearest_labels(scaled)
    assert scaled.shape == (size[1], size[0], 3) and distance.max() == 0
    nearest = part_labels(width=size[0], height=size[1])
    assert set(np.unique(labels)) == set(np.unique(nearest))
    assert (labels == nearest).mean() > 0.93
    # A plain resize has many pixels of parts that are not there.
    blended, _ = nearest_labels(np.array(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)))
    assert not set(np.unique(blended)) <= set(np.unique(nearest))


def test_scaling_moves_nothing():
    labels = np.zeros((64, 64), dtype=np.uint8)
    labels[16:48, 8:24] = 20
    small = resize_map(colourise(labels), width=32, height=32)
    np.testing.assert_array_equal(small, colourise(labels[::2, ::2]))
    large = resize_map(colourise(labels), width=128, height=128)
    found, _ = nearest_labels(large)
    rows, columns = np.nonzero(found)
    assert abs(rows.mean() - 63.5) < 0.6 and abs(columns.mean() - 31.5) < 0.6
    assert abs(len(rows) - 4 * 512) < 80


def test_empty_maps_stay_empty():
    empty = np.full((40, 40, 3), BACKGROUND, dtype=np.uint8)
    assert (resize_map(empty, width=16, height=24) == BACKGROUND).all()


def test_real_map_made_smaller_has_the_shares_of_the_large_one(shared):
    frame = next(open_motion(shared / "samples/demo4.mp4").frames())
    large, distance = nearest_labels(frame)
    small, exact = nearest_labels(resize_map(frame, width=128, height=128))
    assert exact.max() == 0
    share = [np.bincount(labels.ravel(), minlength=25) / labels.size for labels in (large, small)]
    assert np.abs(share[0] - share[1]).max() < 0.006
    assert (small == large[2::4, 2::4]).mean() > 0.97


# The person's box


def test_person_box_is_the_union_over_frames():
    frames = [np.full((100, 120, 3), BACKGROUND, dtype=np.uint8) for _ in range(3)]
    frames[0][10:30, 40:60] = PALETTE[24]
    frames[2][50:90, 70:80] = PALETTE[2]
    assert person_box(frames) == (40, 10, 80, 90)


def test_person_box_ignores_specks_and_compression():
    rng = np.random.default_rng(0)
    frame = np.full((200, 200, 3), BACKGROUND, dtype=np.int16)
    frame[60:140, 80:120] = PALETTE[20]
    frame = np.clip(frame + rng.integers(-6, 7, frame.shape), 0, 255).astype(np.uint8)
    frame[3, 5] = frame[190, 180] = (255, 255, 255)
    assert person_box([frame]) == (80, 60, 120, 140)


def test_the_back_of_a_torso_is_no_background():
    frame = np.full((100, 100, 3), BACKGROUND, dtype=np.uint8)
    frame[20:60, 30:70] = PALETTE[1]
    assert person_box([frame]) == (30, 20, 70, 60)


def test_person_box_of_nobody():
    empty = np.full((64, 64, 3), (65, 0, 81), dtype=np.uint8)
    assert person_box([empty, empty]) is None
    assert person_box([]) is None


def test_person_box_of_large_frames_is_close():
    frame = np.full((1080, 1920, 3), BACKGROUND, dtype=np.uint8)
    frame[301:907, 1003:1411] = PALETTE[9]
    box = person_box([frame])
    np.testing.assert_allclose(box, (1003, 301, 1411, 907), atol=5)


def test_person_box_of_a_real_map(shared):
    frames = list(open_motion(shared / "samples/running2.mp4").frames())[::10]
    x0, y0, x1, y1 = person_box(frames)
    union = np.zeros((512, 512), dtype=bool)
    for frame in frames:
        union |= nearest_labels(frame)[0] > 1
    rows, columns = np.flatnonzero(union.mean(1) > 0.01), np.flatnonzero(union.mean(0) > 0.01)
    np.testing.assert_allclose(
        (x0, y0, x1, y1), (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), atol=12
    )
