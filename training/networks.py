"""Builds the networks of a `NetworkConfig` with random weights, on diffusers' classes."""

from __future__ import annotations

from diffusers import AutoencoderDC, ControlNetModel, DDIMScheduler, UNet2DConditionModel

from magicanimate.checkpoints.architectures import SCHEDULER
from magicanimate.errors import InputError
from magicanimate.models.appearance_encoder import AppearanceEncoder
from magicanimate.models.unet import VideoUNet
from magicanimate.palette import PALETTE
from training.config import NetworkConfig, Prediction


def build_vae(config: NetworkConfig) -> AutoencoderDC:
    """Image autoencoder, 8 times down in each direction, any size in multiples of 8.

    The shortcuts of the deep-compression autoencoder carry the picture past its nonlinear layers from the
    first step on, so on a CPU it learns in minutes what Stable Diffusion's takes hours for.

    Source: "Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models", section 3.
    """
    levels = len(config.vae_channels)
    return AutoencoderDC(
        latent_channels=config.latent_channels,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=config.vae_channels,
        decoder_block_out_channels=config.vae_channels,
        encoder_layers_per_block=(1,) * levels,
        decoder_layers_per_block=(1,) * levels,
        encoder_qkv_multiscales=((),) * levels,
        decoder_qkv_multiscales=((),) * levels,
        downsample_block_type="pixel_unshuffle",
        upsample_block_type="pixel_shuffle",
        encoder_out_shortcut=False,  # plain convolutions around the latents can take up their scale
        decoder_in_shortcut=False,
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=1.0,
    )


def _unet_arguments(config: NetworkConfig) -> dict:
    return {
        "sample_size": config.size // 8,
        "in_channels": config.latent_channels,
        "block_out_channels": config.unet_channels,
        "layers_per_block": 1,
        "cross_attention_dim": config.text_width,
        "norm_num_groups": config.norm_groups,
    }


def _block_types(config: NetworkConfig, suffix: str) -> dict[str, tuple[str, ...]]:
    """Attention on all levels but the deepest, as in Stable Diffusion."""
    with_attention = len(config.unet_channels) - 1
    return {
        "down_block_types": (f"CrossAttnDownBlock{suffix}",) * with_attention + (f"DownBlock{suffix}",),
        "up_block_types": (f"UpBlock{suffix}",) + (f"CrossAttnUpBlock{suffix}",) * with_attention,
    }


def build_image_unet(config: NetworkConfig) -> UNet2DConditionModel:
    """The UNet without temporal layers, as the first stages train it."""
    return UNet2DConditionModel(
        **_unet_arguments(config),
        **_block_types(config, "2D"),
        out_channels=config.latent_channels,
        attention_head_dim=config.heads,  # diffusers reads this as the number of heads
    )


def build_appearance_encoder(config: NetworkConfig) -> AppearanceEncoder:
    """The appearance encoder of the same shape as the UNet; what else it may take are more channels."""
    more = len(PALETTE) if config.photo_map else 0
    return AppearanceEncoder(
        **_unet_arguments(config) | {"in_channels": config.latent_channels + more},
        **_block_types(config, "2D"),
        out_channels=config.latent_channels,
        attention_head_dim=config.heads,
    )


def build_controlnet(config: NetworkConfig) -> ControlNetModel:
    """The pose ControlNet."""
    arguments = _unet_arguments(config)
    del arguments["sample_size"]
    return ControlNetModel(
        **arguments,
        down_block_types=_block_types(config, "2D")["down_block_types"],
        attention_head_dim=config.heads,
        conditioning_embedding_out_channels=config.control_channels,
    )


def build_video_unet(config: NetworkConfig) -> VideoUNet:
    """The UNet with temporal layers."""
    return VideoUNet(
        **_unet_arguments(config),
        **_block_types(config, "Motion"),
        out_channels=config.latent_channels,
        num_attention_heads=config.heads,
        motion_num_attention_heads=config.motion_heads,
        motion_max_seq_length=24,
        use_motion_mid_block=False,
    )


def build_scheduler(
    prediction: Prediction = "v_prediction", *, zero_terminal_snr: bool = True
) -> DDIMScheduler:
    """Noise schedule: Stable Diffusion's range of betas, linear as the published program has it.

    Args:
        prediction: what the denoiser predicts.
        zero_terminal_snr: rescale so that the last timestep is pure noise, and sample from that one.

    Raises:
        InputError: noise is to be predicted where there is nothing but noise.

    Source: "Common Diffusion Noise Schedules and Sample Steps are Flawed" (zero SNR, trailing spacing).
    """
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
        clip_sample=False,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
