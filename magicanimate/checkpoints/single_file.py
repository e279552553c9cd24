"""Stable Diffusion 1.5 and its VAE as single files of the original format, read by diffusers."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError

from magicanimate.checkpoints.reading import HeldTensors, WeightFile, open_weights
from magicanimate.errors import InputError

_NETWORKS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
# Keys of each network in a file that holds several; a VAE of its own has none of these in front.
_PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}


def open_single_file(component: str, path: Path, config: dict[str, Any]) -> WeightFile:
    """The weights of one network out of a single file.

    Args:
        component: "unet", "vae" or "text_encoder".
        path: the file, as `magicanimate.checkpoints.reading.open_weights` reads it.
        config: of the network, as its ``config.json`` would say it.

    Raises:
        InputError: the file cannot be read or does not hold such a network.
    """
    file, prefix = open_weights(path), _PREFIXES[component]
    own = [key for key in file if key.startswith(prefix)]
    if not own and component == "vae" and any(key.startswith("encoder.") for key in file):
        own = list(file)
    if not own:
        raise InputError(
            f"{path} holds no {component} (no key begins with {prefix}); give a checkpoint of Stable "
            "Diffusion 1.5 as released."
        )
    tensors = {key: file[key] for key in own}
    if component == "text_encoder":
        return HeldTensors(path, {key.removeprefix(prefix): value for key, value in tensors.items()})
    cls = _NETWORKS[component]
    try:
        with tempfile.TemporaryDirectory(prefix="magicanimate-") as folder:
            text = json.dumps(config | {"_class_name": cls.__name__})
            (Path(folder) / "config.json").write_text(text, encoding="utf-8")
            dtype = next((value.dtype for value in tensors.values() if value.is_floating_point()), None)
            network = cls.from_single_file(tensors, config=folder, local_files_only=True, torch_dtype=dtype)
    except (SingleFileComponentError, ValueError, KeyError, RuntimeError, IndexError, OSError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")[:160]
        raise InputError(
            f"{path} cannot be taken for the {component} of Stable Diffusion 1.5 ({reason}); check that "
            "it is the right file."
        ) from error
    return HeldTensors(path, network.state_dict())
