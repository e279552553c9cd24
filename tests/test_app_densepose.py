"""What happens to a clip before it animates: converting, editing, the choice of a person."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest

from densepose_tools.engine_choice import EngineChoice
from densepose_tools.one_click import MadeMotion, MotionConfig, examine
from magicanimate import ASSETS
from magicanimate.config import AnimationRequest, Progress
from magicanimate.errors import Cancelled
from magicanimate.media.motion import open_motion
from magicanimate.media.writer import VideoWriter
from magicanimate.palette import BACKGROUND
from magicanimate.webui.animate.inspection import clip_strip, nearest_start
from magicanimate.webui.animate.tab import AnimateTab
from magicanimate.webui.jobs.running_panel import ViewState
from magicanimate.webui.page import Page
from magicanimate.webui.service import AnimationService
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
def service(tiny_model, segmenter, output):
    service = AnimationService(
        tiny_model, output, device="cpu", engine=EngineChoice("mini", segmenter, "cpu")
    )
    yield service
    service.close()


@pytest.fixture
def page(service) -> AnimateTab:
    return Page(service, [], queue_size=2).animate


def values_of(page: AnimateTab, **changes) -> dict:
    """What the widgets hold, as Gradio hands it to the handlers."""
    data = {widget: widget.value for widget in page.controls.values()}
    data |= {page.motion_panel.point: "", page.motion_panel.joined: None}
    data |= {page.running.seen: ViewState(), page.running.visitor: "", page.changing: ""}
    return data | {page.controls[name]: value for name, value in changes.items()}


def examined(page: AnimateTab, clip: str | None) -> dict:
    """What the panel shows of a clip at last."""
    *_, last = page.motion_panel._examine(clip)
    return last


def animated(page: AnimateTab, **changes) -> dict:
    """Press Animate with these values and wait; the settings of the result."""
    told = page._submit(values_of(page, **changes), VISITOR)
    jobs = page.service.queue.jobs()
    assert jobs, told[page.check.card]
    done = end_of(page.service.queue, jobs[-1])
    assert done.state == "done", done.error
    return json.loads(Path(done.results[1]).read_text())


def test_an_ordinary_video_is_converted_when_it_is_animated(page, service, tmp_path, output):
    clip = str(write_dance(tmp_path / "dance.mp4", 12))
    told = examined(page, clip)
    assert "ordinary video. It will be converted first" in told[page.motion_panel.line]["value"]
    assert "ma-strip" in told[page.motion_panel.strip]
    photo = str(write_photo(tmp_path / "me.png"))
    first = animated(page, photo=photo, motion=clip)
    assert first["num_frames"] == 12 and Path(first["motion"]).name == "dance_densepose.mp4"
    again = animated(page, photo=photo, motion=clip, seed=5)
    assert again["motion"] == first["motion"]  # converted once
    assert not list(output.glob("*densepose*.npz")) and len(list(output.glob(".motions/*"))) == 1
    service.close()
    later = AnimationService(service.animator.model, output, device="cpu")
    assert later.queue and Path(first["motion"]).exists()  # a result names it
    later.close()


def test_edits_happen_before_and_leave_the_clip_alone(page, tmp_path):
    photo, clip = str(write_photo(tmp_path / "me.png")), str(write_motion(tmp_path / "map.mp4", 20))
    before = Path(clip).read_bytes()
    plain = animated(page, photo=photo, motion=clip, end=0.4)
    assert plain["motion"].endswith("map.mp4") and plain["num_frames"] == 10
    quick = animated(page, photo=photo, motion=clip, end=0.4, speed=2.0)
    assert quick["num_frames"] == 5 and quick["motion"].endswith("map_edited.mp4")
    there_and_back = animated(page, photo=photo, motion=clip, end=0.4, boomerang=True)
    assert there_and_back["num_frames"] == 10 + 8
    frames = list(open_motion(Path(there_and_back["motion"])).frames())
    assert all(np.array_equal(frames[i], frames[-i]) for i in range(1, 9))
    mirrored = animated(page, photo=photo, motion=clip, mirror=True, num_inference_steps=1)
    first = next(open_motion(Path(mirrored["motion"])).frames())
    assert not np.array_equal(first, next(open_motion(Path(clip)).frames()))
    assert examine(Path(mirrored["motion"])).kind == "ready"
    data = values_of(page, photo=photo, motion=clip, num_inference_steps=1)
    data[page.motion_panel.joined] = str(write_motion(tmp_path / "then.mp4", 5))
    page._submit(data, VISITOR)
    done = end_of(page.service.queue, page.service.queue.jobs()[-1])
    assert json.loads(Path(done.results[1]).read_text())["num_frames"] == 25
    assert Path(clip).read_bytes() == before


def test_a_gif_plays_as_a_video_and_animates_as_it_is(page, tmp_path):
    with VideoWriter(tmp_path / "dance.gif", width=96, height=96, fps=10) as gif:
        for frame in part_maps(6):
            gif.write(frame)
    clip = str(tmp_path / "dance.gif")
    video = page.motion_panel._playable(clip)[page.controls["motion"]]
    assert video.endswith("dance.mp4") and clip_strip(video).seconds == pytest.approx(0.6)
    # Also for a page that is opened again, which shows the video only.
    data = values_of(page, motion=video) | {page.motion_panel.point: "1 2 0.5 dance"}
    assert page.motion_panel.values_of(data).items() >= {"motion": clip, "point": (1, 2, 0.5)}.items()
    played = str(write_motion(tmp_path / "map.mp4", 5))
    assert "value" not in page.motion_panel._playable(played)[page.controls["motion"]]
    assert page.motion_panel.values_of(values_of(page, motion=played))["motion"] == played
    assert page.motion_panel.values_of(values_of(page, motion=None))["motion"] is None


def test_who_of_several_dances_is_asked_for_and_clicked_on(page, tmp_path, monkeypatch):
    monkeypatch.setattr("magicanimate.webui.animate.inspection.count_people", lambda labels: 2)
    monkeypatch.setattr("magicanimate.webui.animate.inspection.is_plausible", lambda labels: True)
    clip = str(write_dance(tmp_path / "two.mp4", 5))
    told = examined(page, clip)
    assert told[page.motion_panel.who]["visible"] and "2 people" in told[page.motion_panel.several]
    plain = told[page.motion_panel.picture]
    told = page.motion_panel._pointed(clip, told[page.motion_panel.second], SimpleNamespace(index=[40, 50]))
    point = told[page.motion_panel.point]
    assert told[page.controls["people"]] == "point"
    data = values_of(page, photo=str(write_photo(tmp_path / "me.png")), motion=clip, people="point")
    assert page.motion_panel.values_of(data | {page.motion_panel.point: point})["point"] == (40, 50, 0.0)
    assert "Click on the person" in page._submit(data, VISITOR)[page.check.card]
    other = data | {page.motion_panel.point: point, page.controls["motion"]: str(tmp_path / "other.mp4")}
    assert page.motion_panel.values_of(other)["point"] is None

    # The page is opened again, and the browser fills in what was chosen before the clip is examined.
    *_, told = page.motion_panel._examine(clip, None, 0.0, 0.0, "point", point)
    assert not {page.controls["people"], page.motion_panel.point} & told.keys()
    assert told[page.motion_panel.who]["visible"] and (told[page.motion_panel.picture] != plain).any()
    # Another clip has other people; edits can be undone without choosing again.
    assert page.motion_panel.no_edits()[page.controls["people"]] == "largest"
    assert page.controls["people"] not in page.motion_panel._undone(clip)


def test_clips_that_need_nothing_and_that_cannot_be_used(page, tmp_path):
    assert not examined(page, None)[page.motion_panel.line]["visible"]
    assert not examined(page, str(write_motion(tmp_path / "map.mp4", 5)))[page.motion_panel.line]["visible"]
    swapped = [frame[..., ::-1] for frame in part_maps(5)]
    clip = str(write_clip(tmp_path / "swapped.mp4", swapped, pix_fmt="yuv444p", options={"crf": "0"}))
    assert "corrected first" in examined(page, clip)[page.motion_panel.line]["value"]
    made = animated(page, photo=str(write_photo(tmp_path / "me.png")), motion=clip)["motion"]
    assert examine(Path(made)).kind == "ready"
    note = tmp_path / "note.mp4"
    note.write_text("not a video")
    told = examined(page, str(note))[page.motion_panel.line]["value"]
    assert "note.mp4" in told and str(tmp_path) not in told
    refused = page._submit(values_of(page, photo=str(tmp_path / "me.png"), motion=str(note)), VISITOR)
    assert "note.mp4" in refused[page.check.card] and str(tmp_path) not in refused[page.check.card]


def test_without_weights_and_network_the_panel_says_what_to_do(tiny_model, output, tmp_path, monkeypatch):
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("densepose_tools.engines.DEFAULT_FOLDER", tmp_path / "none")
    service = AnimationService(tiny_model, output, offline=True)
    told = examined(Page(service, [], queue_size=2).animate, str(write_dance(tmp_path / "dance.mp4", 3)))
    (line,) = [each["value"] for each in told.values() if isinstance(each, dict) and "ma-error" in str(each)]
    assert "give the released file" in line
    service.close()


def test_cancelled_work_is_told_and_goes_on(page, service, tmp_path, output):
    clip = write_dance(tmp_path / "dance.mp4", 60, size=480)  # large, so that there is time to cancel
    service.admit("me")
    reports = []
    with pytest.raises(Cancelled):
        for report in service.make_motion("me", clip, MotionConfig()):
            reports.append(report)
            service.cancel("me")
    assert all(isinstance(report, Progress) for report in reports) and not list(output.glob("*.mp4"))
    *_, new = service.make_motion("me", clip, MotionConfig())
    assert isinstance(new, MadeMotion) and new.extraction.num_frames == 60


def test_a_clip_that_shows_nobody_is_a_sentence(page, tmp_path):
    clip = write_clip(tmp_path / "wall.mp4", [np.full((64, 64, 3), 255 - np.array(BACKGROUND), np.uint8)] * 4)
    page._submit(values_of(page, photo=str(write_photo(tmp_path / "me.png")), motion=str(clip)), VISITOR)
    failed = end_of(page.service.queue, page.service.queue.jobs()[-1])
    assert failed.state == "failed" and "Nobody is seen in the clip wall.mp4" in failed.error


def test_a_visitor_has_an_animation_and_a_clip_in_work(service, tmp_path, output):
    """Stopping the one leaves the other."""
    photo, motion = write_photo(tmp_path / "me.png"), write_motion(tmp_path / "map.mp4", 5)
    service.admit("me")
    service.cancel("me")
    job = service.submit(AnimationRequest(photo, motion, output / "x.mp4"))
    assert end_of(service.queue, job).state == "done"
    with pytest.raises(Cancelled):
        list(service.make_motion("me", write_dance(tmp_path / "dance.mp4", 5), MotionConfig()))


def test_a_page_that_is_opened_again_makes_no_second_file(service, tmp_path, output):
    """Every retry after a reload left dance_densepose_2, _3, ... beside the first."""
    clip, config = write_dance(tmp_path / "dance.mp4", 6), MotionConfig()
    *_, first = service.make_motion("before", clip, config)
    *_, second = service.make_motion("after a reload", clip, config)
    assert second.extraction.video == first.extraction.video
    assert [path.name for path in output.glob("*.mp4")] == ["dance_densepose.mp4"]


def test_a_dance_goes_on_where_another_ended(page, tmp_path):
    """The same photo and settings; the clip goes on, or the next one begins at the nearest pose."""
    frames = list(part_maps(20))
    first, second = tmp_path / "first.mp4", tmp_path / "second.mp4"
    for path, shown in ((first, frames[:8]), (second, [frames[0]] * 4 + frames[7:])):
        with VideoWriter(path, width=96, height=96, fps=10, lossless=True) as out:
            for frame in shown:
                out.write(frame)
    assert nearest_start(second, first) == pytest.approx(0.4, abs=0.11)
    photo = str(write_photo(tmp_path / "me.png"))
    controls, tabs = page.controls, gr.Tabs()
    made = animated(page, photo=photo, motion=str(first), end=0.4, num_inference_steps=1, seed=5)
    told = page.use_again._extend(tabs, made["output"])
    assert (told[controls["start"]], told[controls["end"]], told[controls["seed"]]) == (0.4, 0.0, 5)
    assert (
        Path(told[controls["motion"]]).name == "first.mp4"
        and "goes on" in told[page.use_again.notice]["value"]
    )

    made = animated(page, photo=photo, motion=str(first), num_inference_steps=1)
    told = page.use_again._extend(tabs, made["output"])
    assert told[controls["motion"]] is None and Path(told[controls["photo"]]).name == "me.png"
    *_, told = page.motion_panel._examine(str(second), told[page.motion_panel.after])
    assert told[controls["start"]] == pytest.approx(0.4, abs=0.11) and told[page.motion_panel.after] is None
    assert "last pose" in told[page.motion_panel.line]["value"]


def test_the_mask_is_shown_painted_on_and_used(page, tmp_path):
    clip, photo = str(write_dance(tmp_path / "dance.mp4", 6)), str(ASSETS / "examples" / "arms_photo.jpg")
    mask, chosen = page.mask, {"photo": photo, "motion": clip, "background": "clip"}
    data = values_of(page, **chosen) | {mask.brush: "take", mask.radius: 4}
    *progress, shown = mask._show(data)
    assert progress and "role=" in progress[0][mask.line]["value"]
    files, first = shown[mask.files], shown[mask.picture]
    assert files.count == 6 and "<canvas>" in first and "<figure" in shown[mask.photo]
    assert shown[mask.last]["maximum"] == 6 and not shown[mask.line]["visible"]
    kept = shown[page.controls["mask"]]
    grow, feather = (page.controls[name] for name in ("mask_grow", "mask_feather"))
    data |= {mask.files: files, page.controls["mask"]: kept, mask.frame: 2, grow: 0, feather: 0.0}
    assert mask._drawn(data | {grow: 5}) != mask._drawn(data), "it follows the slider"
    data |= {mask.radius: 15, mask.first: 2, mask.last: 3}
    told = mask._painted(data, SimpleNamespace(points=[[0.1, 0.5], [0.9, 0.5]]))
    painted = told[page.controls["mask"]]
    assert Path(painted).name == "dance_mask.mp4" and painted != kept
    before, after = (np.stack(list(open_motion(Path(each)).frames()))[..., 1] for each in (kept, painted))
    assert [bool((one != other).any()) for one, other in zip(before, after, strict=True)] == [
        *(False, True, True),
        *(False, False, False),
    ]
    assert not after[1:3, 16, 4:28].any()
    wrong = mask._painted(data, SimpleNamespace(points=[[7, 7]]))
    assert "outside of the picture" in wrong[mask.line]["value"]
    undone = mask._undone(data | {page.controls["mask"]: painted})
    assert undone[page.controls["mask"]] == kept
    done = animated(page, **chosen, mask=painted, num_inference_steps=1)
    used = np.stack(list(open_motion(Path(done["mask"])).frames()))[..., 1]
    np.testing.assert_array_equal(used, after)
    assert mask._gone(files)[page.controls["mask"]] is None and page.controls["mask"] not in mask._gone(None)
    *_, told = mask._show(
        values_of(page, **chosen | {"background": "photo"}) | {mask.brush: "add", mask.radius: 4}
    )
    assert "stay in their photo" in told[mask.line]["value"]
