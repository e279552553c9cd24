"""The Train tab: who gets it, and a training from its start to its trial in the browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from magicanimate.config import AnimationRequest
from magicanimate.errors import InputError
from magicanimate.webui import server
from magicanimate.webui.page import Page
from magicanimate.webui.service import AnimationService
from magicanimate.webui.training.runs import RunStatus, State, TrainingRun
from magicanimate.webui.training.tab import TrainTab, lines_box, status_of
from tests.browser_page import MILLISECONDS
from tests.conftest import PATIENCE, ROOT
from tests.inputs import write_motion, write_photo
from tests.waiting_work import end_of


@pytest.mark.parametrize(
    ("words", "only_here"),
    [
        ([], True),
        (["--host", "127.0.0.2"], True),
        (["--host", "localhost"], True),
        (["--host", "::1"], True),
        (["--host", "0.0.0.0"], False),
        (["--host", "service.example"], False),
        (["--share"], False),
        (["--auth", "me:secret"], False),
        (["--allow-origin", "https://service.example"], False),
    ],
)
def test_visitors_from_elsewhere_start_no_trainings(words, only_here):
    assert server.only_here(server.build_parser().parse_args(words)) is only_here


@pytest.fixture
def service(tiny_model, tmp_path) -> Iterator[AnimationService]:
    service = AnimationService(tiny_model, tmp_path)
    yield service
    service.close()


def test_a_page_for_others_has_no_handler_that_trains(service):
    pages = [Page(service, [], queue_size=2, training=training).blocks for training in (False, True)]
    without, with_it = ({fn.fn.__module__ for fn in page.fns.values() if fn.fn} for page in pages)
    handlers = {"magicanimate.webui.training.tab"}
    assert handlers <= with_it and not handlers & without


def test_an_error_stays_while_the_page_looks_at_the_training(service):
    """That of Render vanished in half a second, with the next look."""
    blocks = Page(service, [], queue_size=2, training=True).blocks
    (tab,) = {
        owner for fn in blocks.fns.values() if isinstance(owner := getattr(fn.fn, "__self__", None), TrainTab)
    }
    data = {field: field.value for field in tab.fields.values()} | {tab.seen: {}, tab.dancers: 0}
    told = tab._render(data)
    assert "number of people" in told[tab.render_problem]
    assert not {*tab._show_run(data)} & {*tab.problems}
    assert tab._changed(data)[tab.render_problem] == ""  # what was wrong may be right now


def test_another_checkpoint_is_tried_and_left(service, tiny_model, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        service.use_model(tmp_path / "nowhere")
    assert service.trial is None
    trained = shutil.copytree(tiny_model, tmp_path / "runs" / "base" / "pipeline")
    index = trained / "model_index.json"
    index.write_text(index.read_text().replace('"default_steps": 2', '"default_steps": 7'))
    service.use_model(trained)
    assert service.trial == trained and service.defaults().num_inference_steps == 7
    service.use_model(None)
    assert service.trial is None and service.defaults().num_inference_steps == 2


@pytest.fixture
def trained(tiny_model, tmp_path) -> Path:
    """A checkpoint that differs from the program's own in its steps and wants keypoints, too."""
    from diffusers import ControlNetModel

    from magicanimate.pipeline import MagicAnimatePipeline

    pipe = MagicAnimatePipeline.from_pretrained(tiny_model, local_files_only=True)
    keypoints = ControlNetModel.from_config(pipe.controlnet.config)
    pipe.register_modules(controlnet_keypoints=keypoints)
    pipe.register_to_config(**pipe.config | {"default_steps": 7, "driving": "both"})
    pipe.save_pretrained(tmp_path / "runs" / "base" / "pipeline")
    return tmp_path / "runs" / "base" / "pipeline"


def test_a_job_keeps_the_checkpoint_it_was_made_for(service, trained, tmp_path, tmp_path_factory):
    """Also when another one is in use by the time it runs; keypoints go along."""
    files = write_photo(tmp_path / "me.png"), write_motion(tmp_path / "dance.mp4", 5)
    request = AnimationRequest(*files, tmp_path / "out.mp4", guidance_scale=1.0)
    long = service.submit(replace(request, num_inference_steps=1000))
    own = service.submit(request)
    service.use_model(trained)
    points = write_motion(tmp_path_factory.mktemp("uploads") / "points.mp4", 5)
    tried = service.submit(replace(request, keypoints=points))
    service.use_model(None)
    edited = service.submit(replace(request, keypoints=points, seed=5), instead_of=tried.id)
    assert (edited.request["checkpoint"], edited.request["seed"]) == (str(trained), 5)
    service.queue.cancel(long.id)
    ended = [end_of(service.queue, job) for job in (own, tried)]
    assert [job.error for job in ended] == ["", ""]
    settings = [json.loads(Path(job.results[1]).read_text()) for job in ended]
    assert [made["num_inference_steps"] for made in settings] == [2, 7]
    assert not service.animator.loaded, "networks of one checkpoint at a time"


