"""Video files and folders of frames as sequences."""

from __future__ import annotations

import gc
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from magicanimate.errors import InputError
from magicanimate.media.motion import open_motion
from magicanimate.palette import BACKGROUND
from tests.media_files import number_of, numbered, part_maps, set_matrix, trim, write_clip, write_folder


def numbers(path, **options) -> list[int]:
    """The numbers of the frames that a clip of ``numbered`` frames gives."""
    clip = open_motion(path, **options)
    found = [number_of(frame) for frame in clip.frames()]
    assert len(found) == clip.num_frames_estimate
    return found


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


KINDS = [
    ("clip.mp4", "libx264", "yuv420p"),
    ("clip.mov", "libx264", "yuv420p"),
    ("clip.mkv", "libx264", "yuv444p"),
    ("clip.webm", "libvpx-vp9", "yuv420p"),
    ("clip.avi", "mpeg4", "yuv420p"),
    ("clip.gif", "gif", "rgb8"),
]


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), KINDS)
def test_every_kind_gives_every_frame_once(tmp_path, name, codec, pix_fmt):
    options = {"crf": "4"} if codec.startswith("lib") else {"qscale": "2"}
    path = write_clip(tmp_path / name, numbered(12), rate=20, codec=codec, pix_fmt=pix_fmt, options=options)
    clip = open_motion(path)
    assert (clip.width, clip.height, clip.fps, clip.has_sound) == (64, 48, 20.0, False)
    tolerance = 20 if name.endswith("gif") else 3
    for number, frame in enumerate(clip.frames()):
        assert frame.shape == (48, 64, 3) and frame.dtype == np.uint8
        assert abs(float(frame.mean()) - (8 * number + 8)) <= tolerance
    assert number == 11 and clip.num_frames_estimate == 12


def test_frames_can_be_read_again_and_given_up(tmp_path):
    clip = open_motion(write_clip(tmp_path / "clip.mp4", numbered(10)))
    assert [number_of(f) for f in clip.frames()] == list(range(10))
    assert [number_of(f) for f in clip.frames()] == list(range(10))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files through /proc")
def test_given_up_early_the_file_is_closed(tmp_path):
    clip = open_motion(write_clip(tmp_path / "clip.mp4", numbered(10)))
    before = open_files()
    frames = clip.frames()
    next(frames)
    assert open_files() > before
    frames.close()
    assert open_files() == before
    for _ in clip.frames():
        break
    assert open_files() == before


