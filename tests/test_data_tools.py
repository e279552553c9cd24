"""The command line for training data: mirror, pack, check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densepose_tools.keypoints import flip_keypoints, read_keypoints
from magicanimate.config import MediaLimits
from magicanimate.media.video_file import decode
from magicanimate.palette import FLIP_PERMUTATION, colourise, nearest_labels
from tests.dancer_files import write_boxes
from tests.media_files import part_labels, write_clip, write_output
from tests.training_files import number_in, shifted_labels, write_picture, write_points, write_video
from training.data.__main__ import main
from training.data.images import ImageFolder
from training.data.shards import ImageShards
from training.data.videos import VideoFolder


def frames_of(path: Path) -> np.ndarray:
    return np.stack([frame for _, frame in decode(path, limits=MediaLimits())])


@pytest.fixture
def folder(tmp_path) -> Path:
    """A video of odd width and a picture, with maps; the video has points too."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_video(folder, "clip", 14, width=66, height=64)
    write_points(folder, "clip", 14, width=66, height=64)
    write_picture(folder, "still", 7)
    return folder


def test_flip_mirrors_picture_map_and_points(folder, tmp_path):
    out = tmp_path / "out"
    assert main(["flip", str(folder), str(out)]) == 0
    before, after = frames_of(folder / "clip.densepose.mp4"), frames_of(out / "clip_mirrored.densepose.mkv")
    assert after.shape == before.shape
    expected = FLIP_PERMUTATION[nearest_labels(before)[0][:, :, ::-1]]
    assert np.array_equal(after, colourise(expected)), "exactly, in palette colours"
    pixels, mirrored = frames_of(folder / "clip.mp4"), frames_of(out / "clip_mirrored.mp4")
    assert len(mirrored) == 14
    assert np.abs(mirrored.astype(int) - pixels[:, :, ::-1]).max() <= 6
    points = read_keypoints(folder / "clip.keypoints.npz").points
    again = read_keypoints(out / "clip_mirrored.keypoints.npz").points
    np.testing.assert_array_equal(again, flip_keypoints(points, width=66))
    labels = nearest_labels(np.array(Image.open(out / "still_mirrored.densepose.png")))[0]
    assert np.array_equal(labels, FLIP_PERMUTATION[shifted_labels(7, width=64, height=64)[:, ::-1]])
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]


def test_flipping_twice_is_identity_on_labels(folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["flip", str(folder), str(one)]) == 0
    assert main(["flip", str(one), str(two)]) == 0
    before = nearest_labels(frames_of(folder / "clip.densepose.mp4"))[0]
    after, distance = nearest_labels(frames_of(two / "clip_mirrored_mirrored.densepose.mkv"))
    assert np.array_equal(before, after) and (distance == 0).all()
    original = np.array(Image.open(folder / "still.densepose.png"))
    assert np.array_equal(original, np.array(Image.open(two / "still_mirrored_mirrored.densepose.png")))
    np.testing.assert_allclose(
        read_keypoints(two / "clip_mirrored_mirrored.keypoints.npz").points,
        read_keypoints(folder / "clip.keypoints.npz").points,
        atol=1e-4,
    )


def test_flip_of_the_left_hand_alone_is_a_right_hand(tmp_path):
    """A map whose only part is the left hand, at the right of the picture."""
    labels = np.zeros((48, 64), np.uint8)
    labels[10:20, 50:60] = 4
    Image.fromarray(colourise(labels)).save(tmp_path / "a.densepose.png")
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(tmp_path / "a.jpg")
    assert main(["flip", str(tmp_path), str(tmp_path / "out")]) == 0
    mirrored = nearest_labels(np.array(Image.open(tmp_path / "out" / "a_mirrored.densepose.png")))[0]
    assert (mirrored[10:20, 4:14] == 3).all() and (mirrored > 0).sum() == 100


