"""Exports the trained networks as a pipeline folder, which `MagicAnimatePipeline.from_pretrained` loads."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from magicanimate.checkpoints.disk import check_replaceable, staged_folder
from magicanimate.errors import InputError
from magicanimate.files import read_json_object, write_json
from magicanimate.pipeline import MagicAnimatePipeline
from training.build import (
    Start,
    encoder_learns,
    finished_networks,
    frozen_autoencoder,
    load_earlier,
    pipeline_settings,
    scheduler_of,
)
from training.config import NetworkConfig, StageConfig, check_config, updated
from training.run_folder import CONFIG, read_config

KEPT_FILES = ("README.md",)  # the model card is written by hand and outlives an export


def saved_config(runs: Path, preset: StageConfig) -> StageConfig:
    """The settings of the last stage that was run; the preset's if none was."""
    # From the last stage to the first; "controlnet" and "vae" know neither fusion nor reference.
    for stage in ("sharpen", "distill", "stage2", "stage1", "base"):
        file = runs / stage / CONFIG
        if file.exists():
            config = updated(preset, read_config(file))
            check_config(config)
            return config
    return preset


def export_pipeline(
    config: StageConfig, network: NetworkConfig | None, runs: Path, out: Path, *, start: Start | None = None
) -> Path:
    """Write the trained networks as a pipeline folder, with float16 safetensors.

    Temporal layers that were not trained keep their initial weights; new ones are the identity.

    Args:
        config: settings of any stage of the runs: prediction, fusion and control signal become the
            pipeline's.
        network: sizes of the networks; ``None`` with Stable Diffusion's files.
        runs: folder of the runs.
        out: the folder to write; an earlier pipeline there is replaced, except a ``README.md`` in it.
        start: files of the initial weights.

    Returns:
        ``out``.

    Raises:
        InputError: a stage is missing, the settings do not make a pipeline, something else is at ``out``, or
            the disk is full.
    """
    if not config.reference:
        raise InputError("a pipeline has a reference; these runs are for comparison only.")
    check_replaceable(out, overwrite=None)
    start = start or Start()
    initial = start.initial_networks(network, encoder_learns=encoder_learns(config, runs))
    networks = finished_networks(config, initial, runs)
    vae = frozen_autoencoder(initial, runs)
    # Sharpening has trained this autoencoder's decoder, in the basis in which it was frozen.
    load_earlier({"vae": vae}, runs, ("sharpen",))
    pipe = MagicAnimatePipeline(
        vae=vae,
        unet=networks["unet"],
        appearance_encoder=networks["appearance_encoder"],
        controlnet=networks["controlnet"],
        controlnet_keypoints=networks.get("controlnet_keypoints"),
        scheduler=scheduler_of(config),
        empty_prompt=initial.empty_prompt(),
        photo_map=networks["appearance_encoder"].takes_photo_map,
        fusion=config.fusion,
        driving=config.driving,
        **pipeline_settings(config, initial, runs),
    )
    # An old pipeline stays in use until the new one is complete.
    with staged_folder(out) as folder:
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.half()  # unlike pipe.to(torch.float16), which warns of every network for nothing
        pipe.save_pretrained(folder)
        _forget_origins(folder)
        for kept in KEPT_FILES:
            if (out / kept).exists():
                shutil.copy2(out / kept, folder / kept)
    return out


def _forget_origins(folder: Path) -> None:
    """Remove the paths of this machine, from which networks were loaded, from their configurations."""
    for file in folder.glob("*/config.json"):
        config = read_json_object(file)
        if config.pop("_name_or_path", None) is not None:
            write_json(file, config)
