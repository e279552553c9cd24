"""One call per command: train a stage, resuming if it was begun, and write its pipeline at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from accelerate import Accelerator
from filelock import FileLock
from torch import nn

from magicanimate.errors import InputError
from magicanimate.files import write_json
from magicanimate.progress import stop_on_interrupt
from training.build import (
    Start,
    build_networks,
    encoder_learns,
    frozen_autoencoder,
    pipeline_settings,
    scheduler_of,
)
from training.config import NetworkConfig, StageConfig, as_json, check_config, fixed_settings, flat
from training.data.computed import PhotoLabels
from training.export import export_pipeline
from training.initial_networks import NewNetworks, PipelineNetworks
from training.latents import Latents, channel_weights, weights_digest
from training.loop import Stage, Trainer, make_accelerator, usable_precision
from training.run_folder import CONFIG, alone_in, check_settings
from training.sets import Data, DataFolders, open_data
from training.stages.denoiser import Denoiser
from training.stages.distill import Distiller
from training.stages.sharpen import Sharpener
from training.stages.vae import VaeStage

log = logging.getLogger(__name__)

PIPELINE, PREPARING = "pipeline", ".preparing.lock"
LATENTS, LATENTS_MANIFEST = "latents", "manifest.json"
MEASURED_PICTURES = 16


def train(
    config: StageConfig,
    network: NetworkConfig | None,
    *,
    data: DataFolders,
    runs: Path,
    start: Start | None = None,
    stop_after: int | None = None,
    threads: int | None = None,
) -> bool:
    """Train one stage in ``runs/<stage>``, resuming if that run was begun.

    One of `magicanimate.progress.STOP_SIGNALS` ends it after the step it is at, with a checkpoint.

    Args:
        config: of the stage.
        network: sizes of networks that learn from nothing; ``None`` with Stable Diffusion's files.
        data: folders of the training data.
        runs: folder of the runs of all stages.
        start: files of the first weights.
        stop_after: leave after so many steps of this call.
        threads: CPU threads; torch's choice when ``None``.

    Returns:
        Whether it came to its end, not stopped by a signal.

    Raises:
        InputError: an earlier stage or a file is missing, the data cannot be used, a run with other settings
            is there, another program trains there, or the disk is full.
    """
    check_config(config)
    if threads is not None:
        torch.set_num_threads(threads)
    folder = runs / config.stage
    fixed = fixed_settings(config)
    if network:
        fixed |= flat(network, "network.")
    start = start or Start()
    inputs = {f"data.{name}": path for name, path in vars(data).items()}
    inputs |= {f"start.{name}": path for name, path in vars(start).items()}
    check_settings(folder, fixed, inputs)
    accelerator = make_accelerator(config)
    with _main_process_first(accelerator, folder):  # it prepares the files that the others read
        sets = open_data(config, data, index_folder=folder)
        stage = build_stage(config, network, sets, runs, start, device=accelerator.device)
    with ExitStack() as stack:
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone_in(folder))
            record = as_json(config, network) | {"data": data.as_json(), "start": start.as_json()}
            write_json(folder / CONFIG, record)
        trainer = Trainer(stage, config, folder, accelerator=accelerator)
        should_stop = stack.enter_context(stop_on_interrupt())
        taken = trainer.run(stop_after=stop_after, should_stop=should_stop)
    due = trainer.step >= config.steps and (taken or not (folder / PIPELINE).exists())
    if due and accelerator.is_main_process and _exportable(config):
        written = export_pipeline(config, network, runs, folder / PIPELINE, start=start)
        log.info("wrote %s", written)
    return trainer.step >= config.steps or taken == stop_after


@contextmanager
def _main_process_first(accelerator: Accelerator, folder: Path) -> Iterator[None]:
    """Let the main process prepare files while the others wait for a lock, however long it takes.

    They do not wait in a collective operation: NCCL ends every process after ten minutes in one, and an index
    of many videos, or the latents of a large set, takes longer.
    """
    path = folder / PREPARING
    lock = FileLock(path)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        accelerator.wait_for_everyone()  # all have just begun: until the main process has the lock
        if not accelerator.is_main_process:
            with suppress(OSError), lock:  # a machine that does not see the folder has nothing to wait for
                pass
        yield
    finally:
        if accelerator.is_main_process:
            lock.release()
            with suppress(OSError):
                path.unlink(missing_ok=True)
                folder.rmdir()  # if the preparation failed there is nothing else in it


def _exportable(config: StageConfig) -> bool:
    """Whether the stage leaves something that animates: it needs a reference."""
    return config.stage in ("base", "stage1", "stage2", "distill", "sharpen") and config.reference


def build_stage(
    config: StageConfig,
    network: NetworkConfig | None,
    sets: Data,
    runs: Path,
    start: Start,
    *,
    device: torch.device,
) -> Stage:
    """The stage with its networks on the CPU (the loop moves them) and its frozen autoencoder on ``device``.

    Raises:
        InputError: as `train`.
    """
    initial = start.initial_networks(network, encoder_learns=encoder_learns(config, runs))
    if config.stage == "vae":
        if not isinstance(initial, NewNetworks):
            raise InputError("a pretrained autoencoder is used as it is: there is no stage 'vae' for it.")
        torch.manual_seed(config.seed)
        return VaeStage(config, initial.autoencoder(), samples=sets.samples, held_out=sets.held_out)
    if isinstance(initial, PipelineNetworks):
        initial.check(config.loss)
    networks: dict[str, nn.Module] = build_networks(config, initial, runs, motion=start.motion)
    vae = frozen_autoencoder(initial, runs, samples=sets.pictures, device=device)
    latents = Latents(vae, precision=usable_precision(config.mixed_precision))
    given = {"text": initial.empty_prompt().embedding, "scheduler": scheduler_of(config), "latents": latents}
    takes_map = "appearance_encoder" in networks and networks["appearance_encoder"].takes_photo_map
    photo_labels = PhotoLabels(device) if takes_map else None
    if config.stage in ("sharpen", "distill"):  # need the pictures, and latents of the references only
        torch.manual_seed(config.seed)
        given |= {"samples": sets.samples, "held_out": sets.held_out, "photo_labels": photo_labels}
        if config.stage == "distill":
            guidance = config.teacher_guidance or initial.pipeline_settings(config)["default_guidance_scale"]
            given |= {"sampling_steps": config.student_steps, "guidance_scale": guidance}
            return Distiller(config, networks, **given)
        steps = pipeline_settings(config, initial, runs)["default_steps"]
        return Sharpener(config, networks, sampling_steps=steps, **given)
    computed = {"latents": latents.encode} | ({"photo_labels": photo_labels} if takes_map else {})
    sets = sets.computed(config, computed, runs, on_gpu=device.type != "cpu")
    if config.cache_latents:
        digest = weights_digest(vae)
        key = f"{digest} {latents.format}"
        sets = sets.with_latents(config, latents.encode, runs / LATENTS, key=key)
        encoded_in = str(latents.format or torch.float32).removeprefix("torch.")
        about = {"autoencoder": digest, "encoded_in": encoded_in}
        about |= {"size": config.size, "framing": config.framing}
        write_json(runs / LATENTS / LATENTS_MANIFEST, about)
    weights = None
    if config.loss.weigh_channels:
        pictures = torch.cat([sets.pictures[k]["target"] for k in range(MEASURED_PICTURES)])
        weights = channel_weights(Latents(vae), pictures.to(device))
    given |= {"samples": sets.samples, "held_out": sets.held_out}
    return Denoiser(config, networks, channel_weights=weights, **given)