def test_flip_into_the_same_folder_doubles_the_set_once(folder, capsys):
    assert main(["flip", str(folder), str(folder)]) == 0
    assert main(["flip", str(folder), str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == ["2 mirrored", "0 mirrored"]
    videos = VideoFolder(folder, size=64, signals=("densepose", "keypoints"))
    assert [Path(videos.name(i)).name for i in range(len(videos))] == ["clip.mp4", "clip_mirrored.mp4"]
    assert len(ImageFolder(folder, size=32)) == 2
    left, right = (nearest_labels(videos.read(i, [5]).control["densepose"][0])[0] for i in (0, 1))
    assert abs((left == 2).mean() - (right == 2).mean()) < 0.01, "the torso, which has no sides"
    assert abs((left == 4).mean() - (right == 3).mean()) < 0.01, "the left hand has become the right one"


def test_flip_keeps_the_layout_of_folders_of_their_own(folder, tmp_path):
    for kind, name in (("videos", "clip.mp4"), ("densepose", "clip.densepose.mp4")):
        (folder / kind).mkdir()
        (folder / name).rename(folder / kind / "clip.mp4")
    out = tmp_path / "out"
    assert main(["flip", str(folder), str(out)]) == 0
    assert (out / "videos" / "clip_mirrored.mp4").exists() and (
        out / "densepose" / "clip_mirrored.mkv"
    ).exists()
    assert VideoFolder(out, size=32).num_frames(0) == 14


def test_flip_leaves_out_a_drawing_of_keypoints(tmp_path, caplog):
    write_video(tmp_path, "a", 3)
    write_clip(tmp_path / "a.keypoints.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3)
    assert main(["flip", str(tmp_path), str(tmp_path / "out")]) == 0
    assert "a.keypoints.mp4" in caplog.text
    assert not list((tmp_path / "out").glob("*keypoints*"))


def test_a_flip_that_fails_leaves_nothing_half_written(folder, tmp_path, capsys):
    (folder / "clip.densepose.mp4").write_bytes(b"something else than a video")
    assert main(["flip", str(folder), str(tmp_path / "out")]) == 2
    assert "clip.densepose.mp4" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.mp4")) and not list((tmp_path / "out").glob(".*"))


def test_dancers_and_empty_folders_are_not_flipped(tmp_path, capsys):
    boxes = write_boxes(tmp_path / "boxes", identities=1)
    assert main(["flip", str(boxes), str(tmp_path / "out")]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["flip", str(tmp_path / "empty"), str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "render more" in errors[0] and "neither" in errors[1]


def test_shards_are_written_and_read(folder, tmp_path, capsys):
    for i in range(4):
        write_picture(folder, f"more{i}", i)
    assert main(["shards", str(folder), str(tmp_path / "shards"), "--pictures", "2"]) == 0
    assert capsys.readouterr().out == "3 shards\n"
    shards = ImageShards(tmp_path / "shards", size=32)
    assert [number_in(shards.read(i).pixels) for i in range(5)] == [0, 1, 2, 3, 7]


def test_check_says_what_is_used_and_what_is_not(folder, capsys):
    write_video(folder, "long", 70)
    write_video(folder, "alone", 5, maps=False)
    write_video(folder, "grey", 5)
    grey = np.repeat(part_labels()[..., None] * 10, 3, axis=-1).astype(np.uint8)
    write_clip(folder / "grey.densepose.mp4", [grey] * 5)
    (folder / "still2.png").write_bytes((folder / "still.png").read_bytes()[:60])
    (folder / "still2.densepose.png").write_bytes((folder / "still.densepose.png").read_bytes())
    assert main(["check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "2 videos with densepose, 84 frames, 14 to 70 each; sizes" in out
    assert "1 of them have fewer than the 16 frames" in out
    assert "1 pictures" in out
    left_out = [line for line in out.splitlines() if line.startswith("left out: ")]
    for name in ("alone.mp4", "grey.densepose.mp4", "still2.png"):
        assert sum(name in line for line in left_out) == 1
    assert len(left_out) == 3


def test_check_of_dancers_shards_and_nothing(folder, tmp_path, capsys):
    boxes = write_boxes(tmp_path / "boxes", identities=3, size=32, stills=2, frames=4)
    (boxes / "000001.png").write_bytes(b"broken")
    assert main(["check", str(boxes), "--length", "8"]) == 0
    out = capsys.readouterr().out
    assert "2 rendered people of 3 asked for, 32x32 pixels" in out and "000001.png" in out
    assert "shorter than the 8 frames" in out
    assert main(["shards", str(folder), str(tmp_path / "shards")]) == 0
    assert main(["check", str(tmp_path / "shards")]) == 0
    assert "1 pictures in shards" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main(["check", str(tmp_path / "empty")]) == 2
    assert main(["check", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_help_loads_nothing_heavy():
    code = "import sys, training.data.__main__ as m; m.parser(); print({'torch', 'av'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_check_keeps_what_it_found_and_tells_of_rates(folder, tmp_path, capsys, caplog):
    from training.data.videos import INDEX_NAME

    pictures = [np.full((64, 64, 3), 90, np.uint8)] * 12
    maps = [colourise(part_labels(width=64, height=64))] * 12
    write_output(folder / "quick.mp4", pictures, fps=50)
    write_output(folder / "quick.densepose.mp4", maps, fps=50, lossless=True)
    assert main(["check", str(folder)]) == 0
    assert "1 of them do not have 25 frames a second but 50 (1)" in capsys.readouterr().out
    assert (folder / INDEX_NAME).exists()
    VideoFolder(folder, size=32)
    assert "1 of 2 videos" in caplog.text and "do not have 25 frames a second" in caplog.text
