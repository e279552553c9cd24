"""Sets of videos and images: the right frames at the right size, whatever the folder looks like."""

from __future__ import annotations

import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from magicanimate.errors import InputError
from magicanimate.palette import PALETTE, colourise, nearest_labels
from tests.dancer_files import write_boxes
from tests.training_files import number_in, shifted_labels, write_picture, write_points, write_video
from training.data.dancers import DancerVideos
from training.data.folders import VIDEO_SUFFIXES, find_entries
from training.data.images import ImageFolder
from training.data.opening import open_images, open_videos
from training.data.shards import INDEX_NAME as SHARD_INDEX
from training.data.shards import ImageShards, write_shards
from training.data.sources import VideoFrames, VideoSubset, hold_out
from training.data.videos import INDEX_NAME, VideoFolder


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Two videos with part maps and points, one of them wide."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder, "clip2", 45)
    write_points(folder, "clip2", 45)
    write_video(folder, "clip10", 23, width=96)
    write_points(folder, "clip10", 23, width=96)
    return folder


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        write_picture(folder, f"p{i}.front", i)
    return folder


@pytest.fixture(scope="module")
def dancers(tmp_path_factory) -> Path:
    return write_boxes(tmp_path_factory.mktemp("dancers"), identities=3, size=32, stills=2, frames=4)


def test_videos_are_paired_by_name_in_natural_order(videos):
    found = VideoFolder(videos, size=64)
    assert [Path(found.name(i)).name for i in range(len(found))] == ["clip2.mp4", "clip10.mp4"]
    assert [found.num_frames(i) for i in range(2)] == [45, 23]
    assert found.left_out == []


@pytest.mark.parametrize("frames", [[0], [44], [31, 3, 17, 3], [9, 10, 11], list(range(1, 45, 4))])
def test_the_frames_asked_for_come_in_the_order_asked_for(videos, frames):
    """Across key frames (every tenth), backwards, twice."""
    read = VideoFolder(videos, size=64).read(0, frames)
    assert read.pixels.shape == (len(frames), 64, 64, 3) and read.pixels.dtype == np.uint8
    assert [number_in(frame) for frame in read.pixels] == frames
    for frame, drawn in zip(frames, read.control["densepose"], strict=True):
        labels, _ = nearest_labels(drawn)
        assert (labels == shifted_labels(frame, width=64, height=64)).mean() > 0.9


def test_only_the_stretch_behind_a_key_frame_is_decoded(videos, monkeypatch):
    from magicanimate.media import video_file

    converted = []
    original = video_file.to_rgb
    found = VideoFolder(videos, size=64)
    found.read(0, [0])
    monkeypatch.setattr(
        video_file, "to_rgb", lambda frame, size, **_: converted.append(1) or original(frame, size)
    )
    found.read(0, [25, 41])
    assert len(converted) == 4  # two frames of the video and two of the map, no other is even converted


def test_smaller_size_keeps_picture_and_map_together_and_blends_no_parts(videos):
    read = VideoFolder(videos, size=32).read(1, [5])
    assert read.pixels.shape == read.control["densepose"].shape == (1, 32, 32, 3)
    drawn = read.control["densepose"][0].reshape(-1, 3)
    assert {tuple(colour) for colour in drawn} <= {tuple(colour) for colour in PALETTE}
    there = np.isin(nearest_labels(drawn)[0], shifted_labels(5, width=96, height=64))
    assert there.mean() > 0.97, "but for what compression did to the edges"


def test_crop_of_a_wide_video_follows_the_person(tmp_path):
    """The figure stands at the right; the window goes there, for picture, map and points alike."""
    write_video(tmp_path, "a", 3, width=64, height=64)
    labels = np.zeros((64, 192), np.uint8)
    labels[:, 128:] = shifted_labels(0, width=64, height=64)
    from tests.media_files import write_clip

    pixels = np.full((64, 192, 3), 30, np.uint8)
    pixels[:, 128:] = 200
    write_clip(tmp_path / "a.mp4", [pixels] * 3)
    write_clip(tmp_path / "a.densepose.mp4", [colourise(labels)] * 3)
    read = VideoFolder(tmp_path, size=64).read(0, [1])
    assert read.pixels[0, 32, 8:].mean() > 180, "the window is the right third"
    seen = nearest_labels(read.control["densepose"][0])[0] > 0
    assert abs(np.flatnonzero(seen.any(axis=0)).mean() - 32) < 8


