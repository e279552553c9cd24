"""The published files at tiny size: networks of SD 1.5's topology whose weights follow from their names.

The rule is that of the reference numbers (``../shared/golden/magicanimate/cases.json``, "fill"): a tensor
depends on its component and its *published* state-dict key only, so agreeing with the numbers proves the
key names too.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from magicanimate.checkpoints.layout import is_positional, original_unet_key, published_key
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
TINY_TEXT: dict[str, Any] = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 8,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 6,
    "eos_token_id": 7,
    "pad_token_id": 7,
}
TINY_VOCABULARY = ["a", "b", "c", "a</w>", "b</w>", "c</w>", "<|startoftext|>", "<|endoftext|>"]
MOTION_LENGTH = 24

# Files of the layout, below its folder.
ENCODER = "MagicAnimate/appearance_encoder/diffusion_pytorch_model.safetensors"
CONTROLNET = "MagicAnimate/densepose_controlnet/diffusion_pytorch_model.safetensors"
MOTION = "MagicAnimate/temporal_attention/temporal_attention.ckpt"

WeightFormat = Literal["safetensors", "bin", "old_bin"]
MotionFormat = Literal["plain", "wrapped", "prefixed"]


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


def tiny_unet(*, layers_per_block: int = 2) -> VideoUNet:
    """The video UNet of the reference numbers, randomly initialized."""
    return VideoUNet(
        layers_per_block=layers_per_block,
        sample_size=64,
        block_out_channels=(32, 64, 128, 128),
        cross_attention_dim=32,
        num_attention_heads=8,
        motion_num_attention_heads=8,
        motion_max_seq_length=MOTION_LENGTH,
        use_motion_mid_block=False,
    )


def tiny_appearance_encoder(*, layers_per_block: int = 2) -> AppearanceEncoder:
    """The appearance encoder of the reference numbers, randomly initialized."""
    return AppearanceEncoder(**_arguments(TINY_UNET) | {"layers_per_block": layers_per_block})


def tiny_controlnet(*, layers_per_block: int = 2) -> ControlNetModel:
    """The ControlNet of the reference numbers, randomly initialized."""
    return ControlNetModel(**_arguments(TINY_CONTROLNET) | {"layers_per_block": layers_per_block})


def tiny_vae() -> AutoencoderKL:
    """The autoencoder of the reference numbers, randomly initialized."""
    return AutoencoderKL(**_arguments(TINY_VAE))


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def write_published_layout(
    folder: Path, *, weights: WeightFormat = "safetensors", motion: MotionFormat = "wrapped"
) -> Path:
    """Write the whole published layout at tiny size, weights by the rule.

    Args:
        folder: where; made if absent.
        weights: of everything but the temporal layers; "old_bin" is torch's format from before 1.6.
        motion: ``temporal_attention.ckpt`` as bare keys, inside ``state_dict``, or that with ``module.``
            before every key.

    Returns:
        ``folder``.
    """
    unet = published_shapes("unet", tiny_unet())
    spatial = {key: shape for key, shape in unet.items() if ".motion_modules." not in key}
    stable_diffusion, magicanimate = folder / "stable-diffusion-v1-5", folder / "MagicAnimate"
    parts = {
        stable_diffusion / "unet": (fill_state("unet", spatial), TINY_UNET),
        folder / "sd-vae-ft-mse": (_old_vae_names(_filled("vae", tiny_vae())), TINY_VAE),
        magicanimate / "appearance_encoder": (
            _filled("appearance_encoder", tiny_appearance_encoder()),
            TINY_UNET,
        ),
        magicanimate / "densepose_controlnet": (_filled("controlnet", tiny_controlnet()), TINY_CONTROLNET),
    }
    for part, (state, config) in parts.items():
        _write_part(part, state, config, stem="diffusion_pytorch_model", weights=weights)
    stem = "model" if weights == "safetensors" else "pytorch_model"
    _write_part(stable_diffusion / "text_encoder", tiny_text_state(), TINY_TEXT, stem=stem, weights=weights)
    _write_tokenizer(stable_diffusion / "tokenizer")
    write_motion(magicanimate / "temporal_attention" / "temporal_attention.ckpt", motion=motion)
    return folder


def write_motion(path: Path, *, motion: MotionFormat = "wrapped") -> Path:
    """Write the temporal layers' checkpoint, position tables and all; returns its path."""
    module = tiny_unet()
    shapes = published_shapes("unet", module)
    state = fill_state("unet", {key: shape for key, shape in shapes.items() if ".motion_modules." in key})
    for key, table in module.state_dict().items():
        if is_positional(key):
            first = published_key("unet", key)
            state |= {first: table, first.replace("attention_blocks.0", "attention_blocks.1"): table}
    if motion == "prefixed":
        state = {f"module.{key}": value for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state if motion == "plain" else {"epoch": 3, "global_step": 7, "state_dict": state}, path)
    return path


