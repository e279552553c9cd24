"""From a request to the photo and the control frames."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from magicanimate.config import AnimationRequest, MediaLimits
from magicanimate.errors import Cancelled, InputError
from magicanimate.media.prepare import prepare_media
from magicanimate.palette import BACKGROUND, colourise, nearest_labels
from tests.media_files import numbered, part_labels, part_maps, write_clip, write_output

PUBLISHED_PAIRS = [
    ("monalisa.png", "running.mp4"),
    ("demo4.png", "demo4.mp4"),
    ("dalle2.jpeg", "running2.mp4"),
    ("dalle8.jpeg", "dancing2.mp4"),
    ("multi1_source.png", "multi_dancing.mp4"),
]


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    """A photo and a clip of ten part maps at 12.5 frames a second, with sound."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)).save(
        tmp_path / "photo.png"
    )
    clip = write_clip(tmp_path / "map.mp4", part_maps(10, width=192, height=96), rate=10, sound=1.0)
    return tmp_path / "photo.png", clip


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of our own, to see that nothing is left there."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def request(inputs: tuple[Path, Path], **options) -> AnimationRequest:
    return AnimationRequest(photo=inputs[0], motion=inputs[1], output=Path("out.mp4"), **options)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_keypoints_are_fitted_as_the_motion_is(inputs, tmp_path, fit):
    # Drawn where the parts are: white bodies over black.
    bodies = [
        np.repeat(nearest_labels(frame)[0][..., None] > 0, 3, axis=2).astype(np.uint8) * 255
        for frame in part_maps(10, width=192, height=96)
    ]
    drawn = write_clip(tmp_path / "drawn.mp4", bodies, rate=10)
    chosen = {"fit": fit, "start": 0.2, "keypoints": drawn}
    with prepare_media(request(inputs, **chosen), width=64, height=96) as media:
        assert media.keypoints.shape == media.control.shape == (8, 96, 64, 3)
        body, white = nearest_labels(media.control[:])[0] > 0, media.keypoints[:].mean(axis=-1) > 127
        assert (body == white).mean() > 0.97
        assert media.keypoints[:][:, 0].max() < 20  # black around, whatever parts lie on


def test_keypoints_of_another_clip_are_refused(inputs, tmp_path, temporary):
    drawn = write_clip(tmp_path / "drawn.mp4", part_maps(9, width=192, height=96), rate=10)
    with pytest.raises(InputError, match="9 frames of 192x96 at 10 fps .* 10 frames of 192x96 .* one video"):
        prepare_media(request(inputs, keypoints=drawn), width=64, height=48)
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_everything_has_the_size_of_the_result(inputs, fit):
    with prepare_media(request(inputs, fit=fit), width=64, height=48) as media:
        assert media.photo.shape == (48, 64, 3) and media.photo.dtype == np.uint8
        assert media.control.shape == (10, 48, 64, 3)
        assert (media.num_frames, media.fps, media.has_sound, media.sound_start) == (10, 10.0, True, 0.0)
        assert nearest_labels(media.control[:])[0].max() == 24


def test_stretch_of_time(inputs):
    options = {"start": 0.2, "end": 0.8, "stride": 2}
    with prepare_media(request(inputs, **options), width=64, height=64) as media:
        assert (media.num_frames, media.fps, media.sound_start) == (3, 5.0, 0.2)


def test_crop_follows_the_person_over_the_whole_clip(tmp_path, inputs):
    frames = []
    for shift in (0, 20, 40):
        frame = np.full((96, 288, 3), BACKGROUND, dtype=np.uint8)
        frame[:, 170 + shift : 230 + shift] = colourise(part_labels())[:, 18:78]
        frames.append(frame)
    clip = write_clip(tmp_path / "right.mp4", frames)
    with prepare_media(request((inputs[0], clip)), width=96, height=96) as media:
        labels, _ = nearest_labels(media.control[:])
        columns = np.flatnonzero((labels == 2).any(axis=(0, 1)))
        assert columns[0] > 5 and columns[-1] < 90
        assert abs((columns[0] + columns[-1]) / 2 - 48) < 8
        moved = [np.flatnonzero((frame == 2).any(axis=0))[0] for frame in labels]
        assert moved[1] - moved[0] == pytest.approx(20, abs=2)


def test_two_dancers_far_apart_are_both_there(tmp_path, inputs):
    frames = []
    for _ in range(3):
        frame = np.full((96, 320, 3), BACKGROUND, dtype=np.uint8)
        frame[:, 4:64] = frame[:, 250:310] = colourise(part_labels())[:, 18:78]
        frames.append(frame)
    clip = write_clip(tmp_path / "apart.mp4", frames)
    with prepare_media(request((inputs[0], clip)), width=96, height=96) as media:
        heads = np.flatnonzero((nearest_labels(media.control[0])[0] == 23).any(axis=0))
        assert heads[0] < 20 and heads[-1] > 75 and media.notes == ()
    with prepare_media(request((inputs[0], clip), fit="crop"), width=96, height=96) as media:
        (note,) = media.notes
        assert "cannot hold the people in" in note and "apart.mp4" in note


