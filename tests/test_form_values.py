"""The page's settings without a page: sizes, values read back, requests."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from magicanimate import lora
from magicanimate.animator import ModelDefaults
from magicanimate.config import OLD_NAMES, AnimationRequest
from magicanimate.errors import InputError
from magicanimate.media.outputs import names_only
from magicanimate.request_checks import check_request
from magicanimate.webui.animate.form import SEED_SETTINGS, model_ranges
from magicanimate.webui.animate.form_values import (
    CUSTOM,
    LARGEST_SEED,
    OWN,
    OWN_SCHEDULER,
    check_values,
    form_settings,
    nearest_size,
    of_result,
    read_back,
    requests_of,
    size_choices,
    size_of,
)
from magicanimate.webui.jobs.animation_job import animation_request, job_request
from magicanimate.webui.texts import label_of
from tests.conftest import ROOT
from tests.inputs import write_motion

MINI = ModelDefaults("mini", 128, 128, 4, 1.0)
FULL = ModelDefaults("full", 512, 512, 25, 7.5)


def values(**changes) -> dict:
    """What a form of the mini holds with both files in."""
    settings = form_settings(MINI)
    files = {"photo": "me.jpg", "motion": "dance.mp4"}
    return {name: setting.default for name, setting in settings.items()} | files | changes


@pytest.mark.parametrize("defaults", [MINI, FULL])
def test_sizes_have_about_the_aspect_and_the_pixels(defaults):
    area = defaults.width * defaults.height
    offered = [choice.size for choice in size_choices(defaults) if choice.size]
    assert len(offered) == len(set(offered)) >= 5
    assert any(width > height for width, height in offered)
    assert any(width < height for width, height in offered)
    for width, height in offered:
        assert 0.7 < width * height / area < 1.4
        check_request(AnimationRequest(Path(), Path(), Path(), width=width, height=height))
    width, height = nearest_size(9 / 16, defaults)
    assert width / height == pytest.approx(9 / 16, rel=0.12)


def test_size_as_a_file(tmp_path):
    Image.fromarray(np.zeros((300, 200, 3), np.uint8)).save(tmp_path / "tall.png")
    motion = write_motion(tmp_path / "dance.mp4", 2)
    files = {"photo": str(tmp_path / "tall.png"), "motion": str(motion)}
    assert size_of("photo", MINI, files) == nearest_size(2 / 3, MINI)
    assert size_of("motion", MINI, files) is not None
    assert size_of("photo", MINI, {"photo": None}) is None and size_of(CUSTOM, MINI, files) is None
    assert size_of(OWN, MINI, files) == (128, 128)
    with pytest.raises(InputError, match="gone.png"):
        size_of("photo", MINI, {"photo": str(tmp_path / "gone.png")})


def test_what_a_result_records_makes_it_again():
    first = requests_of(values(seed=9, width=96, scheduler="DDIMScheduler", end=2.5, stride=2), Path("out"))[
        0
    ]
    check_request(first)
    recorded = first.settings() | {"program": "MagicAnimate", "seconds": {"denoise": 1.0}}
    found = of_result(recorded, form_settings(MINI))
    assert found.notes == () and found.values["size"] == CUSTOM
    (again,) = requests_of(values(**found.values), Path("out"))
    assert again.settings() == first.settings() | {"output": str(again.output)}
    own = of_result(AnimationRequest(Path(), Path(), Path()).settings(), form_settings(MINI)).values
    assert (own["size"], own["width"], own["num_inference_steps"]) == (OWN, 128, 4)
    assert (own["end"], own["fps"], own["scheduler"]) == (0.0, 0.0, OWN_SCHEDULER)


def test_results_presets_and_waiting_jobs_of_earlier_versions_keep_their_values():
    old = {"windows": "ring", "window_size": 8, "window_overlap": 2, "window_offset": True}
    new = {"closed_loop": True, "context_length": 8, "context_overlap": 2, "context_offset": True}
    assert set(old) <= set(OLD_NAMES)
    settings = form_settings(MINI)
    assert read_back(old, settings) == read_back(new, settings)
    assert of_result(old, settings) == of_result(new, settings)
    assert new.items() <= of_result(old, settings).values.items()
    job = {"photo": "a.png", "motion": "b.mp4"}
    assert animation_request(job | old, Path("x.mp4")) == animation_request(job | new, Path("x.mp4"))


def test_what_does_not_suit_is_named_and_the_rest_is_taken():
    given = {
        "seed": 3,
        "fit": "bend",
        "num_inference_steps": "many",
        "guidance_scale": float("nan"),
        "sound": 1,
        "stride": 1.5,
        "moonlight": 4,
        "seeds": 99,
    }
    found = read_back(given, form_settings(MINI))
    assert found.values == {"seed": 3}
    assert len(found.notes) == len(given) - 1
    text = " ".join(found.notes)
    assert all(label_of(name) in text for name in given if name != "seed")
    assert "crop, pad, stretch" in text and "Moonlight (4) was left out. This version has no such" in text


def test_several_seeds_make_as_many_requests(tmp_path):
    (only,) = requests_of(values(seed=7), tmp_path)
    assert only.seed == 7
    several = requests_of(values(seed=LARGEST_SEED, seeds=3), tmp_path)
    assert [request.seed for request in several] == [LARGEST_SEED, 0, 1]
    assert len({request.output for request in several}) == 3
    assert {request.output.parent for request in several} == {tmp_path}
    with pytest.raises(InputError, match="Add a dance video"):
        requests_of(values(motion=None), tmp_path)


ADDED = """    grain: float = _setting(
        0.0, "sampling", "strength of the film grain", low=0, high=1, page="advanced"
    )
