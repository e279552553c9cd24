"""Settings of the training stages: frozen dataclasses, and the presets that return them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up, a constant stretch and a linear decay to ``final_ratio`` of the rate.

    Attributes:
        learning_rate: peak rate.
        warmup_steps: steps of linear warm-up.
        decay_steps: steps of linear decay at the end of the run.
        final_ratio: rate at the last step, as a share of the peak.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this norm.
        ema_decay: of the averaged weights; reached gradually.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 200
    decay_steps: int = 0
    final_ratio: float = 0.05
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999


@dataclass(frozen=True)
class StageConfig:
    """One run of one stage.

    Attributes:
        stage: "vae" (image autoencoder), "base" (UNet, appearance encoder and ControlNet together, from
            nothing, on single frames) or "stage2" (temporal layers on clips, everything else frozen).
        steps: optimizer steps in all.
        batch_size: images (vae, base) or clips (stage2) a step.
        crop: side of the random crop the autoencoder is trained on, pixels; 0 for the whole image.
        num_frames: frames of a clip in stage2.
        targets: pictures the base stage draws of each reference; the encoder reads that reference once for
            all of them, at one timestep.
        clip_share: chance that reference and target of the base stage are frames of the same clip, one view
            of one dance; otherwise the reference is a still of another pose, place and size.
        image_probability: base: chance that the reference is the target itself (tau_0 of the paper); stage2:
            chance that a clip shrinks to one frame (image-video joint training).
        noisy_share, noisy_from: this share of the timesteps is drawn from ``noisy_from`` up only, where the
            picture must come from reference and map because next to nothing of it is left in the noise.
        share_noise: chance that all frames of a stage-2 clip get the same noise, as the mini samples.
        drop_reference: chance that a video of the batch does not see its reference, for guidance.
        latent_noise: noise on the autoencoder's latents, in their standard deviations, so that its decoder
            forgives small errors of the denoiser.
        gradient_weight: of the autoencoder's loss on image gradients, which keeps edges sharp.
        holdout: identities at the end of the data set that are never trained on.
        checkpoint_every, sample_every, log_every: steps.
        seed: of everything random; a step's batch and noise depend on (seed, step) only.
    """

    stage: str
    steps: int
    batch_size: int = 16
    crop: int = 0
    num_frames: int = 16
    targets: int = 1
    clip_share: float = 0.4
    image_probability: float = 0.2
    noisy_share: float = 0.0
    noisy_from: int = 600
    share_noise: float = 0.7
    drop_reference: float = 0.1
    latent_noise: float = 0.02
    gradient_weight: float = 0.1
    holdout: int = 16
    checkpoint_every: int = 200
    sample_every: int = 500
    log_every: int = 20
    seed: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the four networks; the topology is Stable Diffusion's with fewer, narrower levels.

    Attributes:
        size: side of the square images the networks are trained at, pixels.
        vae_channels: widths of the autoencoder's four levels.
        latent_channels: channels of its latents, which are 8 times smaller than the image.
        unet_channels: widths of the UNet, appearance encoder and ControlNet.
        heads: attention heads at every level.
        norm_groups: groups of the UNets' group norms.
        text_tokens, text_width: shape of the empty prompt's embedding (zeros: there is no text).
        control_channels: widths of the ControlNet's image embedding.
        motion_heads: heads of the temporal attention.
    """

    size: int = 128
    vae_channels: tuple[int, ...] = (24, 48, 96, 192)
    latent_channels: int = 20
    unet_channels: tuple[int, ...] = (96, 128, 160)
    heads: int = 2
    norm_groups: int = 16
    text_tokens: int = 1
    text_width: int = 32
    control_channels: tuple[int, ...] = (16, 32, 64, 64)
    motion_heads: int = 4


def tiny_network() -> NetworkConfig:
    """For tests: every part present, a step in a fraction of a second."""
    return NetworkConfig(
        size=32,
        vae_channels=(8, 16, 32, 64),
        latent_channels=4,
        unet_channels=(16, 16, 32),
        heads=2,
        norm_groups=8,
        text_width=16,
        control_channels=(8, 8, 16, 16),
        motion_heads=2,
    )


def _mini(stage: str) -> StageConfig:
    if stage == "vae":
        optimizer = OptimizerConfig(learning_rate=2e-3, decay_steps=1500)
        return StageConfig("vae", steps=3500, crop=64, sample_every=500, optimizer=optimizer)
    if stage == "base":
        optimizer = OptimizerConfig(learning_rate=1e-3, decay_steps=2500)
        return StageConfig(
            "base",
            steps=8000,
            targets=2,
            image_probability=0.15,
            noisy_share=0.4,
            drop_reference=0.05,
            optimizer=optimizer,
        )
    optimizer = OptimizerConfig(learning_rate=1e-3, decay_steps=300)
    return StageConfig(
        "stage2", steps=900, batch_size=2, checkpoint_every=50, sample_every=100, optimizer=optimizer
    )


def _tiny(stage: str) -> StageConfig:
    return StageConfig(
        stage,
        steps=4,
        batch_size=2,
        crop=16 if stage == "vae" else 0,
        num_frames=4,
        holdout=1,
        checkpoint_every=2,
        sample_every=4,
        log_every=1,
        optimizer=OptimizerConfig(warmup_steps=1),
    )


STAGES = ("vae", "base", "stage2")
PRESETS: dict[str, tuple[Any, Any]] = {"mini": (_mini, NetworkConfig), "tiny": (_tiny, tiny_network)}


def preset(name: str, stage: str) -> tuple[StageConfig, NetworkConfig]:
    """Settings of ``stage`` in preset ``name``: "mini" (the shipped checkpoint) or "tiny" (tests).

    Raises:
        ValueError: unknown preset or stage.
    """
    if name not in PRESETS or stage not in STAGES:
        raise ValueError(f"unknown preset {name!r} or stage {stage!r}; have {tuple(PRESETS)} and {STAGES}")
    stage_config, network_config = PRESETS[name]
    return stage_config(stage), network_config()