def test_the_page_that_is_opened_during_a_trial_shows_its_settings(service, trained):
    page = Page(service, [], queue_size=2, training=True)
    handlers = [each.fn for each in page.blocks.fns.values()]
    (opened,) = [fn for fn in handlers if getattr(fn, "__qualname__", "") == "AnimateTab._opened"]
    steps, keypoints = (page.animate.controls[name] for name in ("num_inference_steps", "keypoints"))
    before = opened()  # the form is as it came: whoever is quick has begun to change it
    assert before.keys() == {page.animate.badge} and "32 × 32" in before[page.animate.badge]
    service.use_model(trained)
    after = opened()
    assert after[keypoints]["visible"] is True
    assert "value" not in after[steps], "the browser fills it in, if nobody has typed there meanwhile"
    assert "&quot;num_inference_steps&quot;: 7" in after[page.animate.badge]
    assert "Your own model “pipeline”" in after[page.animate.badge]
    assert page.animate.switched()[steps]["value"] == 7


def test_a_checkpoint_that_cannot_be_loaded_keeps_no_card_waiting(tiny_model, tmp_path):
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    (broken / "unet" / "config.json").unlink()
    service = AnimationService(broken, tmp_path / "out", device="cpu")
    service.start_loading()
    service.close()
    assert service.was_ready


def test_the_form_follows_the_checkpoint_that_is_tried(service, trained):
    page = Page(service, [], queue_size=2, training=True).animate
    assert page.controls["keypoints"].visible is False
    service.use_model(trained)
    assert page.saved_settings._reset()[page.controls["num_inference_steps"]] == 7


@pytest.mark.parametrize("state", get_args(State))
def test_how_far_a_training_is_can_be_read_in_every_state(state):
    shown = status_of(
        RunStatus(state, step=30, steps=120, checkpoint=20, seconds_left=60, words="<why>"), "vae"
    )
    assert "vae" in shown or "30" in shown or "why" in shown
    assert "<why>" not in shown
    assert ('aria-valuenow="25"' in shown) == (state in ("running", "stopping"))


def test_what_a_check_says_is_escaped_and_short():
    html = lines_box(["3 videos", "left out: <b>.mp4", "left out: c.mp4"])
    assert "2 files cannot be used" in html and "&lt;b&gt;" in html and "<b>" not in html


@pytest.fixture
def address(browser, tiny_model, tmp_path) -> Iterator[str]:
    """Of a running program; trainings it started end with it."""
    command = [sys.executable, "app.py", "--model", str(tiny_model), "--output", str(tmp_path / "results")]
    env = os.environ | {"ACCELERATE_USE_CPU": "true"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=env)
    try:
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        yield found[0]
    finally:
        training = TrainingRun(tmp_path / "runs" / "vae")
        for _ in range(2):
            training.stop()
        process.terminate()
        process.wait(timeout=PATIENCE)


def open_tab(page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#animate")
    choose_tab(page)
    page.wait_for_selector("#start-training")


def choose_tab(page) -> None:
    """Turn to the Train tab, which a narrow page has in a menu."""
    if page.viewport_size["width"] < 600:
        page.locator("#tabs .overflow-menu button").first.click()
        page.locator("#tabs .overflow-dropdown button", has_text="Train").click()
    else:
        page.get_by_role("tab", name="Train").click()


def wait_for_status(page, text: str) -> None:
    page.wait_for_function(
        "text => document.querySelector('#training-status').innerText.includes(text)", arg=text
    )


@pytest.mark.browser
@pytest.mark.slow
def test_a_training_in_the_browser(browser, address, data_folder, tiny_model, tmp_path):
    """Start, close the page, stop, resume, finish; then what was trained is tried."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(MILLISECONDS)
    trouble = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda entry: trouble.append(entry.text) if entry.type == "error" else None)
    open_tab(page, address)
    wait_for_status(page, "vae has not been trained")
    page.fill("#runs input, #runs textarea", str(tmp_path / "runs"))
    page.fill("#data input, #data textarea", str(data_folder))
    page.click("#train-preset input")
    page.get_by_role("option", name="tiny").click()
    page.get_by_text("More", exact=True).click()
    page.fill("#train-steps input", "100000")
    page.keyboard.press("Tab")
    page.wait_for_function(
        "document.querySelector('#training-command textarea').value.includes('--preset tiny')"
        " && document.querySelector('#training-command textarea').value.endsWith('--steps 100000')"
    )
    page.click("#start-training")
    page.wait_for_selector("#loss-curve canvas, #loss-curve svg.marks")
    page.close()

    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.set_default_timeout(MILLISECONDS)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    open_tab(page, address)
    wait_for_status(page, "of 100000")
    assert page.input_value("#runs textarea, #runs input") == str(tmp_path / "runs")
    page.wait_for_selector("#samples img")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.click("#stop-training")
    wait_for_status(page, "Stopped at step")
    step = int(re.search(r"at step (\d+) of", page.inner_text("#training-status"))[1])
    assert page.inner_text("#start-training") == "Resume"

    shutil.copytree(tiny_model, tmp_path / "runs" / "base" / "pipeline")  # as a finished stage leaves it
    page.get_by_text("More", exact=True).click()
    page.fill("#train-steps input", str(step + 3))
    page.keyboard.press("Tab")
    page.click("#start-training")
    wait_for_status(page, f"Finished vae after {step + 3} steps")

    page.click("#try")
    page.wait_for_selector("#animate:visible")
    page.wait_for_function("document.querySelector('#checkpoint').innerText.includes('Your own model')")
    choose_tab(page)
    page.click("#back")
    page.wait_for_function("!document.querySelector('#checkpoint').textContent.includes('Your own model')")
    page.close()
    assert trouble == []
