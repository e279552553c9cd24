"""Clips that are odd or broken, through the command and through the page: a right result or one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from densepose_tools.command import main
from densepose_tools.engine_choice import EngineChoice
from densepose_tools.one_click import make_motion
from magicanimate.errors import InputError
from magicanimate.media.motion import open_motion
from magicanimate.palette import BACKGROUND, nearest_labels
from tests.media_files import cut_off, part_labels, sound_only, write_clip
from tests.small_segmenter import dancing, negatives, write_dance


def _one_frame(folder: Path) -> Path:
    return write_dance(folder / "one.mp4", 1)


def _turned(folder: Path) -> Path:
    frames = [np.rot90(negatives(labels), -1) for labels in dancing(3)]
    return write_clip(folder / "turned.mp4", [frame[:, :64] for frame in frames], rotation=90)


def _four_k(folder: Path) -> Path:
    frame = negatives(part_labels(width=3840, height=2160))
    return write_clip(folder / "4k.mp4", [frame] * 2, options={"crf": "20", "preset": "ultrafast"})


def _nobody(folder: Path) -> Path:
    return write_clip(folder / "wall.mp4", [np.full((64, 64, 3), 255 - np.array(BACKGROUND), np.uint8)] * 4)


RIGHT = {_one_frame: (96, 96, 1), _turned: (96, 64, 3), _four_k: (3840, 2160, 2)}
WRONG = {
    _nobody: "Nobody is seen in the clip .*wall.mp4; choose one",
    sound_only: "song.m4a has only sound, no picture",
    cut_off: "cut.mp4 is cut off .* download it again",
}


def arguments(clip: Path, out: Path, segmenter: Path) -> list[str]:
    engine = ["--engine", "mini", "--weights", str(segmenter), "--device", "cpu", "--quiet"]
    return [str(clip), "-o", str(out), *engine]


@pytest.mark.parametrize("make", [_one_frame, _turned, pytest.param(_four_k, marks=pytest.mark.slow)])
def test_odd_clips_come_out_right(tmp_path, segmenter, make):
    clip = make(tmp_path)
    width, height, count = RIGHT[make]
    assert main(arguments(clip, tmp_path / "map.mp4", segmenter)) == 0
    choice = EngineChoice("mini", segmenter, "cpu")
    page = make_motion(clip, tmp_path / "out", engine=choice, copies=tmp_path / "copies").extraction
    for path in (tmp_path / "map.mp4", page.video, page.playable):
        made = open_motion(path)
        frames = list(made.frames())
        assert (made.width, made.height, len(frames)) == (width, height, count)
        assert len(np.unique(nearest_labels(frames[0])[0])) > 8  # the figure's parts are there


@pytest.mark.parametrize("make", WRONG)
def test_broken_clips_are_one_sentence(tmp_path, segmenter, capsys, make):
    clip = make(tmp_path)
    assert main(arguments(clip, tmp_path / "map.mp4", segmenter)) == 2
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    with pytest.raises(InputError, match=WRONG[make]) as raised:
        make_motion(clip, tmp_path / "out", engine=EngineChoice("mini", segmenter, "cpu"))
    assert told == f"error: {raised.value}"
    assert not (tmp_path / "map.mp4").exists() and not list(tmp_path.glob("out/*"))
