"""DWPose's keypoints of clips and pictures; networks are stood in for where answers must be known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from densepose_tools import command, dwpose
from densepose_tools.dwpose import DWPose, drawn
from densepose_tools.keypoints import NUM_ALL, draw_keypoints, read_keypoints
from magicanimate.errors import InputError
from magicanimate.media.motion import open_motion
from tests.media_files import numbered, write_output


def estimate(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """People whose first point tells the picture's colours: none in dark pictures, two in bright ones."""
    blue, red = picture[0, 0, 0], picture[0, 0, 2]
    people = 0 if red < 20 else 2 if red > 40 else 1
    points = np.full((people, NUM_ALL, 2), 5.0)
    points[..., 0] += np.arange(NUM_ALL) % 7 * 4
    points[:, 0] = (red, blue)
    return points, np.full((people, NUM_ALL), 1.5)


def test_people_come_and_go():
    frames = [np.full((48, 64, 3), value, np.uint8) for value in (10, 30, 50)]
    frames[1][..., 2] = 7  # the networks take BGR
    found = DWPose(estimate).points(iter(frames))
    assert found.points.shape == (3, 2, NUM_ALL, 3) and (found.width, found.height) == (64, 48)
    assert found.points[0].max() == 0, "nobody is confidence 0"
    assert found.points[1, 0, 0].tolist() == [30, 7, 1], "confidence ends at 1"
    assert found.points[1, 1].max() == 0 and found.points[2, 1, 0, 0] == 50
    pictures = list(drawn(found))
    assert pictures[0].max() == 0
    np.testing.assert_array_equal(pictures[2], draw_keypoints(found.points[2], width=64, height=48))
    with pytest.raises(InputError, match="no frame"):
        DWPose(estimate).points([])


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(DWPose, "load", classmethod(lambda cls, *_, **__: cls(estimate)))
    clip = write_output(tmp_path / "a.mp4", numbered(5), fps=12.5)
    points, drawing = tmp_path / "a.keypoints.npz", tmp_path / "a_points.mp4"
    for out in (points, drawing):
        assert command.main([str(clip), "-o", str(out), "--keypoints"]) == 0
    assert capsys.readouterr().out.split() == [str(points), str(drawing)]
    assert read_keypoints(points).points.shape[0] == 5
    opened = open_motion(drawing)
    assert (opened.num_frames_estimate, opened.rate, opened.width) == (5, 12.5, 64)
    assert command.main([str(clip), "-o", str(points), "--keypoints"]) == 0, "its own result is replaced"
    mine = tmp_path / "mine.npz"
    mine.write_bytes(b"mine")
    for out, sentence in ((mine, "mine.npz"), (tmp_path / "a.txt", "must end in .npz")):
        assert command.main([str(clip), "-o", str(out), "--keypoints"]) == 2
        assert sentence in capsys.readouterr().err
    assert command.main([str(clip), "-o", str(points), "--keypoints", "--pictures"]) == 2
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("packages", ["there", "missing"])
def test_a_wrong_folder_is_named_with_and_without_the_packages(tmp_path, monkeypatch, packages):
    if packages == "missing":
        monkeypatch.setitem(sys.modules, "rtmlib", None)
    with pytest.raises(InputError, match=r"yolox_l.onnx is missing; it is published in yzd-v/DWPose"):
        DWPose.load(tmp_path)


def damaged(folder: Path) -> Path:
    """A folder with files of the right names that are no networks."""
    for name in (dwpose.DETECTOR, dwpose.ESTIMATOR):
        (folder / name).write_bytes(b"no network")
    return folder


def test_damaged_models(tmp_path):
    for package in ("rtmlib", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    with pytest.raises(InputError, match="cannot be used"):
        DWPose.load(damaged(tmp_path))


@pytest.mark.parametrize("folder", ["given", "to be fetched"])
def test_without_the_package(monkeypatch, tmp_path, folder):
    monkeypatch.setitem(sys.modules, "rtmlib", None)
    with pytest.raises(InputError, match="pip install rtmlib onnxruntime"):
        DWPose.load(damaged(tmp_path) if folder == "given" else None)


def test_rtmlibs_order_is_ours():
    """COCO's whole body becomes OpenPose's 18, then feet, face and hands; a neck between the shoulders."""
    tools = pytest.importorskip("rtmlib.tools.pose_estimation.post_processings")
    coco = np.zeros((1, 133, 2))
    coco[0, :, 0] = np.arange(133)
    points, scores = tools.convert_coco_to_openpose(coco, np.ones((1, 133)))
    assert points.shape == (1, NUM_ALL, 2) and scores.shape == (1, NUM_ALL)
    nose, neck, right_shoulder, right_elbow, right_wrist, left_shoulder = points[0, :6, 0]
    assert (nose, neck, right_shoulder, right_elbow, right_wrist, left_shoulder) == (0, 5.5, 6, 8, 10, 5)
    assert points[0, 8:14, 0].tolist() == [12, 14, 16, 11, 13, 15], "hips, knees and ankles, the right first"
    assert points[0, 18:24, 0].tolist() == list(range(17, 23)), "feet"
    assert points[0, 24:92, 0].tolist() == list(range(23, 91)), "face"
    assert points[0, 92:, 0].tolist() == list(range(91, 133)), "left hand, right hand"
