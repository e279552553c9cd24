"""The sound of a clip goes with the result, cut to its stretch."""

from __future__ import annotations

import pytest

from magicanimate.media.motion import open_motion
from tests.media_files import loudness, number_of, numbered, write_clip, write_output


@pytest.mark.parametrize("name", ["out.mp4", "out.webm"])
def test_sound_is_cut_to_the_stretch(tmp_path, name):
    # A tone in seconds 0, 2, 4, ...
    source = write_clip(tmp_path / "source.mp4", numbered(30) * 3, rate=10, sound=9.0)
    path = write_output(tmp_path / name, numbered(25), fps=10, sound_from=source, sound_start=1.5)
    heard = loudness(path) > 0.1
    assert len(heard) * 0.05 == pytest.approx(2.5, abs=0.1)
    # Second 1.5 to 4.0: silence, a tone for a second from 0.5 on, silence.
    assert not heard[:8].any() and heard[12:28].all() and not heard[32:48].any()
    clip = open_motion(path)
    assert clip.has_sound and [number_of(frame) for frame in clip.frames()] == list(range(25))


def test_late_sound_is_reached_by_seeking(tmp_path):
    source = write_clip(tmp_path / "source.mp4", numbered(30) * 3, rate=10, sound=9.0)
    path = write_output(tmp_path / "out.mp4", numbered(20), fps=10, sound_from=source, sound_start=6.5)
    heard = loudness(path) > 0.1
    assert heard[:8].all() and not heard[12:28].any() and heard[32:].all()


def test_sound_shorter_than_the_pictures(tmp_path):
    source = write_clip(tmp_path / "source.mp4", numbered(30), rate=10, sound=0.8)
    path = write_output(tmp_path / "out.mp4", numbered(30), fps=10, sound_from=source)
    assert len(list(open_motion(path).frames())) == 30
    assert len(loudness(path)) * 0.05 == pytest.approx(0.8, abs=0.1)


def test_sound_that_is_not_there(tmp_path):
    silent = write_clip(tmp_path / "silent.mp4", numbered(5))
    sounding = write_clip(tmp_path / "sounding.mp4", numbered(5), sound=1.0)
    assert not open_motion(write_output(tmp_path / "a.mp4", numbered(5), sound_from=silent)).has_sound
    assert not open_motion(write_output(tmp_path / "b.mp4", numbered(5), sound_from=tmp_path)).has_sound
    assert not open_motion(write_output(tmp_path / "c.gif", numbered(5), sound_from=sounding)).has_sound
    assert not open_motion(write_output(tmp_path / "d", numbered(5), sound_from=sounding)).has_sound


def test_sound_after_the_end_of_the_source(tmp_path):
    source = write_clip(tmp_path / "source.mp4", numbered(10), rate=10, sound=1.0)
    path = write_output(tmp_path / "out.mp4", numbered(10), fps=10, sound_from=source, sound_start=30.0)
    assert len(list(open_motion(path).frames())) == 10
