"""The published files at tiny size: networks of SD 1.5's topology whose weights follow from their names.

The rule is that of the reference numbers (``../shared/golden/magicanimate/cases.json``, "fill"): a tensor
depends on its component and its *published* state-dict key only, so agreeing with the numbers proves the
key names too.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel
from torch import nn

from magicanimate.checkpoints.keys import is_positional, published_key
from magicanimate.models.appearance_encoder import AppearanceEncoder
from magicanimate.models.unet import VideoUNet

# The "tiny" configuration of the reference numbers, as a Stable Diffusion 1.5 config.json would say it.
TINY: dict[str, Any] = {
    "in_channels": 4,
    "block_out_channels": [32, 64, 128, 128],
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 32,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
}
TINY_UNET = TINY | {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "out_channels": 4,
    "center_input_sample": False,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
TINY_CONTROLNET = TINY | {
    "_class_name": "ControlNetModel",
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "controlnet_conditioning_channel_order": "rgb",
}
TINY_VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [32, 32, 32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "sample_size": 64,
    "act_fn": "silu",
}
MOTION_LENGTH = 24


def fill_tensor(component: str, key: str, shape: Sequence[int]) -> torch.Tensor:
    """The float32 tensor that the rule gives to a published key of a component."""
    x = normals(f"{component}/{key}", shape)
    if len(shape) == 1 and key.endswith(".weight"):
        return 1 + 0.1 * x
    if len(shape) == 1 and key.endswith(".bias"):
        return 0.05 * x
    return x / math.sqrt(math.prod(shape[1:]))


def normals(name: str, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal float32 numbers that depend on a name only; inputs are ``input/<case>/<tensor>``."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))


def fill_state(component: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """State dict of a component from published key -> shape; position tables are left out."""
    return {key: fill_tensor(component, key, shapes[key]) for key in shapes if not is_positional(key)}


def published_shapes(component: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Published key -> shape of every weight of one of this program's networks."""
    return {published_key(component, key): tuple(value.shape) for key, value in module.state_dict().items()}


def fill_module(component: str, module: nn.Module) -> nn.Module:
    """Give a network the weights of the rule; it keeps its own position tables. Returns it, in eval mode."""
    with torch.no_grad():
        for key, value in module.state_dict().items():
            if not is_positional(key):
                value.copy_(fill_tensor(component, published_key(component, key), value.shape))
    return module.eval()


def tiny_unet() -> VideoUNet:
    """The video UNet of the reference numbers, randomly initialized."""
    return VideoUNet(
        sample_size=64,
        block_out_channels=(32, 64, 128, 128),
        cross_attention_dim=32,
        num_attention_heads=8,
        motion_num_attention_heads=8,
        motion_max_seq_length=MOTION_LENGTH,
        use_motion_mid_block=False,
    )


def tiny_appearance_encoder() -> AppearanceEncoder:
    """The appearance encoder of the reference numbers, randomly initialized."""
    return AppearanceEncoder(**_arguments(TINY_UNET))


def tiny_controlnet() -> ControlNetModel:
    """The ControlNet of the reference numbers, randomly initialized."""
    return ControlNetModel(**_arguments(TINY_CONTROLNET))


def tiny_vae() -> AutoencoderKL:
    """The autoencoder of the reference numbers, randomly initialized."""
    return AutoencoderKL(**_arguments(TINY_VAE))


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}
