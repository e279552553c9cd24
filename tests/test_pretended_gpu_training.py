"""A training step of every stage on a GPU that is not there, see `benchmarks.pretended_gpu`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.utils import send_to_device

from benchmarks.pretended_gpu import PretendedGPU
from tests.training_files import write_video
from training.build import Start
from training.loop import EMA, ON_HOST, batches, make_optimizer
from training.presets import preset
from training.runs import build_stage
from training.sets import DataFolders, open_data
from training.stages.denoiser import Denoiser


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in ("a", "b"):
        write_video(folder, name, 8)
    return folder


def backward(loss: torch.Tensor) -> None:
    """``loss.backward()`` node by node: torch's own engine asks the driver for the device's streams."""
    waiting: Counter = Counter()
    seen, found = {loss.grad_fn}, [loss.grad_fn]
    for node in found:  # grows while it is walked
        for following, _ in node.next_functions:
            waiting[following] += 1
            if following is not None and following not in seen:
                seen.add(following)
                found.append(following)
    grads = {loss.grad_fn: {0: torch.ones_like(loss)}}
    ready = [loss.grad_fn]
    while ready:
        node = ready.pop()
        own = grads.pop(node, {})
        if hasattr(node, "variable"):  # a leaf
            if own:
                node.variable.grad = own[0]
            continue
        passed = [None] * len(node.next_functions)
        if own:
            with torch.no_grad():
                passed = node(*(own.get(i) for i in range(len(node._input_metadata))))
            passed = passed if isinstance(passed, tuple) else (passed,)
        for (following, place), grad in zip(node.next_functions, passed, strict=False):
            if following is None:
                continue
            if grad is not None:
                wanted = following._input_metadata[place]  # without what was broadcast
                grad = grad.sum_to_size(wanted.shape).to(wanted.dtype)
                places = grads.setdefault(following, {})
                places[place] = places[place] + grad if place in places else grad
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)


def train_a_step(gpu: PretendedGPU, stage, config, *, learns: bool) -> torch.Tensor:
    """What the training loop does in a step, or its forward half; returns the losses of the samples."""
    stage.to("cuda")
    if isinstance(stage, Denoiser):
        stage.latents.vae.to("cuda")  # which is no part of the stage
    learning = {name: p for name, p in stage.named_parameters() if p.requires_grad}
    optimizer = make_optimizer(config.optimizer, list(learning.values()))
    averages = EMA(learning, decay=config.optimizer.ema_decay)
    batch = next(iter(batches(stage.samples, config, first_step=0)))
    batch = send_to_device(batch, "cuda", skip_keys=ON_HOST)
    looks = config.loss.attention_weight > 0  # is learned from gradients of its own
    with torch.set_grad_enabled(learns or looks), torch.autocast("cuda", torch.bfloat16):
        losses = stage(batch)
    if learns:
        backward(losses.mean())
        assert all(p.grad is not None and p.grad.device == p.device for p in learning.values())
        optimizer.step()
        averages.update(learning, 0)
    return losses


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(
            (name, "dancers")
            for name in ("vae", "base", "controlnet", "stage1", "stage2", "distill", "sharpen")
        ),
        *((name, "videos") for name in ("vae", "base", "stage2")),
        # Their samples are those of "base".
        *(pytest.param(name, "videos", marks=pytest.mark.slow) for name in ("controlnet", "stage1")),
    ],
)
def test_every_stage_takes_a_step(name, kind, data_folder, videos, tiny_model, tmp_path):
    """On dancers whole steps; on videos, of which nothing but the samples differs, without learning."""
    config, network = preset("tiny", name)
    if kind == "videos":
        config = replace(config, still_share=0.0, target_still_share=0.0)
    if name == "distill":
        config = replace(config, teacher_steps=1)  # all steps of the teacher are alike
    if name == "base":
        by = "points" if kind == "dancers" else "parts"
        loss = replace(config.loss, weigh_channels=True, attention_weight=0.3, attention_by=by)
        config = replace(config, loss=loss)
    data = open_data(config, DataFolders(data_folder if kind == "dancers" else videos))
    start = Start() if name == "vae" else Start(pipeline=tiny_model)
    stage = build_stage(config, network, data, tmp_path, start, device=torch.device("cpu"))
    with PretendedGPU() as gpu:
        losses = train_a_step(gpu, stage, config, learns=kind == "dancers")
    assert losses.device.type == "cuda" and losses.shape == (config.samples_a_step,)
    assert losses.dtype == torch.float32
