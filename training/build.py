"""The networks a stage starts with: initial weights, then what the earlier stages' runs have learned.

The paper's order is controlnet, stage1, stage2, from Stable Diffusion (supplement, section 3); "base"
replaces it for networks that start from random weights.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import nn
from torch.utils.data import Dataset

from magicanimate.errors import InputError
from magicanimate.files import whole_file
from magicanimate.models.autoencoder import Autoencoder
from training.checkpoints import DAMAGED, load_averages, newest_checkpoint
from training.config import NetworkConfig, Stage, StageConfig, updated
from training.initial_networks import (
    InitialNetworks,
    NewNetworks,
    PipelineNetworks,
    StableDiffusionNetworks,
    build_scheduler,
    load_image_weights,
    load_motion_weights,
)
from training.run_folder import CONFIG, read_config
from training.stages.denoiser import controlnet_names
from training.stages.vae import change_basis, latent_basis

log = logging.getLogger(__name__)

LATENT_BASIS = "latent_basis.pt"
EARLIER: dict[Stage, tuple[Stage, ...]] = {
    "controlnet": ("base",),
    "stage1": ("base", "controlnet"),
    "stage2": ("base", "controlnet", "stage1"),
}
"""For each stage, the earlier stages whose weights it starts from, if they were run; the last one wins."""


@dataclass(frozen=True)
class Start:
    """Files of the initial weights.

    Attributes:
        stable_diffusion: Stable Diffusion 1.5 in diffusers' layout.
        vae: folder of its autoencoder; the ``vae`` in ``stable_diffusion`` when ``None``.
        motion: AnimateDiff's motion weights, for the temporal layers.
        pipeline: folder of a finished pipeline to continue from, instead of the others.
    """

    stable_diffusion: Path | None = None
    vae: Path | None = None
    motion: Path | None = None
    pipeline: Path | None = None

    def as_json(self) -> dict[str, str | None]:
        """Absolute paths as text, for ``config.json``."""
        return {name: str(path.resolve()) if path else None for name, path in vars(self).items()}

    def initial_networks(
        self, network: NetworkConfig | None, *, encoder_learns: bool = False
    ) -> InitialNetworks:
        """Where the networks come from: random weights, Stable Diffusion, or a pipeline.

        Args:
            network: sizes of randomly initialized networks, and whether the appearance encoder takes the
                photo's part map; ``None`` with Stable Diffusion's files.
            encoder_learns: whether the appearance encoder is trained, so that one of a pipeline that does not
                take the part map can learn to.

        Raises:
            InputError: files are missing, or given where they are not used.
        """
        if self.pipeline is not None:
            if self.stable_diffusion or self.vae:
                raise InputError("--pipeline brings all networks: leave --stable-diffusion and --vae out.")
            if not (self.pipeline / "model_index.json").is_file():
                raise InputError(f"{self.pipeline} is no pipeline folder: it has no model_index.json.")
            wanted = network is not None and network.photo_map
            return PipelineNetworks(self.pipeline, photo_map=wanted and encoder_learns)
        if network is not None:
            if self.stable_diffusion or self.vae:
                raise InputError(
                    "this preset's networks learn from nothing: --stable-diffusion and --vae go with the"
                    " paper_* presets."
                )
            return NewNetworks(network)
        if self.stable_diffusion is None:
            raise InputError(
                "this preset begins with Stable Diffusion 1.5: give its folder as --stable-diffusion, and as"
                " --vae that of its autoencoder if it is not the one in there."
            )
        vae = self.vae or self.stable_diffusion / "vae"
        if not vae.is_dir():
            raise InputError(f"{vae} is missing: give the folder of the autoencoder as --vae.")
        return StableDiffusionNetworks(self.stable_diffusion, vae)


def encoder_learns(config: StageConfig, runs: Path) -> bool:
    """Whether the appearance encoder is trained in this stage, or was in one of the runs."""
    # See training.stages.denoiser.choose_trained.
    learning = ("base", "stage1", "distill")
    return any(stage == config.stage or newest_checkpoint(runs / stage) for stage in learning)


def image_networks(config: StageConfig, initial: InitialNetworks) -> dict[str, nn.Module]:
    """The 2-D UNet, appearance encoder and ControlNets with their initial weights."""
    made: dict[str, nn.Module] = {"unet": initial.image_unet()}
    # The ControlNet is pretrained on images that have no reference (supplement, section 3).
    if config.reference and config.stage != "controlnet":
        made["appearance_encoder"] = initial.appearance_encoder()
    return made | {name: initial.controlnet(name) for name in controlnet_names(config)}


def load_earlier(networks: dict[str, nn.Module], runs: Path, stages: tuple[Stage, ...]) -> list[Stage]:
    """Load the EMA weights of the runs of ``stages`` into ``networks``; returns the stages that were run."""
    there = [stage for stage in stages if newest_checkpoint(runs / stage)]
    for stage in there:
        # Partly: a run's checkpoints hold only what it trained, the rest keeps its initial weights.
        load_averages(networks, runs / stage, partly=True)
    return there


def require_earlier(stage: Stage, there: list[Stage], runs: Path, initial: InitialNetworks) -> None:
    """Check that the stage that must come before ``stage`` was run.

    Raises:
        InputError: one is missing.
    """
    needed = initial.needs.get(stage)
    # Random networks need "base" first; Stable Diffusion's need stage1 before stage2.
    if needed and needed not in there:
        raise InputError(f"{runs / needed} has no checkpoint; run the stage {needed!r} first.")
    if stage == "stage1" and "controlnet" not in there and isinstance(initial, StableDiffusionNetworks):
        log.warning("the ControlNet was not pretrained (stage 'controlnet'); it learns from its start here")


def add_temporal_layers(
    networks: dict[str, nn.Module], initial: InitialNetworks, motion: Path | None
) -> None:
    """Inflate the 2-D UNet to a video UNet, with the temporal layers of ``initial`` or AnimateDiff's."""
    unet = initial.video_unet()
    # Inflation: all weights but those of the temporal layers are the 2-D UNet's.
    load_image_weights(unet, networks["unet"])
    if motion:
        load_motion_weights(unet, motion)
    networks["unet"] = unet