"""
EVERYWHERE = """
from pathlib import Path
import gradio as gr
from magicanimate.animator import ModelDefaults
from magicanimate.cli.main import build_parser
from magicanimate.config import OLD_NAMES, AnimationRequest
from magicanimate.errors import InputError
from magicanimate.request_checks import check_request
from magicanimate.webui.animate.form import advanced_settings
from magicanimate.webui.animate.form_values import check_values, form_settings, request_of
from magicanimate.webui.api import api_request
from magicanimate.webui.texts import labels

defaults = ModelDefaults("mini", 128, 128, 4, 1.0)
words = ["animate", "me.png", "dance.mp4", "--grain", "0.5"]
assert build_parser().parse_args(words).grain == 0.5
with gr.Blocks():
    slider = advanced_settings(defaults)["grain"]
assert (slider.label, slider.info) == ("Grain", "Strength of the film grain") and slider.maximum == 1
assert labels()["grain"] == "Grain"
values = {name: each.default for name, each in form_settings(defaults).items()} | {"grain": 0.25}
check_values(values, defaults)
assert request_of(values | {"photo": "me.png", "motion": "dance.mp4"}, Path("out")).grain == 0.25
asked = {"defaults": defaults, "output": Path("out")}
assert api_request("me.png", "dance.mp4", {"grain": 0.75}, **asked).grain == 0.75
for refused in (
    lambda: check_values({**values, "grain": 2.0}, defaults),
    lambda: api_request("me.png", "dance.mp4", {"grain": 2.0}, **asked),
    lambda: check_request(AnimationRequest(Path("me.png"), Path("dance.mp4"), Path("out"), grain=2.0)),
):
    try:
        refused()
    except InputError as error:
        assert "rain" in str(error), error
    else:
        raise AssertionError("2 is too much")
