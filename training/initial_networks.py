"""Initial networks: random weights, Stable Diffusion's files or a pipeline, with one interface."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import AutoencoderDC, AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from torch import nn

from magicanimate.checkpoints.convert import GUIDANCE_SCALE, STEPS, empty_prompt
from magicanimate.checkpoints.disk import read_model_index
from magicanimate.checkpoints.layout import (
    SCHEDULER,
    ComponentFiles,
    convert_keys,
    is_motion_key,
    video_unet_config,
)
from magicanimate.checkpoints.weight_files import open_weights
from magicanimate.device import dtype_argument
from magicanimate.errors import InputError, first_line
from magicanimate.files import read_json_object
from magicanimate.models.appearance_encoder import AppearanceEncoder
from magicanimate.models.autoencoder import Autoencoder
from magicanimate.models.prompt import EmptyPrompt
from magicanimate.models.unet import VideoUNet
from magicanimate.palette import PALETTE
from magicanimate.pipeline import NOISE_PERIOD
from training.config import LossConfig, NetworkConfig, Prediction, Stage, StageConfig

MINI_STEPS = 4
"""Sampling steps of the mini: after its short training more steps add grain, not detail."""
MINI_GUIDANCE = 1.0


class InitialNetworks(Protocol):
    """Makes networks of matching sizes, with the weights that a training starts from.

    Attributes:
        needs: for each stage the stage that must have been run before it.
    """

    needs: Mapping[Stage, Stage]

    def autoencoder(self) -> Autoencoder: ...

    def image_unet(self) -> UNet2DConditionModel: ...

    def appearance_encoder(self) -> AppearanceEncoder: ...

    def controlnet(self, name: str) -> ControlNetModel:
        """The ControlNet of a control signal, by its name in `training.stages.denoiser.controlnet_names`."""

    def video_unet(self) -> VideoUNet:
        """A UNet with initial temporal layers; the caller copies the other weights from `image_unet`."""

    def empty_prompt(self) -> EmptyPrompt: ...

    def pipeline_settings(self, config: StageConfig) -> dict[str, Any]:
        """Kind and default settings of the pipeline that a training with ``config`` exports."""


class NewNetworks:
    """Random weights, for networks that are trained from nothing (the mini)."""

    needs: Mapping[Stage, Stage] = {"controlnet": "base", "stage1": "base", "stage2": "base"}

    def __init__(self, config: NetworkConfig):
        self.config = config

    def autoencoder(self) -> Autoencoder:
        """Image autoencoder that shrinks each side by 8, for sides that are multiples of 8.

        The shortcuts of the deep-compression autoencoder carry the image past its nonlinear layers from the
        first step on. On a CPU it learns in minutes what Stable Diffusion's architecture takes hours for.

        Source: Chen et al., "Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models"
            (ICLR 2025),
        section 3.
        """
        levels = len(self.config.vae_channels)
        return AutoencoderDC(
            latent_channels=self.config.latent_channels,
            encoder_block_types="ResBlock",
            decoder_block_types="ResBlock",
            encoder_block_out_channels=self.config.vae_channels,
            decoder_block_out_channels=self.config.vae_channels,
            encoder_layers_per_block=(1,) * levels,
            decoder_layers_per_block=(1,) * levels,
            encoder_qkv_multiscales=((),) * levels,
            decoder_qkv_multiscales=((),) * levels,
            downsample_block_type="pixel_unshuffle",
            upsample_block_type="pixel_shuffle",
            # Plain convolutions around the latents, so that
            # training.stages.vae.change_basis can be folded into them.
            encoder_out_shortcut=False,
            decoder_in_shortcut=False,
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=1.0,
        )

    def image_unet(self) -> UNet2DConditionModel:
        """The UNet without temporal layers, as the stages before stage2 train it."""
        return UNet2DConditionModel(
            **self._unet_arguments(),
            **self._block_types("2D"),
            out_channels=self.config.latent_channels,
            # diffusers takes this argument for the number of heads, for the sake of old checkpoints.
            attention_head_dim=self.config.heads,
        )

    def appearance_encoder(self) -> AppearanceEncoder:
        """The appearance encoder, shaped as the UNet; a part map adds an input channel per label."""
        more = len(PALETTE) if self.config.photo_map else 0
        return AppearanceEncoder(
            **self._unet_arguments() | {"in_channels": self.config.latent_channels + more},
            **self._block_types("2D"),
            out_channels=self.config.latent_channels,
            attention_head_dim=self.config.heads,
        )

    def controlnet(self, name: str) -> ControlNetModel:
        """The pose ControlNet."""
        arguments = self._unet_arguments()
        del arguments["sample_size"]
        return ControlNetModel(
            **arguments,
            down_block_types=self._block_types("2D")["down_block_types"],
            attention_head_dim=self.config.heads,
            conditioning_embedding_out_channels=self.config.control_channels,
        )

    def video_unet(self) -> VideoUNet:
        """The UNet with temporal layers that do nothing yet."""
        unet = VideoUNet(
            **self._unet_arguments(),
            **self._block_types("Motion"),
            out_channels=self.config.latent_channels,
            num_attention_heads=self.config.heads,
            motion_num_attention_heads=self.config.motion_heads,
            motion_max_seq_length=24,
            use_motion_mid_block=False,
        )
        return reset_temporal_layers(unet)

    def _unet_arguments(self) -> dict[str, Any]:
        return {
            "sample_size": self.config.size // 8,
            "in_channels": self.config.latent_channels,
            "block_out_channels": self.config.unet_channels,
            "layers_per_block": 1,
            "cross_attention_dim": self.config.text_width,
            "norm_num_groups": self.config.norm_groups,
        }

    def _block_types(self, suffix: str) -> dict[str, tuple[str, ...]]:
        """diffusers' block types: attention on all levels but the deepest, as in Stable Diffusion."""
        with_attention = len(self.config.unet_channels) - 1
        return {
            "down_block_types": (f"CrossAttnDownBlock{suffix}",) * with_attention + (f"DownBlock{suffix}",),
            "up_block_types": (f"UpBlock{suffix}",) + (f"CrossAttnUpBlock{suffix}",) * with_attention,
        }

    def empty_prompt(self) -> EmptyPrompt:
        return EmptyPrompt(num_tokens=self.config.text_tokens, width=self.config.text_width)

    def pipeline_settings(self, config: StageConfig) -> dict[str, Any]:
        return {
            "kind": "mini",
            "default_width": self.config.size,
            "default_height": self.config.size,
            "default_steps": MINI_STEPS,
            "default_guidance_scale": MINI_GUIDANCE,
            "noise_period": 1,
        }


