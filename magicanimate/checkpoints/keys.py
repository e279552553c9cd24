"""Names of weights: the published state-dict keys and what diffusers calls the same tensors.

Pure functions on strings; nothing here opens a file or needs torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

COMPONENTS = ("unet", "appearance_encoder", "controlnet", "vae")

# What wrappers of torch (data parallel) and of the training program put before every key.
PREFIXES = ("module.", "unet.")

_MOTION = ".motion_modules."
_TEMPORAL = ".temporal_transformer."
_PUBLISHED_TO_DIFFUSERS = (
    (re.compile(r"\.attention_blocks\.(\d+)\."), ".attn{}."),
    (re.compile(r"\.norms\.(\d+)\."), ".norm{}."),
)
_DIFFUSERS_TO_PUBLISHED = (
    (re.compile(r"(\.transformer_blocks\.\d+)\.attn(\d+)\."), ".attention_blocks.{}."),
    (re.compile(r"(\.transformer_blocks\.\d+)\.norm([12])\."), ".norms.{}."),
)
# Attention of autoencoders saved before diffusers 0.17.
_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_VAE_KEY = re.compile(r"(\.mid_block\.attentions\.\d+)\.(query|key|value|proj_attn)\.")

# The original program's names of the parts of a residual block, and of what lies outside the blocks.
_ORIGINAL_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ORIGINAL_OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def strip_prefixes(key: str) -> str:
    """``key`` without any run of the wrappers' prefixes, such as ``module.unet.``."""
    while key.startswith(PREFIXES):
        key = key.partition(".")[2]
    return key


def is_motion_key(key: str) -> bool:
    """Whether a key, published or of diffusers, belongs to a temporal layer."""
    return _MOTION in key


def is_positional(key: str) -> bool:
    """Whether a key is a temporal position table, which follows from the architecture alone."""
    return key.endswith((".pos_encoder.pe", ".pos_embed.pe"))


def motion_key(published: str) -> str | None:
    """Diffusers' name of a published motion-module weight.

    Args:
        published: key of ``temporal_attention.ckpt`` or of the whole published UNet, with or without
            prefixes. A key that already is diffusers' comes back unchanged.

    Returns:
        The key in `magicanimate.models.unet.VideoUNet`; ``None`` for a position table, which the network
        computes itself.
    """
    key = strip_prefixes(published)
    if is_positional(key):
        return None
    key = key.replace(_TEMPORAL, ".").replace(".ff_norm.", ".norm3.")
    for pattern, name in _PUBLISHED_TO_DIFFUSERS:
        key = pattern.sub(lambda match, name=name: name.format(int(match[1]) + 1), key)  # type: ignore[misc]
    return key


def unet_key(published: str) -> str | None:
    """Diffusers' name of any weight of the published video UNet; ``None`` for a position table."""
    return motion_key(published) if is_motion_key(published) else strip_prefixes(published)


def published_unet_key(key: str) -> str:
    """The published name of a weight of `VideoUNet`: the inverse of `unet_key`.

    A position table maps to that of the first attention; the published UNet has one per attention.
    """
    if not is_motion_key(key):
        return key
    head, _, tail = key.partition(_MOTION)
    number, _, rest = tail.partition(".")
    key = f"{head}{_MOTION}{number}{_TEMPORAL}{rest}"
    key = key.replace(".norm3.", ".ff_norm.").replace(".pos_embed.pe", ".attention_blocks.0.pos_encoder.pe")
    for pattern, name in _DIFFUSERS_TO_PUBLISHED:
        key = pattern.sub(lambda match, name=name: match[1] + name.format(int(match[2]) - 1), key)  # type: ignore[misc]
    return key


def original_unet_key(key: str) -> str:
    """The original program's name of a weight of Stable Diffusion 1.5's UNet, without its prefix.

    Source: ``openaimodel.py`` of CompVis/stable-diffusion, with two residual blocks on each of four levels.
    """
    name, _, kind = key.rpartition(".")
    if name in _ORIGINAL_OUTER:
        return f"{_ORIGINAL_OUTER[name]}.{kind}"
    words = key.split(".")
    if words[0] == "mid_block":
        place = f"middle_block.{1 if words[1] == 'attentions' else 2 * int(words[2])}"
        rest = words[3:]
    else:
        level, what, number, rest = int(words[1]), words[2], int(words[3]), words[4:]
        # Three blocks a level: two residual ones and what changes the size.
        if what == "downsamplers":
            return f"input_blocks.{3 * (level + 1)}.0.op.{kind}"
        if what == "upsamplers":
            return f"output_blocks.{3 * level + 2}.{1 if level == 0 else 2}.conv.{kind}"
        block = 3 * level + number + (words[0] == "down_blocks")
        side = "input" if words[0] == "down_blocks" else "output"
        place = f"{side}_blocks.{block}.{what == 'attentions':d}"
    if "resnets" in words:
        rest = [_ORIGINAL_RESNET[rest[0]], *rest[1:]]
    return ".".join([place, *rest])


def vae_key(published: str) -> str:
    """Diffusers' present name of an autoencoder weight, also of files saved by old versions."""
    key = strip_prefixes(published)
    return _OLD_VAE_KEY.sub(lambda match: f"{match[1]}.{_OLD_VAE_ATTENTION[match[2]]}.", key)


def convert_key(component: str, published: str) -> str | None:
    """The key of one weight in this program's network.

    Args:
        component: one of `COMPONENTS`.
        published: its key in the released file.

    Returns:
        The key, or ``None`` when the network does not store it.

    Raises:
        ValueError: unknown component.
    """
    if component not in COMPONENTS:
        raise ValueError(f"unknown component {component!r}; choose from {COMPONENTS}")
    if component == "unet":
        return unet_key(published)
    if component == "vae":
        return vae_key(published)
    return strip_prefixes(published)


def published_key(component: str, key: str) -> str:
    """Inverse of `convert_key`: what the release calls a weight of this program's network."""
    if component not in COMPONENTS:
        raise ValueError(f"unknown component {component!r}; choose from {COMPONENTS}")
    return published_unet_key(key) if component == "unet" else key


def convert_keys(component: str, published: Iterable[str]) -> dict[str, str]:
    """New key -> published key of every weight that the network stores."""
    pairs = ((convert_key(component, name), name) for name in published)
    return {key: name for key, name in pairs if key is not None}


def unwrap(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mapping of weights inside a training checkpoint's ``state_dict`` entry, or ``state`` itself."""
    inner = state.get("state_dict") if "state_dict" in state else None
    return unwrap(inner) if isinstance(inner, Mapping) else state
