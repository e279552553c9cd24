"""Puts a stage together from its settings, its data and the runs before it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from training.config import NetworkConfig, StageConfig, preset
from training.data import DancerData
from training.loop import Stage, Trainer, load_averages, newest_checkpoint
from training.networks import (
    build_appearance_encoder,
    build_controlnet,
    build_image_unet,
    build_scheduler,
    build_vae,
    build_video_unet,
)
from training.stages.base import BaseStage
from training.stages.stage2 import Stage2, load_image_weights
from training.stages.vae import VaeStage, latent_scale, normalize_latents

LATENT_SCALE = "latent_scale.pt"
KEPT_FILES = ("README.md",)  # the model card is written by hand and outlives an export
DEFAULT_STEPS = 10
DEFAULT_GUIDANCE = 1.0


def train(
    stage: str,
    *,
    data: Path,
    runs: Path,
    preset_name: str,
    steps: int | None = None,
    decay_steps: int | None = None,
    stop_after: int | None = None,
    threads: int | None = None,
) -> None:
    """Train one stage in ``runs/<stage>``, resuming if that run was begun.

    Raises:
        FileNotFoundError: an earlier stage has not been trained.
        InputError: the data cannot be used.
    """
    if threads:
        torch.set_num_threads(threads)
    config, network = preset(preset_name, stage)
    if decay_steps is not None:
        config = replace(config, optimizer=replace(config.optimizer, decay_steps=decay_steps))
    config = replace(config, steps=steps or config.steps)
    dancers = DancerData(data, holdout=config.holdout)
    Trainer(_build(config, network, dancers, runs), config, runs / stage).run(stop_after=stop_after)


def _build(config: StageConfig, network: NetworkConfig, data: DancerData, runs: Path) -> Stage:
    if config.stage == "vae":
        return VaeStage(config, network, data)
    vae = trained_vae(network, runs, data)
    base = BaseStage(config, network, data, vae, runs / "latents.npy")
    if config.stage == "base":
        return base
    load_averages(base.networks, runs / "base")
    return Stage2(config, network, data, base)


def trained_vae(network: NetworkConfig, runs: Path, data: DancerData | None = None):
    """The autoencoder of ``runs/vae`` with normalized latents, in evaluation mode.

    The scale is measured once, with ``data``, and kept in the run folder.
    """
    vae = build_vae(network)
    load_averages({"vae": vae}, runs / "vae")
    vae.requires_grad_(False).eval()
    file = runs / "vae" / LATENT_SCALE
    newest = newest_checkpoint(runs / "vae")
    if not file.exists() or torch.load(file, weights_only=True)["checkpoint"] != newest.name:
        if data is None:
            raise FileNotFoundError(f"{file} is missing or old: train a later stage first")
        torch.save({"scale": latent_scale(vae, data), "checkpoint": newest.name}, file)
        (runs / "latents.npy").unlink(missing_ok=True)  # of another autoencoder
    normalize_latents(vae, torch.load(file, weights_only=True)["scale"])
    return vae


def export(runs: Path, out: Path, *, preset_name: str) -> Path:
    """Write the trained networks as a pipeline folder (safetensors, float16) that the program loads.

    Args:
        runs: folder of the runs; "vae", "base" and "stage2" must have checkpoints.
        out: folder to write; replaced if it exists.
        preset_name: of the network sizes.

    Returns:
        ``out``.
    """
    from magicanimate.models.prompt import EmptyPrompt
    from magicanimate.pipeline import MagicAnimatePipeline

    _, network = preset(preset_name, "stage2")
    unet = build_video_unet(network)
    image_networks = {
        "unet": build_image_unet(network),
        "appearance_encoder": build_appearance_encoder(network),
        "controlnet": build_controlnet(network),
    }
    load_averages(image_networks, runs / "base")
    load_image_weights(unet, image_networks["unet"])
    load_averages({"unet": unet}, runs / "stage2", partly=True)
    pipe = MagicAnimatePipeline(
        vae=trained_vae(network, runs),
        unet=unet,
        appearance_encoder=image_networks["appearance_encoder"],
        controlnet=image_networks["controlnet"],
        scheduler=build_scheduler(),
        empty_prompt=EmptyPrompt(num_tokens=network.text_tokens, width=network.text_width),
        kind="mini",
        default_width=network.size,
        default_height=network.size,
        default_steps=DEFAULT_STEPS,
        default_guidance_scale=DEFAULT_GUIDANCE,
        noise_period=1,
    )
    staging = out.with_name(f".{out.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    pipe.to(torch.float16).save_pretrained(staging)
    for file in staging.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
    for kept in KEPT_FILES:
        if (out / kept).exists():
            shutil.copy2(out / kept, staging / kept)
    if out.exists():
        shutil.rmtree(out)
    staging.rename(out)
    return out
