"""The core that app and command line share."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from magicanimate.animator import Animator
from magicanimate.checkpoints.disk import folder_digest
from magicanimate.config import AnimationRequest
from magicanimate.errors import Cancelled, InputError
from magicanimate.media.writer import VideoWriter, read_metadata
from magicanimate.request_checks import side_by_side_path
from magicanimate.results import inspect
from tests.dancer_files import control_frames


@pytest.fixture(scope="module")
def animator(tiny_model) -> Animator:
    return Animator(tiny_model, device="cpu")


@pytest.fixture
def request_(tmp_path) -> AnimationRequest:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (48, 40, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    with VideoWriter(tmp_path / "motion.mp4", width=64, height=64, fps=12.5) as writer:
        for frame in control_frames(20, 64):
            writer.write(frame)
    return AnimationRequest(
        photo=tmp_path / "photo.png", motion=tmp_path / "motion.mp4", output=tmp_path / "out" / "dance.mp4"
    )


def test_settings_say_what_a_preset_meant(animator, request_):
    settings = animator.animate(replace(request_, preset="draft", guidance_start=0.25)).settings
    assert settings["scheduler"] == "DPMSolverMultistepScheduler"
    assert (settings["guidance_start"], settings["guidance_stop"]) == (0.25, 0.5)
    assert settings["deep_reuse"] == settings["encoder_reuse"] == 260


def video(path: Path) -> tuple[list[np.ndarray], float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [f.to_ndarray(format="rgb24") for f in container.decode(stream)], float(stream.average_rate)


def test_the_whole_way(animator, request_):
    seen = []
    result = animator.animate(replace(request_, side_by_side=True, preview_every=1), seen.append)
    frames, fps = video(result.output)
    assert (len(frames), frames[0].shape, fps) == (20, (32, 32, 3), 12.5)
    assert (result.num_frames, result.width, result.height, result.fps) == (20, 32, 32, 12.5)
    strip, _ = video(result.side_by_side)
    assert len(strip) == 20
    assert strip[0].shape[1] >= 3 * 32

    settings = json.loads(result.settings_file.read_text())
    assert settings["num_inference_steps"] == 2
    assert settings["model"] == "mini" and settings["checkpoint"] == str(animator.folder)
    assert settings["checkpoint_digest"] == folder_digest(animator.folder)
    assert settings["ai_generated"] is True
    embedded = read_metadata(result.output)
    assert embedded["seed"] == 1
    assert settings["motion"] == str(request_.motion) and embedded["motion"] == request_.motion.name
    for made in (result.output, result.side_by_side):
        assert str(request_.motion.parent).encode() not in made.read_bytes()
    assert inspect(result.output).credentials.source_type == "trainedAlgorithmicMedia"
    assert inspect(result.side_by_side).credentials.source_type == "compositeWithTrainedAlgorithmicMedia"
    assert result.unsigned == ""

    stages = list(dict.fromkeys(p.stage for p in seen))
    assert stages == ["load", "read", "denoise", "decode"]
    denoise = [p for p in seen if p.stage == "denoise"]
    assert [p.step for p in denoise] == [0, 1, 2, 2, 3, 4, 4]  # previews are told after a step
    assert [p.denoising_step for p in denoise[1:]] == [(1, 2)] * 3 + [(2, 2)] * 3
    assert denoise[-1].step == denoise[-1].total == 4  # two windows, two steps
    assert all(p.seconds_left is not None for p in denoise[1:])
    previews = [p.preview for p in denoise if p.preview is not None]
    assert previews
    assert previews[0].shape == (16, 16, 16, 3)
    assert previews[0].dtype == np.uint8


def test_content_credentials_can_be_left_out(animator, request_):
    result = animator.animate(replace(request_, credentials=False, num_inference_steps=1))
    assert inspect(result.output).credentials.state == "none" and result.unsigned == ""
    assert read_metadata(result.output)["ai_generated"] is True


def test_a_result_that_cannot_be_signed_is_said_to_be_so(animator, request_, tmp_path, caplog):
    webm = replace(request_, output=tmp_path / "a.webm", num_inference_steps=1, end=0.2)
    assert "webm files cannot carry" in animator.animate(webm).unsigned
    assert "webm files cannot carry" in animator.animate(webm).unsigned
    assert sum("webm files" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("stage", ["read", "denoise", "decode"])
def test_cancelling_leaves_nothing_behind(animator, request_, stage):
    now = []
    with pytest.raises(Cancelled):
        animator.animate(
            replace(request_, side_by_side=True),
            now.append,
            lambda: now[-1].stage == stage and now[-1].step > 0,
        )
    assert list(request_.output.parent.iterdir()) == []


def test_an_older_result_survives_cancelling(animator, request_):
    first = animator.animate(request_).output.read_bytes()
    now = []
    with pytest.raises(Cancelled):
        animator.animate(replace(request_, seed=9), now.append, lambda: now[-1].stage == "decode")
    assert request_.output.read_bytes() == first


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 30}, "width is 30; it must be a multiple of 8; try 24 or 32"),
        ({"fit": "zoom"}, "fit is 'zoom'"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0; choose 1 to 1000"),
        ({"scheduler": "Magic"}, "no scheduler 'Magic'"),
        ({"prompt": "a dancer"}, "understands no text"),
        ({"context_overlap": 16}, "cannot overlap by 16"),
        ({"stride": 0}, "stride is 0; choose 1 to"),
        ({"photo": Path("absent.png")}, "absent.png"),
        ({"motion": Path("absent.mp4")}, "absent.mp4"),
    ],
)
def test_bad_requests_are_one_sentence(animator, request_, change, words):
    with pytest.raises(InputError, match=words) as caught:
        animator.animate(replace(request_, **change))
    assert "\n" not in str(caught.value)
    assert not request_.output.exists()


def test_output_of_unknown_kind_is_refused_before_any_work(animator, request_):
    seen = []
    with pytest.raises(InputError):
        animator.animate(replace(request_, output=request_.output.with_suffix(".avi")), seen.append)
    assert seen == []


def test_scheduler_by_name_is_for_one_request(animator, request_):
    animator.load()
    own = animator.pipe.scheduler
    animator.animate(replace(request_, scheduler="UniPCMultistepScheduler"))
    assert animator.pipe.scheduler is own


def test_seed_repeats_a_result(animator, request_):
    def frames(name: str, seed: int) -> np.ndarray:
        folder = animator.animate(
            replace(request_, output=request_.output.with_name(name), seed=seed, guidance_scale=1.0)
        ).output
        return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]).astype(int)

    first, again, other = frames("first", 4), frames("again", 4), frames("other", 5)
    # Sums in another order may round one step of 255 differently; another seed is another picture.
    assert np.abs(first - again).max() <= 1
    assert np.abs(first - other).mean() > 1


def test_defaults_need_no_loading(tiny_model):
    animator = Animator(tiny_model)
    assert animator.defaults.num_inference_steps == 2
    assert animator.pipe is None


def test_unloaded_networks_are_loaded_again(tiny_model, request_):
    animator = Animator(tiny_model, device="cpu")
    animator.unload()  # nothing is there yet
    animator.load()
    unet = weakref.ref(animator.pipe.unet)
    animator.unload()
    assert not animator.loaded and unet() is None
    assert animator.animate(request_).num_frames == 20 and animator.loaded


def test_broken_checkpoint(tiny_model, tmp_path):
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be loaded"):
        Animator(folder, device="cpu").load()


def test_unknown_device(tiny_model):
    with pytest.raises(InputError, match="not available here"):
        Animator(tiny_model, device="tpu").load()


def test_strip_lies_beside_the_output():
    assert side_by_side_path(Path("a/dance.mp4")) == Path("a/dance_side_by_side.mp4")