def test_keypoints_are_drawn_where_the_points_are(videos):
    read = VideoFolder(videos, size=64, signals=("keypoints",)).read(0, [0, 20])
    first, later = (np.argwhere(drawing.max(-1) > 60)[:, 1].mean() for drawing in read.control["keypoints"])
    assert later - first == pytest.approx(20, abs=4)
    both = VideoFolder(videos, size=64, signals=("densepose", "keypoints")).read(0, [0])
    assert set(both.control) == {"densepose", "keypoints"}


def test_folders_of_their_own(tmp_path):
    write_video(tmp_path, "dance", 6)
    for kind, name in (("videos", "dance.mp4"), ("densepose", "dance.densepose.mp4")):
        (tmp_path / kind).mkdir()
        (tmp_path / name).rename(tmp_path / kind / "dance.mp4")
    found = open_videos(tmp_path, size=32)
    assert found.num_frames(0) == 6
    assert number_in(found.read(0, [4]).pixels) == 4


def test_what_cannot_be_used_is_left_out_and_named(tmp_path, caplog):
    write_video(tmp_path, "good", 12)
    write_video(tmp_path, "lonely", 4, maps=False)
    write_video(tmp_path, "short_map", 12)
    write_video(tmp_path, "other", 5)
    (tmp_path / "other.densepose.mp4").rename(tmp_path / "short_map.densepose.mp4")
    (tmp_path / "other.mp4").write_bytes(b"not a video at all, but some bytes")
    (tmp_path / "other.densepose.mp4").write_bytes(b"nor is this")
    write_video(tmp_path, "swapped", 4)
    (tmp_path / "swapped.densepose.mp4").write_bytes((tmp_path / "good.mp4").read_bytes())
    found = VideoFolder(tmp_path, size=32)
    assert len(found) == 1
    text = "\n".join(found.left_out)
    for name in ("lonely.mp4", "short_map.densepose.mp4", "other.mp4", "swapped.densepose.mp4"):
        assert name in text and name in caplog.text
    assert "ordinary video" in text or "colours" in text


def test_index_is_kept_and_notices_changed_files(tmp_path):
    write_video(tmp_path, "a", 8)
    write_video(tmp_path, "b", 5)
    VideoFolder(tmp_path, size=32)
    index = json.loads((tmp_path / INDEX_NAME).read_text())
    assert index["videos"]["a"]["facts"]["frames"] == 8
    index["videos"]["a"]["facts"]["frames"] = 7
    (tmp_path / INDEX_NAME).write_text(json.dumps(index))
    write_video(tmp_path, "b", 6)
    found = VideoFolder(tmp_path, size=32)
    assert [found.num_frames(i) for i in range(2)] == [7, 6], "a is taken from the index, b looked at again"
    (tmp_path / INDEX_NAME).write_text("{")
    assert VideoFolder(tmp_path, size=32).num_frames(0) == 8


