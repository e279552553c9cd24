"""What the check card says before anything is made."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from densepose_tools.photo_people import PersonDetector, count_people, is_plausible
from magicanimate import ASSETS
from magicanimate.animator import Animator, ModelDefaults
from magicanimate.device import Device
from magicanimate.media.prepare import prepare_media
from magicanimate.palette import PALETTE
from magicanimate.webui.animate.check_card import card
from magicanimate.webui.animate.forecast import (
    Forecast,
    Forecaster,
    Work,
    _on_builds,
    estimate,
    is_known,
    seconds_after_denoising,
)
from magicanimate.webui.animate.form_values import form_settings, request_of
from magicanimate.webui.animate.inspection import Comparison, compare, is_cut_off
from magicanimate.webui.animate.tab import find_examples
from tests.inputs import write_motion, write_photo
from tests.media_files import part_labels, write_output
from tests.small_segmenter import negatives, write_dance

MINI = ModelDefaults("mini", 64, 64, 4, 1.0)
CPU = Device("cpu", "float32", "")


@pytest.fixture
def values(tmp_path) -> dict:
    files = {
        "photo": str(write_photo(tmp_path / "me.png", size=90)),
        "motion": str(write_motion(tmp_path / "dance.mp4", 30)),
    }
    return {name: setting.default for name, setting in form_settings(MINI).items()} | files


def look(values, tmp_path, *, detector=None, device=CPU) -> Forecast:
    *_, last = Forecaster(MINI, tmp_path, detector=detector, device=lambda: device).forecasts(values)
    assert last.complete
    return last


def said(forecast: Forecast, *levels: str) -> str:
    return " ".join(remark.text for remark in forecast.remarks if remark.level in levels)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_pictures_are_what_the_networks_will_see(values, tmp_path, fit):
    values |= {"fit": fit, "width": 48, "height": 80}
    forecast = look(values, tmp_path)
    request = request_of(values, tmp_path / "x.mp4")
    with prepare_media(request, width=48, height=80) as media:
        assert np.array_equal(forecast.photo, media.photo)
        assert np.array_equal(forecast.motion, media.control[0])


def test_length_follows_the_stretch_and_the_seeds(values, tmp_path):
    found = look(values, tmp_path)
    assert "30 frames, 64 × 64, 25 fps." in said(found, "note") and found.length == pytest.approx(1.2)
    found = look(values | {"start": 0.4, "stride": 2, "seeds": 3}, tmp_path)
    assert "10 frames, 64 × 64, 12.5 fps, 3 times with different seeds" in said(found, "note")
    assert found.length == pytest.approx(0.8)
    edited = values | {"speed": 0.5, "boomerang": True, "joined": values["motion"]}
    assert look(edited, tmp_path).length == pytest.approx(9.6)
    found = look(values | {"start_from_photo": 5}, tmp_path)
    assert "35 frames" in said(found, "note") and found.length == pytest.approx(1.4)


def test_what_cannot_be_used_is_a_sentence_without_folders(values, tmp_path):
    note = tmp_path / "note.png"
    note.write_text("this is no picture")
    forecast = look(values | {"photo": str(note)}, tmp_path)
    assert "The photo note.png" in said(forecast, "error") and str(tmp_path) not in said(forecast, "error")
    assert forecast.photo is None and forecast.motion is not None
    forecast = look(values | {"start": 9.0}, tmp_path)
    assert "earlier start" in said(forecast, "error") and forecast.photo is not None
    forecast = look(values | {"context_overlap": 20}, tmp_path)
    assert "cannot overlap" in said(forecast, "error")
    ordinary = str(write_dance(tmp_path / "tango.mp4", 6))
    found = look(values | {"motion": ordinary}, tmp_path)
    assert "converted first" in said(found, "note") and not said(found, "error")


def test_time_is_known_from_earlier_animations(values, tmp_path):
    assert "known after the first" in said(look(values, tmp_path), "note")
    assert "once the model is loaded" in said(look(values, tmp_path, device=None), "note")
    first = settings_of(values, tmp_path, num_frames=16)
    seconds = {"load": 100.0, "read": 1.0, "denoise": 20.0, "decode": 3.0}
    (tmp_path / "a.json").write_text(json.dumps(first | {"seconds": seconds}))
    (tmp_path / "b.json").write_text("{}")
    assert seconds_for(first, tmp_path) == pytest.approx(24)
    assert seconds_for(first | {"num_inference_steps": 8, "height": 128}, tmp_path) == pytest.approx(2 * 44)
    assert seconds_for(first | {"num_frames": 28}, tmp_path) == pytest.approx(40 + 4 * 28 / 16)  # two windows
    assert estimate(Work.of(first | {"device": "cuda"}), tmp_path) is None
    assert estimate(Work.of(first), tmp_path / "none") is None
    assert look(values, tmp_path).headline() == "1.2 s of video · about 68 s"


def test_what_refining_faces_costs_is_said_before(values, tmp_path):
    first = settings_of(values, tmp_path, num_frames=16)
    (tmp_path / "a.json").write_text(json.dumps(first | {"seconds": {"denoise": 20.0}}))
    found = look(values | {"detail": "faces"}, tmp_path)
    assert "Refining one face or hand takes about 2.0 times as long" in said(found, "note")
    assert look(values, tmp_path).takes == "about 60 s" and found.takes == "about 2 min"
    both = look(values | {"detail": "faces+hands"}, tmp_path)
    assert "Refining 3 faces and hands takes about 4.0 times as long" in said(both, "note")
    wrong = look(values | {"detail": "faces", "detail_who": "him"}, tmp_path)
    assert "'him'" in said(wrong, "error")


def seconds_for(settings: dict, folder) -> float:
    found = estimate(Work.of(settings), folder)
    assert not found.is_rough
    return found.seconds


def test_guidance_counts_only_where_it_is(values, tmp_path):
    first = settings_of(values, tmp_path, num_frames=16)
    (tmp_path / "a.json").write_text(json.dumps(first | {"seconds": {"denoise": 20.0}}))
    guided = first | {"guidance_scale": 3.0, "guidance_stop": 0.5}  # two of the four steps
    assert seconds_for(guided, tmp_path) == pytest.approx(10 + 1.5 * 10)


def test_other_settings_are_known_roughly(values, tmp_path):
    first = settings_of(values, tmp_path, num_frames=16)
    quick = first | {"deep_reuse": 130}
    (tmp_path / "quick.json").write_text(json.dumps(quick | {"seconds": {"denoise": 5.0}}))
    assert estimate(Work.of(first), tmp_path) is None and not is_known(first, tmp_path)
    trial = first | {"num_inference_steps": 1, "seconds": {"denoise": 3.0, "decode": 1.0}}
    assert estimate(Work.of(first), tmp_path, benchmark=trial).seconds == pytest.approx(12 + 1)
    assert estimate(Work.of(first | {"dtype": "bfloat16"}), tmp_path, benchmark=trial) is None
    (tmp_path / "first.json").write_text(json.dumps(first | {"seconds": {"denoise": 20.0}}))
    assert is_known(first, tmp_path)
    assert seconds_for(first, tmp_path) == 20 and seconds_for(quick, tmp_path) == 5
    other = estimate(Work.of(first | {"encoder_reuse": 130}), tmp_path, benchmark=trial)
    assert other.is_rough and other.seconds == 20


def test_time_left_counts_what_comes_after_the_steps(values, tmp_path):
    first = settings_of(values, tmp_path, num_frames=16)
    (tmp_path / "a.json").write_text(json.dumps(first | {"seconds": {"denoise": 20.0, "decode": 3.0}}))
    twice = Work.of(first | {"num_frames": 32, "num_inference_steps": 50})
    assert seconds_after_denoising(twice, tmp_path) == pytest.approx(6)
    assert seconds_after_denoising(Work.of(first | {"device": "cuda"}), tmp_path) == 0
    trial = first | {"device": "cuda", "seconds": {"denoise": 3.0, "decode": 1.0}}
    assert seconds_after_denoising(Work.of(trial), tmp_path, benchmark=trial) == pytest.approx(1)


def test_a_benchmark_tells_the_time_before_the_first_animation(values, tmp_path, tiny_model):
    animator = Animator(tiny_model, device="cpu")
    animator.run_benchmark()
    tried = animator.benchmark
    assert (tried["width"], tried["height"], tried["num_frames"]) == (32, 32, 16)
    assert set(tried["seconds"]) == {"denoise", "decode"} and min(tried["seconds"].values()) > 0

    def text(**changed) -> str:
        forecaster = Forecaster(
            animator.defaults,
            tmp_path,
            detector=None,
            device=lambda: animator.device,
            benchmark=lambda: animator.benchmark,
        )
        *_, last = forecaster.forecasts(values | changed)
        return said(last, "note")

    assert "About " in text() and "(first estimate)" in text()
    assert " or less (first estimate)" in text(preset="fast")


def settings_of(values, tmp_path, *, num_frames: int) -> dict:
    """What the file beside a result of these values would hold."""
    from magicanimate.acceleration.options import completed

    request = completed(request_of(values, tmp_path / "x.mp4"), steps=MINI.num_inference_steps)
    ran = {"model": "mini", "device": "cpu", "dtype": "float32", "num_frames": num_frames}
    return request.settings() | ran


def test_a_person_is_looked_for(values, tmp_path, segmenter):
    detector = PersonDetector(segmenter)  # knows the figure in these colours
    Image.fromarray(negatives(part_labels())).save(tmp_path / "person.png")
    Image.fromarray(negatives(np.zeros((96, 96), np.uint8))).save(tmp_path / "wall.png")
    found = look(values | {"photo": str(tmp_path / "person.png")}, tmp_path, detector=detector)
    assert "shows one person" in said(found, "good")
    found = look(values | {"photo": str(tmp_path / "wall.png")}, tmp_path, detector=detector)
    assert "No person was found" in said(found, "warning")
    found = look(values, tmp_path, detector=PersonDetector(tmp_path / "none"))
    assert "not searched for people" in said(found, "note")


def test_before_the_networks_are_loaded_nothing_else_is(values, tmp_path, segmenter):
    forecaster = Forecaster(
        MINI, tmp_path, detector=PersonDetector(segmenter), device=lambda: None, ready=lambda: False
    )
    *_, last = forecaster.forecasts(values)
    assert last.loading and not last.complete and last.motion is not None
    assert "loading the model" in last.headline() and "data-loading" in card(last)  # which looks again
    forecaster.ready = lambda: True
    *_, last = forecaster.forecasts(values)
    assert last.complete and not last.loading and "loading" not in last.headline() + card(last)


def test_people_are_counted_by_their_heads():
    one = part_labels(width=128, height=128)
    assert count_people(one) == 1 and is_plausible(one)
    two = np.concatenate([one, one], axis=1)
    assert count_people(two) == 2 and is_plausible(two)
    assert count_people(np.zeros_like(one)) == 0 and not is_plausible(np.zeros_like(one))
    scattered = np.where(np.random.default_rng(0).random(one.shape) < 0.1, 23, 0).astype(np.uint8)
    assert not is_plausible(scattered)


def test_builds_are_compared_in_the_picture():
    usual = part_labels(width=128, height=128)
    same = compare(usual, [usual] * 3)
    assert same.size == pytest.approx(1) and same.breadth == pytest.approx(1)
    assert same.unseen == () and not same.builds_differ and same.sentence_on_builds() == ""
    near = np.kron(usual, np.ones((2, 2), np.uint8))[:128, 60:188]  # twice as large, cut at the hips
    closer = compare(near, [usual] * 3)
    assert closer.size == pytest.approx(2, rel=0.1)
    assert closer.sentence_on_builds() == "The dancer is about 50 % smaller than your person."
    assert "lower legs" in closer.unseen and "made up" in closer.sentence_on_unseen()
    wide = np.repeat(usual, 2, axis=1)[:, 64:192]
    assert compare(wide, [usual] * 3).breadth > 1.4
    assert compare(np.zeros_like(usual), [usual]).size is None


def test_with_several_photos_the_card_says_who_becomes_whom(values, tmp_path):
    two = [PALETTE[np.concatenate([part_labels(width=64, height=128)] * 2, 1)]] * 3
    clip = write_output(tmp_path / "two.mp4", two, lossless=True)
    other = str(write_photo(tmp_path / "other.png", size=40))
    values |= {
        "motion": str(clip),
        "background": "colour",
        "other_photos": [other],
        "width": 128,
        "height": 128,
    }
    found = look(values, tmp_path)
    assert [member.photo for member in found.cast] == [1, 2] and len(found.photos) == 2
    assert not said(found, "error")
    for half, member in zip((found.motion[:, :64], found.motion[:, 64:]), found.cast, strict=True):
        assert (half == member.colour).all(-1).sum() > 100, "the dancer is outlined in that colour"
    html = card(found)
    assert html.count("<select") == 2 and '<option value="2" selected>Photo 2</option>' in html
    assert [member.photo for member in look(values | {"cast": "2,1"}, tmp_path).cast] == [2, 1]
    found = look(values | {"other_photos": [other, other]}, tmp_path)
    assert "2 dancers apart from each other, too few for 3 photos" in said(found, "error")
    assert "--people" not in said(found, "error"), "the page has no command line"
    one = look(values | {"motion": str(write_output(tmp_path / "one.mp4", [two[0][:, :64]] * 3))}, tmp_path)
    assert "1 dancer apart" in said(one, "error")
    assert look(values | {"background": "photo"}, tmp_path).cast == ()


def test_a_dancer_who_is_cut_off_is_not_offered_to_be_fitted():
    """Made smaller, it would hang in the air as half a body."""
    whole = part_labels(width=128, height=128)
    cut = whole[: int(np.flatnonzero(whole.any(axis=1))[-1]) - 20]
    assert is_cut_off([cut] * 3) and not is_cut_off([whole] * 3)
    larger = Comparison(size=0.7, breadth=None, unseen=())
    (mended,) = _on_builds(larger, cut_off=False)
    assert (mended.mends, mended.button) == ({"fit_dancer": True}, "Fit the dancer to the photo")
    assert mended.text == "The dancer is about 43 % larger than your person."
    (warned,) = _on_builds(larger, cut_off=True)
    assert not warned.mends and "cuts the dancer off" in warned.text
    (mended,) = _on_builds(Comparison(size=1.6, breadth=None, unseen=()), cut_off=True)
    assert mended.mends == {"fit_dancer": True}  # made larger it stays cut by the edge


def test_settings_that_a_lora_for_few_steps_was_made_with_are_a_button_away(values, tmp_path, monkeypatch):
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path))
    (tmp_path / "loras").mkdir()
    save_file({"x": torch.ones(1)}, tmp_path / "loras" / "lcm_dance.safetensors")
    values |= {"lora": ["lcm_dance.safetensors"], "num_inference_steps": 25}
    (remark,) = [r for r in look(values, tmp_path).remarks if r.mends]
    assert remark.text.startswith("lcm_dance.safetensors was made for few steps") and "--" not in remark.text
    assert "Scheduler LCMScheduler, Steps 4." in remark.text
    assert not [r for r in look(values | remark.mends, tmp_path).remarks if r.mends]


def test_memory_is_told_only_where_it_is_short(values, tmp_path, tiny_model, monkeypatch):
    animator = Animator(tiny_model, device="cpu")

    def text() -> str:
        forecaster = Forecaster(
            MINI, tmp_path, detector=None, device=lambda: animator.device, memory=animator.memory_warning
        )
        *_, last = forecaster.forecasts(values)
        return said(last, "warning")

    animator.load()
    assert "Memory" not in text()
    monkeypatch.setattr("magicanimate.memory.available_bytes", lambda device: 1000)
    assert "Memory may be short" in text() and "Choose a smaller size" in text()


def test_limits_of_the_checkpoint_are_told(values, tmp_path):
    (remark,) = [r for r in look(values | {"width": 128}, tmp_path).remarks if r.mends]
    assert (remark.mends, remark.button) == ({"size": "checkpoint", "width": 64, "height": 64}, "Use 64 × 64")
    (remark,) = [r for r in look(values | {"guidance_scale": 1.8}, tmp_path).remarks if r.mends]
    assert remark.mends == {"guidance_scale": 1.0} and "burns the picture out" in remark.text
    full = Forecaster(ModelDefaults("full", 64, 64, 25, 7.5), tmp_path, detector=None, device=lambda: CPU)
    *_, last = full.forecasts(values)
    assert "slow without a graphics card" in said(last, "warning")


def test_the_bundled_examples_come_without_a_warning(tmp_path):
    """What their dancers do to the people in their photos everybody can see beside the form."""
    for example in find_examples(ASSETS / "examples"):
        files = dict(zip(("photo", "motion"), example.files, strict=True))
        values = {name: setting.default for name, setting in form_settings(MINI).items()} | files
        assert example.is_pair(**files) and not example.is_pair(*reversed(example.files))
        forecaster = Forecaster(MINI, tmp_path, detector=PersonDetector.at_hand(), device=lambda: None)
        *_, last = forecaster.forecasts(values, tried=True)
        assert not said(last, "warning") and "1 warning" not in last.headline()