def tiny_text_state() -> dict[str, torch.Tensor]:
    """A text encoder's weights under the names that Stable Diffusion's files use."""
    shapes = {
        f"text_model.{key}": tuple(value.shape)
        for key, value in CLIPTextModel(CLIPTextConfig(**TINY_TEXT)).state_dict().items()
    }
    state = fill_state("text_encoder", shapes)
    return state | {"text_model.embeddings.position_ids": torch.arange(77)[None]}


def _filled(component: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return fill_state(component, published_shapes(component, module))


def _old_vae_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names in sd-vae-ft-mse, which was saved by an early diffusers."""
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    renamed = {}
    for key, value in state.items():
        for new, old in names.items():
            key = key.replace(new, old)
        renamed[key] = value
    return renamed


def _write_part(
    folder: Path, state: dict[str, torch.Tensor], config: dict[str, Any], *, stem: str, weights: WeightFormat
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if weights == "safetensors":
        save_file(state, folder / f"{stem}.safetensors")
    else:
        torch.save(state, folder / f"{stem}.bin", _use_new_zipfile_serialization=weights == "bin")


def _write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: number for number, token in enumerate(TINY_VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def write_single_file(path: Path, *, vae_only: bool = False) -> Path:
    """Write the tiny Stable Diffusion, or its VAE, as one file under the names of the original program."""
    vae = {ldm_vae_key(key): _as_ldm(key, value) for key, value in _filled("vae", tiny_vae()).items()}
    if vae_only:
        save_file(vae, path)
        return path
    unet = published_shapes("unet", tiny_unet())
    spatial = fill_state("unet", {k: shape for k, shape in unet.items() if ".motion_modules." not in k})
    state = {f"model.diffusion_model.{original_unet_key(key)}": value for key, value in spatial.items()}
    state |= {f"first_stage_model.{key}": value for key, value in vae.items()}
    state |= {f"cond_stage_model.transformer.{key}": value for key, value in tiny_text_state().items()}
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def ldm_vae_key(key: str) -> str:
    """The original program's name of a weight of Stable Diffusion's VAE."""
    for new, old in {
        "conv_norm_out": "norm_out",
        "conv_shortcut": "nin_shortcut",
        "downsamplers.0": "downsample",
        "upsamplers.0": "upsample",
        "mid_block.attentions.0": "mid.attn_1",
        "mid_block.resnets.0": "mid.block_1",
        "mid_block.resnets.1": "mid.block_2",
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
        ".resnets.": ".block.",
    }.items():
        key = key.replace(new, old)
    words = key.split(".")
    if words[1] == "down_blocks":
        words[1] = "down"
    if words[1] == "up_blocks":
        words[1:3] = ["up", str(3 - int(words[2]))]
    return ".".join(words)


def _as_ldm(key: str, value: torch.Tensor) -> torch.Tensor:
    """Attention of the original VAE is convolution by one pixel."""
    is_projection = ".attentions." in key and key.endswith("weight") and value.ndim == 2
    return value[..., None, None] if is_projection else value
