"""`train` runs one stage from the command line's settings to the exported pipeline, resuming what was begun.

It checks that settings and inputs are those of the run so far, opens the data (`training.sets`), builds the
networks (`training.build`), puts both into the stage's ``nn.Module`` (`training.stages`) and hands that to
the training loop (`training.loop`).
"""

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
from training.run_folder import CONFIG, check_settings, run_lock
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

    A signal of `magicanimate.progress.STOP_SIGNALS` stops it after the current step, with a checkpoint.

    Args:
        config: settings of the stage.
        network: sizes of networks that start from random weights; ``None`` with Stable Diffusion's files.
        data: folders of the training data.
        runs: folder with one subfolder per stage.
        start: files of the initial weights.
        stop_after: return after this many steps of this call.
        threads: CPU threads; torch's choice when ``None``.

    Returns:
        Whether it took all its steps (or the ``stop_after`` of this call), not stopped by a signal.

    Raises:
        InputError: an earlier stage or a file is missing, the data cannot be used, a run with other settings
            is there, another program trains there, or the disk is full.
    """
    check_config(config)
    if threads is not None:
        torch.set_num_threads(threads)
    folder = runs / config.stage
    # A run resumed with other settings or other data would be neither the old experiment nor a new one.
    fixed = fixed_settings(config)
    if network:
        fixed |= flat(network, "network.")
    start = start or Start()
    inputs = {f"data.{name}": path for name, path in vars(data).items()}
    inputs |= {f"start.{name}": path for name, path in vars(start).items()}
    check_settings(folder, fixed, inputs)
    accelerator = make_accelerator(config)
    # Opening data writes indexes and latents, which the other processes then only read.
    with _main_process_first(accelerator, folder):
        sets = open_data(config, data, index_folder=folder)
        stage = build_stage(config, network, sets, runs, start, device=accelerator.device)
    with ExitStack() as stack:
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(run_lock(folder))
            # Written before the first step: the record is what a later call compares its settings with.
            record = as_json(config, network) | {"data": data.as_json(), "start": start.as_json()}
            write_json(folder / CONFIG, record)
        trainer = Trainer(stage, config, folder, accelerator=accelerator)
        should_stop = stack.enter_context(stop_on_interrupt())
        taken = trainer.run(stop_after=stop_after, should_stop=should_stop)
    # "vae" and "controlnet" alone do not make a pipeline, nor do ablations without a reference.
    animates = config.stage not in ("vae", "controlnet") and config.reference
    due = trainer.step >= config.steps and (taken or not (folder / PIPELINE).exists())
    if due and animates and accelerator.is_main_process:
        written = export_pipeline(config, network, runs, folder / PIPELINE, start=start)
        log.info("wrote %s", written)
    return trainer.step >= config.steps or taken == stop_after


@contextmanager
def _main_process_first(accelerator: Accelerator, folder: Path) -> Iterator[None]:
    """Let the main process prepare files (indexes, latents) while the other processes wait for a file lock.

    They do not wait in a collective operation, because NCCL ends all processes after ten minutes in one, and
    the index of many videos or the latents of a large data set take longer.
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


def build_stage(
    config: StageConfig,
    network: NetworkConfig | None,
    sets: Data,
    runs: Path,
    start: Start,
    *,
    device: torch.device,
) -> Stage:
    """Build the stage: its networks on the CPU (the loop moves them), its frozen autoencoder on ``device``.

    Raises:
        InputError: as `train`.
    """
    initial = start.initial_networks(network, encoder_learns=encoder_learns(config, runs))
    if config.stage == "vae":
        if not isinstance(initial, NewNetworks):
            raise InputError("a pretrained autoencoder is used as it is: there is no stage 'vae' for it.")
        torch.manual_seed(config.seed)
        # Seeded just above, for the random weights that autoencoder() makes.
        return VaeStage(config, initial.autoencoder(), samples=sets.samples, held_out=sets.held_out)
    if isinstance(initial, PipelineNetworks):
        # A pipeline's networks predict what they were trained to
        # predict; another loss would retrain them silently.
        initial.check(config.loss)
    networks: dict[str, nn.Module] = build_networks(config, initial, runs, motion=start.motion)
    vae = frozen_autoencoder(initial, runs, samples=sets.pictures, device=device)
    # Encoded in the run's own precision, so that latents computed beforehand are those computed on the fly.
    latents = Latents(vae, precision=usable_precision(config.mixed_precision))
    given = {"text": initial.empty_prompt().embedding, "scheduler": scheduler_of(config), "latents": latents}
    takes_map = "appearance_encoder" in networks and networks["appearance_encoder"].takes_photo_map
    # The segmenter's maps, not the exact ones of the renderer: see PhotoLabels.
    wants_map = takes_map or config.first_latents == "warped_photo"
    photo_labels = PhotoLabels(device) if wants_map else None
    # These two compute losses on decoded pictures, so they read the pictures themselves and not only latents.
    if config.stage in ("sharpen", "distill"):
        torch.manual_seed(config.seed)
        given |= {"samples": sets.samples, "held_out": sets.held_out, "photo_labels": photo_labels}
        if config.stage == "distill":
            # 0 means the guidance scale with which the teacher's pipeline is used anyway.
            guidance = config.teacher_guidance or initial.pipeline_settings(config)["default_guidance_scale"]
            given |= {"sampling_steps": config.student_steps, "guidance_scale": guidance}
            return Distiller(config, networks, **given)
        steps = pipeline_settings(config, initial, runs)["default_steps"]
        return Sharpener(config, networks, sampling_steps=steps, **given)
    computed = {"latents": latents.encode} | ({"photo_labels": photo_labels} if wants_map else {})
    sets = sets.computed(config, computed, runs, on_gpu=device.type != "cpu")
    if config.cache_latents:
        digest = weights_digest(vae)
        # Latents depend on the weights and on the precision of
        # the encoder; either changes the name of the files.
        key = f"{digest} {latents.format}"
        sets = sets.with_latents(config, latents.encode, runs / LATENTS, key=key)
        encoded_in = str(latents.format or torch.float32).removeprefix("torch.")
        about = {"autoencoder": digest, "encoded_in": encoded_in}
        about |= {"size": config.size, "framing": config.framing}
        write_json(runs / LATENTS / LATENTS_MANIFEST, about)
    weights = None
    if config.loss.weigh_channels:
        pictures = torch.cat([sets.pictures[k]["target"] for k in range(MEASURED_PICTURES)])
        # In float32, whatever the training's precision: a resumed run measures them again.
        weights = channel_weights(Latents(vae), pictures.to(device))
    given |= {"samples": sets.samples, "held_out": sets.held_out}
    return Denoiser(config, networks, channel_weights=weights, **given)
