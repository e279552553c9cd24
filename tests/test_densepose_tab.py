"""What stands behind the DensePose tab: what a clip is, who is pointed at, and what comes of the settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from densepose_tools.engine_choice import EngineChoice
from densepose_tools.one_click import MARGIN, motion_config
from densepose_tools.tracking import PersonAt, picture_at, with_mark
from magicanimate.errors import InputError
from magicanimate.palette import BACKGROUND, colourise
from magicanimate.webui.motion_tools import CHANGE, CORRECT, MAKE, MotionToolsTab, cut_off, figures
from magicanimate.webui.page import Page
from magicanimate.webui.service import AnimationService
from tests.media_files import numbered, part_maps, write_clip, write_output
from tests.small_segmenter import dancing, negatives, write_dance

VISITOR = SimpleNamespace(session_hash="me")
VALUES = {"min_score": 0.5, "people": "largest", "start": 0, "end": 0, "deflicker": False}


@pytest.fixture
def page(tiny_model, segmenter, tmp_path) -> Page:
    (tmp_path / "out").mkdir()
    engine = EngineChoice("mini", segmenter, "cpu")
    service = AnimationService(tiny_model, tmp_path / "out", device="cpu", engine=engine)
    yield Page(service, [], queue_size=2)
    service.close()


@pytest.fixture
def tab(page) -> MotionToolsTab:
    return page.densepose


def pressed(tab: MotionToolsTab, clip: Path, *, made=None, photo=None, **changes) -> dict:
    """What the tab shows after the button was pressed with these settings."""
    data = {widget: changes.get(name, widget.value) for name, widget in tab.settings.items()}
    data |= {tab.clip: str(clip), tab.photo: photo and str(photo), tab.use_photo: True, tab.made: made}
    tab._begin(VISITOR)
    *_, last = tab._make(data, VISITOR)
    return last


def test_values_of_the_widgets_are_a_motion_config():
    assert motion_config(VALUES).postprocessing.people == "largest" and motion_config(VALUES).end is None
    point = VALUES | {"people": "point", "x": 20, "y": 30, "second": 1.5, "margin": True, "flip": True}
    config = motion_config(point | {"start": 2, "end": 4, "like": "me.jpg"})
    assert config.postprocessing.people == PersonAt(20, 30, 1.5) and config.postprocessing.flip
    assert (config.start, config.end, config.like, config.selection.margin) == (2, 4, Path("me.jpg"), MARGIN)
    with pytest.raises(InputError, match="click on the person"):
        motion_config(point | {"x": None})


def test_the_picture_to_point_at_is_the_frame_of_that_second(tmp_path):
    clip = write_output(tmp_path / "clip.mp4", numbered(20), lossless=True)
    assert picture_at(clip, 0.4)[0, 0, 0] == 8 * 10 + 8
    with pytest.raises(InputError, match="clip.mp4"):
        picture_at(clip, 5)
    marked = with_mark(np.full((90, 90, 3), 128, dtype=np.uint8), 30, 60)
    assert (marked[60, 30] == 255).all() and (marked[60, 80] == 128).all()


def test_every_kind_of_clip_is_told_and_offered_something(tab, tmp_path):
    swapped = [frame[..., ::-1] for frame in part_maps(5)]
    empty = [np.full((64, 64, 3), BACKGROUND, dtype=np.uint8)] * 5
    note = tmp_path / "note.mp4"
    note.write_text("not a video")
    clips = (
        (
            write_dance(tmp_path / "dance.mp4", 3),
            "This is an ordinary video.",
            MAKE,
        ),
        (
            write_output(tmp_path / "bgr.mp4", swapped, lossless=True),
            "colours of this motion clip are off",
            CORRECT,
        ),
        (write_output(tmp_path / "map.mp4", part_maps(5), lossless=True), "is a motion clip already", CHANGE),
        (write_clip(tmp_path / "empty.mp4", empty), "shows nobody", None),
        (note, "note.mp4", None),
    )
    for clip, words, button in clips:
        told = tab._examine(str(clip), VISITOR)
        assert words in told[tab.notice]["value"] and str(tmp_path) not in told[tab.notice]["value"]
        assert told[tab.start]["interactive"] == (button is not None)
        if button is not None:
            assert told[tab.start]["value"] == button
            assert told[tab.settings["people"]]["visible"] == (button == MAKE)


def test_a_clip_is_made_and_made_again_without_looking_for_people(tab, tmp_path):
    clip = write_dance(tmp_path / "dance.mp4", 8)
    first = pressed(tab, clip)
    assert first[tab.before]["value"] == str(clip) and not first[tab.figures]["visible"]
    for widget in (tab.exact, tab.near, tab.archive):
        assert Path(first[widget]["value"]).is_file() and first[widget]["visible"]
    photo = tmp_path / "me.png"
    Image.fromarray(negatives(dancing(1)[0])).save(photo)
    again = pressed(tab, clip, made=first[tab.made], photo=photo, deflicker=True, people="point", x=48, y=40)
    assert again[tab.before]["label"] == "Before: as detected"
    assert again[tab.before]["value"].endswith("_before.mp4") and again[tab.before]["value"] != str(clip)
    assert "Flicker" in again[tab.figures]["value"] and "Torso" in again[tab.figures]["value"]
    assert again[tab.archive]["value"] == first[tab.archive]["value"]

    once_more = pressed(
        tab, clip, made=again[tab.made], photo=photo, deflicker=True, people="point", x=48, y=40
    )
    assert once_more[tab.exact]["value"] == again[tab.exact]["value"]  # no file with a number beside it

    nobody = pressed(tab, clip, made=first[tab.made], people="point", x=1, y=1)
    assert "Nobody is where you clicked" in nobody[tab.status]
    sent = tab._send(again[tab.made])
    assert sent[tab.tabs].selected == "animate" and sent[tab.motion_panel.controls["end"]] == 0
    played = sent[tab.motion_panel.controls["motion"]]
    assert played == again[tab.near]["value"]
    assert tab.service.original_of(played) == again[tab.exact]["value"]


def test_a_clip_that_is_right_is_changed_only_if_something_is_chosen(tab, tmp_path):
    clip = write_output(tmp_path / "map.mp4", part_maps(4), lossless=True)
    assert "animate with it as it is" in pressed(tab, clip)[tab.status]
    made = pressed(tab, clip, flip=True)
    assert made[tab.before]["value"] == str(clip) and not made[tab.archive]["visible"]
    assert "Add a video" in pressed(tab, "")[tab.status]


def test_a_picture_to_point_at_is_shown_when_it_is_wanted(tab, tmp_path):
    clip = str(write_dance(tmp_path / "dance.mp4", 5))
    assert not tab._show_picture(clip, "all", 0, 0, None, None)[tab.pointing]["visible"]
    plain = tab._show_picture(clip, "point", 0, 0, None, None)[tab.picture]["value"]
    marked = tab._show_picture(clip, "point", 0, 0, 40, 40)[tab.picture]["value"]
    assert plain.shape == marked.shape == (96, 96, 3) and (plain != marked).any()
    assert tab._point(SimpleNamespace(index=[12, 34])) == (12, 34)
    told = tab._show_picture(clip, "point", 0, 9, None, None)[tab.notice]["value"]
    assert "dance.mp4" in told and str(tmp_path) not in told


def test_who_was_clicked_on_is_not_lost_while_the_clip_is_examined(page, tab):
    """No late answer of the server takes the point away, or hides the picture again."""
    events = page.blocks.fns.values()
    forgets, sets = (each for each in events if tab.settings["x"] in each.outputs)
    assert forgets.fn is None and forgets.js and forgets.targets == [(tab.clip._id, "change")]
    assert sets.targets == [(tab.picture._id, "select")]
    (shows,) = (each for each in events if tab.pointing in each.outputs)
    followed = [tab.clip, *(tab.settings[name] for name in ("people", "start", "second", "x", "y"))]
    assert shows.targets == [(each._id, "change") for each in followed]
    assert shows.trigger_mode == "always_last"


@pytest.mark.parametrize(("reach", "factor", "warned"), [(0, 0.7, True), (0, 1.3, False), (12, 0.7, False)])
def test_a_dancer_who_is_cut_off_and_made_smaller_is_warned_of(tmp_path, reach, factor, warned):
    """Such a one hangs in the air, without legs; ``reach`` pixels are free below."""
    labels = np.zeros((64, 64), np.uint8)
    labels[10 : 64 - reach, 20:40] = 1  # a torso
    clip = write_output(tmp_path / "map.mp4", [colourise(labels)] * 4, lossless=True)
    made = SimpleNamespace(stretch={"torso": (factor, factor)}, plain=None, num_frames=4)
    said = cut_off(SimpleNamespace(extraction=made, clip=clip))
    assert ("cuts the dancer off" in said) is warned and bool(said) is warned
    assert cut_off(SimpleNamespace(extraction=SimpleNamespace(stretch=None), clip=clip)) == ""


def test_changes_of_the_build_are_told_in_words(tab, tmp_path):
    new = pressed(tab, write_dance(tmp_path / "dance.mp4", 4))[tab.made]
    assert figures(new) == ""
    stretch = {"left shank": (1.25, 1.01), "right shank": (1.25, 1.01), "torso": (0.9, 0.7)}
    text = figures(replace(new, extraction=replace(new.extraction, stretch=stretch, flicker=(0.05, 0.0125))))
    assert text.count("<tr>") == 3 and "5.00%" in text and "1.25%" in text
    assert ">Shank</th><td>25% longer</td><td>as it is<" in text
    assert ">Torso</th><td>10% shorter</td><td>30% narrower<" in text
