"""What stands behind the page's DensePose button: the offer, the work, and Animate with what was made."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from densepose_tools.engine_choice import EngineChoice
from densepose_tools.one_click import MadeMotion, Wish
from magicanimate.config import AnimationRequest, Progress
from magicanimate.errors import Cancelled
from magicanimate.palette import BACKGROUND
from magicanimate.webui.animate.motion_panel import CORRECT, MAKE, motion_of
from magicanimate.webui.animate.tab import AnimateTab
from magicanimate.webui.jobs.watch import Seen
from magicanimate.webui.page import Page
from magicanimate.webui.studio import Studio
from tests.inputs import write_motion, write_photo
from tests.media_files import part_maps, write_clip
from tests.small_segmenter import write_dance
from tests.waiting_work import end_of

VISITOR = SimpleNamespace(session_hash="me", username=None)


@pytest.fixture
def output(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def studio(tiny_model, segmenter, output):
    studio = Studio(tiny_model, output, device="cpu", engine=EngineChoice("mini", segmenter, "cpu"))
    yield studio
    studio.close()


@pytest.fixture
def page(studio) -> AnimateTab:
    return Page(studio, [], queue_size=2).animate


def values_of(page: AnimateTab, **changes) -> dict:
    """What the widgets hold, as Gradio hands it to the handlers."""
    data = {widget: widget.value for widget in (*page.controls.values(), *page.panel.settings.values())}
    data |= {page.panel.made: {}, page.panel.waiting: "", page.running.seen: Seen()}
    data |= {page.running.visitor: "", page.changing: ""}
    return data | {page.controls[name]: value for name, value in changes.items()}


def test_an_ordinary_video_is_offered_made_and_animated(page, studio, tmp_path, output):
    clip = str(write_dance(tmp_path / "dance.mp4", 12))
    offer = page.panel._examine(clip, VISITOR)
    assert offer[page.panel.box]["visible"] and offer[page.panel.job.start]["value"] == MAKE
    assert "dance.mp4 is an ordinary video" in offer[page.panel.notice]["value"]
    assert "for trying (it is not DensePose)" in offer[page.panel.notice]["value"]
    assert offer[page.panel.animate]["variant"] == "secondary"

    data = values_of(page, photo=str(write_photo(tmp_path / "me.png")), motion=clip)
    data[page.panel.waiting] = offer[page.panel.waiting]
    refused = page._submit(data, VISITOR)
    assert f"; make a DensePose clip of it with “{MAKE}”." in refused[page.running.status]

    page.panel.job.admit(VISITOR)
    *moving, done = page.panel._make(data, VISITOR)
    assert all("progressbar" in update[page.panel.job.status] for update in moving)
    assert "12 frames" in done[page.panel.job.status] and "not DensePose" in done[page.panel.job.status]
    motion = output / "dance_densepose.mp4"
    assert done[page.panel.made] == {clip: str(motion)} and motion.exists()
    assert Path(done[page.panel.video]["value"]).exists()

    data |= {page.panel.made: done[page.panel.made], page.panel.waiting: done[page.panel.waiting]}
    page._submit(data, VISITOR)
    done = end_of(page.studio.queue, page.studio.queue.jobs()[-1])
    settings = json.loads(Path(done.results[1]).read_text())
    assert settings["motion"] == str(motion) and settings["num_frames"] == 12


def test_clips_that_need_no_people_found(page, tmp_path):
    assert not page.panel._examine(None, VISITOR)[page.panel.box]["visible"]
    ready = page.panel._examine(str(write_motion(tmp_path / "map.mp4", 5)), VISITOR)
    assert not ready[page.panel.box]["visible"] and ready[page.panel.waiting] == ""
    swapped = [frame[..., ::-1] for frame in part_maps(5)]
    clip = str(write_clip(tmp_path / "swapped.mp4", swapped, pix_fmt="yuv444p", options={"crf": "0"}))
    offer = page.panel._examine(clip, VISITOR)
    assert offer[page.panel.job.start]["value"] == CORRECT and not offer[page.panel.more]["visible"]
    assert "red and blue swapped" in offer[page.panel.notice]["value"]
    *_, done = page.panel._make(values_of(page, motion=clip), VISITOR)
    assert "in the right colours" in done[page.panel.job.status]


def test_what_cannot_be_used_is_a_sentence_and_no_button(page, tmp_path):
    note = tmp_path / "note.mp4"
    note.write_text("not a video")
    empty = write_clip(tmp_path / "empty.mp4", [np.full((64, 64, 3), BACKGROUND, dtype=np.uint8)] * 5)
    for clip, words in ((note, "note.mp4"), (empty, "shows nobody")):
        offer = page.panel._examine(str(clip), VISITOR)
        assert (
            words in offer[page.panel.notice]["value"]
            and str(tmp_path) not in offer[page.panel.notice]["value"]
        )
        assert not offer[page.panel.job.start]["visible"] and words in offer[page.panel.waiting]


def test_without_weights_and_network_the_panel_says_what_to_do(tiny_model, output, tmp_path, monkeypatch):
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("densepose_tools.extractor.DEFAULT_FOLDER", tmp_path / "none")
    studio = Studio(tiny_model, output, offline=True)
    offer = Page(studio, [], queue_size=2).animate.panel._offer(str(write_dance(tmp_path / "dance.mp4", 3)))
    assert offer.button is None and "give the released file" in offer.text
    studio.close()


def test_cancelled_work_is_told_and_goes_on(page, studio, tmp_path, output):
    clip = write_dance(tmp_path / "dance.mp4", 60, size=480)  # large, so that there is time to cancel
    studio.admit("me")
    reports = []
    with pytest.raises(Cancelled):
        for report in studio.make_motion("me", clip, Wish()):
            reports.append(report)
            studio.cancel("me")
    assert all(isinstance(report, Progress) for report in reports) and not list(output.glob("*.mp4"))
    *_, new = studio.make_motion("me", clip, Wish())
    assert isinstance(new, MadeMotion) and new.extraction.num_frames == 60

    page.panel.job.admit(VISITOR)
    page.panel.job.stop(VISITOR)
    (told,) = page.panel._make(values_of(page, motion=str(clip)), VISITOR)
    assert "goes on from there" in told[page.panel.job.status]


def test_a_clip_that_shows_nobody_is_a_sentence(page, tmp_path):
    clip = write_clip(tmp_path / "wall.mp4", [np.full((64, 64, 3), 255 - np.array(BACKGROUND), np.uint8)] * 4)
    *_, told = page.panel._make(values_of(page, motion=str(clip)), VISITOR)
    assert "Nobody is seen in the clip wall.mp4" in told[page.panel.job.status]


def test_only_the_clip_it_was_made_of_is_replaced():
    assert motion_of("a.mp4", {"a.mp4": "map.mp4"}) == "map.mp4"
    assert motion_of("b.mp4", {"a.mp4": "map.mp4"}) == "b.mp4"
    assert motion_of(None, {}) is None


def test_a_visitor_has_an_animation_and_a_clip_in_work(studio, tmp_path, output):
    """Stopping the one leaves the other."""
    photo, motion = write_photo(tmp_path / "me.png"), write_motion(tmp_path / "map.mp4", 5)
    studio.admit("me/densepose")
    studio.cancel("me/densepose")
    job = studio.submit(AnimationRequest(photo, motion, output / "x.mp4"))
    assert end_of(studio.queue, job).state == "done"
    with pytest.raises(Cancelled):
        list(studio.make_motion("me/densepose", write_dance(tmp_path / "dance.mp4", 5), Wish()))