def build_networks(
    config: StageConfig, initial: InitialNetworks, runs: Path, *, motion: Path | None = None
) -> dict[str, nn.Module]:
    """The networks of a stage that denoises, with the weights it starts from.

    Raises:
        InputError: an earlier stage or a file is missing.
    """
    torch.manual_seed(config.seed)
    # The teacher is what the runs had before: an earlier distillation must not teach itself.
    if config.stage == "distill":
        return finished_networks(config, initial, runs, distilled=False)
    if config.stage == "sharpen":
        return finished_networks(config, initial, runs)
    networks = image_networks(config, initial)
    there = load_earlier(networks, runs, EARLIER.get(config.stage, ()))
    require_earlier(config.stage, there, runs, initial)
    if config.stage == "stage2":
        if motion is None and isinstance(initial, StableDiffusionNetworks):
            log.warning("without --motion the temporal layers begin at random, not as AnimateDiff's")
        add_temporal_layers(networks, initial, motion)
    return networks


def finished_networks(
    config: StageConfig, initial: InitialNetworks, runs: Path, *, distilled: bool = True
) -> dict[str, nn.Module]:
    """The networks of the finished pipeline: everything the runs have learned, with temporal layers.

    Temporal layers that were not trained keep their initial weights; new ones are the identity. If a student
    was distilled, these are its networks, or its teacher's with ``distilled=False``.

    Raises:
        InputError: a stage is missing.
    """
    networks = image_networks(config, initial)
    there = load_earlier(networks, runs, ("base", "controlnet", "stage1"))
    require_earlier("stage2", there, runs, initial)
    add_temporal_layers(networks, initial, None)
    # Only now, as these runs trained temporal layers, which the 2-D UNet does not have.
    load_earlier(networks, runs, ("stage2", "distill") if distilled else ("stage2",))
    return networks


def pipeline_settings(config: StageConfig, initial: InitialNetworks, runs: Path) -> dict[str, Any]:
    """Kind and default settings of the exported pipeline; what learned for few steps brings their number."""
    settings = initial.pipeline_settings(config)
    there = {
        stage: updated(config, read_config(runs / stage / CONFIG))
        for stage in ("base", "stage1", "stage2", "distill")
        if newest_checkpoint(runs / stage)
    }
    own = [each.own_steps for stage, each in there.items() if stage != "distill"]
    if own and own[-1]:
        settings |= {"default_steps": own[-1]}
    if there:
        settings |= {"first_latents": list(there.values())[-1].first_latents}
    if "distill" in there:
        # A student has learned the guided result and must not be guided once more.
        settings |= {"default_steps": there["distill"].student_steps, "default_guidance_scale": 1.0}
    return settings


def frozen_autoencoder(
    initial: InitialNetworks,
    runs: Path,
    *,
    samples: Dataset | None = None,
    device: torch.device | str = "cpu",
) -> Autoencoder:
    """The frozen autoencoder: Stable Diffusion's, or the one trained in ``runs/vae``.

    The latents of the latter are rotated and scaled into the basis of `latent_basis`, which is measured once
    and kept in its run's folder.

    Args:
        initial: where networks come from.
        runs: folder of the runs.
        samples: training pictures to measure the basis with.
        device: where the autoencoder is put.

    Raises:
        InputError: it was not trained yet, or its basis was not measured and there are no samples.
    """
    vae = initial.autoencoder().to(device)
    if isinstance(initial, NewNetworks):
        folder = runs / "vae"
        if newest_checkpoint(folder) is None:
            raise InputError(f"{folder} has no checkpoint; run the stage 'vae' first.")
        # The basis belongs to one checkpoint: training the
        # autoencoder further changes what its channels mean.
        step = load_averages({"vae": vae}, folder)
        change_basis(vae, _basis(vae, folder / LATENT_BASIS, f"step_{step:07d}.pt", samples).to(device))
    return vae.requires_grad_(False).eval()


def _basis(vae: Autoencoder, file: Path, checkpoint: str, samples: Dataset | None) -> torch.Tensor:
    if file.exists():
        try:
            saved = torch.load(file, weights_only=True)
            if saved["checkpoint"] == checkpoint:
                return saved["basis"]
        except DAMAGED as error:
            log.warning("%s is damaged and is measured again (%s)", file, type(error).__name__)
    if samples is None:
        raise InputError(f"{file} is missing or of an older autoencoder; train a later stage first.")
    basis = latent_basis(vae, samples)
    with whole_file(file) as partial:
        torch.save({"basis": basis, "checkpoint": checkpoint}, partial)
    # Latents computed with the previous autoencoder or basis would be taken for this one's.
    for latents in file.parent.parent.glob("*_latents.npy"):
        latents.unlink()
    return basis


def scheduler_of(config: StageConfig) -> DDIMScheduler:
    """The noise schedule that ``config.loss`` asks for."""
    return build_scheduler(config.loss.prediction, zero_terminal_snr=config.loss.zero_terminal_snr)