def test_index_is_kept_elsewhere_if_the_folder_does_not_take_it(tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    (data / INDEX_NAME).mkdir(parents=True)  # in the way, also for root, who may write to read-only folders
    write_video(data, "a", 4)
    VideoFolder(data, size=32, index_folder=run)
    index = json.loads((run / INDEX_NAME).read_text())
    index["videos"]["a"]["facts"]["frames"] = 3
    (run / INDEX_NAME).write_text(json.dumps(index))
    assert VideoFolder(data, size=32, index_folder=run).num_frames(0) == 3
    assert not list(data.glob(".*")), "nothing half-written is left"


def test_a_video_that_breaks_later_is_named(tmp_path):
    write_video(tmp_path, "a", 8)
    found = VideoFolder(tmp_path, size=32)
    (tmp_path / "a.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:400])
    with pytest.raises(InputError, match="a.mp4"):
        found.read(0, [3])


def test_folder_without_videos(tmp_path):
    with pytest.raises(InputError, match="holds no videos"):
        VideoFolder(tmp_path, size=32)
    with pytest.raises(InputError, match="does not exist"):
        open_videos(tmp_path / "nowhere", size=32)
    with pytest.raises(InputError, match="depth"):
        open_videos(tmp_path, size=32, signals=("depth",))


def test_dancers_are_videos_of_stills_and_clip(dancers):
    found = open_videos(dancers, size=32)
    assert isinstance(found, DancerVideos)
    assert (len(found), found.stills, found.num_frames(0)) == (3, 2, 6)
    read = found.read(1, [4, 0])
    assert np.array_equal(read.pixels, found.rgb[1][[4, 0]])
    assert np.array_equal(read.control["densepose"], PALETTE[found.parts[1][[4, 0]]])
    half = DancerVideos(dancers, size=16).read(1, [4])
    assert half.pixels.shape == half.control["densepose"].shape == (1, 16, 16, 3)


def test_keypoints_of_people_rendered_after_decoding_are_not_mixed_up(tmp_path):
    """Workers finish out of order: the second of three people comes last, and the numbers behind it move."""
    boxes = write_boxes(tmp_path, identities=3)
    for i in range(3):
        write_points(tmp_path, f"{i:06d}", 6, width=32, height=32)
    (boxes / "000001.png").rename(boxes / "later")
    assert len(DancerVideos(boxes, signals=("keypoints",))) == 2
    (boxes / "later").rename(boxes / "000001.png")
    assert len(DancerVideos(boxes)) == 2, "a run goes on with what it began with"
    with pytest.raises(InputError, match="rgb.npy"):
        DancerVideos(boxes, signals=("keypoints",))


def test_sets_pickle_without_their_pixels(videos, dancers, pictures):
    for found in (DancerVideos(dancers), VideoFolder(videos, size=32)):
        data = pickle.dumps(found)
        assert len(data) < 5000
        assert np.array_equal(pickle.loads(data).read(1, [2]).pixels, found.read(1, [2]).pixels)
    images = ImageFolder(pictures, size=32)
    assert np.array_equal(pickle.loads(pickle.dumps(images)).read(1).pixels, images.read(1).pixels)


def test_subsets_and_frames_as_images(videos):
    found = VideoFolder(videos, size=64)
    train, held_out = hold_out(found, 1)
    assert (len(train), len(held_out)) == (1, 1)
    assert held_out.num_frames(0) == 23 and held_out.name(0).endswith("clip10.mp4")
    with pytest.raises(ValueError, match="nothing to learn from"):
        hold_out(found, 2)
    images = VideoFrames(VideoSubset(found, [1, 0]))
    assert len(images) == 68
    assert images.locate(0) == (0, 0) and images.locate(22) == (0, 22) and images.locate(23) == (1, 0)
    assert number_in(images.read(30).pixels) == 7


def test_images_with_dots_in_their_names(pictures):
    found = open_images(pictures, size=32)
    assert isinstance(found, ImageFolder) and len(found) == 5
    read = found.read(3)
    assert read.pixels.shape == read.control["densepose"].shape == (1, 32, 32, 3)
    assert number_in(read.pixels) == 3
    parts = nearest_labels(read.control["densepose"])
    assert (parts[1] == 0).all() and np.isin(parts[0], shifted_labels(3, width=64, height=64)).all()


def test_image_without_map_is_left_out_and_a_broken_one_named(pictures, caplog):
    (pictures / "p1.front.densepose.png").unlink()
    (pictures / "p2.front.densepose.png").write_bytes(b"\x89PNG broken")
    found = ImageFolder(pictures, size=32)
    assert len(found) == 4 and "p1.front.png" in caplog.text
    with pytest.raises(InputError, match="p2.front.densepose.png"):
        found.read(1)


def test_shards_give_what_the_folder_gives(pictures, tmp_path):
    out = tmp_path / "shards"
    assert [path.name for path in write_shards(pictures, out, pictures_per_shard=2)] == [
        *("00000.tar", "00001.tar", "00002.tar")
    ]
    shards, folder = open_images(out, size=32), ImageFolder(pictures, size=32)
    assert isinstance(shards, ImageShards) and len(shards) == len(folder) == 5
    for i in (4, 0, 3):
        ours, theirs = shards.read(i), folder.read(i)
        assert np.array_equal(ours.pixels, theirs.pixels)
        assert np.array_equal(ours.control["densepose"], theirs.control["densepose"])
    with pytest.raises(InputError, match="already"):
        write_shards(pictures, out)


def test_shards_of_others_with_folders_labels_and_long_names(tmp_path, pictures):
    """As other WebDataset writers make them: further files in between, keys with folders, pax headers."""
    with tarfile.open(tmp_path / "train-000.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for i in (0, 1):
            key = f"set/{'long' * 40}{i}"
            (pictures / "x.txt").write_text("a label")
            tar.add(pictures / "x.txt", f"{key}.cls")
            tar.add(pictures / f"p{i}.front.png", f"{key}.png")
            if i == 1:
                tar.add(pictures / f"p{i}.front.densepose.png", f"{key}.densepose.png")
    found = ImageShards(tmp_path, size=32)
    assert len(found) == 1 and found.left_out == 1
    assert number_in(found.read(0).pixels) == 1


def test_shard_index_is_reused_and_made_again_when_shards_change(pictures, tmp_path):
    out = tmp_path / "shards"
    write_shards(pictures, out, pictures_per_shard=3)
    first = ImageShards(out, size=32)
    made = (out / SHARD_INDEX).stat().st_mtime_ns
    assert len(ImageShards(out, size=32)) == 5 and (out / SHARD_INDEX).stat().st_mtime_ns == made
    whole = (out / "00001.tar").read_bytes()
    second_picture = whole.index(b"000000004.")
    (out / "00001.tar").write_bytes(whole[: second_picture + 100])
    with pytest.raises(InputError, match="00001.tar"):
        first.read(4)
    assert len(ImageShards(out, size=32)) == 4, "what the cut-off shard still holds is used"
    (out / "00002.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(InputError, match="00002.tar"):
        ImageShards(out, size=32)


def test_what_the_extraction_found_is_no_keypoints(tmp_path):
    """`python -m densepose_tools a.mp4 -o a.densepose.mp4` leaves a.densepose.npz beside it."""
    flat = ("a.mp4", "a.densepose.mp4", "a.densepose.npz", "b.mp4", "b.densepose.mp4", "b.keypoints.npz")
    folders = ("videos/a.mp4", "densepose/a.mp4", "densepose/a.npz")
    folders += ("videos/b.mp4", "densepose/b.mp4", "keypoints/b.npz")
    made = [tmp_path / "flat" / name for name in flat] + [tmp_path / "folders" / name for name in folders]
    for file in made:
        file.parent.mkdir(exist_ok=True, parents=True)
        file.touch()
    for layout in ("flat", "folders"):
        first, second = find_entries(tmp_path / layout, suffixes=VIDEO_SUFFIXES, main="videos")
        assert (first.name, second.name) == ("a", "b")
        assert set(first.signals) == {"densepose"} and first.signals["densepose"].suffix == ".mp4"
        assert second.signals["keypoints"].suffix == ".npz"


def test_mirrored_copies_are_not_learned_from_if_the_video_is_held_out(tmp_path):
    for name in ("a", "b", "b_mirrored", "c", "c_mirrored", "only_mirrored"):
        write_video(tmp_path, name, 5)
    videos = VideoFolder(tmp_path, size=32)

    def names(subset):
        return [Path(subset.name(i)).stem for i in range(len(subset))]

    learned, held_out = (names(subset) for subset in hold_out(videos, 2))
    assert held_out == ["c", "only_mirrored"], "a copy is none without its video"
    assert learned == ["a", "b", "b_mirrored"]
    learned, held_out = (names(subset) for subset in hold_out(videos, 0))
    assert len(learned) == 6 and held_out == []
    with pytest.raises(ValueError, match="--holdout 4 of 4 videos"):
        hold_out(videos, 4)


def test_what_was_found_is_kept_when_looking_is_interrupted(tmp_path, monkeypatch):
    from training.data import videos

    for name in "abcd":
        write_video(tmp_path, name, 5)
    examine, seen = videos.examine, []

    def interrupted(entry):
        seen.append(entry.name)
        if entry.name == "c":
            raise KeyboardInterrupt
        return examine(entry)

    monkeypatch.setattr(videos, "_AT_ONCE", 1)
    monkeypatch.setattr(videos, "examine", interrupted)
    with pytest.raises(KeyboardInterrupt):
        VideoFolder(tmp_path, size=32)
    assert json.loads((tmp_path / INDEX_NAME).read_text())["videos"].keys() == {"a", "b"}
    monkeypatch.setattr(videos, "examine", lambda entry: seen.append(entry.name) or examine(entry))
    seen.clear()
    assert len(VideoFolder(tmp_path, size=32)) == 4 and seen == ["c", "d"]


def test_centre_or_person(tmp_path):
    """A figure at the right edge of a wide picture: the paper cuts out the centre, which misses it."""
    from tests.media_files import write_clip

    labels = np.zeros((64, 192), np.uint8)
    labels[:, 128:] = shifted_labels(0, width=64, height=64)
    write_clip(tmp_path / "a.densepose.mp4", [colourise(labels)] * 3)
    write_clip(tmp_path / "a.mp4", [np.full((64, 192, 3), 30, np.uint8)] * 3)
    seen = {}
    for framing in ("person", "centre"):
        drawn = VideoFolder(tmp_path, size=64, framing=framing).read(0, [1]).control["densepose"][0]
        seen[framing] = (nearest_labels(drawn)[0] > 0).sum()
    assert seen["person"] > 500 and seen["centre"] == 0
