"""A dancer with the build of another body, and the mini that stands in for the network."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from densepose_tools.body import measure_build, segments
from densepose_tools.command import main
from densepose_tools.engines import MiniExtractor
from densepose_tools.people import Person, part_map
from densepose_tools.postprocess import Postprocessing, postprocess
from densepose_tools.retarget import retargeted
from magicanimate.errors import InputError
from magicanimate.media.motion import open_motion
from magicanimate.palette import colourise, nearest_labels
from tests.densepose_clips import figures, negative_clip, run
from tests.media_files import part_labels

SIZE = 192


def figure(*, shift: int = 0, broad: float = 1.0, tall: float = 1.0) -> np.ndarray:
    """A figure in the middle of a square, so many times as broad and tall as usual, then moved right."""
    plain = np.repeat(np.repeat(part_labels(), 2, axis=0), 2, axis=1)
    y, x = np.indices(plain.shape)
    middle = SIZE / 2
    rows = np.clip(np.rint((y - middle) / tall + middle), 0, SIZE - 1).astype(int)
    columns = np.clip(np.rint((x - middle) / broad + middle), 0, SIZE - 1).astype(int)
    return np.roll(plain[rows, columns], shift, axis=1)


def as_person(labels: np.ndarray) -> Person:
    return Person((0.0, 0.0, float(labels.shape[1]), float(labels.shape[0])), 0.9, labels)


def danced(maps, like) -> list[np.ndarray]:
    found = [[as_person(labels)] for labels in maps]
    height, width = maps[0].shape
    return list(
        postprocess(found, Postprocessing(like=like), width=width, height=height, rate=Fraction(25)).maps
    )


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return ((one == other) & (one > 0)).sum() / ((one > 0) | (other > 0)).sum()


def test_limbs_of_a_figure_are_measured():
    found = segments(figure())
    assert len(found) == 14
    assert found["torso"].length == pytest.approx(56, abs=3) and found["torso"].width == pytest.approx(
        48, abs=4
    )
    assert found["left shank"].length == pytest.approx(32, abs=3)
    np.testing.assert_allclose(found["left shank"].axis, (0, 1), atol=0.05)
    assert found["head"].axis[1] < -0.95


def raised_arms() -> np.ndarray:
    """The same figure with its arms straight to the sides."""
    labels = part_labels()
    labels[np.isin(labels, (16, 20, 3, 15, 19, 4))] = 0
    for label, (left, right) in {16: (20, 34), 20: (8, 20), 3: (2, 8), 15: (58, 72), 19: (72, 84)}.items():
        labels[28:34, left:right] = label
    labels[28:34, 84:90] = 4
    return np.repeat(np.repeat(labels, 2, axis=0), 2, axis=1)


def test_arms_are_as_long_hanging_as_raised():
    """Along the torso, too, an arm leads from the shoulder to the elbow, not sideways from its middle."""
    hanging, raised = figure(), raised_arms()
    for side, outward in (("right", -1), ("left", 1)):
        down, up = (segments(labels)[f"{side} upper arm"] for labels in (hanging, raised))
        assert down.axis[1] > 0.95 and up.axis[0] * outward > 0.95
        assert down.length == pytest.approx(up.length, rel=0.1)
        assert down.width == pytest.approx(up.width, rel=0.1)
        assert down.joint[1] < 60, "at the shoulder"
    for clip, photo in ((hanging, raised), (raised, hanging)):
        drawn = next(
            iter(retargeted([clip], measure_build([clip]), measure_build([photo]), width=SIZE, height=SIZE))
        )
        assert overlap(drawn, clip) > 0.95, "one body in two poses: nothing to change"


@pytest.mark.parametrize(("broad", "tall"), [(0.8, 1.0), (1.25, 1.0), (0.9, 0.9), (1.1, 0.85)])
def test_dancer_takes_on_the_build_and_place_of_the_photo(broad, tall):
    shifts = (-12, 0, 12)
    clip = [figure(shift=shift) for shift in shifts]
    photo = figure(shift=20, broad=broad, tall=tall)
    wanted = measure_build([photo])
    drawn = danced(clip, photo)
    found = measure_build(drawn)
    for name in ("torso", "left thigh", "right shank", "left upper arm", "right forearm"):
        np.testing.assert_allclose(found.sizes[name], wanted.sizes[name], rtol=0.12, err_msg=name)
    # It begins where the photo's person stands and moves as far as its size says.
    for shift, labels in zip(shifts, drawn, strict=True):
        moved = round(tall * (shift - shifts[0]))
        assert overlap(labels, figure(shift=20 + moved, broad=broad, tall=tall)) > 0.8
        assert overlap(labels, clip[0]) < 0.75


def test_same_build_changes_next_to_nothing():
    clip = [figure(shift=shift) for shift in (0, 8)]
    for drawn, labels in zip(danced(clip, clip[0]), clip, strict=True):
        assert (drawn == labels).mean() > 0.99


def test_torso_behind_an_arm_that_shrinks_stays_whole():
    labels = figure()
    labels[70:84, 60:140] = 20  # a forearm across the torso
    photo = figure(broad=1.0, tall=0.8)
    (drawn,) = danced([labels], photo)
    torso = segments(drawn)["torso"]
    x, y = torso.joint.astype(int)
    column = drawn[y - int(torso.length) + 6 : y - 2, x]
    assert (column > 0).all()


def test_result_has_the_photos_aspect_at_the_clips_height():
    photo = np.pad(figure(), ((0, 0), (48, 48)))[::2, ::2]
    found = [[as_person(figure())]]
    part_maps = postprocess(found, Postprocessing(like=photo), width=SIZE, height=SIZE, rate=Fraction(25))
    assert (part_maps.width, part_maps.height) == (288, 192)
    (labels,) = part_maps.maps
    assert labels.shape == (192, 288) and overlap(labels, np.pad(figure(), ((0, 0), (48, 48)))) > 0.9


def test_builds_that_cannot_be_told_are_refused():
    with pytest.raises(InputError, match="No torso is seen"):
        danced([figure()], np.where(np.isin(figure(), (1, 2)), 0, figure()))
    two = [[as_person(figure(shift=-50)), as_person(figure(shift=50))]]
    with pytest.raises(InputError, match="Only one dancer"):
        postprocess(
            two, Postprocessing(people="all", like=figure()), width=SIZE, height=SIZE, rate=Fraction(25)
        )


def test_photo_is_taken_from_the_command_line(tmp_path, capsys):
    labels = figures(2, width=96, height=96)
    made = run(negative_clip(tmp_path / "clip.mp4", labels), tmp_path / "map.mp4")
    photo = tmp_path / "photo.png"
    Image.fromarray(colourise(np.pad(labels[0], ((0, 0), (10, 10))))).save(photo)
    again = tmp_path / "again.mp4"
    assert main([str(made.archive), "-o", str(again), "--like", str(photo)]) == 0
    drawn = [nearest_labels(frame)[0] for frame in open_motion(again).frames()]
    assert drawn[0].shape == (96, 116)
    assert overlap(drawn[0], np.pad(labels[0], ((0, 0), (10, 10)))) > 0.85
    assert main([str(made.archive), "-o", str(again), "--like", str(tmp_path / "missing.png")]) == 2
    assert "missing.png does not exist" in capsys.readouterr().err


def test_mini_reports_the_figure_that_the_segmenter_labels(tmp_path, monkeypatch):
    from training.segmenter.stage import build_segmenter

    monkeypatch.setattr("densepose_tools.engines.LEAST_CERTAINTY", 0)  # this one has learned nothing
    build_segmenter("tiny").save_pretrained(tmp_path / "segmenter")
    mini = MiniExtractor.load(tmp_path / "segmenter", device="cpu")
    frames = [np.random.default_rng(k).integers(0, 256, (40, 56, 3), dtype=np.uint8) for k in range(2)]
    labels = mini.segmenter.labels(np.stack(frames))
    assert mini.name == "mini"
    for people, expected in zip(mini.people(frames), labels, strict=True):
        np.testing.assert_array_equal(part_map(people, width=56, height=40), expected)
        assert len(people) == (1 if expected.any() else 0)
