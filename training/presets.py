"""Presets: functions from a stage to its settings.

``paper_*`` follow MagicAnimate's supplement, with networks of Stable Diffusion 1.5's size; ``mini`` is the
recipe of the bundled checkpoint; ``tiny`` runs every stage in seconds, for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from training.config import STAGES, LossConfig, NetworkConfig, OptimizerConfig, Stage, StageConfig

Settings = tuple[StageConfig, NetworkConfig | None]
"""Settings of the stage, and sizes of the networks (``None`` with Stable Diffusion's files)."""


NOT_IN_THE_PAPER = frozenset(
    (
        *("steps", "holdout", "seed", "drop_reference", "mixed_precision"),
        *("optimizer.warmup_steps", "optimizer.decay_steps", "optimizer.final_ratio"),
        *("optimizer.weight_decay", "optimizer.max_grad_norm", "optimizer.ema_decay"),
    )
)
"""Settings, by dotted name, that the paper does not state: their values in ``paper_*`` are our choice."""


def _paper(stage: Stage, *, tau_0: float, tau_1: float, tau_2: float) -> Settings:
    """Learning rates, batch size, clip length and frame interval of MagicAnimate's supplement, section 3.

    What the paper does not state is listed in `NOT_IN_THE_PAPER`. There is no warm-up, decay or EMA; weight
    decay is AdamW's usual 0.01 and gradients are clipped to a norm of 1. The reference is dropped for one
    sample in ten, since classifier-free guidance needs an unconditional prediction. Choose the number of
    steps for your data.
    """
    # Supplement, section 3: 1e-5 for the first stage, 1e-4 for the second.
    rate = 1e-4 if stage == "stage2" else 1e-5
    return StageConfig(
        stage,
        steps=30_000,
        batch_size=8,
        size=512,
        num_frames=16,
        interval=4,
        tau_0=tau_0,
        tau_1=tau_1,
        tau_2=tau_2,
        holdout=4,
        # The paper cuts out the centre of its videos; the other presets follow the person.
        framing="centre",
        mixed_precision="fp16",
        gradient_checkpointing=True,
        # Data loader workers decode the videos while the GPU computes.
        workers=4,
        checkpoint_every=500,
        optimizer=OptimizerConfig(learning_rate=rate, warmup_steps=0, ema_decay=0.0),
    ), None


def paper_tiktok(stage: Stage) -> Settings:
    """For TikTok dancing videos: 20 % of the second stage's steps are images, no single frames."""
    return _paper(stage, tau_0=0.2, tau_1=0.2, tau_2=0.2)


def paper_ted(stage: Stage) -> Settings:
    """For TED talks: 20 % of the second stage's steps are images, 16 % single frames."""
    return _paper(stage, tau_0=0.2, tau_1=0.2, tau_2=0.36)


def paper_applications(stage: Stage) -> Settings:
    """The model that the paper's applications use: its second stage trains on clips only."""
    return _paper(stage, tau_0=0.2, tau_1=0.0, tau_2=0.0)


# Sampling begins at pure noise, so training has to reach it, too: with a zero terminal SNR, which epsilon
# prediction cannot learn from (noise predicted from pure noise says nothing about the image).
_FROM_NOTHING = LossConfig(prediction="v_prediction", zero_terminal_snr=True)


def mini(stage: Stage) -> Settings:
    """The bundled checkpoint: rendered dancers at 256 x 256 pixels, on a CPU or one GPU.

    It is made by "vae", "base", "stage2" and "sharpen". "base" is trained at 128 x 128, where a step takes a
    fifth of the time, and then again at 256 x 256 from its own pipeline; the `Makefile` has the commands.
    "controlnet" and "stage1" start from "base" as the paper's stages start from Stable Diffusion.
    """
    # Stills as references: like a user's photo, they differ from the clip in pose, place and size.
    common = {
        "soften_control": True,
        "still_share": 0.6,
        "target_still_share": 1 / 3,
        "tau_0": 0.15,
        "share_noise": 0.7,
        "first_latents": "warped_photo",
        "mixed_precision": "auto",
        "loss": _FROM_NOTHING,
    }
    if stage == "vae":
        optimizer = OptimizerConfig(learning_rate=2e-3, decay_steps=6000)
        common |= {"size": 256, "crop": 64, "halved_share": 0.5}
        config = StageConfig("vae", steps=20_000, sample_every=1000, optimizer=optimizer, **common)
    elif stage == "stage2":
        optimizer = OptimizerConfig(learning_rate=1e-3, decay_steps=300)
        config = StageConfig(
            "stage2",
            steps=3000,
            size=256,
            batch_size=2,
            tau_2=0.2,
            checkpoint_every=50,
            sample_every=100,
            optimizer=optimizer,
            **common,
        )
    elif stage == "distill":
        optimizer = OptimizerConfig(learning_rate=1e-4, warmup_steps=50, decay_steps=1000, ema_decay=0.995)
        config = StageConfig(
            "distill",
            steps=4000,
            size=256,
            batch_size=2,
            num_frames=4,
            crop=64,
            distill_all=True,
            checkpoint_every=50,
            sample_every=200,
            optimizer=optimizer,
            # The mini samples all frames from the same noise (`noise_period` 1).
            **common | {"share_noise": 1.0},
        )
    elif stage == "sharpen":
        optimizer = OptimizerConfig(learning_rate=4e-4, warmup_steps=50, decay_steps=1000, ema_decay=0.995)
        config = StageConfig(
            "sharpen",
            steps=4000,
            size=256,
            batch_size=4,
            num_frames=2,
            crop=64,
            reuse=4,
            checkpoint_every=50,
            sample_every=200,
            optimizer=optimizer,
            **common,
        )
    elif stage == "base":
        # A network without Stable Diffusion's features does not find out by itself where to look in the
        # reference; see training.attention_loss.
        loss = replace(_FROM_NOTHING, weigh_channels=True, attention_weight=0.5, attention_by="points")
        optimizer = OptimizerConfig(learning_rate=1e-3, decay_steps=10_000)
        common |= {"loss": loss, "drop_reference": 0.05, "targets": 2}
        config = StageConfig("base", steps=80_000, optimizer=optimizer, **common)
    else:
        optimizer = OptimizerConfig(learning_rate=1e-4, decay_steps=300)
        config = StageConfig(stage, steps=1000, optimizer=optimizer, **common)
    return config, NetworkConfig(photo_map=True)


def tiny_network() -> NetworkConfig:
    """For tests: every component is there, and a step takes a fraction of a second."""
    return NetworkConfig(
        size=32,
        vae_channels=(8, 16, 32, 64),
        latent_channels=4,
        unet_channels=(16, 32),
        heads=2,
        norm_groups=8,
        text_width=16,
        control_channels=(8, 8, 16, 16),
        motion_heads=2,
    )


def tiny(stage: Stage) -> Settings:
    """For tests: a few steps of any stage, in seconds."""
    config = StageConfig(
        stage,
        steps=4,
        batch_size=4 if stage == "base" else 2,
        size=32,
        crop=16 if stage == "vae" else 0,
        student_steps=1,
        teacher_steps=4,
        reuse=2 if stage == "sharpen" else 1,
        num_frames=4,
        tau_2=0.2,
        share_noise=0.5,
        targets=2 if stage == "base" else 1,
        still_share=0.5,
        target_still_share=0.3,
        soften_control=True,
        holdout=1,
        checkpoint_every=2,
        sample_every=4,
        log_every=1,
        optimizer=OptimizerConfig(warmup_steps=1),
        loss=_FROM_NOTHING,
    )
    return config, tiny_network()


PRESETS: dict[str, Callable[[Stage], Settings]] = {
    function.__name__: function for function in (paper_tiktok, paper_ted, paper_applications, mini, tiny)
}


def preset(name: str, stage: str) -> Settings:
    """Settings of ``stage`` in the preset ``name``.

    Raises:
        ValueError: unknown preset or stage.
    """
    if name not in PRESETS or stage not in STAGES:
        raise ValueError(f"unknown preset {name!r} or stage {stage!r}; have {tuple(PRESETS)} and {STAGES}")
    return PRESETS[name](stage)