"""


def test_a_setting_is_declared_in_one_place(tmp_path):
    """A line in the table, and command line, page, endpoint and checks have the setting."""
    for package in ("magicanimate", "densepose_tools"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
        )
    config = tmp_path / "magicanimate" / "config.py"
    text = config.read_text(encoding="utf-8")
    assert text.count("    preview_every: int") == 1
    text = text.replace("    preview_every: int", f"{ADDED}    preview_every: int")
    config.write_text(text, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-c", EVERYWHERE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("chosen", "background", "name"),
    [
        ({"background": "photo"}, "photo", ".mp4"),
        ({"background": "still"}, "still", ".mp4"),
        ({"background": "transparent"}, "transparent", ".webm"),
        ({"background": "colour", "background_colour": "#2060a0"}, "#2060a0", ".mp4"),
        ({"background": "file", "background_file": "beach.jpg"}, "beach.jpg", ".mp4"),
    ],
)
def test_backgrounds_of_the_form(chosen, background, name):
    (request,) = requests_of(values(**chosen), Path("out"))
    assert (request.background, request.output.suffix) == (background, name)
    found = of_result(request.settings(), form_settings(MINI))
    assert found.values["background"] == chosen["background"]
    assert found.values.get("background_colour") == chosen.get("background_colour")
    assert len(found.notes) == ("background_file" in chosen)


def test_the_background_is_at_first_what_the_model_does_best():
    """What a job or result of before has not said stays the networks' own."""
    still = replace(MINI, background="still")
    for defaults, choice in ((MINI, "photo"), (still, "still")):
        assert form_settings(defaults)["background"].default == choice
    assert of_result({"background": "photo"}, form_settings(still)).values["background"] == "photo"
    (request,) = requests_of(values(background="still", mask="old.mp4"), Path("out"))
    assert request.mask is None, "people who stay in their photo are cut out of no other clip"
    check_request(request)


def test_quality_and_steps_are_offered_where_there_is_a_choice():
    for steps, offered in ((1, False), (2, True), (25, True)):
        ranges = model_ranges(replace(MINI, num_inference_steps=steps))
        assert ranges["preset"]["visible"] == ranges["num_inference_steps"]["visible"] == offered


def test_seeds_are_offered_where_they_change_something():
    for first, offered in (("noise", True), ("warped_photo", False)):
        ranges = model_ranges(replace(MINI, first_latents=first))
        assert all(ranges[name]["visible"] == offered for name in SEED_SETTINGS)


def test_the_clip_of_the_background_is_the_one_that_was_uploaded():
    (request,) = requests_of(values(background="clip"), Path("out"))
    assert request.driving_video == Path("dance.mp4")
    check_request(request)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"background": "file"}, "Add a picture or video for the background"),
        ({"background": "colour", "background_colour": "blueish"}, "“blueish” is no colour"),
    ],
)
def test_a_background_that_is_none_is_one_sentence(chosen, words):
    with pytest.raises(InputError, match=words):
        requests_of(values(**chosen), Path("out"))


def test_loras_are_those_of_the_folder_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path))
    folder = tmp_path / "loras"
    (folder / "faces").mkdir(parents=True)
    for name in ("film.safetensors", "faces/smile.safetensors", "readme.txt"):
        (folder / name).touch()
    assert lora.choices() == ["faces/smile.safetensors", "film.safetensors"]
    chosen = ["film:0.7", "faces/smile.safetensors"]
    (request,) = requests_of(values(lora=chosen), Path("out"))
    assert request.lora == (f"{folder / 'film.safetensors'}:0.7", f"{folder / 'faces/smile.safetensors'}:1")
    check_values(values(lora=chosen), MINI)
    recorded = json.loads(json.dumps(request.settings(), default=str))
    found = of_result(recorded, form_settings(MINI))
    assert found.values["lora"] == ["film.safetensors:0.7", "faces/smile.safetensors"] and not found.notes
    handed_on = names_only(recorded)
    assert of_result(handed_on, form_settings(MINI)).values["lora"][0] == "film.safetensors:0.7"
    job = job_request(request, checkpoint=None)
    assert animation_request(json.loads(json.dumps(job)), Path("out.mp4")).lora == request.lora
    (folder / "film.safetensors").unlink()
    found = of_result(recorded, form_settings(MINI))
    assert found.values["lora"] == ["faces/smile.safetensors"] and "film.safetensors" in found.notes[0]


@pytest.mark.parametrize("asked", ["/etc/passwd", "../secret.safetensors", "film.txt", "nothing"])
def test_no_other_file_is_read_by_way_of_the_page(tmp_path, monkeypatch, asked):
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path))
    (tmp_path / "loras").mkdir()
    for name in ("secret.safetensors", "loras/film.txt"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="There is no LoRA") as caught:
        requests_of(values(lora=[asked]), Path("out"))
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(InputError, match="must be a list"):
        check_values(values(lora=asked), MINI)
