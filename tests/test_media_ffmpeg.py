"""What PyAV and Pillow cannot decode is decoded by the ffmpeg program of imageio-ffmpeg."""

from __future__ import annotations

import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from magicanimate.config import MediaLimits
from magicanimate.errors import InputError
from magicanimate.media.motion import open_motion
from magicanimate.media.photo import ffmpeg_program, load_photo
from magicanimate.media.video_file import index_video
from magicanimate.palette import BACKGROUND
from tests.media_files import number_of, numbered

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def encoded(path: Path, frames: list[np.ndarray], *words: str) -> Path:
    """Frames, or a picture with alpha, as the program encodes them with these words of its command line."""
    program = ffmpeg_program()
    if program is None:
        pytest.skip("need imageio-ffmpeg with a program for this computer")
    height, width, channels = frames[0].shape
    form = {3: "rgb24", 4: "rgba"}[channels]
    given = ["-f", "rawvideo", "-pix_fmt", form, "-s", f"{width}x{height}", "-r", "25", "-i", "pipe:0"]
    command = [program, "-v", "error", "-y", *given, *words, str(path)]
    ran = subprocess.run(command, input=b"".join(map(np.ndarray.tobytes, frames)), capture_output=True)
    if b"Unknown encoder" in ran.stderr:
        pytest.skip(f"the program of imageio-ffmpeg does not encode with {' '.join(words)} here")
    assert path.exists() and path.stat().st_size, ran.stderr
    return path


JXL = ("-c:v", "libjxl", "-distance", "0", "-update", "1")
AVS2 = ("-c:v", "libxavs2", "-qp", "5", "-bf", "0")


def test_a_jpeg_xl_photo_is_read(tmp_path):
    path = encoded(tmp_path / "me.jxl", [PICTURE], *JXL)
    assert path.read_bytes()[:2] == b"\xff\x0a"
    assert (load_photo(path) == PICTURE).all()
    assert (load_photo(path.read_bytes(), name="me.jxl") == PICTURE).all()


def test_transparent_jpeg_xl_is_shown_over_the_background(tmp_path):
    alpha = np.dstack([PICTURE, np.zeros(PICTURE.shape[:2], np.uint8)])
    folder = tmp_path / "frames"
    folder.mkdir()
    encoded(folder / "1.jxl", [alpha], *JXL)
    assert (load_photo(folder / "1.jxl") == 255).all()
    (frame,) = open_motion(folder).frames()
    assert (frame == BACKGROUND).all()


def test_jpeg_xl_that_cannot_be_is_refused(tmp_path, monkeypatch):
    path = encoded(tmp_path / "me.jxl", [PICTURE], *JXL)
    with pytest.raises(
        InputError, match="me.jxl is a JPEG XL file that is damaged or has more than 900 pixels"
    ):
        load_photo(path, limits=MediaLimits(max_pixels=900))
    with pytest.raises(InputError, match="me.jxl is a still picture; give a video"):
        open_motion(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="me.jxl is a JPEG XL file that is damaged"):
        load_photo(path)
    monkeypatch.setattr("magicanimate.media.photo.as_png", lambda *_, **__: None)
    monkeypatch.setattr("magicanimate.media.photo.ffmpeg_program", lambda: None)
    with pytest.raises(InputError, match="which is not read here; save it as JPEG or PNG"):
        load_photo(path)


def test_a_clip_without_a_decoder_in_pyav_is_read(tmp_path):
    frames = numbered(20)
    path = encoded(tmp_path / "dance.mkv", frames, *AVS2)
    with av.open(str(path)) as container:
        if container.streams.video[0].codec_context is not None:
            pytest.skip("this PyAV decodes AVS2 itself")
    clip = open_motion(path)
    assert (clip.width, clip.height, clip.fps, clip.num_frames_estimate) == (64, 48, 25.0, 20)
    assert [number_of(frame) for frame in clip.frames()] == list(range(20))
    assert [number_of(frame) for frame in open_motion(path, start=0.2, end=0.4).frames()] == list(
        range(5, 10)
    )
    with pytest.raises(InputError, match="dance.mkv is coded in a way .* or has more than 1000 pixels"):
        index_video(path, limits=MediaLimits(max_pixels=1000))


def test_a_clip_given_up_early_leaves_no_program_running(tmp_path, monkeypatch):
    path = encoded(tmp_path / "dance.mkv", numbered(20) * 20, *AVS2)
    started = []

    class Watched(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    frames = open_motion(path).frames()
    next(frames)
    frames.close()
    assert len(started) >= 2 and all(process.returncode is not None for process in started)


def test_without_the_program_it_is_said(tmp_path, monkeypatch):
    path = encoded(tmp_path / "dance.mkv", numbered(5), *AVS2)
    monkeypatch.setattr("magicanimate.media.video_file.ffmpeg_program", lambda: None)
    with pytest.raises(
        InputError, match="dance.mkv is coded in a way that cannot be decoded here; export it as"
    ):
        open_motion(path)


def test_an_animated_jpeg_xl_is_a_clip(tmp_path):
    noise = list(np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), np.uint8))
    path = encoded(tmp_path / "dance.jxl", noise, "-c:v", "libjxl_anim", "-distance", "0", "-f", "image2pipe")
    clip = open_motion(path)
    assert (clip.fps, clip.num_frames_estimate) == (25.0, 6)
    assert all((one == other).all() for one, other in zip(clip.frames(), noise, strict=True))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 1 <= len(list(open_motion(path).frames())) < 6


@pytest.mark.parametrize("content", [b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(50)])
def test_headers_alone_are_damaged_pictures(tmp_path, content):
    (tmp_path / "me.jxl").write_bytes(content)
    with pytest.raises(InputError, match="JPEG XL"):
        load_photo(tmp_path / "me.jxl")
    assert Image.MAX_IMAGE_PIXELS
