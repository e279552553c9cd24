"""Clips through the extraction: as long, fast and large; resumed, redrawn, or refused in a sentence."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from densepose_tools.archive import Archive
from densepose_tools.command import main
from densepose_tools.extraction import redraw
from densepose_tools.output import Output
from densepose_tools.people import Person, flip_labels, part_map
from densepose_tools.postprocess import Postprocessing
from densepose_tools.resume_log import ResumeLog
from magicanimate.errors import Cancelled, InputError
from magicanimate.media.motion import open_motion
from magicanimate.media.outputs import PROGRAM
from magicanimate.media.writer import read_metadata
from magicanimate.palette import colourise, nearest_labels
from tests import densepose_golden
from tests.conftest import PATIENCE, ROOT
from tests.densepose_clips import SETTINGS, NegativeReader, figures, frames_of, negative_clip, run
from tests.media_files import (
    cut_off,
    loudness,
    numbered,
    require_densepose,
    sound_only,
    write_clip,
    write_output,
)


def test_every_frame_comes_back_in_its_colours(tmp_path):
    labels = figures(7, width=65, height=47)  # odd sizes stay
    clip = negative_clip(tmp_path / "clip.mp4", labels, fps=30000 / 1001)
    steps = []
    made = run(clip, tmp_path / "map.mp4", on_progress=steps.append)
    result = open_motion(made.video)
    assert (result.width, result.height, result.rate) == (65, 47, Fraction(30000, 1001))
    drawn = frames_of(made.video)
    assert len(drawn) == made.num_frames == 7 and made.empty == []
    for frame, expected in zip(drawn, labels, strict=True):
        np.testing.assert_array_equal(frame, colourise(expected))
    require_densepose(result)
    assert read_metadata(made.video) == {**SETTINGS, "program": PROGRAM}
    assert {step.stage: (step.step, step.total) for step in steps} == {"detect": (7, 7), "write": (7, 7)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "map.mp4", "map.npz"]


def test_h264_keeps_nearly_all_labels(tmp_path):
    labels = figures(3)
    clip = negative_clip(tmp_path / "clip.mp4", labels)
    made = run(clip, tmp_path / "map.mp4", archive=None, output={"codec": "h264"})
    with av.open(str(made.video)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    for frame, expected in zip(frames_of(made.video), labels, strict=True):
        assert (nearest_labels(frame)[0] == expected).mean() > 0.93
    require_densepose(open_motion(made.video))


def test_folder_of_frames_in_and_out(tmp_path):
    labels = figures(3)
    clip = write_output(tmp_path / "clip", [255 - colourise(frame) for frame in labels])
    made = run(clip, tmp_path / "map", archive=None)
    for frame, expected in zip(frames_of(made.video), labels, strict=True):
        np.testing.assert_array_equal(frame, colourise(expected))


def test_turned_clip_comes_out_upright(tmp_path):
    labels = figures(2, width=48, height=64)
    frames = [np.rot90(255 - colourise(frame), -1) for frame in labels]
    options = {"crf": "0"}
    clip = write_clip(tmp_path / "clip.mp4", frames, pix_fmt="yuv444p", rotation=90, options=options)
    made = run(clip, tmp_path / "map.mp4")
    assert open_motion(made.video).width == 48
    for frame, expected in zip(frames_of(made.video), labels, strict=True):
        assert (nearest_labels(frame)[0] == expected).mean() > 0.98


def test_one_frame_is_enough(tmp_path):
    clip = negative_clip(tmp_path / "clip.mp4", figures(1))
    assert run(clip, tmp_path / "map.mp4").num_frames == 1
    assert len(frames_of(tmp_path / "map.mp4")) == 1


def test_frames_without_anybody_are_background_and_told(tmp_path):
    labels = figures(6, empty=(2, 3))
    clip = negative_clip(tmp_path / "clip.mp4", labels)
    made = run(clip, tmp_path / "map.mp4", postprocessing=Postprocessing(fill=1))
    assert made.empty == [2, 3] and made.filled == []
    for frame, expected in zip(frames_of(made.video), labels, strict=True):
        np.testing.assert_array_equal(frame, colourise(expected))


def test_sound_is_kept_when_asked_for(tmp_path):
    frames = [255 - colourise(frame) for frame in figures(25)]
    clip = write_clip(tmp_path / "clip.mp4", frames, sound=1.0, pix_fmt="yuv444p", options={"crf": "0"})
    made = run(clip, tmp_path / "map.mp4", output={"sound": True})
    assert loudness(made.video)[:10].min() > 0.2
    made = run(clip, tmp_path / "silent.mp4")
    with av.open(str(made.video)) as container:
        assert not container.streams.audio


def test_archive_holds_what_was_found_and_is_drawn_again(tmp_path):
    labels = figures(5, empty=(1,))
    made = run(negative_clip(tmp_path / "clip.mp4", labels, fps=12), tmp_path / "map.mp4")
    with Archive(made.archive) as archive:
        assert (archive.info.width, archive.info.height, archive.info.rate) == (64, 64, 12)
        assert archive.info.settings == SETTINGS
        people = list(archive)
        assert [len(frame) for frame in people] == [1, 0, 1, 1, 1]
        for frame, expected in zip(people, labels, strict=True):
            np.testing.assert_array_equal(part_map(frame, width=64, height=64), expected)
        assert people[0][0].score == 0.75
        np.testing.assert_array_equal(people[0][0].coordinates[1], 255 - people[0][0].labels)
        again = redraw(archive, Output(tmp_path / "again.mp4"), postprocessing=Postprocessing(fill=0))
    assert again.empty == [1]
    for frame, expected in zip(frames_of(again.video), labels, strict=True):
        np.testing.assert_array_equal(frame, colourise(expected))
    plain = np.load(made.archive)
    assert set(plain) >= {"boxes", "scores", "frame", "labels_0", "u_0", "v_0", "labels_3"}


def test_stopped_run_goes_on_where_it_was(tmp_path):
    labels = figures(9)
    clip, out = negative_clip(tmp_path / "clip.mp4", labels), tmp_path / "map.mp4"
    steps = []
    with pytest.raises(Cancelled):
        run(clip, out, on_progress=steps.append, should_stop=lambda: steps[-1].step >= 6)
    assert not out.exists()
    other = NegativeReader()
    assert run(clip, tmp_path / "other.mp4", reader=other).resumed == 0  # another output begins anew
    reader = NegativeReader()
    made = run(clip, out, reader=reader)
    assert (made.resumed, reader.seen, other.seen) == (6, 3, 9)
    for frame, expected in zip(frames_of(out), labels, strict=True):
        np.testing.assert_array_equal(frame, colourise(expected))


def test_other_settings_or_another_clip_begin_anew(tmp_path):
    clip, out = negative_clip(tmp_path / "clip.mp4", figures(6)), tmp_path / "map.mp4"

    def stopped(settings=SETTINGS) -> int:
        steps, reader = [], NegativeReader()
        with pytest.raises(Cancelled):
            run(
                clip,
                out,
                reader=reader,
                settings=settings,
                on_progress=steps.append,
                should_stop=lambda: steps[-1].stage == "write",
            )
        return reader.seen

    assert [stopped(), stopped(), stopped({"engine": "other"})] == [6, 0, 6]
    os.utime(clip, (1, 1))
    assert stopped({"engine": "other"}) == 6


def test_killed_run_goes_on_at_the_last_whole_frame(tmp_path):
    labels = figures(12)
    clip, out = negative_clip(tmp_path / "clip.mp4", labels), tmp_path / "map.mp4"
    code = (
        "from pathlib import Path; from tests.densepose_clips import NegativeReader, run;"
        f"run(Path({str(clip)!r}), Path({str(out)!r}), reader=NegativeReader(batch=1, seconds=0.2))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    resume_log = tmp_path / ".map.mp4.frames"
    sizes = set()
    deadline = time.monotonic() + PATIENCE
    while len(sizes) < 4 and time.monotonic() < deadline:
        if resume_log.exists():
            sizes.add(resume_log.stat().st_size)
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert resume_log.exists() and not out.exists()
    with resume_log.open("ab") as file:
        file.write(b"half a record")  # as if it had been killed while writing
    reader = NegativeReader()
    made = run(clip, out, reader=reader)
    assert made.resumed >= 2 and made.resumed + reader.seen == 12
    for frame, expected in zip(frames_of(out), labels, strict=True):
        np.testing.assert_array_equal(frame, colourise(expected))


def test_record_that_changed_on_disk_is_dropped(tmp_path):
    path = tmp_path / "resume_log"
    person = Person((0.5, 1.0, 2.0, 2.0), 0.5, np.ones((2, 2), dtype=np.uint8))
    with ResumeLog(path, {"job": 1}) as resume_log:
        for _ in range(3):
            resume_log.append([person])
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with ResumeLog(path, {"job": 1}) as resume_log:
        assert resume_log.resumed == 2
        resume_log.append([])
        assert [len(people) for people in resume_log] == [1, 1, 0]
        assert resume_log[1][0].box == person.box and resume_log[1][0].coordinates is None
    with ResumeLog(path, {"job": 2}) as resume_log:
        assert resume_log.resumed == 0


def test_clip_without_anybody_is_refused_and_leaves_nothing(tmp_path):
    clip = write_output(tmp_path / "clip.mp4", numbered(4), lossless=True)
    with pytest.raises(InputError, match="Nobody is seen in the clip .*clip.mp4; choose one"):
        run(clip, tmp_path / "map.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_part_map_is_not_taken_for_a_clip_of_people(tmp_path):
    clip = write_output(tmp_path / "clip.mp4", [colourise(frame) for frame in figures(4)], lossless=True)
    with pytest.raises(InputError, match="is a DensePose part map .* already; animate with it"):
        run(clip, tmp_path / "map.mp4")


def test_map_in_other_colours_is_told_and_corrected_from_the_command_line(tmp_path, capsys):
    labels = figures(3, width=96, height=96)
    bgr_over_black = [np.where(frame[..., None] > 0, colourise(frame)[..., ::-1], 0) for frame in labels]
    clip = write_output(tmp_path / "clip.mp4", [f.astype(np.uint8) for f in bgr_over_black], lossless=True)
    with pytest.raises(InputError, match="viridis with red and blue swapped, over black.*--recolour"):
        run(clip, tmp_path / "map.mp4")
    assert main([str(clip), "-o", str(tmp_path / "map.mp4"), "--recolour"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "map.mp4")
    for frame, expected in zip(frames_of(tmp_path / "map.mp4"), labels, strict=True):
        np.testing.assert_array_equal(frame, colourise(expected))
    people = write_output(tmp_path / "people.mp4", numbered(3), lossless=True)
    assert main([str(people), "-o", str(tmp_path / "map.mp4"), "--recolour"]) == 2
    assert "only a DensePose part map can be recoloured" in capsys.readouterr().err


def test_archive_of_something_else_is_not_replaced(tmp_path):
    np.savez(tmp_path / "map.npz", something=np.zeros(3))
    clip = negative_clip(tmp_path / "clip.mp4", figures(2))
    with pytest.raises(InputError, match="map.npz exists and was not made by this program"):
        run(clip, tmp_path / "map.mp4")


def test_damaged_archive_is_refused(tmp_path):
    made = run(negative_clip(tmp_path / "clip.mp4", figures(4)), tmp_path / "map.mp4")
    content = made.archive.read_bytes()
    for broken in (content[: len(content) // 2], b"PK\x03\x04", b""):
        made.archive.write_bytes(broken)
        with pytest.raises(InputError, match="cannot be read or was not written by this program"):
            Archive(made.archive)


def _missing(folder: Path) -> Path:
    return folder / "missing.mp4"


def _text(folder: Path) -> Path:
    path = folder / "page.mp4"
    path.write_text("<html>not found</html>")
    return path


def _no_archive(folder: Path) -> Path:
    return folder / "missing.npz"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_missing, "does not exist; check the name"),
        (sound_only, "has only sound, no picture"),
        (cut_off, "is cut off .* download it again"),
        (_text, "holds text, not a video"),
        (_no_archive, "cannot be read or was not written by this program"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, capsys, make, reason):
    status = main([str(make(tmp_path)), "-o", str(tmp_path / "map.mp4"), "--offline", "--engine", "torch"])
    message = capsys.readouterr().err.strip()
    assert status == 2 and message.startswith("error: ") and "\n" not in message
    assert re.search(reason, message)
    assert not (tmp_path / "map.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-o", "map.webm"], "unknown suffix .*; use .mp4, or none for a folder"),
        (["-o", "map.mp4", "--min-score", "2"], "The score threshold is 2.0; give a number from 0.05"),
        (["-o", "map.mp4", "--max-people", "0"], "The most people are 0; give a number from 1 to 100"),
        (["-o", "map.mp4", "--engine", "torch"], "DensePose's weights are not in .* give the released file"),
    ],
)
def test_settings_of_no_use_are_one_sentence(tmp_path, capsys, monkeypatch, arguments, reason):
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    clip = negative_clip(tmp_path / "clip.mp4", figures(2))
    assert main([str(clip), "--offline", *arguments]) == 2
    assert re.search(reason, capsys.readouterr().err)


def test_archive_is_drawn_again_from_the_command_line(tmp_path, capsys):
    labels = figures(3, empty=(1,))
    made = run(negative_clip(tmp_path / "clip.mp4", labels), tmp_path / "map.mp4")
    again = str(tmp_path / "again.mp4")
    assert main([str(made.archive), "-o", again]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == again
    assert "1 of 3 frames show a neighbour's people: 1" in printed.err
    drawn = frames_of(tmp_path / "again.mp4")
    for frame, expected in zip(drawn, (labels[0], labels[0], labels[2]), strict=True):
        np.testing.assert_array_equal(frame, colourise(expected))
    assert main([str(made.archive), "-o", again, "--flip", "--fill", "0"]) == 0
    assert "1 of 3 frames show nobody: 1" in capsys.readouterr().err
    np.testing.assert_array_equal(frames_of(tmp_path / "again.mp4")[2], colourise(flip_labels(labels[2])))
    assert main([str(made.archive), "-o", again, "--people", "2"]) == 2
    assert "Person 2 is asked for and 1 are seen" in capsys.readouterr().err


def test_help_is_instant():
    code = (
        "import sys; from densepose_tools.command import build_parser; build_parser().format_help();"
        "assert not {'torch', 'av', 'torchvision', 'PIL'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.slow
def test_whole_command_with_the_network(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path / "home"))
    state = {name: value.numpy() for name, value in densepose_golden.filled_state().items()}
    weights = tmp_path / "model.pkl"
    weights.write_bytes(pickle.dumps({"model": state, "__author__": "nobody"}, protocol=4))
    frames = [densepose_golden.small_picture(), densepose_golden.small_picture()[:, ::-1]]
    clip = write_output(tmp_path / "clip.mp4", frames, lossless=True)
    arguments = ["--engine", "torch", "--device", "cpu", "--weights", str(weights)]
    # Noise is no person who could be followed from frame to frame, so everybody is drawn.
    limits = ["--min-score", "0.05", "--max-people", "1", "--people", "all"]
    assert main([str(clip), "-o", str(tmp_path / "map.mp4"), *arguments, *limits]) == 0
    assert str(tmp_path / "map.mp4") in capsys.readouterr().out
    with Archive(tmp_path / "map.npz") as archive:
        for frame, people in zip(frames_of(tmp_path / "map.mp4"), archive, strict=True):
            np.testing.assert_array_equal(frame, colourise(part_map(people, width=128, height=96)))
            assert len(people) == 1 and people[0].coordinates is not None
