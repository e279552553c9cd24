"""The page's side of jobs: from the form to the queue, what is shown of them, and the form again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import ExifTags, Image

from magicanimate.config import Progress
from magicanimate.webui import server
from magicanimate.webui.animate.tab import AnimateTab
from magicanimate.webui.jobs.queue import Job, JobQueue
from magicanimate.webui.jobs.running_panel import ViewState
from magicanimate.webui.page import Page
from magicanimate.webui.service import AnimationService
from tests.conftest import PATIENCE
from tests.inputs import write_motion, write_photo
from tests.waiting_work import end_of

VISITOR = SimpleNamespace(session_hash="me", username=None)


@pytest.fixture
def service(tiny_model, tmp_path):
    service = AnimationService(tiny_model, tmp_path / "out", device="cpu")
    yield service
    service.close()


@pytest.fixture
def page(service) -> AnimateTab:
    return Page(service, [], queue_size=2).animate


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    return {
        "photo": str(write_photo(tmp_path / "me.png")),
        "motion": str(write_motion(tmp_path / "dance.mp4", 5)),
    }


@pytest.fixture
def long(tmp_path, files) -> dict:
    """Settings of an animation that does not end by itself while a test runs."""
    motion = write_motion(tmp_path / "long.mp4", 400)
    return {**files, "motion": str(motion), "num_inference_steps": 100}


def form_of(
    page: AnimateTab, *, seen: ViewState | None = None, visitor: str = "", changing: str = "", **values
) -> dict:
    """What the widgets hold, as Gradio hands it to the handlers."""
    data = {widget: widget.value for widget in page.controls.values()}
    data |= {page.motion_panel.point: "", page.motion_panel.joined: None}
    data |= {page.running.seen: ViewState()}
    data |= {page.running.visitor: visitor, page.changing: changing}
    return data | {page.controls[name]: value for name, value in values.items()}


def submit(page: AnimateTab, **values) -> Job:
    before = page.service.queue.jobs()
    page._submit(form_of(page, **values), VISITOR)
    (job,) = [job for job in page.service.queue.jobs() if job.id not in {other.id for other in before}]
    return job


def press(action: str, job: Job | None = None) -> SimpleNamespace:
    """The event of a button in the list of jobs."""
    return SimpleNamespace(action=action, job=job.id if job else "")


def wait_until_denoising(page: AnimateTab, job: Job) -> None:
    for now in page.service.queue.follow(job.id):
        if now.progress is not None and now.progress.preview is not None:
            return


def test_a_job_is_made_of_the_form_and_its_result_is_shown(page, service, files, tmp_path):
    told = page._submit(form_of(page, seed=4, num_inference_steps=3, **files), VISITOR)
    (job,) = service.queue.jobs()
    assert job.title == "me · dance · seed 4" and told[page.cancel]["visible"]
    assert "me · dance" in told[page.running.job_list]["value"]
    Path(files["photo"]).unlink()  # as when the upload is cleaned up
    done = end_of(service.queue, job)
    assert done.state == "done", done.error
    told = page.running.poll(told[page.running.seen], "", VISITOR)
    assert "0.2 s of video, 32 × 32" in told[page.running.status]["value"]
    assert not told[page.cancel]["visible"] and told[page.running.result_column]["visible"]
    settings = json.loads(Path(done.results[1]).read_text())
    assert (settings["seed"], settings["num_inference_steps"]) == (4, 3)
    assert Path(settings["photo"]).name == "me.png" and Path(settings["photo"]).exists()
    names = sorted(path.name.split("_", 1)[1] for path in (tmp_path / "out").glob("*_*"))
    assert names == ["me_dance.json", "me_dance.mp4", "me_dance_side_by_side.mp4"]
    again = page.running.poll(ViewState(), "", VISITOR)  # as when the page is opened another time
    assert (
        "0.2 s of video" in again[page.running.status]["value"]
        and again[page.running.result_column]["visible"]
    )


def test_a_page_without_jobs_asks_rarely(page, service, files):
    """It went on asking two and a half times a second, as while something runs."""
    assert page.running.poll(ViewState(), "", VISITOR)[page.running.timer]["value"] == 2.0
    assert page._submit(form_of(page, **files), VISITOR)[page.running.timer]["value"] == 0.4


def test_cancelling_keeps_the_last_preview_and_says_so(page, service, long, tmp_path):
    job = submit(page, **long)
    wait_until_denoising(page, job)
    seen = page.running.poll(ViewState(), "", VISITOR)
    assert "step " in seen[page.running.status]["value"] and "<img" in seen[page.running.preview]["value"]
    told = page.running.stop(seen[page.running.seen], "", VISITOR)
    assert told[page.cancel]["value"] == "Stopping…"
    stopped = end_of(service.queue, job)
    (kept,) = (tmp_path / "out").glob("*_*")
    assert stopped.results == (str(kept),) and kept.name.endswith("_me_long_cancelled_preview.webp")
    with Image.open(kept) as picture:
        assert picture.n_frames == 16
        assert picture.getexif()[ExifTags.Base.ImageDescription] == "AI-generated"
    told = page.running.poll(told[page.running.seen], "", VISITOR)
    assert kept.name in told[page.running.status]["value"] and "<img" in told[page.running.preview]["value"]


def test_a_job_brings_its_edits_of_the_clip_along_and_leaves_none_of_the_form(page, service, long, files):
    running = submit(page, **long)
    data = form_of(page, people="point", mirror=True, speed=2.0, **files)
    page._submit(data | {page.motion_panel.point: "40 50 0.1 dance"}, VISITOR)
    edited, plain = service.queue.jobs()[-1], submit(page, **files)
    filled = page._fill_in("", VISITOR, press("edit", edited))
    assert [filled[page.controls[name]] for name in ("people", "mirror", "speed")] == ["point", True, 2.0]
    values = {name: filled.get(widget, widget.value) for name, widget in page.controls.items()}
    data = form_of(page, changing=edited.id, **values)
    page._submit(data | {page.motion_panel.point: filled[page.motion_panel.point]}, VISITOR)
    assert service.queue.get(edited.id).request["motion_steps"]["point"] == [40, 50, 0.1]
    filled = page._fill_in("", VISITOR, press("use", plain))
    assert [filled[page.controls[name]] for name in ("people", "mirror", "speed")] == ["largest", False, 1.0]
    service.queue.cancel(running.id)


def test_a_waiting_job_goes_back_into_the_form_and_is_changed_in_its_place(page, service, long, files):
    running = submit(page, **long)
    waiting, last = submit(page, seed=5, end=0.1, **files), submit(page, seed=6, **files)
    filled = page._fill_in("", VISITOR, press("edit", waiting))
    assert filled[page.changing] == waiting.id and filled[page.start]["value"] == "Save changes"
    assert (filled[page.controls["seed"]], filled[page.controls["end"]]) == (5, 0.1)
    lent = Path(filled[page.controls["photo"]])
    assert lent.name == "me.png" and service.queue.folder not in lent.parents
    values = {name: filled.get(widget, widget.value) for name, widget in page.controls.items()}
    told = page._submit(form_of(page, changing=waiting.id, **{**values, "seed": 7}), VISITOR)
    assert told[page.changing] == "" and told[page.start]["value"] == "Animate"
    assert [job.title[-6:] for job in service.queue.jobs()] == ["seed 1", "seed 7", "seed 6"]
    page.running._act(ViewState(), "", VISITOR, press("up", last))
    page.running._act(ViewState(), "", VISITOR, press("remove", waiting))
    assert [job.id for job in service.queue.jobs()] == [running.id, last.id]
    told = page._submit(form_of(page, changing=running.id, **files), VISITOR)
    assert "begun already" in told[page.check.card] and len(service.queue.jobs()) == 2
    service.queue.cancel(running.id)
    end_of(service.queue, last)
    page.running._act(ViewState(), "", VISITOR, press("clear"))
    assert service.queue.jobs() == []


def test_mistakes_are_told_at_once_or_by_the_job(page, service, files, tmp_path):
    told = page._submit(form_of(page, photo=None, motion=files["motion"]), VISITOR)
    assert "Add a photo" in told[page.check.card] and service.queue.jobs() == []
    told = page._submit(form_of(page, width=33, **files), VISITOR)
    assert (
        "Width must be a multiple of 8. Try 32 or 40." in told[page.check.card] and service.queue.jobs() == []
    )
    (tmp_path / "note.png").write_text("not a picture")
    told = page._submit(form_of(page, **{**files, "photo": str(tmp_path / "note.png")}), VISITOR)
    assert "note.png" in told[page.check.card] and str(tmp_path) not in told[page.check.card]
    assert service.queue.jobs() == []
    failed = submit(page, **files)
    service.queue.cancel(failed.id)
    end_of(service.queue, failed)
    again = page.running._act(ViewState(), "", VISITOR, press("again", failed))
    assert again[page.running.job_list]["value"].count("<li") == 2


def test_what_the_end_of_the_program_interrupted_is_offered(tiny_model, long, files, tmp_path):
    service = AnimationService(tiny_model, tmp_path / "out", device="cpu")
    page = Page(service, [], queue_size=2).animate
    running, waiting = submit(page, **long), submit(page, **files)
    wait_until_denoising(page, running)
    service.close()
    assert not list((tmp_path / "out").glob("*_*"))
    torn = tmp_path / "out" / ".20260101-000000_me_dance.1a2b3c4d.partial.mp4"  # as after a kill
    torn.touch()
    service = AnimationService(tiny_model, tmp_path / "out", device="cpu")
    page = Page(service, [], queue_size=2).animate
    listed = page.running.poll(ViewState(), "", VISITOR)[page.running.job_list]["value"]
    assert "Resume 2 jobs" in listed
    page.running._act(ViewState(), "", VISITOR, press("remove", running))
    page.running._act(ViewState(), "", VISITOR, press("go-on"))
    assert end_of(service.queue, waiting).state == "done" and not torn.exists()
    service.close()


def test_visitors_of_a_shared_program_see_their_own(tiny_model, long, tmp_path):
    service = AnimationService(tiny_model, tmp_path / "out", device="cpu", shared=True)
    page = Page(service, [], queue_size=2).animate
    name = page.running.poll(ViewState(), "", VISITOR)[page.running.visitor]
    assert len(name) == 32
    page._submit(form_of(page, visitor=name, **long), VISITOR)
    (job,) = service.queue.jobs()
    assert job.owner == name
    other = SimpleNamespace(session_hash="other", username=None)
    told = page.running.poll(ViewState(), "somebody", other)
    assert page.running.job_list not in told and page.running.status not in told
    page.running._act(ViewState(), "somebody", other, press("cancel", job))
    assert page._fill_in("somebody", other, press("use", job)).keys() == {page.changing}
    assert not service.queue.get(job.id).is_over
    signed_in = SimpleNamespace(session_hash="x", username="ann")
    assert page.running.owner(name, signed_in) == "ann"
    page.running._act(ViewState(), name, VISITOR, press("cancel", job))
    assert end_of(service.queue, job).state == "cancelled"
    service.close()


def test_a_job_that_waits_for_a_download_says_so(page, service, files):
    """It said that it waits for other work, of which there was none."""
    with service._with_device(lambda _: None, lambda: False):  # as `start_loading` has it
        service._while_loading(Progress("download", 3, 11, note="The full model is downloaded once."))
        job = submit(page, **files)
        for now in service.queue.follow(job.id):
            if now.progress is not None:
                break
        told = page.running.poll(ViewState(), "", VISITOR)[page.running.status]["value"]
        assert now.progress.stage == "download" and "Downloading" in told and "downloaded once" in told
    end_of(service.queue, job)


def test_networks_leave_the_memory_when_nothing_happens(tiny_model, files, tmp_path):
    service = AnimationService(tiny_model, tmp_path / "out", device="cpu", unload_after=0.3 / 60)
    page = Page(service, [], queue_size=2).animate
    assert end_of(service.queue, submit(page, **files)).state == "done"
    deadline = time.monotonic() + PATIENCE
    while not service.unloaded and time.monotonic() < deadline:
        time.sleep(0.05)
    told = page.running.poll(ViewState(), "", VISITOR)
    assert "was unloaded" in told[page.running.note]["value"] and not service.animator.loaded
    assert end_of(service.queue, submit(page, **files)).state == "done"
    service.close()


def test_two_programs_do_not_work_on_one_folder(tiny_model, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    queue = JobQueue(tmp_path / "out", {})
    assert server.main(["--model", str(tiny_model), "--output", str(tmp_path / "out")]) == 2
    assert "Another MagicAnimate works on the folder" in capsys.readouterr().err
    queue.close()