class StableDiffusionNetworks:
    """Stable Diffusion 1.5's files; the appearance encoder and the ControlNets start as copies of its UNet.

    Source: MagicAnimate, section 3.2 (appearance encoder); the ControlNet paper, section 3.1.

    Args:
        folder: Stable Diffusion in diffusers' layout, with ``unet``, ``text_encoder`` and ``tokenizer``.
        vae: folder of the autoencoder.
    """

    needs: Mapping[Stage, Stage] = {"stage2": "stage1"}

    def __init__(self, folder: Path, vae: Path):
        self.folder, self.vae = folder, vae
        self._unet = _load(UNet2DConditionModel, folder / "unet")

    def autoencoder(self) -> Autoencoder:
        return _load(AutoencoderKL, self.vae)

    def image_unet(self) -> UNet2DConditionModel:
        unet = UNet2DConditionModel.from_config(self._unet.config)
        unet.load_state_dict(self._unet.state_dict())
        return unet

    def appearance_encoder(self) -> AppearanceEncoder:
        encoder = AppearanceEncoder.from_config(self._unet.config)
        wanted, there = encoder.state_dict(), self._unet.state_dict()
        # The encoder lacks the UNet's last layers: it is used only up to its last self-attention's input.
        encoder.load_state_dict({key: there[key] for key in wanted})
        return encoder

    def controlnet(self, name: str) -> ControlNetModel:
        return ControlNetModel.from_unet(self._unet)

    def video_unet(self) -> VideoUNet:
        config = video_unet_config(self._unet.config, origin=self.folder / "unet" / "config.json")
        return reset_temporal_layers(VideoUNet(**config))

    def empty_prompt(self) -> EmptyPrompt:
        encoder, tokenizer = self.folder / "text_encoder", self.folder / "tokenizer"
        for part in (encoder, tokenizer):
            if not part.is_dir():
                raise InputError(f"{part} is missing; it comes with Stable Diffusion 1.5.")
        return empty_prompt(encoder, tokenizer, component=ComponentFiles(encoder / "config.json"), dtype=None)

    def pipeline_settings(self, config: StageConfig) -> dict[str, Any]:
        return {
            "kind": "full",
            "default_width": config.size,
            "default_height": config.size,
            "default_steps": STEPS,
            "default_guidance_scale": GUIDANCE_SCALE,
            "noise_period": NOISE_PERIOD,
        }


