"""The training at tiny size: it learns, resumes exactly, freezes what it should and exports what runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.dancer_files import control_frames, write_boxes
from training import runs
from training.config import OptimizerConfig, preset, tiny_network
from training.data import DancerData, encode_all, step_generator
from training.loop import Trainer, learning_rate, load_averages, newest_checkpoint
from training.networks import build_image_unet, build_vae
from training.stages.vae import VaeStage, normalize_latents


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory) -> Path:
    return write_boxes(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="module")
def trained(data_folder, tmp_path_factory) -> Path:
    """All stages, a few steps each."""
    folder = tmp_path_factory.mktemp("runs")
    for stage in ("vae", "base", "stage2"):
        runs.train(stage, data=data_folder, runs=folder, preset_name="tiny")
    return folder


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(newest_checkpoint(folder), weights_only=True)["parameters"]


@pytest.mark.parametrize("stage", ["vae", "base", "stage2"])
def test_resumed_run_is_the_uninterrupted_run(stage, trained, data_folder, tmp_path):
    for earlier in ("vae", "base"):
        if earlier != stage:
            (tmp_path / earlier).symlink_to(trained / earlier)
    for _ in range(2):
        runs.train(stage, data=data_folder, runs=tmp_path, preset_name="tiny", stop_after=2)
    assert losses(tmp_path / stage) == losses(trained / stage)
    assert len(losses(trained / stage)) == 4
    ours, whole = weights(tmp_path / stage), weights(trained / stage)
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_stage2_trains_temporal_layers_only(trained):
    names = weights(trained / "stage2")
    assert names
    assert all(".motion_modules." in name for name in names)


def test_untrained_temporal_layers_change_nothing(trained, data_folder):
    """A clip seen by the fresh stage-2 network is what the image network makes of its single frame."""
    config, network = preset("tiny", "stage2")
    stage = runs._build(config, network, DancerData(data_folder, holdout=1), trained)
    image_unet = build_image_unet(network)
    load_averages({"unet": image_unet}, trained / "base", partly=True)
    noisy, text = torch.randn(1, 4, 1, 4, 4), torch.zeros(1, 1, 16)
    with torch.no_grad():
        clip = stage.unet(noisy, torch.tensor(500), text).sample[:, :, 0]
        picture = image_unet(noisy[:, :, 0], torch.tensor(500), text).sample
    torch.testing.assert_close(clip, picture, atol=1e-5, rtol=1e-4)


def test_vae_learns(data_folder, tmp_path):
    config, _ = preset("tiny", "vae")
    config = replace(config, steps=150, crop=0, optimizer=OptimizerConfig(warmup_steps=5, ema_decay=0.9))
    stage = VaeStage(config, tiny_network(), DancerData(data_folder, holdout=1))
    before = stage.sample(0, tmp_path)["psnr"]
    trainer = Trainer(stage, replace(config, checkpoint_every=1000, sample_every=1000), tmp_path)
    trainer.run()
    assert stage.sample(1, tmp_path)["psnr"] > before + 2


def test_normalized_latents_decode_to_the_same_picture():
    torch.manual_seed(0)
    vae = build_vae(tiny_network()).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        before = vae.encode(images).latent
        picture = vae.decode(before).sample
        normalize_latents(vae, before.square().mean(dim=(0, 2, 3)).sqrt())
        after = vae.encode(images).latent
        torch.testing.assert_close(after.square().mean(dim=(0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
        torch.testing.assert_close(vae.decode(after).sample, picture, atol=1e-4, rtol=1e-3)


def test_exported_pipeline_animates(trained, data_folder, tmp_path):
    from magicanimate.pipeline import MagicAnimatePipeline

    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "README.md").write_text("the model card stays")
    folder = runs.export(trained, tmp_path / "mini", preset_name="tiny")
    assert (folder / "README.md").read_text() == "the model card stays"
    pipe = MagicAnimatePipeline.from_pretrained(folder)
    photo = DancerData(data_folder, holdout=1).rgb[0, 0]
    frames = pipe(np.array(photo), control_frames(5, 32), num_inference_steps=2).frames
    assert frames.shape == (5, 32, 32, 3)
    assert frames.std() > 1
    text = (folder / "model_index.json").read_text()
    assert str(tmp_path) not in text
    assert "_name_or_path" not in text


def test_learning_rate_warms_up_holds_and_decays():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, decay_steps=20, final_ratio=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:80] == [1.0] * 71
    assert rates[90] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.1)


def test_batches_depend_on_seed_and_step():
    a, b = step_generator(1, 5).random(3), step_generator(1, 5).random(3)
    assert (a == b).all()
    assert (a != step_generator(1, 6).random(3)).all()
    assert (a != step_generator(2, 5).random(3)).all()


def test_latents_are_computed_once(data_folder, tmp_path):
    data = DancerData(data_folder, holdout=1)
    calls = []

    def encode(images):
        calls.append(len(images))
        return images[:, :1, ::8, ::8]

    first = encode_all(data, tmp_path / "latents.npy", encode)
    assert first.shape == (4, 6, 1, 4, 4)
    count = len(calls)
    second = encode_all(data, tmp_path / "latents.npy", encode)
    assert len(calls) == count
    assert (first == second).all()


def test_later_stage_without_the_earlier_one(data_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="run that stage first"):
        runs.train("base", data=data_folder, runs=tmp_path, preset_name="tiny")
    with pytest.raises(FileNotFoundError):
        load_averages({"vae": build_vae(tiny_network())}, tmp_path / "vae")
