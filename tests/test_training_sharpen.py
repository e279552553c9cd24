"""The decoder's stage: what it learns from, and what it must leave alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import default_collate

from densepose_tools.segmenter import PartSegmenter
from magicanimate.errors import InputError
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.windows import WindowPlan
from training.build import Start
from training.data.draws import Stream, generator
from training.data.tensors import to_images
from training.diffusion import draw_noise
from training.loop import Numbered
from training.metrics.pixels import feature_distance
from training.presets import preset
from training.runs import build_stage
from training.sets import DataFolders, open_data
from training.stages.sharpen import Sharpener, feature_losses


def build(data: Path, model: Path, folder: Path, **changes) -> Sharpener:
    config, network = preset("tiny", "sharpen")
    config = replace(config, **changes)
    sets = open_data(config, DataFolders(data))
    return build_stage(config, network, sets, folder, Start(pipeline=model), device=torch.device("cpu"))


def batch_of(stage: Sharpener) -> dict:
    numbered = Numbered(stage.samples)
    return default_collate([numbered[k] for k in range(stage.config.samples_a_step)])


def gradients(stage: Sharpener, batch: dict, part: str) -> torch.Tensor:
    stage.zero_grad()
    stage(batch).mean().backward()
    return torch.cat([p.grad.flatten() for name, p in stage.named_parameters() if name.startswith(part)])


def test_each_side_of_the_contest_learns_its_own(data_folder, tiny_model, tmp_path):
    """The discriminator does not care for the decoder's losses, nor the decoder for the discriminator's."""
    with_it = build(data_folder, tiny_model, tmp_path, adversarial_weight=0.5)
    without = build(data_folder, tiny_model, tmp_path, adversarial_weight=0.0, feature_weight=3.0)
    batch = batch_of(with_it)
    judges = [gradients(stage, batch, "discriminator.") for stage in (with_it, without)]
    torch.testing.assert_close(*judges)
    assert judges[0].abs().sum() > 0

    without.config = replace(without.config, feature_weight=with_it.config.feature_weight)
    alone = gradients(without, batch, "vae.decoder.")
    with torch.no_grad():
        for p in without.discriminator.parameters():
            p.mul_(2)
    torch.testing.assert_close(gradients(without, batch, "vae.decoder."), alone)
    assert not torch.allclose(gradients(with_it, batch, "vae.decoder."), alone)


def test_it_learns_from_what_the_pipeline_samples(data_folder, tiny_model, tmp_path):
    """The same photo, motion and noise make the same latents in the stage and in the pipeline."""
    stage = build(data_folder, tiny_model, tmp_path, soften_control=False, batch_size=1)
    batch = batch_of(stage)
    stage(batch)
    places, sampled = stage._sampled
    pipe = MagicAnimatePipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    photo = ((batch["reference"][0] + 1) * 127.5).round().byte().movedim(0, -1).numpy()
    drawn = (batch["control"]["densepose"][0] * 255).round().byte().movedim(1, -1).numpy()
    frames = len(drawn)
    rng = generator(Stream.NOISE, stage.config.seed, *places[0])
    noise = draw_noise(rng, tuple(sampled.shape[1:]), share=True)[None]
    made = pipe(
        photo,
        drawn,
        latents=noise,
        guidance_scale=1.0,
        windows=WindowPlan(context_length=frames, context_overlap=0),
        output_type="latent",
    )
    torch.testing.assert_close(sampled, made.latents, atol=1e-3, rtol=1e-3)


def test_decoder_comes_nearer_to_the_pictures(data_folder, tiny_model, tmp_path):
    stage = build(data_folder, tiny_model, tmp_path, num_frames=2, feature_weight=0.0)
    batch = batch_of(stage)
    stage(batch)
    _, latents = stage._sampled

    def error() -> float:
        return float((stage.latents.decode(latents) - batch["target"]).abs().mean())

    before = error()
    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(12):
        optimizer.zero_grad()
        stage(batch).mean().backward()
        optimizer.step()
    assert error() < 0.9 * before


def test_crops_are_of_the_whole_picture(data_folder, tiny_model, tmp_path):
    """What is judged are pieces of the pictures at the same place, which in time cover all of them."""
    stage = build(data_folder, tiny_model, tmp_path, num_frames=2, crop=16, feature_weight=0.0)
    batch = batch_of(stage)
    stage.vae.decode = lambda latents: SimpleNamespace(
        sample=latents.repeat_interleave(8, -1).repeat_interleave(8, -2)
    )
    numbers = torch.arange(32.0).expand(2, 2, 3, 32, 32)
    where = torch.stack((numbers[:, :, 0], numbers[:, :, 0].mT, numbers[:, :, 0]), 2)
    targets = where // 8
    seen = set()
    for step in range(200):
        batch |= {"index": torch.arange(2) + 2 * step, "target": targets}
        made, truth, drawn = stage._cropped(batch, targets[..., ::8, ::8].transpose(1, 2), where)
        assert made.shape == (2, 2, 3, 16, 16)
        assert torch.equal(made, truth) and torch.equal(drawn // 8, truth)
        seen |= {tuple(map(int, corner)) for corner in drawn[:, 0, :2, 0, 0]}
    for across in range(2):
        assert {corner[across] for corner in seen} == set(range(17)), "at every pixel, not only at latents"


def test_crop_that_the_segmenter_cannot_judge(data_folder, tiny_model, tmp_path):
    with pytest.raises(InputError, match="cannot judge 16 pixels; choose --crop 32"):
        build(data_folder, tiny_model, tmp_path, crop=16)


def test_what_is_sampled_serves_some_steps(data_folder, tiny_model, tmp_path):
    stage = build(data_folder, tiny_model, tmp_path, reuse=3, crop=16, feature_weight=0.0)
    numbered = Numbered(stage.samples)
    kept, losses = [], []
    for step in range(4):
        batch = default_collate([numbered[2 * step + k] for k in range(2)])
        losses.append(float(stage(batch).detach().mean()))
        kept.append(stage._sampled[1])
    assert kept[0] is kept[1] is kept[2] is not kept[3]
    assert len(set(losses[:3])) > 1, "the crops are others"


def test_features_are_judged_as_in_the_benchmarks():
    segmenter = PartSegmenter.load()
    rng = torch.Generator().manual_seed(0)
    made, truth = torch.randint(256, (2, 1, 64, 64, 3), generator=rng, dtype=torch.uint8).numpy()
    # the segmenter enlarges what is smaller than it; the stage takes pictures as they are
    segmenter.size = 64
    wanted = feature_distance(segmenter.features(truth), segmenter.features(made))
    found = feature_losses(segmenter.network, to_images(made), to_images(truth))
    assert found.tolist() == pytest.approx([wanted], rel=1e-4)
