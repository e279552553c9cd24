"""Frames at any position of a video are those that decoding from the beginning gives."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from magicanimate.config import MediaLimits
from magicanimate.errors import InputError
from magicanimate.media import video_file
from magicanimate.media.video_file import decode, frames_at, index_video
from tests.media_files import write_clip

LIMITS = MediaLimits()
POSITIONS = [37, 2, 59, 20, 19, 21, 0]


def moving_frames(count: int) -> list[np.ndarray]:
    """A bright bar that moves, so that frames depend on one another."""
    frames = np.full((count, 48, 64, 3), 40, np.uint8)
    for i, frame in enumerate(frames):
        frame[:, i % 60 : i % 60 + 4] = 200
        frame[0:8] = 3 * i % 256
    return list(frames)


KINDS = {
    "b_frames.mp4": {"options": {"crf": "8", "g": "12", "bf": "3"}},
    "one_key_frame.mp4": {"options": {"crf": "8", "g": "600", "bf": "2"}},
    "open_groups.mkv": {"options": {"crf": "8", "x264-params": "open-gop=1:keyint=12:bframes=3"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"crf": "20", "g": "15", "deadline": "realtime"}},
    "lossless.mkv": {"codec": "libx264rgb", "pix_fmt": "rgb24", "options": {"qp": "0", "g": "12"}},
    "uneven.mp4": {"times": np.cumsum(np.tile([0.04, 0.02, 0.07], 20)), "options": {"crf": "8", "g": "12"}},
    "broadcast.mp4": {"rate": Fraction(30000, 1001), "options": {"crf": "8", "g": "12"}},
}


@pytest.mark.parametrize("name", KINDS)
def test_any_frame_of_any_kind_of_file(name, tmp_path):
    path = write_clip(tmp_path / name, moving_frames(60), **KINDS[name])
    whole = [frame for _, frame in decode(path, limits=LIMITS)]
    assert len(whole) == 60
    index = index_video(path, limits=LIMITS)
    found = dict(frames_at(path, index, POSITIONS, limits=LIMITS))
    assert sorted(found) == sorted(POSITIONS)
    for position, frame in found.items():
        np.testing.assert_array_equal(frame, whole[position])
    counted = dict(frames_at(path, replace(index, pts=None), POSITIONS, limits=LIMITS))
    assert all((counted[position] == frame).all() for position, frame in found.items())


def test_key_frames_are_found_and_decoding_begins_at_them(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", moving_frames(132), options={"g": "12", "sc_threshold": "0"})
    index = index_video(path, limits=LIMITS)
    assert np.searchsorted(index.pts, index.key_pts).tolist() == list(range(0, 132, 12))
    begun = []
    original = video_file.decode

    def noted(path: Path, **options):
        begun.append(int(np.searchsorted(index.pts, options["seek_pts"])))
        return original(path, **options)

    monkeypatch.setattr(video_file, "decode", noted)
    wanted = [80, 13, 20, 3, 120, 125]
    assert [at for at, _ in frames_at(path, index, wanted, limits=LIMITS)] == sorted(wanted)
    assert begun == [3, 80], "anew only where many frames lie between, and a key frame"


def test_damaged_frames_are_missing_and_a_lost_file_is_named(tmp_path):
    path = write_clip(tmp_path / "a.mp4", moving_frames(60), options={"crf": "8", "g": "12"})
    index = index_video(path, limits=LIMITS)
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4 + 1500, data.index(b"moov") - 4
    data[start:end] = b"\xff" * (end - start)
    path.write_bytes(data)
    assert set(dict(frames_at(path, index, [0, 59], limits=LIMITS))) == {0}
    path.write_bytes(b"\x00" * 5000)
    with pytest.raises(InputError, match="a.mp4"):
        list(frames_at(path, index, [0], limits=LIMITS))
