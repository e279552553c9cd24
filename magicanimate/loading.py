"""Reading a checkpoint's pipeline into the computer's memory."""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
from diffusers import ControlNetModel
from diffusers.utils import logging
from safetensors import SafetensorError

from magicanimate.errors import InputError
from magicanimate.loading_lock import LOADING
from magicanimate.memory.need import DENOISERS
from magicanimate.memory.placing import store_in_eight_bits
from magicanimate.memory.profiles import MemoryProfile
from magicanimate.models.appearance_encoder import AppearanceEncoder
from magicanimate.models.unet import VideoUNet
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.quick_start import without_collection


def read_pipeline(folder: Path, profile: MemoryProfile, *, dtype: str) -> MagicAnimatePipeline:
    """The pipeline of a folder, on the CPU and without its text encoder.

    Args:
        folder: of the checkpoint.
        profile: with 8 bits the networks are read one by one, so that only one is there at its full size.
        dtype: "float32", "float16" or "bfloat16".

    Raises:
        InputError: the checkpoint cannot be used.
    """
    logging.disable_progress_bar()  # our own progress tells of the loading
    wanted = {_dtype_argument(): getattr(torch, dtype)}
    classes = {"unet": VideoUNet, "appearance_encoder": AppearanceEncoder}
    networks = {}
    try:
        with LOADING, without_collection():
            for name in DENOISERS if profile.eight_bit else ():
                if (folder / name).is_dir():
                    cls = classes.get(name, ControlNetModel)
                    networks[name] = cls.from_pretrained(folder / name, **wanted)
                    store_in_eight_bits(networks[name])
            for name, network in networks.items():
                _require_complete(network, folder / name)
            pipe = MagicAnimatePipeline.from_pretrained(
                folder,
                text_encoder=None,  # the empty prompt is stored; `add_text_encoder` serves the others
                tokenizer=None,
                **networks,
                **wanted,
            )
    except InputError:
        raise
    except (
        OSError,
        ValueError,
        LookupError,
        RuntimeError,
        TypeError,
        AttributeError,
        SafetensorError,
    ) as error:
        raise InputError(
            f"The checkpoint {folder} cannot be loaded ({_first_line(error)}); convert or fetch it again."
        ) from error

    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            _require_complete(part, folder / name)
    return pipe


def _require_complete(network: torch.nn.Module, folder: Path) -> None:
    """Refuse a network of which tensors are missing: diffusers leaves those without numbers.

    Raises:
        InputError: with the name of the first.
    """
    tensors = (*network.named_parameters(), *network.named_buffers())
    missing = [name for name, tensor in tensors if tensor.is_meta]
    if missing:
        others = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
        raise InputError(
            f"The weights in {folder} lack {missing[0]}{others}; convert or fetch the checkpoint again."
        )


def _dtype_argument() -> str:
    """What ``from_pretrained`` calls the number format: diffusers 0.42 renamed it."""
    major, minor = diffusers.__version__.split(".")[:2]
    return "dtype" if (int(major), int(minor)) >= (0, 42) else "torch_dtype"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
