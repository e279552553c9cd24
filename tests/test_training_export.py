"""What a training leaves is what the program loads."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from magicanimate.animator import Animator
from magicanimate.config import AnimationRequest
from magicanimate.errors import InputError
from magicanimate.media.writer import VideoWriter
from tests.dancer_files import control_frames
from tests.training_runs import train
from training.__main__ import main
from training.build import Start
from training.data.dancers import DancerVideos
from training.export import export_pipeline, saved_config
from training.initial_networks import PipelineNetworks, build_scheduler
from training.presets import preset

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


def animated(pipeline: Path, data_folder: Path, folder: Path):
    """What the program makes of a dancer and a moving box."""
    from PIL import Image

    photo, motion = folder / "photo.png", folder / "motion.mp4"
    Image.fromarray(np.array(DancerVideos(data_folder).rgb[0, 0])).save(photo)
    with VideoWriter(motion, width=32, height=32, fps=8) as writer:
        for frame in control_frames(5, 32):
            writer.write(frame)
    request = AnimationRequest(
        photo, motion, folder / "out.mp4", num_inference_steps=2, width=32, height=32, check_motion=False
    )
    return Animator(str(pipeline)).animate(request)


def test_pipeline_at_the_end_of_the_run_animates(trained, data_folder, tmp_path):
    result = animated(trained / "stage2" / "pipeline", data_folder, tmp_path)
    assert result.num_frames == 5
    assert result.output.stat().st_size > 500


def test_without_temporal_training_the_pipeline_works_frame_by_frame(trained, data_folder, tmp_path):
    assert animated(trained / "base" / "pipeline", data_folder, tmp_path).num_frames == 5


def test_exported_folder_keeps_the_model_card_and_no_paths(trained, tmp_path, capfd):
    out = tmp_path / "mini"
    out.mkdir()
    (out / "README.md").write_text("the model card stays")
    assert main(["export", "--runs", str(trained), "--preset", "tiny", "--out", str(out)]) == 0
    assert (out / "README.md").read_text() == "the model card stays"
    assert "float32" not in "".join(capfd.readouterr()), "diffusers warns of casts that lose nothing here"
    text = (out / "model_index.json").read_text()
    assert str(tmp_path) not in text
    assert "_name_or_path" not in text


def test_export_takes_the_settings_of_the_runs(trained, data_folder, tmp_path):
    (tmp_path / "vae").symlink_to(trained / "vae")
    config, network = preset("tiny", "base")
    loss = replace(config.loss, prediction="epsilon", zero_terminal_snr=False)
    train("base", data_folder, tmp_path, loss=loss)
    saved = saved_config(tmp_path, config)
    assert saved.loss == loss
    with pytest.raises(InputError, match="comparison"):
        export_pipeline(replace(saved, reference=False), network, tmp_path, tmp_path / "out")


def test_finished_run_is_left_alone(trained, data_folder):
    """The same command after the end takes no step and writes nothing anew."""
    before = {path: path.stat().st_mtime_ns for path in (trained / "base").rglob("*.safetensors")}
    steps = (trained / "base" / "metrics.jsonl").read_text()
    train("base", data_folder, trained)
    assert before and all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert (trained / "base" / "metrics.jsonl").read_text() == steps


@pytest.mark.parametrize("stage", ["base", "stage1", "stage2", "sharpen"])
def test_any_stage_goes_on_from_a_pipeline(stage, trained, data_folder, tmp_path):
    """No other run is needed; what does not learn in the stage comes out as it went in."""
    given = trained / "stage2" / "pipeline"
    run = train(stage, data_folder, tmp_path, start=Start(pipeline=given), drop_reference=0.0)
    before, after = load_file(given / UNET), load_file(run / "pipeline" / UNET)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert set(before) == set(after)
    assert bool(changed) == (stage in ("base", "stage2"))
    assert all((".motion_modules." in key) == (stage == "stage2") for key in changed)
    before, after = load_file(given / VAE), load_file(run / "pipeline" / VAE)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert bool(changed) == (stage == "sharpen")
    assert all(key.startswith("decoder.") for key in changed)
    old, new = (json.loads((p / "model_index.json").read_text()) for p in (given, run / "pipeline"))
    assert old == new
    configs = [file.read_text() for file in (run / "pipeline").glob("*/config.json")]
    assert len(configs) == 5 and not any(str(trained) in config for config in configs)


def test_a_pipeline_goes_on_with_what_it_predicts(trained, data_folder, tmp_path):
    start = Start(pipeline=trained / "stage2" / "pipeline")
    own = preset("tiny", "base")[0].loss
    for prediction in ("epsilon", "v_prediction"):
        loss = replace(own, prediction=prediction, zero_terminal_snr=False)
        said = (
            f"predict 'v_prediction' with zero terminal SNR.* learn '{prediction}' without zero.*"
            "--prediction v_prediction --zero-terminal-snr"
        )
        with pytest.raises(InputError, match=said):
            train("base", data_folder, tmp_path, start=start, loss=loss)


def test_a_pipeline_without_zero_snr_goes_on_without(trained, tmp_path):
    folder = shutil.copytree(trained / "stage2" / "pipeline", tmp_path / "pipeline")
    build_scheduler("v_prediction", zero_terminal_snr=False).save_pretrained(folder / "scheduler")
    loss = preset("tiny", "base")[0].loss
    initial = PipelineNetworks(folder)
    initial.check(replace(loss, zero_terminal_snr=False))
    with pytest.raises(InputError, match="choose --prediction v_prediction --no-zero-terminal-snr"):
        initial.check(loss)
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")  # as older files leave it out
    initial.check(replace(loss, prediction="epsilon", zero_terminal_snr=False))


def test_folder_that_is_no_pipeline_is_named(tmp_path, data_folder):
    with pytest.raises(InputError, match="no model_index.json"):
        train("base", data_folder, tmp_path, start=Start(pipeline=tmp_path))
