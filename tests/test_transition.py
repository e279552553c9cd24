"""Part maps that lead from a photo's pose to the clip's first one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from densepose_tools.body import segments
from densepose_tools.transition import transition
from magicanimate import ASSETS
from magicanimate.animator import Animator
from magicanimate.config import AnimationRequest
from magicanimate.errors import InputError
from magicanimate.media.video_file import open_container, sound_stream
from tests.media_files import part_labels, part_maps, write_clip


def raised_arm() -> np.ndarray:
    """The figure with its right arm (at the left of the picture) straight to the side."""
    labels = part_labels()
    labels[np.isin(labels, (16, 20, 3))] = 0
    labels[28:34, 22:34], labels[28:34, 10:22], labels[28:34, 4:10] = 16, 20, 3
    return labels


def test_it_begins_at_the_first_pose_and_nears_the_last():
    first, last = part_labels(shift=-8), raised_arm()
    maps = list(transition(first, last, 12))
    assert len(maps) == 12 and all(each.shape == (96, 96) and each.dtype == np.uint8 for each in maps)
    assert (maps[0] == first).mean() > 0.99
    assert (maps[-1] == last).mean() > 0.97
    pelvis = [segments(each)["torso"].joint[0] for each in maps]
    assert np.all(np.diff(pelvis) > -0.6), "it goes over evenly"
    arm = [segments(each)["right upper arm"].axis for each in maps]
    angles = np.unwrap(np.arctan2(*np.array(arm).T[::-1]))
    assert np.abs(np.diff(angles)).max() < 0.6, "and turns by the shorter way, in small steps"


def test_the_body_keeps_its_size_on_the_way():
    areas = [(each > 0).sum() for each in transition(part_labels(), raised_arm(), 10)]
    assert min(areas) > 0.85 * max(areas)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros((96, 96), np.uint8), "No torso is recognised in the photo"),
        (np.concatenate([part_labels()[:, 20:68]] * 2, 1), "several people in the photo"),
    ],
)
def test_what_cannot_be_led_is_one_sentence(labels, words):
    with pytest.raises(InputError, match=words):
        list(transition(labels, part_labels(), 4))


def test_the_result_is_longer_and_its_sound_later(tiny_model, tmp_path):
    write_clip(tmp_path / "motion.mp4", part_maps(10, width=64, height=64), sound=0.4)
    request = AnimationRequest(
        ASSETS / "examples" / "arms_photo.jpg",
        tmp_path / "motion.mp4",
        tmp_path / "out.mp4",
        num_inference_steps=1,
        sound=True,
        start_from_photo=5,
        background="clip",
        driving_video=tmp_path / "film.mp4",
        credentials=False,
    )
    write_clip(tmp_path / "film.mp4", [np.full((64, 64, 3), 90, np.uint8)] * 10)
    animator = Animator(tiny_model, device="cpu")
    result = animator.animate(request)
    assert result.num_frames == 15 and result.settings["start_from_photo"] == 5
    loud = loudness(tmp_path / "out.mp4")
    assert loud(0.02, 0.15) < 0.01 < loud(0.25, 0.5), "silence for the five frames of 25 a second"
    with pytest.raises(InputError, match="leave --start-from-photo out"):
        animator.animate(replace(request, photo=blank(tmp_path)))


def blank(folder):
    from PIL import Image

    Image.fromarray(np.full((64, 64, 3), 120, np.uint8)).save(folder / "blank.png")
    return folder / "blank.png"


def loudness(path):
    """A function of start and end, seconds, that says how loud a file is there."""
    with open_container(path) as container:
        blocks = [frame.to_ndarray() for frame in container.decode(sound_stream(container))]
    sound = np.concatenate(blocks, 1)[0]
    return lambda start, end: float(np.abs(sound[int(48000 * start) : int(48000 * end)]).mean())


def test_arms_along_the_torso_hang_from_the_shoulder_and_specks_stay_away():
    """Arms that lie along the torso turn about the shoulder; specks of a compressed map fly nowhere."""
    last = part_labels()
    last[np.isin(last, (16, 20, 3))] = 0
    last[26:44, 28:34], last[44:58, 28:34], last[58:64, 28:34] = 16, 20, 3
    last[30:33, 70], last[60, 20:23] = 3, 20  # specks
    for each in transition(raised_arm(), last, 8):
        arm = np.argwhere(np.isin(each, (16, 20, 3)))
        assert np.hypot(*(arm - (28, 33)).T).max() < 45, "no piece of the arm is away from it"
