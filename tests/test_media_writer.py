"""Videos, gifs and folders out: content, rate, colours, sound, settings, and nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.codec import UnknownCodecError
from PIL import Image

from magicanimate.errors import InputError
from magicanimate.media.motion import open_motion
from magicanimate.media.outputs import PATHS, PROGRAM, check_output
from magicanimate.media.writer import VideoWriter, read_metadata
from magicanimate.request_checks import write_settings
from magicanimate.results import side_by_side
from tests.media_files import number_of, numbered, part_maps, write_output

KINDS = ["out.mp4", "out.webm", "out.mov", "out.gif", "out"]
SETTINGS = {
    "seed": 3,
    "photo": "Grüße/照片.png",
    "list": [1, 2.5, None, True],
    "nested": {"quote": '"\\;=#\n'},
    "long": "x" * 3000,
}
MARK = {"program": PROGRAM}
INSIDE = {**SETTINGS, **MARK, "photo": "照片.png"}  # what a file carries of them


def photo_like(count: int, *, width: int = 96, height: int = 64) -> list[np.ndarray]:
    """Smooth colours that move."""
    y, x = np.mgrid[0:height, 0:width] / 64
    frames = []
    for i in range(count):
        shift = i / 10
        channels = [np.sin(3 * x + shift), np.cos(2 * y - shift), np.sin(2 * (x + y) + 2 * shift)]
        frames.append((127 + 100 * np.stack(channels, -1)).astype(np.uint8))
    return frames


def with_alpha(path: Path) -> np.ndarray:
    """Frames of a transparent result, uint8 ``F H W 4``."""
    if path.is_dir():
        return np.stack([np.asarray(Image.open(file)) for file in sorted(path.glob("*.png"))])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        # FFmpeg's own decoder of VP9 leaves the second stream, which is alpha, out.
        name = "libvpx-vp9" if path.suffix == ".webm" else stream.codec_context.name
        decoder = av.CodecContext.create(name, "r")
        decoder.extradata = stream.codec_context.extradata
        if path.suffix == ".mov":
            decoder = stream.codec_context
        frames = [frame for packet in container.demux(stream) for frame in decoder.decode(packet)]
    return np.stack([frame.to_ndarray(format="rgba") for frame in frames])


@pytest.mark.parametrize("name", ["out.webm", "out.mov", "out"])
def test_alpha_comes_back(tmp_path, name):
    alpha = np.rint(np.linspace(0, 255, 96)).astype(np.uint8) + np.zeros((64, 1), np.uint8)
    frames = [np.dstack([frame, alpha]) for frame in photo_like(6)]
    with VideoWriter(tmp_path / name, width=96, height=64, fps=25, alpha=True, metadata=SETTINGS) as writer:
        for frame in frames:
            writer.write(frame)
    found = with_alpha(tmp_path / name)
    assert found.shape == (6, 64, 96, 4)
    assert np.abs(found[..., 3].astype(int) - alpha).mean() < 2
    seen = alpha > 200
    assert np.abs(found[:, seen, :3].astype(int) - np.stack(frames)[:, seen, :3]).mean() < 4
    assert read_metadata(tmp_path / name)["seed"] == 3


def test_what_has_no_alpha_takes_none(tmp_path):
    with pytest.raises(ValueError, match="no alpha"):
        VideoWriter(tmp_path / "a.mp4", width=8, height=8, fps=25, alpha=True)


@pytest.mark.parametrize(
    ("name", "least"), [("out.mp4", 36), ("out.webm", 36), ("out.mov", 40), ("out.gif", 27), ("out", 200)]
)
def test_frames_come_back(tmp_path, name, least):
    frames = photo_like(12)
    clip = open_motion(write_output(tmp_path / name, frames))
    assert (clip.width, clip.height, clip.rate) == (96, 64, 25)
    for frame, expected in zip(clip.frames(), frames, strict=True):
        error = np.mean((frame.astype(float) - expected) ** 2)
        assert 10 * np.log10(255**2 / max(error, 1e-30)) > least


@pytest.mark.parametrize("name", ["out.mp4", "out.webm"])
def test_colours_are_tagged_as_they_were_converted(tmp_path, name):
    colour = (30, 170, 90)
    path = write_output(tmp_path / name, [np.tile(np.array(colour, np.uint8), (64, 64, 1))] * 3)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert frame.format.name == "yuv420p"
        assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1, 1, 1, 1)
        # The BT.709 luma of that colour in limited range.
        luma = 16 + 219 * np.dot((0.2126, 0.7152, 0.0722), colour) / 255
        assert abs(float(frame.to_ndarray()[:64].mean()) - luma) < 1.5
    assert np.abs(next(open_motion(path).frames())[30, 30].astype(int) - colour).max() <= 3


def test_part_maps_survive_being_written(tmp_path):
    maps = part_maps(5, width=192, height=192)
    for name in ("map.mp4", "map.webm"):
        for frame, expected in zip(
            open_motion(write_output(tmp_path / name, maps)).frames(), maps, strict=True
        ):
            assert np.mean(np.abs(frame.astype(int) - expected).max(-1) < 16) > 0.93


@pytest.mark.parametrize("fps", [25, 30000 / 1001, Fraction(24000, 1001), 12.5, 60, 7.3])
@pytest.mark.parametrize("name", ["out.mp4", "out.webm"])
def test_rates_are_exact(tmp_path, name, fps):
    path = write_output(tmp_path / name, numbered(20), fps=fps)
    clip = open_motion(path)
    assert clip.rate == Fraction(fps).limit_denominator(1001)
    assert [number_of(frame) for frame in clip.frames()] == list(range(20))


def test_one_frame_is_enough(tmp_path):
    for name in KINDS:
        assert len(list(open_motion(write_output(tmp_path / name, numbered(1))).frames())) == 1


def test_odd_sizes_grow_by_one_repeated_pixel(tmp_path):
    frames = photo_like(3, width=61, height=47)
    for name in ("out.mp4", "out.webm"):
        frame = next(open_motion(write_output(tmp_path / name, frames)).frames())
        assert frame.shape == (48, 62, 3)
        assert np.abs(frame[:, 61].astype(int) - frame[:, 60]).mean() < 6
    for name in ("out.gif", "out"):
        assert next(open_motion(write_output(tmp_path / name, frames)).frames()).shape == (47, 61, 3)


def test_mp4_starts_with_its_index(tmp_path):
    data = write_output(tmp_path / "out.mp4", photo_like(5)).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_gif_loops_and_keeps_its_speed(tmp_path):
    with Image.open(write_output(tmp_path / "out.gif", photo_like(30), fps=30)) as gif:
        assert gif.info["loop"] == 0 and gif.n_frames == 30
        total = 0
        for index in range(gif.n_frames):
            gif.seek(index)
            total += gif.info["duration"]
    assert total == pytest.approx(1000, abs=40)
    fast = open_motion(write_output(tmp_path / "fast.gif", photo_like(60), fps=120))
    assert fast.num_frames_estimate <= 27
    assert fast.num_frames_estimate / fast.fps == pytest.approx(0.5, abs=0.05)


def test_folder_holds_exact_numbered_frames(tmp_path):
    frames = photo_like(3)
    folder = write_output(tmp_path / "frames", frames, metadata=SETTINGS)
    assert sorted(p.name for p in folder.iterdir()) == ["000000.png", "000001.png", "000002.png"]
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(np.array(Image.open(folder / f"{number:06d}.png")), frame)
        assert read_metadata(folder / f"{number:06d}.png") == INSIDE


# Settings


@pytest.mark.parametrize("name", KINDS)
def test_settings_travel_inside_the_file(tmp_path, name):
    path = write_output(tmp_path / name, photo_like(3), metadata=SETTINGS)
    assert read_metadata(path) == INSIDE
    assert len(list(open_motion(path).frames())) == 3


@pytest.mark.parametrize("name", KINDS)
def test_no_folder_of_this_computer_travels_inside_the_file(tmp_path, name):
    """Folders name people, "/home/anna/..."; the prompt is left as it is, whatever it looks like."""
    home = tmp_path / "anna"
    settings = {name: home / f"{name}.x" for name in PATHS} | {
        "prompt": "/dev/null, a coat",
        "keypoints": None,
    }
    settings["photo"] = "C:\\Users\\Anna\\me.png"
    settings["other_photos"] = [str(home / "b.png"), str(home / "c.png")]
    path = write_output(tmp_path / name, photo_like(2), metadata=settings)
    read = read_metadata(path)
    assert read == MARK | {
        "photo": "me.png",
        "motion": "motion.x",
        "keypoints": None,
        "driving_video": "driving_video.x",
        "mask": "mask.x",
        "other_photos": ["b.png", "c.png"],
        "background": "background.x",
        "output": "output.x",
        "weights": "weights.x",
        "checkpoint": "checkpoint.x",
        "prompt": "/dev/null, a coat",
    }
    for file in path.iterdir() if path.is_dir() else [path]:
        assert b"anna" not in file.read_bytes().lower()


def test_files_without_settings(tmp_path):
    for name in KINDS:
        assert read_metadata(write_output(tmp_path / name, photo_like(2))) == MARK
    assert read_metadata(tmp_path / "missing.mp4") is None
    (tmp_path / "text.mp4").write_text("no video")
    assert read_metadata(tmp_path / "text.mp4") is None
    Image.new("RGB", (4, 4)).save(tmp_path / "foreign.gif", comment=b"made by hand")
    assert read_metadata(tmp_path / "foreign.gif") is None


def test_settings_file_lies_beside(tmp_path):
    path = write_settings(tmp_path / "dance.mp4", {**SETTINGS, "path": Path("a/b")})
    assert path == tmp_path / "dance.json"
    assert json.loads(path.read_text(encoding="utf-8")) == {**SETTINGS, "path": str(Path("a/b"))}
    assert write_settings(tmp_path / "frames", {}) == tmp_path / "frames.json"
    write_settings(tmp_path / "dance.mp4", {"seed": 9})
    assert json.loads(path.read_text()) == {"seed": 9}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dance.json", "frames.json"]
    with pytest.raises(InputError, match="cannot be written"):
        write_settings(tmp_path / "no/such/folder.mp4", {})


# Whole or not at all


@pytest.mark.parametrize("name", KINDS)
def test_an_exception_leaves_nothing(tmp_path, name):
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / name, width=96, height=64, fps=25) as writer:
        writer.write(photo_like(1)[0])
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", KINDS)
def test_an_exception_keeps_the_older_output(tmp_path, name):
    path = write_output(tmp_path / name, photo_like(2), metadata={"seed": 1})
    with pytest.raises(RuntimeError), VideoWriter(path, width=96, height=64, fps=25) as writer:
        writer.write(photo_like(1)[0])
        raise RuntimeError("stop")
    assert read_metadata(path) == {**MARK, "seed": 1}
    assert [p.name for p in tmp_path.iterdir()] == [name]
    write_output(path, photo_like(3), metadata={"seed": 2})
    assert read_metadata(path) == {**MARK, "seed": 2} and len(list(open_motion(path).frames())) == 3
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_nothing_appears_before_the_end(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", width=96, height=64, fps=25) as writer:
        writer.write(photo_like(1)[0])
        assert not (tmp_path / "out.mp4").exists()
    assert (tmp_path / "out.mp4").exists()


def test_no_frames_is_an_error(tmp_path):
    for name in KINDS:
        with (
            pytest.raises(ValueError, match="no frame"),
            VideoWriter(tmp_path / name, width=8, height=8, fps=25),
        ):
            pass
    assert list(tmp_path.iterdir()) == []


def test_wrong_frames_are_refused(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", width=96, height=64, fps=25) as writer:
        with pytest.raises(ValueError, match="expected"):
            writer.write(np.zeros((96, 64, 3), np.uint8))
        with pytest.raises(ValueError, match="float"):
            writer.write(np.zeros((64, 96, 3)))
        writer.write(photo_like(1)[0])
    with pytest.raises(ValueError, match="closed"):
        writer.write(photo_like(1)[0])
    with pytest.raises(ValueError, match="cannot write"):
        VideoWriter(tmp_path / "out.mp4", width=96, height=64, fps=0)


def test_outputs_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match=r"unknown suffix '.mpg'"):
        check_output(tmp_path / "out.mpg")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        check_output(tmp_path / "folder.mp4")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        check_output(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be made"):
        check_output(tmp_path / "file/sub/out.mp4")
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday/diary.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        VideoWriter(tmp_path / "holiday", width=8, height=8, fps=25)
    assert (tmp_path / "holiday/diary.txt").read_text() == "mine"
    (tmp_path / "maps").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "maps/000000.png")
    with pytest.raises(InputError, match="holds other files"):
        check_output(tmp_path / "maps")
    assert check_output(tmp_path / "new/folder/OUT.MP4").parent.is_dir()


def test_a_failing_disk_is_told_in_a_sentence(tmp_path):
    writer = VideoWriter(tmp_path / "out", width=96, height=64, fps=25)
    (writer._partial / "000000.png").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        writer.write(photo_like(1)[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.gif"])
def test_a_full_disk_is_told_in_a_sentence(tmp_path, name):
    """In a process of its own that may not write files of more than 20 kB."""
    pytest.importorskip("resource")
    script = (
        "import resource, signal, sys, numpy as np\n"
        "from magicanimate.errors import InputError\n"
        "from magicanimate.media.writer import VideoWriter\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "noise = np.random.default_rng(0).integers(0, 256, (30, 64, 96, 3)).astype(np.uint8)\n"
        "try:\n"
        "    with VideoWriter(sys.argv[1], width=96, height=64, fps=25) as writer:\n"
        "        for frame in noise: writer.write(frame)\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / name)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert "cannot be written (File too large)" in done.stdout, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


# Side by side


def test_side_by_side_has_the_height_of_the_result():
    photo = np.full((100, 50, 3), 10, np.uint8)
    motion = np.full((64, 64, 3), 20, np.uint8)
    result = np.full((64, 96, 3), 30, np.uint8)
    strip = side_by_side(photo, motion, result)
    assert strip.shape == (64, 32 + 4 + 64 + 4 + 96, 3) and strip.dtype == np.uint8
    assert [int(strip[32, x, 0]) for x in (0, 31, 33, 36, 99, 101, 104, 199)] == [
        10,
        10,
        255,
        20,
        20,
        255,
        30,
        30,
    ]


def test_lossless_files_keep_every_pixel(tmp_path):
    frames = list(np.random.default_rng(0).integers(0, 256, (3, 31, 45, 3), dtype=np.uint8))
    path = write_output(tmp_path / "out.mp4", frames, lossless=True)
    found = list(open_motion(path).frames())
    assert len(found) == 3 and all(np.array_equal(*pair) for pair in zip(found, frames, strict=True))
    with pytest.raises(ValueError, match="cannot be written without loss"):
        write_output(tmp_path / "out.webm", frames, lossless=True)


def test_a_build_without_the_encoder_is_said(tmp_path, monkeypatch):
    class Container:
        metadata = {}

        def add_stream(self, codec, **options):
            raise UnknownCodecError(codec)

    monkeypatch.setattr("magicanimate.media.writer.av.open", lambda *_, **__: Container())
    with pytest.raises(InputError, match="has no encoder libx264; install av from PyPI, or write a .gif"):
        VideoWriter(tmp_path / "me.mp4", width=16, height=16, fps=25)
    assert list(tmp_path.iterdir()) == []
