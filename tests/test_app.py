"""What stands behind the page: options, request, the service that runs one animation at a time."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from magicanimate.acceleration.options import Approximations
from magicanimate.animator import ModelDefaults
from magicanimate.config import Progress
from magicanimate.errors import InputError
from magicanimate.files import new_output
from magicanimate.webui import server, views
from magicanimate.webui.animate.form_values import OWN_SCHEDULER, request_of
from magicanimate.webui.animate.tab import find_examples
from magicanimate.webui.jobs.animation_job import Animators, checkpoint_name
from magicanimate.webui.jobs.running_panel import moving_preview
from magicanimate.webui.page import Page
from magicanimate.webui.service import FULL_DEFAULTS, AnimationService
from tests.inputs import write_motion, write_photo


@pytest.fixture
def service(tiny_model, tmp_path):
    service = AnimationService(tiny_model, tmp_path / "out")
    (tmp_path / "out").mkdir(exist_ok=True)
    yield service
    service.close()


@pytest.fixture
def values(tmp_path) -> dict:
    """What the widgets of the page hold after uploading both files."""
    photo = write_photo(tmp_path / "me.png")
    motion = write_motion(tmp_path / "dance.mp4", 5)
    return {
        "photo": str(photo),
        "motion": str(motion),
        "seed": 4,
        "random_seed": False,
        "num_inference_steps": 2,
        "guidance_scale": 2.0,
        "end": 0,
        "fps": 0,
        "scheduler": OWN_SCHEDULER,
        "side_by_side": True,
    }


def test_the_next_free_port_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < server.free_port("127.0.0.1", port) <= port + 100


def test_a_browser_is_opened_on_a_desktop_only():
    assert server.has_desktop({"DISPLAY": ":0"}, "linux", True) and server.has_desktop({}, "darwin", True)
    assert server.has_desktop({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True)
    for environment, platform, terminal in (
        ({}, "linux", True),
        ({"DISPLAY": ":0"}, "linux", False),  # as in the tests
        ({"DISPLAY": ":10", "SSH_CONNECTION": "x"}, "linux", True),
        ({"CI": "true"}, "win32", True),
    ):
        assert not server.has_desktop(environment, platform, terminal)


def test_a_checkpoint_has_one_name_however_it_is_named(monkeypatch):
    monkeypatch.chdir(server.EXAMPLES.parent)
    for named in ("mini", "./mini", str(server.EXAMPLES.parent / "mini")):
        assert checkpoint_name(named) == "mini"
    made = []

    def make(model):
        made.append(model)
        return SimpleNamespace(model=model, defaults=None, unload=lambda: None)

    animators = Animators(make, "./mini")
    assert animators.of("mini") is animators.current
    animators.use("mini")
    assert len(made) == 1
    animators.use(server.EXAMPLES)
    other = animators.current
    animators.use(None)
    assert len(made) == 2 and animators.trial is None  # the first one is there still
    animators.use(server.EXAMPLES)
    assert animators.current is other and len(made) == 2


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(InputError, match="192.0.2.1"):
        server.free_port("192.0.2.1", 7860)


def test_no_checkpoint_is_one_sentence(tmp_path, capsys):
    words = ["--model", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    assert server.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and str(tmp_path / "none") in line


def test_names_of_results_are_never_taken_twice(tmp_path):
    paths = []
    for _ in range(3):
        paths.append(new_output(tmp_path, Path("a/me.png"), Path("b/dance.mp4")))
        paths[-1].touch()
    assert len(set(paths)) == 3
    assert all("_me_dance" in path.name and path.suffix == ".mp4" for path in paths)


def test_examples_are_pairs(tmp_path):
    for name in (
        "b_photo.jpg",
        "b_motion.mp4",
        "a_photo.png",
        "a_motion.mp4",
        "lonely_motion.mp4",
        "x_photo.png",
    ):
        (tmp_path / name).touch()
    pairs = [[each.photo.name, each.motion.name] for each in find_examples(tmp_path)]
    assert pairs == [["a_photo.png", "a_motion.mp4"], ["b_photo.jpg", "b_motion.mp4"]]
    assert find_examples(tmp_path / "none") == []


def test_widgets_become_the_request(values):
    request = request_of(values, Path("x.mp4"))
    assert (request.seed, request.num_inference_steps, request.guidance_scale) == (4, 2, 2.0)
    assert request.end is None and request.fps is None and request.scheduler is None
    assert request.side_by_side and request.preview_every == 1
    request = request_of({**values, "end": 2.5, "fps": 12, "scheduler": "DDIMScheduler"}, Path("x.mp4"))
    assert (request.end, request.fps, request.scheduler) == (2.5, 12, "DDIMScheduler")
    for name, said in (("photo", "Add a photo"), ("motion", "Add a dance video")):
        with pytest.raises(InputError, match=said):
            request_of({**values, name: None}, Path("x.mp4"))


def test_page_has_a_widget_for_every_setting(service):
    page = Page(service, [], queue_size=2).animate
    assert service.defaults() == ModelDefaults("mini", 32, 32, 2, 2.0, fusion="midup")
    not_there = {"output", "overwrite", "context_stride", "preview_every", "limits"}
    not_there |= {
        "driving_video",
        "who",
        "detail_strength",
        "detail_below",
    }  # the page converts the video itself
    not_there |= set(Approximations.__dataclass_fields__)  # the preset decides
    from magicanimate.config import AnimationRequest

    assert set(AnimationRequest.names()) - set(page.controls) == not_there
    assert page.controls["num_inference_steps"].value == 2


def test_a_reload_brings_back_everything_that_can_be_filled_in(service):
    whole = Page(service, [], queue_size=2)
    page = whole.animate
    scripts = [
        fn for fn in whole.blocks.fns.values() if isinstance(fn.js, str) and "magicanimate-form" in fn.js
    ]
    filled = {*page.controls.values(), *page.motion_panel.inputs}
    (restoring,) = [fn for fn in scripts if fn.outputs]
    assert set(restoring.outputs) == filled
    keeping = [fn for fn in scripts if not fn.outputs]
    assert keeping and all(fn.inputs == restoring.outputs for fn in keeping)


def test_full_checkpoint_shows_its_page_before_it_is_here(tmp_path, monkeypatch):
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path))
    service = AnimationService("full", tmp_path, offline=True)
    assert service.defaults() == FULL_DEFAULTS
    service.close()


def test_texts_are_escaped_and_progress_is_readable():
    assert "<img" not in views.message("<img src=x>", kind="error")
    html = views.progress_bar(Progress("denoise", 5, 20, 75.0, denoising_step=(3, 10)))
    assert 'aria-valuenow="25"' in html and "Making the video</span><span>step 3 of 10 · 1:15 left" in html
    assert "5 of 20" in views.progress_bar(Progress("decode", 5, 20))
    assert 'aria-valuenow="0"' in views.progress_bar(Progress("load", 0, 0))


def test_preview_is_a_moving_picture():
    import base64
    import io

    from PIL import Image

    frames = np.stack([np.full((4, 8, 3), 40 * i, np.uint8) for i in range(5)])
    data = moving_preview(frames).split("base64,")[1].split('"')[0]
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.n_frames == 5 and picture.size == (384, 192)


def test_the_end_does_not_wait_for_networks_that_are_still_being_read(tiny_model, tmp_path):
    """Ctrl-C took a minute on a busy machine, as everything was imported and loaded first."""
    service = AnimationService(tiny_model, tmp_path, device="cpu")
    begun, goes_on = threading.Event(), threading.Event()

    def reading() -> None:
        begun.set()
        goes_on.wait()

    service.start_loading(reading)
    begun.wait()
    try:
        service.close(wait=False)
    finally:
        goes_on.set()
    assert not service.was_ready
