"""The networks' shapes: configurations of Stable Diffusion 1.5, and empty networks to check files against."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel
from torch import nn

from magicanimate.errors import InputError
from magicanimate.files import Unreadable, read_json_object
from magicanimate.models.appearance_encoder import AppearanceEncoder
from magicanimate.models.unet import VideoUNet

# The temporal layers' file has no config.json: 24 positions unless its tables say otherwise, 8 heads.
MOTION_LENGTH = 24
MOTION_HEADS = 8

NETWORKS: dict[str, type[nn.Module]] = {
    "unet": VideoUNet,
    "appearance_encoder": AppearanceEncoder,
    "controlnet": ControlNetModel,
    "vae": AutoencoderKL,
}

# DDIM as the published program sets it up.
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "timestep_spacing": "leading",
}

_SPATIAL: dict[str, Any] = {
    "in_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
}
_UNET = _SPATIAL | {
    "sample_size": 64,
    "out_channels": 4,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
_SD15: dict[str, dict[str, Any]] = {
    "unet": _UNET,
    "appearance_encoder": _UNET,
    "controlnet": _SPATIAL | {"conditioning_embedding_out_channels": [16, 32, 96, 256]},
    "vae": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "sample_size": 256,
        "act_fn": "silu",
        "scaling_factor": 0.18215,
    },
    "text_encoder": {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "projection_dim": 768,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    },
}

# What `VideoUNet` takes over from the configuration of Stable Diffusion's UNet as it stands.
_SHARED = (
    "sample_size",
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "downsample_padding",
    "mid_block_scale_factor",
    "act_fn",
    "norm_num_groups",
    "norm_eps",
    "cross_attention_dim",
    "use_linear_projection",
)
# Settings of a 2-D UNet that the video UNet has no counterpart of, and the value it works as.
_FIXED = {"flip_sin_to_cos": True, "freq_shift": 0, "center_input_sample": False, "class_embed_type": None}


def sd15_config(component: str) -> dict[str, Any]:
    """Stable Diffusion 1.5's ``config.json`` of its text encoder or of one of `NETWORKS`."""
    return dict(_SD15[component])


def read_config(component: str, path: Path | None) -> dict[str, Any]:
    """A component's configuration from its ``config.json``, or Stable Diffusion 1.5's when it has none.

    Raises:
        InputError: the file is not a JSON object.
    """
    if path is None:
        return sd15_config(component)
    try:
        return read_json_object(path)
    except Unreadable as error:
        raise InputError(
            f"{path} is not a config.json of a network ({error.reason}); download it again."
        ) from error


def video_unet_config(
    spatial: Mapping[str, Any], *, motion_length: int = MOTION_LENGTH, origin: Path | None = None
) -> dict[str, Any]:
    """Arguments of `VideoUNet` from the configuration of Stable Diffusion's UNet.

    Args:
        spatial: the 2-D UNet's configuration; its ``attention_head_dim`` counts heads, not widths.
        motion_length: frames that the temporal layers have positions for.
        origin: file the configuration came from, for messages.

    Raises:
        InputError: the configuration asks for something the video UNet cannot do.
    """
    for name, value in _FIXED.items():
        if spatial.get(name, value) != value:
            raise InputError(
                f"{origin or 'the UNet configuration'} sets {name} to {spatial[name]!r}, but the video UNet"
                f" needs {value!r}; use the files of Stable Diffusion 1.5."
            )
    # Older configurations say the number of heads under a name that means their width.
    heads = spatial.get("num_attention_heads") or spatial.get("attention_head_dim", 8)
    config = {name: spatial[name] for name in _SHARED if name in spatial}
    return config | {
        "down_block_types": [_motion_block(name) for name in spatial.get("down_block_types", ())]
        or _motion_blocks("down"),
        "up_block_types": [_motion_block(name) for name in spatial.get("up_block_types", ())]
        or _motion_blocks("up"),
        "num_attention_heads": heads,
        "motion_num_attention_heads": MOTION_HEADS,
        "motion_max_seq_length": motion_length,
        "use_motion_mid_block": False,
    }


def _motion_block(name: str) -> str:
    """``CrossAttnDownBlock2D`` or ``...3D`` -> ``CrossAttnDownBlockMotion``."""
    return name.removesuffix("2D").removesuffix("3D").removesuffix("Motion") + "Motion"


def _motion_blocks(side: str) -> list[str]:
    return [_motion_block(name) for name in _UNET[f"{side}_block_types"]]


def empty_network(component: str, config: Mapping[str, Any], *, origin: Path | None = None) -> nn.Module:
    """An empty network of a component on torch's meta device: names and shapes that take no memory.

    Args:
        component: key of `NETWORKS`.
        config: its arguments; entries the class does not know are left out, as diffusers does.
        origin: file the configuration came from, for messages.

    Raises:
        InputError: the configuration does not describe a network that can be built.
    """
    cls = NETWORKS[component]
    # A config.json of a newer diffusers may have entries that this one does not know.
    known = inspect.signature(cls.__init__).parameters
    arguments = {name: value for name, value in config.items() if name in known}
    try:
        with torch.device("meta"):
            return cls(**arguments)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError) as error:
        raise InputError(
            f"{origin or 'the configuration'} does not describe a usable {component} ({error}); use the"
            " config.json that came with the weights."
        ) from error
