"""The part segmenter's network and settings, by preset."""

from __future__ import annotations

from diffusers import UNet2DModel

from densepose_tools.segmenter import NUM_LABELS, PATCH
from training.config import OptimizerConfig, StageConfig

_SIZES = {"mini": (128, (48, 64, 80, 96)), "tiny": (32, (8, 8, 16, 16))}


def build_segmenter(preset: str) -> UNet2DModel:
    """A convolutional U-Net with random weights, on squares of 4x4 pixels.

    Convolutions learn this in minutes on a CPU; a SegFormer of a similar size, tried first, had half the mean
    IoU after 600 steps.

    Source: Ronneberger et al., "U-Net" (MICCAI 2015), in the form of diffusers' residual blocks.
    """
    size, channels = _SIZES[preset]
    return UNet2DModel(
        sample_size=size // PATCH,
        in_channels=3 * PATCH**2,
        out_channels=NUM_LABELS * PATCH**2,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        layers_per_block=1,
        norm_num_groups=8,
        add_attention=False,
    )


def segmenter_config(preset: str) -> StageConfig:
    """Settings of the run. The mini takes about an hour on one core."""
    if preset == "tiny":
        return StageConfig(
            "segmenter",
            steps=4,
            batch_size=2,
            size=32,
            holdout=1,
            checkpoint_every=2,
            sample_every=4,
            log_every=1,
            optimizer=OptimizerConfig(learning_rate=4e-3, warmup_steps=1, ema_decay=0.98),
        )
    optimizer = OptimizerConfig(
        learning_rate=1.5e-3, warmup_steps=100, decay_steps=2500, final_ratio=0.02, ema_decay=0.995
    )
    return StageConfig(
        "segmenter",
        steps=9000,
        batch_size=16,
        size=128,
        mixed_precision="bf16",
        channels_last=True,
        optimizer=optimizer,
    )