class PipelineNetworks:
    """The networks of a finished pipeline, to train them further: the released model, the mini, or your own.

    Args:
        folder: written by `MagicAnimatePipeline.save_pretrained`.
        photo_map: give an appearance encoder that does not take the photo's part map an input for it.
    """

    needs: Mapping[Stage, Stage] = {}

    def __init__(self, folder: Path, *, photo_map: bool = False):
        self.folder, self.photo_map = folder, photo_map
        self._unet = _load(VideoUNet, folder / "unet")
        self._index = read_model_index(folder)

    def autoencoder(self) -> Autoencoder:
        classes = {cls.__name__: cls for cls in (AutoencoderKL, AutoencoderDC)}
        return _load(classes[self._index["vae"][1]], self.folder / "vae")

    def image_unet(self) -> UNet2DConditionModel:
        # The encoder has the 2-D UNet's sizes, which the video UNet's
        # configuration names differently; only its input may be wider.
        config = self.appearance_encoder().config
        unet = UNet2DConditionModel.from_config(config | {"in_channels": config.out_channels})
        unet.load_state_dict({k: v for k, v in self._unet.state_dict().items() if not is_motion_key(k)})
        return unet

    def appearance_encoder(self) -> AppearanceEncoder:
        encoder = _load(AppearanceEncoder, self.folder / "appearance_encoder")
        return _taking_photo_map(encoder) if self.photo_map and not encoder.takes_photo_map else encoder

    def controlnet(self, name: str) -> ControlNetModel:
        # A pipeline of one signal can learn a second one, starting from the ControlNet that it has.
        own = self.folder / name
        return _load(ControlNetModel, own if own.is_dir() else self.folder / "controlnet")

    def video_unet(self) -> VideoUNet:
        return _load(VideoUNet, self.folder / "unet")

    def empty_prompt(self) -> EmptyPrompt:
        return _load(EmptyPrompt, self.folder / "empty_prompt")

    def check(self, loss: LossConfig) -> None:
        """Check that a training goes on with the prediction and noise schedule that these networks learned.

        Raises:
            InputError: it does not.
        """
        file = self.folder / "scheduler" / "scheduler_config.json"
        schedule = read_json_object(file)
        own = schedule.get("prediction_type", "epsilon"), schedule.get("rescale_betas_zero_snr", False)
        wanted = loss.prediction, loss.zero_terminal_snr
        if own != wanted:
            raise InputError(
                f"The networks of {self.folder} predict {_in_words(own)} and would have to learn "
                f"{_in_words(wanted)} anew; choose --prediction {own[0]} "
                f"--{'' if own[1] else 'no-'}zero-terminal-snr."
            )

    def pipeline_settings(self, config: StageConfig) -> dict[str, Any]:
        kept = (
            "kind",
            "default_steps",
            "default_guidance_scale",
            "default_background",
            "noise_period",
            "first_latents",
        )
        sides = {"default_width": config.size, "default_height": config.size}
        return sides | {name: self._index[name] for name in kept if name in self._index}


def _in_words(learned: tuple[str, bool]) -> str:
    prediction, zero_terminal_snr = learned
    return f"{prediction!r} {'with' if zero_terminal_snr else 'without'} zero terminal SNR"


