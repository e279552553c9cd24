"""Clips and options that are refused, and what is done about damage."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from magicanimate.config import MediaLimits
from magicanimate.errors import InputError
from magicanimate.media.motion import open_motion
from tests.media_files import numbered, write_clip, write_folder, write_sound


def refused(path, **options) -> str:
    """The sentence with which a clip is refused."""
    with pytest.raises(InputError) as caught:
        open_motion(path, **options)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/readme.txt").write_text("nothing here")
    assert "holds no pictures" in refused(tmp_path / "empty")
    folder = write_folder(tmp_path / "frames", ["0.png", "1.png"])
    Image.new("RGB", (10, 10)).save(folder / "2.png")
    with pytest.raises(InputError, match="2.png has 10x10"):
        list(open_motion(folder).frames())
    (folder / "2.png").write_bytes(b"")
    with pytest.raises(InputError, match="2.png is empty"):
        list(open_motion(folder).frames())


def test_missing_empty_and_foreign_files(tmp_path):
    assert "does not exist" in refused(tmp_path / "none.mp4")
    (tmp_path / "empty.mp4").touch()
    assert "is empty" in refused(tmp_path / "empty.mp4")
    (tmp_path / "page.mp4").write_text("<!doctype html><html><body>Not found</body></html>")
    assert "holds text" in refused(tmp_path / "page.mp4")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    assert "not a video" in refused(tmp_path / "noise.mp4")
    Image.new("RGB", (8, 8)).save(tmp_path / "still.png")
    assert "still picture" in refused(tmp_path / "still.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "still.jpg")
    assert "still picture" in refused(tmp_path / "still.jpg")


def test_sound_only(tmp_path):
    assert "only sound" in refused(write_sound(tmp_path / "sound.mp4", 0.3))


def test_playlists_open_no_other_files(tmp_path):
    inner = write_clip(tmp_path / "inner.ts", numbered(3))
    playlist = tmp_path / "list.mp4"
    playlist.write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{inner}\n#EXT-X-ENDLIST\n", encoding="utf-8"
    )
    assert "holds text" in refused(playlist)
    concat = tmp_path / "concat.mp4"
    concat.write_text(f"ffconcat version 1.0\nfile '{inner}'\n", encoding="utf-8")
    assert "holds text" in refused(concat)


def test_no_frames(tmp_path):
    """Headers of a clip without its pictures: the streams are there, nothing can be decoded."""
    path = write_clip(
        tmp_path / "clip.mp4", numbered(5), container_options={"movflags": "frag_keyframe+empty_moov"}
    )
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moof") - 4])
    assert "no frame" in refused(path)


def test_cut_off_files(tmp_path):
    frames = list(np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3)).astype(np.uint8))
    plain = write_clip(tmp_path / "plain.mp4", frames)
    plain.write_bytes(plain.read_bytes()[: plain.stat().st_size // 2])
    assert "plain.mp4" in refused(plain)
    fast = write_clip(tmp_path / "fast.mp4", frames, container_options={"movflags": "+faststart"})
    fast.write_bytes(fast.read_bytes()[: fast.stat().st_size // 2])
    sentence = refused(fast)
    assert "cut off" in sentence and "of 20 frames" in sentence
    clip = open_motion(fast, end=0.2)
    assert len(list(clip.frames())) == 5


def test_damaged_packets_leave_the_length(tmp_path):
    frames = list(np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3)).astype(np.uint8))
    path = write_clip(tmp_path / "hurt.mkv", frames, options={"crf": "20", "g": "5"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(data)
    clip = open_motion(path)
    found = list(clip.frames())
    assert 0 < len(found) <= 20 and len(found) == clip.num_frames_estimate


def test_limits(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", numbered(20), rate=10)
    assert "64x48 pixels" in refused(path, limits=MediaLimits(max_pixels=64 * 47))
    assert "2 seconds" in refused(path, limits=MediaLimits(max_seconds=1.5))
    assert "20 frames" in refused(path, limits=MediaLimits(max_frames=19))
    assert "max_file_bytes" in refused(path, limits=MediaLimits(max_file_bytes=100))
    assert (
        open_motion(path, end=1.5, limits=MediaLimits(max_seconds=1.5, max_frames=15)).num_frames_estimate
        == 15
    )
    assert "2000 frames" in refused(path, fps=1000, limits=MediaLimits(max_frames=1000))
    folder = write_folder(tmp_path / "frames", ["0.png", "1.png"])
    assert "64x48 pixels" in refused(folder, limits=MediaLimits(max_pixels=100))
    assert "2 frames" in refused(folder, limits=MediaLimits(max_frames=1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": -1.0}, "start is -1"),
        ({"start": float("nan")}, "start is nan"),
        ({"start": 1.0, "end": 1.0}, "end is 1"),
        ({"stride": 0}, "stride is 0"),
        ({"fps": 0.0}, "fps is 0"),
        ({"fps": float("inf")}, "fps is inf"),
        ({"start": 5.0}, "choose an earlier start"),
    ],
)
def test_options_without_sense(tmp_path, options, words):
    path = write_clip(tmp_path / "clip.mp4", numbered(5))
    assert words in refused(path, **options)


def test_damaged_files_never_end_in_anything_but_a_sentence(tmp_path):
    """Bytes overwritten at random: a clip is either read, with frames of its size, or refused."""
    rng = np.random.default_rng(7)
    frames = list(rng.integers(0, 256, (6, 48, 64, 3)).astype(np.uint8))
    sources = [
        write_clip(tmp_path / "a.mp4", frames, sound=0.2),
        write_clip(tmp_path / "a.mkv", frames),
        write_clip(tmp_path / "a.gif", frames, codec="gif", pix_fmt="rgb8", options={"qscale": "2"}),
    ]
    outcomes = {"read": 0, "refused": 0}
    for number in range(90):
        source = sources[number % 3]
        data = bytearray(source.read_bytes())
        where = rng.integers(0, min(len(data), int(rng.choice([64, 600, len(data)]))), 12)
        for position in where:
            data[position] = rng.integers(0, 256)
        path = tmp_path / f"hurt{source.suffix}"
        path.write_bytes(data[: int(rng.integers(len(data) // 2, len(data) + 1))])
        try:
            clip = open_motion(path)
            assert all(frame.shape == (clip.height, clip.width, 3) for frame in clip.frames())
            outcomes["read"] += 1
        except InputError as error:
            assert "hurt" in str(error)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 5