def test_stretch_stride_and_rate(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", numbered(20), rate=10)
    assert numbers(path, start=0.5, end=0.9) == [5, 6, 7, 8]
    assert numbers(path, stride=6) == [0, 6, 12, 18]
    assert open_motion(path, stride=6).rate == Fraction(10, 6)
    assert numbers(path, fps=5.0, end=1.0) == [0, 2, 4, 6, 8]
    assert numbers(path, fps=20.0, start=1.8) == [18, 18, 19, 19]
    assert open_motion(path, fps=20.0).fps == 20.0


def test_late_stretch_is_the_same_as_without_seeking(tmp_path):
    frames = [numbered(30)[i % 30] for i in range(120)]
    path = write_clip(tmp_path / "long.mp4", frames, rate=20, options={"crf": "4", "g": "25", "bf": "3"})
    assert numbers(path, start=3.3, end=3.6) == [6, 7, 8, 9, 10, 11]
    webm = write_clip(
        tmp_path / "long.webm", frames, rate=20, codec="libvpx-vp9", options={"crf": "4", "g": "25"}
    )
    assert numbers(webm, start=5.5, stride=3) == [20, 23, 26, 29]


def test_odd_rates_are_exact(tmp_path):
    for name, codec in (("a.mp4", "libx264"), ("a.webm", "libvpx-vp9")):
        path = write_clip(tmp_path / name, numbered(20), rate=Fraction(30000, 1001), codec=codec)
        clip = open_motion(path)
        assert clip.rate == Fraction(30000, 1001)
        assert [number_of(f) for f in clip.frames()] == list(range(20))


def test_variable_frame_rate(tmp_path):
    times = [0.0, 0.1, 0.2, 0.3, 0.4, 1.0, 1.1, 1.2, 2.0]
    for name in ("vfr.mp4", "vfr.mkv"):
        path = write_clip(tmp_path / name, numbered(9), times=times)
        assert numbers(path, fps=10.0, end=1.15) == [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 5, 6]
        average = open_motion(path)
        assert average.fps == pytest.approx(4.0, rel=0.01)
        assert numbers(path)[:6] == [0, 2, 4, 4, 5, 7]


def test_variable_rate_gif(tmp_path):
    first, *rest = (Image.fromarray(frame) for frame in numbered(4))
    first.save(tmp_path / "vfr.gif", save_all=True, append_images=rest, duration=[100, 400, 100, 100])
    assert numbers(tmp_path / "vfr.gif", fps=10.0) == [0, 1, 1, 1, 1, 2, 3]


def test_gif_frames_that_change_a_part_only_are_put_together(tmp_path):
    maps = part_maps(5)
    first, *rest = (Image.fromarray(frame).quantize(256, dither=0) for frame in maps)
    first.save(tmp_path / "map.gif", save_all=True, append_images=rest, duration=40, loop=0)
    for frame, expected in zip(open_motion(tmp_path / "map.gif").frames(), maps, strict=True):
        assert np.abs(frame.astype(int) - expected).max() <= 4


def test_transparent_gif_shows_the_background_of_part_maps(tmp_path):
    picture = np.zeros((8, 8, 4), dtype=np.uint8)
    picture[2:4, 2:4] = (200, 10, 20, 255)
    Image.fromarray(picture).save(tmp_path / "clear.gif")
    frame = next(open_motion(tmp_path / "clear.gif").frames())
    assert tuple(frame[0, 0]) == BACKGROUND and tuple(frame[2, 2]) == (200, 10, 20)


@pytest.mark.parametrize("rotation", [90, 180, -90])
@pytest.mark.parametrize("name", ["turned.mp4", "turned.mov"])
def test_rotation_metadata_is_honoured(tmp_path, rotation, name):
    upright = np.zeros((32, 64, 3), dtype=np.uint8)
    upright[:16, :32] = (250, 20, 20)
    upright[16:, 32:] = (20, 20, 250)
    # The display matrix says by how much a player turns the picture counter-clockwise.
    stored = np.rot90(upright, -rotation // 90)
    path = write_clip(tmp_path / name, [stored] * 3, rotation=rotation)
    clip = open_motion(path)
    assert (clip.width, clip.height) == (64, 32)
    frame = next(clip.frames())
    assert frame.flags.c_contiguous
    assert np.abs(frame[4:12, 4:28].astype(int) - (250, 20, 20)).max() < 12
    assert np.abs(frame[20:28, 36:60].astype(int) - (20, 20, 250)).max() < 12


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_all_display_matrices(tmp_path, turns, mirrored):
    """x' = a x + c y, y' = b x + d y; the corner that is bright tells where the picture went."""
    frame = np.full((48, 64, 3), 40, dtype=np.uint8)
    frame[:24, :32], frame[:24, 32:] = 220, 130
    path = write_clip(tmp_path / "clip.mp4", [frame] * 3)
    matrix = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), turns)  # x, y -> -y, x
    expected = np.rot90(frame, -turns)
    if mirrored:
        matrix, expected = np.diag([-1, 1]) @ matrix, expected[:, ::-1]
    (a, c), (b, d) = matrix.tolist()
    set_matrix(path, a, b, c, d)
    found = next(open_motion(path).frames())
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).mean() < 4


def test_edit_lists_are_no_damage(tmp_path):
    path = write_clip(tmp_path / "cut.mp4", numbered(30), options={"crf": "4", "g": "12"})
    trim(path, 7, 15)
    clip = open_motion(path)
    assert (clip.fps, clip.num_frames_estimate) == (25.0, 15)
    assert numbers(path) == list(range(7, 22))
    assert numbers(path, start=0.2, end=0.32) == [12, 13, 14]


def test_pixels_that_are_not_square(tmp_path):
    for name, aspect, width in (("wide.mp4", "4/3", 85), ("narrow.mkv", "8/9", 57), ("mad.mp4", "1/20", 64)):
        options = {"crf": "4", "x264-params": f"sar={aspect}"}
        clip = open_motion(write_clip(tmp_path / name, numbered(3), options=options))
        assert (clip.width, clip.height) == (width, 48)
        assert next(clip.frames()).shape == (48, width, 3)


def test_joined_streams_whose_timestamps_restart(tmp_path):
    options = {"codec": "mpeg2video", "options": {"qscale": "2"}}
    parts = [numbered(24)[:12], numbered(24)[12:]]
    streams = [write_clip(tmp_path / f"{k}.ts", part, **options) for k, part in enumerate(parts)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(stream.read_bytes() for stream in streams))
    assert numbers(path) == list(range(24)) and open_motion(path).fps == pytest.approx(25, abs=0.5)


@pytest.mark.parametrize("suffix", ["webp", "png", "avif"])
def test_animated_pictures(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    first, *rest = (Image.fromarray(frame) for frame in numbered(6))
    lossless = {"lossless": True} if suffix == "webp" else {}
    first.save(path, save_all=True, append_images=rest, duration=40, **lossless)
    assert open_motion(path).fps == 25.0
    assert numbers(path) == list(range(6)) and numbers(path, start=0.08, end=0.16) == [2, 3]
    first.save(path, **lossless)
    with pytest.raises(InputError, match="is a still picture"):
        open_motion(path)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("b.webm", "libvpx", "yuva420p"),
        ("c.mov", "prores_ks", "yuva444p10le"),
    ],
)
def test_transparent_video_lies_over_white(tmp_path, name, codec, pix_fmt):
    picture = np.zeros((48, 64, 4), dtype=np.uint8)
    picture[:, :32] = (200, 30, 30, 255)
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"auto-alt-ref": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format=pix_fmt)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frame = next(open_motion(tmp_path / name).frames()).astype(int)
    assert np.abs(frame[20:28, 4:28] - (200, 30, 30)).max() <= 6
    assert np.abs(frame[20:28, 40:60] - 255).max() <= 3


