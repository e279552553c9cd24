"""Tell whether a base model is of Stable Diffusion 1.5's kind, and what it is where it is not.

Names and sizes by which other models are known: the state dicts of CompVis/stable-diffusion (1.x and its
inpainting), Stability-AI/stablediffusion (2.x, OpenCLIP), Stability-AI/generative-models (XL), timothybrooks/
instruct-pix2pix and black-forest-labs/flux, and the ``config.json`` files of their folders for diffusers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from magicanimate.checkpoints.reading import UNET_PREFIX, WeightFile, open_weights
from magicanimate.errors import InputError
from magicanimate.files import Unreadable, read_json_object

_XL, _TWO = "Stable Diffusion XL", "Stable Diffusion 2"
_TRANSFORMER = "a diffusion transformer such as Stable Diffusion 3 or Flux"
_VELOCITY = "a model that predicts velocity (v-prediction), where MagicAnimate's layers expect noise"

# The first pattern that one of a file's names has counts.
_BY_NAME = (
    (r"double_blocks|joint_blocks|single_transformer_blocks", _TRANSFORMER),
    (r"^conditioner\.embedders\.|\.label_emb\.", _XL),
    (r"^cond_stage_model\.model\.", f"{_TWO} (its texts are read by OpenCLIP)"),
    (r"^control_model\.|input_hint_block|controlnet_cond_embedding", "a ControlNet"),
    (r"lora_(up|down|A|B|unet|te)", "a LoRA, which `animate --lora` takes"),
    (r"^v_pred$", _VELOCITY),
)
_BY_CHANNELS = {
    9: "an inpainting model (its UNet also takes a mask and the picture behind it)",
    8: "a model that edits pictures by instructions (InstructPix2Pix)",
    5: "a model that also takes a depth map",
}
_BY_TEXT_WIDTH = {1024: _TWO, 1280: f"{_XL} (the refiner)", 2048: _XL}


def require_sd15(path: Path) -> None:
    """Refuse a base model that is not a fine-tune of Stable Diffusion 1.5.

    Args:
        path: a single file of the original program's layout, or a folder of diffusers'.

    Raises:
        InputError: it is something else, which the sentence names, or cannot be read.
    """
    what = _folder_is(path) if path.is_dir() else _file_is(open_weights(path))
    if what:
        raise InputError(
            f"{path} is {what}, and MagicAnimate's layers fit Stable Diffusion 1.5 only; give a model that "
            "was fine-tuned from that."
        )


def _file_is(weights: WeightFile) -> str | None:
    for pattern, what in _BY_NAME:
        if any(re.search(pattern, key) for key in weights):
            return what
    first = weights.get(f"{UNET_PREFIX}input_blocks.0.0.weight")
    text = weights.get(f"{UNET_PREFIX}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
    return _by_sizes(
        channels=None if first is None else first.shape[1], text=None if text is None else text.shape[1]
    )


def _folder_is(folder: Path) -> str | None:
    if (folder / "transformer").is_dir():
        return _TRANSFORMER
    if (folder / "text_encoder_2").is_dir():
        return _XL
    unet = _config(folder / "unet" / "config.json")
    if unet.get("addition_embed_type") == "text_time":
        return _XL
    scheduler = _config(folder / "scheduler" / "scheduler_config.json")
    by_sizes = _by_sizes(channels=unet.get("in_channels"), text=unet.get("cross_attention_dim"))
    return by_sizes or (_VELOCITY if scheduler.get("prediction_type") == "v_prediction" else None)


def _by_sizes(*, channels: Any, text: Any) -> str | None:
    """What a model is whose UNet takes so many channels and texts of such a width."""
    return (_BY_CHANNELS.get(channels) if isinstance(channels, int) else None) or (
        _BY_TEXT_WIDTH.get(text) if isinstance(text, int) else None
    )


def _config(file: Path) -> dict[str, Any]:
    """A configuration, empty if there is none; what is wrong with it is said when it is used."""
    try:
        return read_json_object(file) if file.exists() else {}
    except Unreadable:
        return {}
