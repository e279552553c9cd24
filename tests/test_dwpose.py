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
    red, blue = picture[0, 0, 0], picture[0, 0, 2]
    people = 0 if red < 20 else 2 if red > 40 else 1
    points = np.full((people, NUM_ALL, 2), 5.0)
    points[..., 0] += np.arange(NUM_ALL) % 7 * 4
    points[:, 0] = (red, blue)
    return points, np.full((people, NUM_ALL), 1.5)


def test_people_come_and_go():
    frames = [np.full((48, 64, 3), value, np.uint8) for value in (10, 30, 50)]
    frames[1][..., 2] = 7
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


@pytest.mark.parametrize(
    ("device", "providers", "expected"),
    [
        (None, ["CPUExecutionProvider"], "cpu"),
        (None, ["CUDAExecutionProvider", "CPUExecutionProvider"], "cuda"),
        ("cuda:1", ["CUDAExecutionProvider"], "cuda:1"),
    ],
)
def test_the_device(tmp_path, monkeypatch, device, providers, expected):
    rtmlib = pytest.importorskip("rtmlib", reason="rtmlib is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    seen = []
    for name in ("YOLOX", "RTMPose"):
        monkeypatch.setattr(rtmlib, name, lambda *_, device, **__: seen.append(device))
    DWPose.load(damaged(tmp_path), device=device)
    assert seen == [expected, expected]


@pytest.mark.parametrize("folder", ["given", "to be fetched"])
def test_without_the_package(monkeypatch, tmp_path, folder):
    monkeypatch.setitem(sys.modules, "rtmlib", None)
    with pytest.raises(InputError, match="pip install rtmlib onnxruntime"):
        DWPose.load(damaged(tmp_path) if folder == "given" else None)


CELLS = 80 * 80 + 40 * 40 + 20 * 20
"""Places where YOLOX looks, on grids of 8, 16 and 32 pixels."""


def write_models(folder: Path) -> Path:
    """Networks with the inputs and outputs of the published ones, which find what is known beforehand.

    In blue pictures the detector sees a person twice, a dog more surely, and somebody of too low a score; in
    others nothing. Of 133 points the estimator puts point k into column 4 k and row 5 k of its output, and is
    the surer the redder the picture is.
    """
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    from onnx import helper, numpy_helper

    def save(name: str, nodes: list, given: list[int], outputs: dict[str, list[int]], **held) -> None:
        kind = onnx.TensorProto.FLOAT
        first = [
            helper.make_node("ReduceMean", ["input"], ["colours"], axes=[2, 3]),
            helper.make_node("Gather", ["colours", "number"], ["first"], axis=1),  # (1, 1, 1)
        ]
        tensors = [numpy_helper.from_array(np.array(value, np.float32), key) for key, value in held.items()]
        graph = helper.make_graph(
            [*first, *nodes],
            name,
            [helper.make_tensor_value_info("input", kind, given)],
            [helper.make_tensor_value_info(key, kind, shape) for key, shape in outputs.items()],
            [numpy_helper.from_array(np.array(0, np.int64), "number"), *tensors],
        )
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / name)

    boxes, sure = np.zeros((2, 1, CELLS, 85), np.float32)
    coarse = CELLS - 400  # cells of 32 pixels: number 190 is in row 9, column 10
    for cell, kind, score in ((190, 0, 0.8), (191, 0, 0.6), (205, 16, 0.95), (20, 0, 0.25)):
        boxes[0, coarse + cell, :4] = (0.5 - cell % 2, 0.5, np.log(4), np.log(8))  # 128 x 256 pixels
        boxes[0, coarse + cell, 5 + kind] = 1
        sure[0, coarse + cell, 4] = score
    detect = [
        helper.make_node("Sub", ["first", "dark"], ["above"]),
        helper.make_node("Clip", ["above", "zero", "one"], ["bright"]),
        helper.make_node("Mul", ["sure", "bright"], ["scores"]),
        helper.make_node("Add", ["boxes", "scores"], ["output"]),
    ]
    held = {"dark": 100.0, "zero": 0.0, "one": 1.0, "boxes": boxes, "sure": sure}
    save(dwpose.DETECTOR, detect, [1, 3, 640, 640], {"output": [1, CELLS, 85]}, **held)
    columns, rows = np.zeros((1, 133, 576), np.float32), np.zeros((1, 133, 768), np.float32)
    for point in range(133):
        columns[0, point, 4 * point] = rows[0, point, 5 * point] = 1
    estimate = [
        helper.make_node("Mul", ["first", "tenth"], ["more"]),
        helper.make_node("Add", ["more", "usual"], ["sureness"]),
        helper.make_node("Mul", ["columns", "sureness"], ["simcc_x"]),
        helper.make_node("Mul", ["rows", "sureness"], ["simcc_y"]),
    ]
    outputs = {"simcc_x": [1, 133, 576], "simcc_y": [1, 133, 768]}
    held = {"tenth": 0.1, "usual": 0.8, "columns": columns, "rows": rows}
    save(dwpose.ESTIMATOR, estimate, [1, 3, 384, 288], outputs, **held)
    return folder


def test_networks_of_the_published_layout(tmp_path, capsys):
    """Through rtmlib and onnxruntime, from pictures to points."""
    for package in ("rtmlib", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    models = write_models(tmp_path)
    frames = [np.full((640, 640, 3), colour, np.uint8) for colour in ((20, 150, 220), (220, 150, 20))]
    found = DWPose.load(models).points(frames)
    assert capsys.readouterr().out == ""
    assert found.points.shape == (2, 1, NUM_ALL, 3), "a person once; no dog"
    assert found.points[1].max() == 0, "nobody where nothing is blue"
    # The box is 128 x 256 around (336, 304), and the estimator looks at a quarter more, 3 : 4.
    centre, size = np.array([336, 304]), np.array([240, 320])
    person = found.points[0, 0]
    assert person[:, 2] == pytest.approx(0.8 + 0.1 * (20 - 123.675) / 58.395, abs=1e-4), "red comes first"
    for ours, coco in ((0, 0), (2, 6), (3, 8), (18, 17), (24, 23), (92, 91), (133, 132)):
        place = np.array([4 * coco / 2 / 288, 5 * coco / 2 / 384]) * size + centre - size / 2
        np.testing.assert_allclose(person[ours, :2], place, atol=0.02)
    clip = write_output(tmp_path / "a.mp4", frames)
    out = tmp_path / "a.keypoints.npz"
    words = [str(clip), "-o", str(out), "--keypoints", "--pose-models", str(models)]
    assert command.main(words) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert read_keypoints(out).points[0, 0, 0, :2] == pytest.approx(person[0, :2], abs=1)


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