def test_photos_are_cropped_where_the_people_are(tmp_path, inputs):
    pixels = np.full((60, 180, 3), 220, dtype=np.uint8)
    pixels[:, 20:40] = (30, 60, 160)
    Image.fromarray(pixels).save(tmp_path / "left.png")
    asked = []

    def find(photo):
        asked.append(photo.shape)
        return (20, 0, 40, 60)

    wanted = request((tmp_path / "left.png", inputs[1]))
    with prepare_media(wanted, width=60, height=60, find_people=find) as media:
        np.testing.assert_array_equal(media.photo, pixels[:, :60])
    with prepare_media(wanted, width=180, height=60, find_people=find) as media:
        assert asked == [(60, 180, 3)]  # nothing is cut off, so nobody is asked
    far = request((tmp_path / "left.png", inputs[1]), fit="crop")
    with prepare_media(far, width=60, height=60, find_people=lambda _: (0, 0, 170, 60)) as media:
        assert "left.png is cropped" in media.notes[0]


def test_blank_frames_and_bars_become_background(tmp_path, inputs):
    maps = part_maps(6, width=96, height=96)
    for frame in maps:
        frame[:, :12] = 0
    clip = write_output(tmp_path / "map.mp4", [np.zeros_like(maps[0]), *maps], lossless=True)
    with prepare_media(request((inputs[0], clip)), width=96, height=96) as media:
        assert media.num_frames == 7
        assert (media.control[0] == BACKGROUND).all() and (media.control[3][:, :12] == BACKGROUND).all()
        np.testing.assert_array_equal(media.control[3][:, 14:], maps[2][:, 14:])


def test_enlarged_and_reduced_maps_have_no_colours_between_parts(inputs):
    for size in (48, 256):
        with prepare_media(request(inputs), width=size, height=size) as media:
            assert nearest_labels(media.control[:])[1].max() == 0


def test_progress_counts_every_frame_read(inputs):
    steps: list[tuple[int, int]] = []

    def on_progress(done: int, total: int) -> None:
        steps.append((done, total))

    for fit, total in (("crop", 20), ("pad", 10)):
        steps.clear()
        prepare_media(request(inputs, fit=fit), width=64, height=64, on_progress=on_progress).close()
        assert steps == [(done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize("after", [0, 3, 14])
def test_stop_is_honoured_and_leaves_nothing(inputs, temporary, after):
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > after

    with pytest.raises(Cancelled):
        prepare_media(request(inputs), width=64, height=64, should_stop=should_stop)
    assert asked == after + 1
    assert os.listdir(temporary) == []


def test_stop_is_honoured_while_looking_for_a_person(tmp_path, inputs):
    empty = [np.full((64, 64, 3), BACKGROUND, dtype=np.uint8)] * 20
    clip = write_clip(tmp_path / "empty_stage.mp4", empty)
    with pytest.raises(Cancelled):
        prepare_media(request((inputs[0], clip)), width=32, height=32, should_stop=lambda: True)


def test_closing_leaves_nothing(inputs, temporary):
    with prepare_media(request(inputs), width=64, height=64):
        pass
    assert os.listdir(temporary) == []


def test_ordinary_video_is_refused_unless_told_otherwise(tmp_path, inputs):
    clip = write_clip(tmp_path / "party.mp4", numbered(5))
    with pytest.raises(InputError, match="party.mp4"):
        prepare_media(request((inputs[0], clip)), width=32, height=32)
    unchecked = request((inputs[0], clip), check_motion=False)
    with prepare_media(unchecked, width=32, height=32) as media:
        # Not a part map, so its colours are not forced onto the palette.
        assert np.abs(media.control[3].astype(int) - 32).max() <= 3


def test_nobody_in_the_clip(tmp_path, inputs):
    empty = [np.full((64, 64, 3), BACKGROUND, dtype=np.uint8)] * 4
    clip = write_clip(tmp_path / "empty_stage.mp4", empty)
    with pytest.raises(InputError, match=r"empty_stage.mp4 shows nobody"):
        prepare_media(request((inputs[0], clip)), width=32, height=32)


@pytest.mark.parametrize("which", [0, 1])
def test_bad_files_are_named(tmp_path, inputs, which):
    names = ["bad.png", "bad.mp4"]
    (tmp_path / names[which]).write_bytes(b"")
    pair = list(inputs)
    pair[which] = tmp_path / names[which]
    with pytest.raises(InputError, match=f"{names[which]} is empty"):
        prepare_media(request(tuple(pair)), width=32, height=32)


def test_limits_are_those_of_the_request(inputs):
    with pytest.raises(InputError, match="max_pixels"):
        prepare_media(request(inputs, limits=MediaLimits(max_pixels=10)), width=32, height=32)
    with pytest.raises(InputError, match="max_frames"):
        prepare_media(request(inputs, limits=MediaLimits(max_frames=5)), width=32, height=32)


def test_too_little_room_is_noticed_before_decoding(inputs, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(InputError, match="TMPDIR"):
        prepare_media(request(inputs), width=64, height=64)


def test_folder_of_frames(tmp_path, inputs):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(part_maps(4)):
        Image.fromarray(frame).save(folder / f"{number}.png")
    with prepare_media(request((inputs[0], folder), fps=8.0), width=96, height=96) as media:
        np.testing.assert_array_equal(media.control[:], np.stack(part_maps(4)))
        assert media.fps == 8.0 and not media.has_sound


@pytest.mark.parametrize(("photo", "motion"), PUBLISHED_PAIRS)
def test_published_pairs(shared, photo, motion):
    pair = (shared / "samples" / photo, shared / "samples" / motion)
    with prepare_media(request(pair, stride=5, end=1.6), width=96, height=128) as media:
        assert media.control.shape == (8, 128, 96, 3) and media.photo.shape == (128, 96, 3)
        assert media.fps == 5.0
        share = float((nearest_labels(media.control[:])[0] > 0).mean())
        assert 0.2 < share < 0.7
