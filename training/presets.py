"""The presets: functions that return the settings of a stage.

``paper_*`` are the paper's, for networks of Stable Diffusion 1.5's size; ``mini`` is the recipe of the
shipped checkpoint, ``tiny`` is for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from training.config import STAGES, LossConfig, NetworkConfig, OptimizerConfig, Stage, StageConfig

Settings = tuple[StageConfig, NetworkConfig | None]
"""Of the stage, and of the networks; ``None`` when they come from Stable Diffusion's files."""


NOT_IN_THE_PAPER = frozenset(
    (
        *("steps", "holdout", "seed", "drop_reference", "mixed_precision"),
        *("optimizer.warmup_steps", "optimizer.decay_steps", "optimizer.final_ratio"),
        *("optimizer.weight_decay", "optimizer.max_grad_norm", "optimizer.ema_decay"),
    )
)
"""Settings, by dotted name, whose values in the ``paper_*`` presets are this program's choice."""


def _paper(stage: Stage, *, tau_0: float, tau_1: float, tau_2: float) -> Settings:
    """Rates, batch, frames and interval of the paper's supplement, section 3.

    What it does not say is listed in `NOT_IN_THE_PAPER`. Of that, warm-up, decay and averaging are left out;
    weight decay is AdamW's usual 0.01, gradients are clipped to the usual norm of 1, and one sample in ten
    does not see its reference, without which guidance would have nothing to go by. The number of steps has to
    be chosen for the data at hand.
    """
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
        framing="centre",
        mixed_precision="fp16",
        gradient_checkpointing=True,
        workers=4,
        checkpoint_every=500,
        optimizer=OptimizerConfig(learning_rate=rate, warmup_steps=0, ema_decay=0.0),
    ), None


def paper_tiktok(stage: Stage) -> Settings:
    """TikTok dancing data."""
    return _paper(stage, tau_0=0.2, tau_1=0.2, tau_2=0.2)


def paper_ted(stage: Stage) -> Settings:
    """TED-talks data."""
    return _paper(stage, tau_0=0.2, tau_1=0.2, tau_2=0.36)


def paper_applications(stage: Stage) -> Settings:
    """The model behind the paper's applications: no images in the second stage."""
    return _paper(stage, tau_0=0.2, tau_1=0.0, tau_2=0.0)


_FROM_NOTHING = LossConfig(prediction="v_prediction", zero_terminal_snr=True)


def mini(stage: Stage) -> Settings:
    """The shipped checkpoint: rendered dancers of 256 x 256 pixels, a CPU or one GPU.

    "vae", "base" and "stage2" make it: "base" learns at 128 x 128, where a step takes a fifth of the time,
    and then once more at 256 x 256 from its own pipeline (the `Makefile` has the commands). The other two
    stages go on from "base" as the paper's do from Stable Diffusion.
    """
    common = {
        "soften_control": True,
        "still_share": 0.6,
        "target_still_share": 1 / 3,
        "tau_0": 0.15,
        "share_noise": 0.7,
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
        loss = replace(_FROM_NOTHING, weigh_channels=True, attention_weight=0.5, attention_by="points")
        optimizer = OptimizerConfig(learning_rate=1e-3, decay_steps=10_000)
        common |= {"loss": loss, "drop_reference": 0.05, "targets": 2}
        config = StageConfig("base", steps=80_000, optimizer=optimizer, **common)
    else:
        optimizer = OptimizerConfig(learning_rate=1e-4, decay_steps=300)
        config = StageConfig(stage, steps=1000, optimizer=optimizer, **common)
    return config, NetworkConfig(photo_map=True)


def tiny_network() -> NetworkConfig:
    """For tests: every part present, a step in a fraction of a second."""
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
    """For tests: a few steps of every stage in seconds."""
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
    """Settings of ``stage`` in preset ``name``.

    Raises:
        ValueError: unknown preset or stage.
    """
    if name not in PRESETS or stage not in STAGES:
        raise ValueError(f"unknown preset {name!r} or stage {stage!r}; have {tuple(PRESETS)} and {STAGES}")
    return PRESETS[name](stage)
