"""The student of few steps: what it should predict, what learns, and what its pipeline says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import default_collate

from magicanimate.errors import InputError
from tests.training_runs import train
from training.build import Start
from training.diffusion import sample_latents
from training.loop import Numbered
from training.presets import preset
from training.runs import build_stage
from training.sets import DataFolders, open_data
from training.stages.distill import Distiller


def build(data: Path, model: Path, folder: Path, **changes) -> Distiller:
    config, network = preset("tiny", "distill")
    simple = {"soften_control": False, "adversarial_weight": 0.0, "feature_weight": 0.0, "steps": 40}
    simple |= {"student_steps": 2}
    config = replace(config, **simple | {"teacher_guidance": 1.0} | changes)
    sets = open_data(config, DataFolders(data))
    return build_stage(config, network, sets, folder, Start(pipeline=model), device=torch.device("cpu"))


def batch_of(stage: Distiller, *, step: int = 0) -> dict:
    numbered, count = Numbered(stage.samples), stage.config.samples_a_step
    return default_collate([numbered[step * count + k] for k in range(count)])


def prepared(stage: Distiller) -> tuple[dict, torch.Tensor, torch.Tensor, dict]:
    """A batch, noise, and what the networks are shown of the batch."""
    torch.manual_seed(0)
    batch = batch_of(stage)
    noise = torch.randn(len(batch["index"]), *stage._latents_shape(batch))
    return batch, noise, stage._encoder_input(batch), stage._control(batch)


@pytest.mark.parametrize("teacher_steps", [4, 12])
def test_steps_that_hit_the_targets_end_where_the_teacher_ends(
    data_folder, tiny_model, tmp_path, teacher_steps
):
    """A student that predicted every target would sample in two steps what the teacher samples in many."""
    stage = build(data_folder, tiny_model, tmp_path, teacher_steps=teacher_steps)
    _, noise, shown, control = prepared(stage)
    with torch.no_grad():
        wanted = sample_latents(
            stage.scheduler,
            noise,
            lambda noisy, t: stage.teacher.predict(noisy, t, shown, control),
            steps=teacher_steps,
        )

        def by_targets(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            clean = stage._teacher_target(noisy, t[0], shown, control)
            noise = (noisy - stage._alpha_bar(t[0]).sqrt() * clean) / (1 - stage._alpha_bar(t[0])).sqrt()
            return stage.scheduler.get_velocity(clean, noise, t)

        found = sample_latents(stage.scheduler, noise, by_targets, steps=2)
    # The short steps are rounded to whole timesteps, here by one at most.
    tolerance = 1e-4 if teacher_steps == 4 else 0.02
    assert float((found - wanted).abs().max()) < tolerance * float(wanted.abs().max())


def test_a_student_that_takes_its_teachers_steps_has_nothing_to_learn(data_folder, tiny_model, tmp_path):
    stage = build(data_folder, tiny_model, tmp_path, teacher_steps=2)
    losses = [stage(batch_of(stage, step=step)) for step in range(6)]
    small = [float(each.detach().max()) < 1e-8 for each in losses]
    assert set(small) == {True, False}, "only the last step is judged by its pictures as well"
    # With guidance the teacher goes elsewhere.
    guided = build(data_folder, tiny_model, tmp_path, teacher_steps=2, teacher_guidance=3.0)
    assert all(float(guided(batch_of(guided, step=step)).detach().max()) > 1e-6 for step in range(6))


@pytest.mark.parametrize("everything", [False, True])
def test_what_learns(data_folder, tiny_model, tmp_path, everything):
    stage = build(data_folder, tiny_model, tmp_path, distill_all=everything)
    learning = {name for name, p in stage.named_parameters() if p.requires_grad}
    assert {name.partition(".")[0] for name in learning} == (
        {"unet", "appearance_encoder", "discriminator"} | ({"controlnet"} if everything else set())
    )
    if not everything:
        assert all(".motion_modules." in name for name in learning if name.startswith("unet."))


def test_it_comes_nearer_to_its_teacher(data_folder, tiny_model, tmp_path):
    stage = build(data_folder, tiny_model, tmp_path, distill_all=True, teacher_steps=8, num_frames=2)
    _, noise, shown, control = prepared(stage)

    def sample(denoiser, steps: int) -> torch.Tensor:
        return sample_latents(
            stage.scheduler, noise, lambda x, t: denoiser.predict(x, t, shown, control), steps=steps
        )

    wanted = sample(stage.teacher, 8)

    def distance() -> float:
        return float((sample(stage, 2) - wanted).square().mean())

    before = distance()
    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=3e-4)
    for step in range(40):
        optimizer.zero_grad()
        stage(batch_of(stage, step=step)).mean().backward()
        optimizer.step()
    assert distance() < 0.8 * before


def test_the_pipeline_of_a_student_takes_its_steps(data_folder, tiny_model, tmp_path):
    """Also after the decoder was sharpened for it; the teacher's pipeline took two guided ones."""
    start = Start(pipeline=tiny_model)
    run = train("distill", data_folder, tmp_path, start=start, student_steps=1)
    sharp = train("sharpen", data_folder, tmp_path, start=start)
    for folder in (run, sharp):
        index = json.loads((folder / "pipeline" / "model_index.json").read_text())
        assert (index["default_steps"], index["default_guidance_scale"]) == (1, 1.0)


@pytest.mark.parametrize(("student", "teacher"), [(4, 2), (2, 2000)])
def test_a_teacher_of_fewer_steps_is_refused(data_folder, tiny_model, tmp_path, student, teacher):
    with pytest.raises(InputError, match=f"teacher of {teacher} steps cannot teach a student of {student}"):
        build(data_folder, tiny_model, tmp_path, student_steps=student, teacher_steps=teacher)