PQ, HLG = 16, 18


@pytest.mark.parametrize(
    ("transfer", "signal", "light"),
    # ITU-R BT.2100: cd/m2 of a signal, of HLG on a display of 1000 cd/m2; 203 is the white of ordinary video.
    [(PQ, 0.25, 5.15), (PQ, 0.5, 92.2), (HLG, 0.25, 9.6), (HLG, 0.5, 50.7), (HLG, 0.6, 83.3)],
)
def test_hdr_is_shown_as_ordinary_video(tmp_path, transfer, signal, light):
    path = tmp_path / "hdr.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace, context.color_range = (
            transfer,
            9,
            9,
            1,
        )
        frame = av.VideoFrame(64, 48, "yuv420p10le")
        for plane, level in zip(frame.planes, (round(64 + 876 * signal), 512, 512), strict=True):
            plane.update(np.full(plane.buffer_size // 2, level, dtype="<u2").tobytes())
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = float(next(open_motion(path).frames())[20:28, 20:40].mean())
    # BT.1886: a display of ordinary video has a gamma of 2.4. One of the 256 levels that the signal is first
    # rounded to (by ffmpeg, up to two off) is up to three levels of the result.
    assert found == pytest.approx(255 * (light / 203) ** (1 / 2.4), abs=6)


def test_odd_sizes(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (2, 2, 3)).astype(np.uint8)
    frame = np.array(Image.fromarray(frame).resize((61, 47), Image.Resampling.NEAREST))
    path = write_clip(tmp_path / "odd.mkv", [frame] * 2, pix_fmt="yuv444p")
    clip = open_motion(path)
    assert (clip.width, clip.height) == (61, 47)
    assert np.abs(next(clip.frames()).astype(int) - frame)[10:-10, 10:20].max() < 8
    webm = write_clip(tmp_path / "odd.webm", [frame] * 2, codec="libvpx-vp9")
    assert next(open_motion(webm).frames()).shape == (47, 61, 3)


@pytest.mark.parametrize(
    ("matrix", "full_range"),
    [(None, False), (1, False), (1, True), (5, False), (5, True), (9, False), (9, True)],
)
def test_colours_follow_the_tagged_matrix(tmp_path, matrix, full_range):
    colour = np.array((40, 180, 90))
    frame = np.tile(colour.astype(np.uint8), (48, 64, 1))
    path = write_clip(tmp_path / "tagged.mp4", [frame] * 2, matrix=matrix, full_range=full_range)
    assert np.abs(next(open_motion(path).frames())[24, 32].astype(int) - colour).max() <= 3


def test_sound_is_noticed(tmp_path):
    assert open_motion(write_clip(tmp_path / "clip.mp4", numbered(5), sound=0.5)).has_sound


def test_real_maps_decode_to_the_known_background(shared):
    counts = {"demo4": 107, "dancing2": 100, "running": 42, "running2": 125, "multi_dancing": 85}
    for name, count in counts.items():
        clip = open_motion(shared / f"samples/{name}.mp4")
        assert (clip.width, clip.height, clip.fps, clip.num_frames_estimate) == (512, 512, 25.0, count)
        frame = next(clip.frames())
        assert np.abs(frame[2:6, 2:6].astype(int) - (65, 0, 81)).max() <= 2


# Folders


def test_only_plain_digits_count_in_names(tmp_path):
    names = ["\u00b21.png", "10.png", "9.png", "\u0663.png"]
    assert len(numbers(write_folder(tmp_path / "frames", names))) == 4


def test_folder_in_natural_order(tmp_path):
    folder = write_folder(tmp_path / "frames", ["f1.png", "f2.png", "f10.png", "F11.PNG", "f100.jpg"])
    (folder / "settings.json").write_text("{}")
    (folder / ".hidden.png").write_bytes(b"")
    assert numbers(folder) == [0, 1, 2, 3, 4]
    assert open_motion(folder).fps == 25.0
    assert open_motion(folder, fps=10).fps == 10.0
    assert numbers(folder, fps=10, start=0.1, stride=2) == [1, 3]


def test_transparent_frames_show_the_background_of_part_maps(tmp_path):
    (tmp_path / "frames").mkdir()
    Image.fromarray(np.zeros((8, 8, 4), dtype=np.uint8)).save(tmp_path / "frames/0.png")
    assert tuple(next(open_motion(tmp_path / "frames").frames())[0, 0]) == BACKGROUND
