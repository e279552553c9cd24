"""Puts a stage together from its settings, its data and the runs before it."""

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
"""Stages whose weights a stage goes on from, as far as they were run; a later one wins."""


@dataclass(frozen=True)
class Start:
    """Where the first weights come from, besides earlier stages.

    Attributes:
        stable_diffusion: diffusers folder of Stable Diffusion 1.5.
        vae: folder of the autoencoder that goes with it; its own ``vae`` when ``None``.
        motion: AnimateDiff's motion weights for the temporal layers.
        pipeline: pipeline folder to go on from, in place of the others.
    """

    stable_diffusion: Path | None = None
    vae: Path | None = None
    motion: Path | None = None
    pipeline: Path | None = None

    def as_json(self) -> dict[str, str | None]:
        """The files' paths as text, absolute."""
        return {name: str(path.resolve()) if path else None for name, path in vars(self).items()}

    def initial_networks(
        self, network: NetworkConfig | None, *, encoder_learns: bool = False
    ) -> InitialNetworks:
        """New networks: of ``network``'s sizes, Stable Diffusion's, or a pipeline's.

        Args:
            network: sizes of new networks, and whether the appearance encoder takes the photo's part map;
                ``None`` with Stable Diffusion's files.
            encoder_learns: a pipeline's encoder that does not take the map can begin to.

        Raises:
            InputError: the files are needed and not given, or the other way round.
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
    """Whether the appearance encoder learns in this stage, or did in a run before it."""
    learning = ("base", "stage1", "distill")
    return any(stage == config.stage or newest_checkpoint(runs / stage) for stage in learning)


def image_networks(config: StageConfig, initial: InitialNetworks) -> dict[str, nn.Module]:
    """UNet without temporal layers, appearance encoder and ControlNets, as a training begins."""
    made: dict[str, nn.Module] = {"unet": initial.image_unet()}
    if config.reference and config.stage != "controlnet":
        made["appearance_encoder"] = initial.appearance_encoder()
    return made | {name: initial.controlnet(name) for name in controlnet_names(config)}


def load_earlier(networks: dict[str, nn.Module], runs: Path, stages: tuple[Stage, ...]) -> list[Stage]:
    """Take over what the runs of ``stages`` learned; returns those that there are."""
    there = [stage for stage in stages if newest_checkpoint(runs / stage)]
    for stage in there:
        load_averages(networks, runs / stage, partly=True)
    return there


def require_earlier(stage: Stage, there: list[Stage], runs: Path, initial: InitialNetworks) -> None:
    """Whether enough stages were run before ``stage``.

    Raises:
        InputError: one is missing.
    """
    needed = initial.needs.get(stage)
    if needed and needed not in there:
        raise InputError(f"{runs / needed} has no checkpoint; run the stage {needed!r} first.")
    if stage == "stage1" and "controlnet" not in there and isinstance(initial, StableDiffusionNetworks):
        log.warning("the ControlNet was not pretrained (stage 'controlnet'); it learns from its start here")


def add_time(networks: dict[str, nn.Module], initial: InitialNetworks, motion: Path | None) -> None:
    """Replace the image UNet by one with temporal layers, those of ``initial`` or AnimateDiff's."""
    unet = initial.video_unet()
    load_image_weights(unet, networks["unet"])
    if motion:
        load_motion_weights(unet, motion)
    networks["unet"] = unet


def build_networks(
    config: StageConfig, initial: InitialNetworks, runs: Path, *, motion: Path | None = None
) -> dict[str, nn.Module]:
    """The networks of a denoising stage with the weights it begins with.

    Raises:
        InputError: an earlier stage or a file is missing.
    """
    torch.manual_seed(config.seed)
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
        add_time(networks, initial, motion)
    return networks


def finished_networks(
    config: StageConfig, initial: InitialNetworks, runs: Path, *, distilled: bool = True
) -> dict[str, nn.Module]:
    """The networks as a pipeline has them: all that the runs learned, and temporal layers.

    Temporal layers that were not trained are left as they began, new ones changing nothing. Of a distillation
    these are the student's, unless ``distilled`` is false.

    Raises:
        InputError: a stage is missing.
    """
    networks = image_networks(config, initial)
    there = load_earlier(networks, runs, ("base", "controlnet", "stage1"))
    require_earlier("stage2", there, runs, initial)
    add_time(networks, initial, None)
    load_earlier(networks, runs, ("stage2", "distill") if distilled else ("stage2",))
    return networks


def pipeline_settings(config: StageConfig, initial: InitialNetworks, runs: Path) -> dict[str, Any]:
    """Kind and defaults of the pipeline that the runs end in: a student's steps, if one was distilled."""
    settings = initial.pipeline_settings(config)
    folder = runs / "distill"
    if newest_checkpoint(folder):
        steps = updated(config, read_config(folder / CONFIG)).student_steps
        settings |= {"default_steps": steps, "default_guidance_scale": 1.0}
    return settings


def frozen_autoencoder(
    initial: InitialNetworks,
    runs: Path,
    *,
    samples: Dataset | None = None,
    device: torch.device | str = "cpu",
) -> Autoencoder:
    """The autoencoder of the denoising stages, frozen: Stable Diffusion's, or that of ``runs/vae``.

    One that was trained here gets latents in the basis of `latent_basis`, which is measured once and kept in
    its run's folder.

    Args:
        initial: where networks come from.
        runs: folder of the runs.
        samples: training pictures to measure with.
        device: where it is wanted, and measured.

    Raises:
        InputError: it was not trained yet, or not measured and there are no samples.
    """
    vae = initial.autoencoder().to(device)
    if isinstance(initial, NewNetworks):
        folder = runs / "vae"
        if newest_checkpoint(folder) is None:
            raise InputError(f"{folder} has no checkpoint; run the stage 'vae' first.")
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
    for latents in file.parent.parent.glob("*_latents.npy"):  # of the autoencoder before
        latents.unlink()
    return basis


def scheduler_of(config: StageConfig) -> DDIMScheduler:
    """The noise schedule that ``config.loss`` asks for."""
    return build_scheduler(config.loss.prediction, zero_terminal_snr=config.loss.zero_terminal_snr)