def _load(cls: type, folder: Path):
    """Load a pretrained network of diffusers as float32, from local files only."""
    try:
        return cls.from_pretrained(folder, local_files_only=True, **{dtype_argument(): torch.float32})
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder} does not hold a usable {cls.__name__} ({first_line(error)}).") from error


def _taking_photo_map(encoder: AppearanceEncoder) -> AppearanceEncoder:
    """Widen the encoder's input by the photo's part map, with zero weights: at first nothing changes."""
    channels = encoder.config.in_channels + len(PALETTE)
    wider = AppearanceEncoder.from_config({**encoder.config, "in_channels": channels})
    weights = encoder.state_dict()
    more = weights["conv_in.weight"].new_zeros(*wider.conv_in.weight.shape)
    more[:, : encoder.config.in_channels] = weights["conv_in.weight"]
    wider.load_state_dict(weights | {"conv_in.weight": more})
    return wider


def load_image_weights(video_unet: nn.Module, image_unet: nn.Module) -> None:
    """Copy the 2-D UNet's weights into the video UNet; only the temporal layers may be without a counterpart.

    Raises:
        ValueError: the two networks differ in more than the temporal layers.
    """
    # Not strict, since the temporal layers are missing; what else differs is checked below.
    missing, unexpected = video_unet.load_state_dict(image_unet.state_dict(), strict=False)
    strangers = [key for key in missing if not is_motion_key(key)] + list(unexpected)
    if strangers:
        raise ValueError(f"the image UNet does not fit the video UNet: {strangers[:3]}")


def reset_temporal_layers(unet: VideoUNet) -> VideoUNet:
    """Zero the temporal layers' output projections, so that they start as the identity, as AnimateDiff's do.

    Returns:
        ``unet``.
    """
    for key, p in unet.motion_parameters().items():
        if ".proj_out." in key:
            nn.init.zeros_(p)
    return unet


def load_motion_weights(unet: VideoUNet, path: Path) -> None:
    """Load AnimateDiff's motion weights, in their published layout, into the temporal layers.

    Tables of position encodings in the file are ignored: the network computes its own.

    Raises:
        InputError: the file is not a weight file, or not of this network's temporal layers.
    """
    file = open_weights(path)
    wanted = unet.motion_parameters()
    names = convert_keys("unet", (key for key in file if is_motion_key(key)))
    problem = next((f"lacks {key}" for key in wanted if key not in names), None)
    problem = problem or next(
        (f"holds {key}, for which there is no place" for key in names if key not in wanted), None
    )
    if problem:
        raise InputError(
            f"{path} {problem}; use motion weights of AnimateDiff for Stable Diffusion 1.5, version 1."
        )
    for key, p in wanted.items():
        tensor = file[names[key]]
        if tensor.shape != p.shape:
            raise InputError(f"{path}: {names[key]} is {tuple(tensor.shape)}, expected {tuple(p.shape)}.")
        with torch.no_grad():
            p.copy_(tensor)


def build_scheduler(
    prediction: Prediction = "v_prediction", *, zero_terminal_snr: bool = True
) -> DDIMScheduler:
    """The noise schedule: Stable Diffusion's range of betas, spaced linearly as in the published program.

    Args:
        prediction: what the denoiser predicts.
        zero_terminal_snr: rescale the schedule so that the last timestep is pure noise, and sample from
            there.

    Raises:
        InputError: zero terminal SNR with epsilon prediction.

    Source: Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed" (WACV 2024): zero
    terminal SNR and trailing timesteps.
    """
    # The published program's schedule, as the released weights expect it.
    if not zero_terminal_snr:
        return DDIMScheduler(**SCHEDULER | {"prediction_type": prediction})
    if prediction == "epsilon":
        raise InputError(
            "zero_terminal_snr goes with the prediction 'v_prediction' only: noise predicted from pure noise"
            " says nothing of the picture."
        )
    return DDIMScheduler(
        beta_start=SCHEDULER["beta_start"],
        beta_end=SCHEDULER["beta_end"],
        beta_schedule=SCHEDULER["beta_schedule"],
        prediction_type=prediction,
        # Latents, unlike pixels, are not bounded.
        clip_sample=False,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
