"""LoRAs for Stable Diffusion 1.5 on the video UNet, and on the text encoder where there is a prompt.

Files of kohya's trainer, of diffusers, of peft and of ComfyUI name the same layers differently. Each name is
looked up among all the names that a layer of the network may have, so that layers without a place are known
by name; diffusers' loaders and peft then add the layers. Motion modules and the appearance encoder stay as
they are: the encoder describes the photo to the UNet, for which a LoRA of a style or of few steps was not
trained.

Letters in shape comments: ``R`` rank, ``I O`` a layer's inputs and outputs, ``h w`` size of a convolution.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicanimate.errors import InputError
from magicanimate.files import listed, shortened

if TYPE_CHECKING:
    import torch

    from magicanimate.checkpoints.weight_files import WeightFile
    from magicanimate.config import AnimationRequest
    from magicanimate.pipeline import MagicAnimatePipeline

log = logging.getLogger(__name__)

MOST_WEIGHT = 10.0
"""Largest weight of a LoRA, of either sign; published ones are used at about 1."""

_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")
_SHOWN = 3  # names of layers in a sentence

_DOWN = re.compile(r"(\.lora_A(\.default)?|[._]lora\.down|\.lora_down|\.lora_linear_layer\.down)\.weight$")
_UP = re.compile(r"(\.lora_B(\.default)?|[._]lora\.up|\.lora_up|\.lora_linear_layer\.up)\.weight$")
_ALPHA = re.compile(r"\.alpha$")

# What only another kind of file has in its names, and what such a file is. The first that is found counts.
_FOREIGN = (
    (r"double_blocks|single_blocks|single_transformer_blocks", "a LoRA for Flux"),
    (r"joint_blocks|^transformer\.", "a LoRA for a diffusion transformer such as Stable Diffusion 3"),
    (r"lora_te2_|text_encoder_2\.|label_emb|add_embedding", "a LoRA for Stable Diffusion XL"),
    (r"transformer_blocks[._][2-9]", "a LoRA for Stable Diffusion XL"),
    (r"motion_modules", "a motion LoRA of AnimateDiff, whose temporal layers are not those of MagicAnimate"),
    (r"^lora_controlnet|^control_model\.", "a ControlNet"),
    (r"^model\.diffusion_model\.", "a whole checkpoint, which `convert --base` takes"),
    (r"\.hada_w|\.lokr_w", "a LoHa or LoKr (LyCORIS), which is not read"),
    (r"dora_scale|lora_magnitude_vector", "a DoRA, which is not read"),
    (r"^string_to_param|^emb_params", "a textual inversion"),
)
_BY_TEXT_WIDTH = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
# Files for few steps, by what their names or metadata say. Lightning and turbo are also words for styles, so
# they count together with a number of steps only.
_FEW_STEPS = re.compile(r"lcm(?![a-z])|(?<![a-z])hyper[-_ ]?sd|(?<![a-z])tcd(?![a-z])", re.IGNORECASE)
_PERHAPS_FEW = re.compile(r"lightning|turbo", re.IGNORECASE)
_STEPS = re.compile(r"(\d+)[-_ ]?steps?", re.IGNORECASE)
_GUIDED = re.compile(r"(?<![a-z])cfg(?![a-z])", re.IGNORECASE)  # few steps, but with guidance
_NAMELESS = "pytorch_lora_weights"  # the name that diffusers gives to every file
_USUAL_FEW = 4
FEW_STEPS_SCHEDULER = "LCMScheduler"


@dataclass(frozen=True)
class Lora:
    """A file and how strongly it is applied."""

    file: Path
    weight: float = 1.0


def parse(text: str) -> Lora:
    """``style.safetensors:0.8`` -> file and weight; without a weight it is 1.

    Raises:
        InputError: the weight cannot be used.
    """
    name, colon, number = text.rpartition(":")
    try:
        weight = float(number)
    except ValueError:
        return Lora(Path(text))  # a colon of its name, or of a drive
    # A file whose own name ends in a colon and a number is meant before a weight.
    if not colon or Path(text).is_file():
        return Lora(Path(text))
    if not abs(weight) <= MOST_WEIGHT:  # also refuses "not a number"
        raise InputError(
            f"The LoRA {shortened(name)} has the weight {number}; choose {-MOST_WEIGHT:g} to {MOST_WEIGHT:g}."
        )
    return Lora(Path(name), weight)


def folder() -> Path:
    """Where the page looks for LoRAs: ``loras`` in the folder of this program's data."""
    from magicanimate.checkpoints.disk import home

    return home() / "loras"


def choices() -> list[str]:
    """Names of the LoRAs in `folder`, those in folders of their own with these before them."""
    files = (file for file in folder().rglob("*") if file.suffix in _SUFFIXES and file.is_file())
    return sorted(file.relative_to(folder()).as_posix() for file in files)


def in_folder(texts: Sequence[str]) -> tuple[str, ...]:
    """LoRAs of `folder` by their names, with the paths that `parse` takes; weights are kept.

    Raises:
        InputError: a name is none of `choices`, so that nobody reads other files by way of the page.
    """
    known, found = choices(), []
    for text in texts:
        name, weight = _name_and_weight(text, known)
        if name is None:
            raise InputError(
                f"There is no LoRA {shortened(text)}; choose one of the folder {folder().name}, perhaps with "
                "a weight behind it, such as style.safetensors:0.7."
            )
        found.append(f"{folder() / name}:{weight:g}")
    return tuple(found)


def by_name(texts: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The inverse of `in_folder`: names, and a sentence on each that is not there any more."""
    names, gone = [], []
    for lora in map(parse, texts):
        # A video that was handed on names the file without its folder.
        file = lora.file if lora.file.is_relative_to(folder()) else folder() / lora.file.name
        if file.is_file():
            name = file.relative_to(folder()).as_posix()
            names.append(name if lora.weight == 1 else f"{name}:{lora.weight:g}")
        else:
            gone.append(f"The LoRA {lora.file.name} is not in the folder of LoRAs; it was left out.")
    return names, tuple(gone)


def _name_and_weight(text: str, known: Sequence[str]) -> tuple[str | None, float]:
    """Which of the known files is meant, with or without its suffix."""
    # A name without its suffix is what people write and what settings of older results hold.
    without = {str(Path(name).with_suffix("").as_posix()): name for name in known}
    lora = parse(text)
    name = lora.file.as_posix()
    return (name if name in known else without.get(name)), lora.weight


def check_loras(texts: Sequence[str]) -> None:
    """Refuse LoRAs that cannot be used, before anything is loaded.

    Raises:
        InputError: a file is missing, a weight is out of range, or peft is not installed.
    """
    for lora in map(parse, texts):
        if not lora.file.is_file():
            raise InputError(f"The LoRA {shortened(str(lora.file))} is not a file; check its path.")
    if texts and importlib.util.find_spec("peft") is None:
        raise InputError(
            "LoRAs need the package peft, which is not installed; run `pip install -r requirements-lora.txt`."
        )


@contextlib.contextmanager
def applied(
    pipe: MagicAnimatePipeline, texts: Sequence[str], *, prompted: bool = True
) -> Iterator[list[str]]:
    """A context in which a placed pipeline has LoRAs; afterwards its modules are those of before.

    Only with a prompt the text encoder gets its part, so that without one the result does not depend on
    whether it happens to be loaded.

    Yields:
        A sentence for each file of which layers were left out.

    Raises:
        InputError: a file cannot be read, or is not a LoRA for this pipeline's networks.
    """
    import torch

    networks = {"unet": pipe.unet, "text_encoder": pipe.text_encoder if prompted else None}
    networks = {name: network for name, network in networks.items() if network is not None}
    # peft freezes the weights that it builds upon.
    learned = [(p, p.requires_grad) for network in networks.values() for p in network.parameters()]
    try:
        loras, weights = list(map(parse, texts)), dict[str, dict[str, float]]()
        files = [_read(lora.file, networks) for lora in loras]  # all of them before a layer has another name
        for number, (lora, (found, _)) in enumerate(zip(loras, files, strict=True)):
            # Both networks take an adapter of the same name, so that each file has one weight.
            for component in networks.keys() & found.keys():
                name = f"lora_{number}"
                _inject(component, networks[component], found[component], name)
                weights.setdefault(component, {})[name] = lora.weight
        for component, chosen in weights.items():
            _weigh(networks[component], chosen)
        yield [note for _, note in files if note]
    finally:
        for network in networks.values():
            # Also after an error half way: some layers may be adapted already.
            _take_out(network)
        with torch.inference_mode():  # weights in 8 bits are made anew in it, and may be set only there
            for parameter, learns in learned:
                parameter.requires_grad_(learns)


def better_settings(request: AnimationRequest) -> dict[str, dict[str, Any]]:
    """The settings that a LoRA for few steps was made with, where the completed request has others.

    Returns:
        Name of the file -> name of the setting in `AnimationRequest` -> its better value.
    """
    found = {}
    for lora in map(parse, request.lora):
        steps = few_steps(lora.file)
        if steps is None:
            continue
        wanted: dict[str, Any] = {}
        if request.scheduler is None:
            wanted["scheduler"] = FEW_STEPS_SCHEDULER
        if request.num_inference_steps is not None and request.num_inference_steps > max(steps, 8):
            wanted["num_inference_steps"] = steps
        # Some LoRAs for few steps were distilled with guidance and keep working with it.
        guided = _GUIDED.search(lora.file.stem)
        if not guided and request.guidance_scale is not None and request.guidance_scale > 2:
            wanted["guidance_scale"] = 1.0
        if wanted:
            found[lora.file.name] = wanted
    return found


def advice(request: AnimationRequest) -> list[str]:
    """A sentence for each of `better_settings`, in words that the page and the command line share."""
    called = {"scheduler": "scheduler", "num_inference_steps": "steps", "guidance_scale": "guidance"}
    return [
        f"{name} was made for few steps; it works best with "
        + ", ".join(f"{called[setting]} {_shown(value)}" for setting, value in wanted.items())
        + "."
        for name, wanted in better_settings(request).items()
    ]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def few_steps(file: Path) -> int | None:
    """Steps that a LoRA was made for, by its name and metadata; ``None`` if it is not one for few steps."""
    name = file.absolute().parent.name if file.stem == _NAMELESS else file.stem
    texts = [name, *_metadata(file).values()]
    named = [int(match[1]) for match in map(_STEPS.search, texts) if match and 1 <= int(match[1]) <= 64]
    if not any(map(_FEW_STEPS.search, texts)) and not (named and any(map(_PERHAPS_FEW.search, texts))):
        return None
    return named[0] if named else _USUAL_FEW


def _metadata(file: Path) -> dict[str, str]:
    """A LoRA's own metadata, under the names of kohya's trainer and of ModelSpec."""
    from safetensors import SafetensorError, safe_open

    if file.suffix != ".safetensors":
        return {}
    try:
        with safe_open(file, framework="pt") as opened:
            said = opened.metadata() or {}
    except (SafetensorError, OSError, ValueError):  # said when it is loaded
        return {}
    names = ("modelspec.title", "modelspec.architecture", "ss_output_name")
    return {name: said[name][:1000] for name in names if name in said}


Layers = dict[str, "tuple[torch.Tensor, torch.Tensor]"]  # layer -> down R I (h w), up O R (1 1)


def _read(file: Path, networks: Mapping[str, Any]) -> tuple[dict[str, Layers], str]:
    """The layers of a file by component, with ``alpha`` worked in, and a sentence on what has no effect.

    Raises:
        InputError: it cannot be read, or is nothing for these networks.
    """
    from magicanimate.checkpoints.weight_files import open_weights

    weights = open_weights(file)
    _refuse_foreign(weights)
    names = _names(networks)
    parts: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    strange = []
    for key in weights:
        kind, layer = _split(key)
        place = names.get(_plain(layer))
        if kind and place and (kind != "alpha" or weights[key].numel() == 1):
            parts.setdefault(place, {})[kind] = weights[key]
        elif "text_encoder" in networks or not _is_text_layer(key):
            strange.append(key)
    found: dict[str, Layers] = {}
    for (component, layer), pair in parts.items():
        if pair.keys() >= {"down", "up"} and _fits(networks, component, layer, pair):
            down, up = pair["down"].float(), pair["up"].float()
            # Files that say no alpha mean that it is the rank.
            scale = pair["alpha"].item() / down.shape[0] if "alpha" in pair else 1.0
            found.setdefault(component, {})[layer] = down, up * scale
        else:
            strange.append(f"{component}.{layer}")
    if not found and any(map(_is_text_layer, weights)) and "text_encoder" not in networks:
        return {}, f"{file.name} is for the text encoder only, and there is no prompt: it has no effect."
    if not found:
        of_what = f" ({listed(strange, _SHOWN)})" if strange else ""
        raise InputError(
            f"{file} holds no layer of this checkpoint's UNet{of_what}; give a LoRA for Stable Diffusion 1.5."
        )
    if not strange:
        return found, ""
    left_out = listed(strange, _SHOWN)
    return (found, f"{file.name} has layers for which there is no place, and which are left out: {left_out}.")


def _refuse_foreign(weights: WeightFile) -> None:
    """Refuse a file that is something else, and say what."""
    for pattern, what in _FOREIGN:
        if any(re.search(pattern, key) for key in weights):
            raise InputError(f"{weights.path} is {what}; give a LoRA for Stable Diffusion 1.5.")


def _fits(networks: Mapping[str, Any], component: str, layer: str, pair: dict[str, torch.Tensor]) -> bool:
    """Whether a layer's two factors have the sizes of the network's layer.

    Raises:
        InputError: the text that it expects is of another model.
    """
    own, down, up = networks[component].get_submodule(layer).weight, pair["down"], pair["up"]
    if component == "unet" and layer.endswith(("attn2.to_k", "attn2.to_v")) and down.shape[1] != own.shape[1]:
        model = _BY_TEXT_WIDTH.get(down.shape[1], "another model")
        raise InputError(
            f"The LoRA is for {model}, whose texts have a width of {down.shape[1]}, and this checkpoint's "
            f"have {own.shape[1]}; give a LoRA that was made for this checkpoint's kind."
        )
    rank = down.shape[0]
    return (
        down.ndim == up.ndim == own.ndim
        and tuple(down.shape[1:]) == tuple(own.shape[1:])
        and tuple(up.shape) == (own.shape[0], rank, *(1 for _ in own.shape[2:]))
    )


def _split(key: str) -> tuple[str, str]:
    """``....to_q.lora_down.weight`` -> ("down", "....to_q"); an empty kind for what is none of a LoRA's."""
    for kind, pattern in (("down", _DOWN), ("up", _UP), ("alpha", _ALPHA)):
        if match := pattern.search(key):
            return kind, key[: match.start()]
    return "", key


def _plain(layer: str) -> str:
    """A layer's name without what the formats put around it; all that parts its words are underscores."""
    layer = layer.replace(".processor.", ".").removeprefix("base_model.model.")
    for prefix in ("unet.", "diffusion_model."):
        layer = layer.removeprefix(prefix)
    plain = layer.replace(".", "_").removeprefix("lora_unet_")
    plain = re.sub(r"^(lora_te1?_|text_encoders_clip_l_transformer_|text_encoder_)", "text_encoder_", plain)
    return re.sub(r"to_out(_lora)?$", "to_out_0", plain)


def _is_text_layer(key: str) -> bool:
    return key.startswith(("lora_te_", "lora_te1_", "text_encoder.", "text_encoders."))


def _names(networks: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Every name that a layer may have, see `_plain` -> component, and what the network calls it."""
    from torch import nn

    from magicanimate.checkpoints.layout import is_motion_key, original_unet_key

    names: dict[str, tuple[str, str]] = {}
    for layer in _layers(networks["unet"], (nn.Linear, nn.Conv2d)):
        if not is_motion_key(f".{layer}."):
            own, original = f"{layer}.weight", original_unet_key(f"{layer}.weight")
            for name in (own, original):
                names[_plain(name.removesuffix(".weight"))] = "unet", layer
    if "text_encoder" in networks:
        for layer in _layers(networks["text_encoder"], (nn.Linear,)):
            # transformers 5 has dropped the "text_model." that files have in front.
            names[_plain(f"text_encoder.text_model.{layer.removeprefix('text_model.')}")] = (
                "text_encoder",
                layer,
            )
    return names


def _layers(network: Any, kinds: tuple[type, ...]) -> Iterable[str]:
    return (name for name, module in network.named_modules() if isinstance(module, kinds))


def _inject(component: str, network: Any, layers: Layers, name: str) -> None:
    """Put the layers of one file into a network, under a name by which it can be weighed."""
    from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from torch import nn

    # As the network computes, which is not how its weights are stored where that takes 8 bits.
    here = {layer: (network.get_submodule(layer).weight.device, network.dtype) for layer in layers}
    cast = {layer: [each.to(*here[layer]) for each in pair] for layer, pair in layers.items()}
    factors = {f"{component}.{layer}.lora_A.weight": down for layer, (down, _) in cast.items()}
    factors |= {f"{component}.{layer}.lora_B.weight": up for layer, (_, up) in cast.items()}
    given = {"network_alphas": None, "adapter_name": name}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several files are meant
        if component == "unet":
            network.load_lora_adapter(factors, prefix="unet", **given)
        else:
            StableDiffusionLoraLoaderMixin.load_lora_into_text_encoder(factors, text_encoder=network, **given)
    for layer, pair in cast.items():
        adapted = network.get_submodule(layer)
        for factor, tensor in zip((adapted.lora_A, adapted.lora_B), pair, strict=True):
            # peft gives its layers the format of the stored weights.
            if factor[name].weight.dtype != tensor.dtype:
                factor[name].weight = nn.Parameter(tensor, requires_grad=False)
    _maybe_remove_and_reapply_group_offloading(network)  # so that the new layers come and go with their block


def _weigh(network: Any, weights: dict[str, float]) -> None:
    """Set how strongly each of the LoRAs in a network counts."""
    from diffusers.utils import set_weights_and_activate_adapters

    set_weights_and_activate_adapters(network, list(weights), list(weights.values()))


def _take_out(network: Any) -> None:
    """Give a network its own layers back."""
    if not hasattr(network, "peft_config"):
        return
    from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading
    from diffusers.utils import recurse_remove_peft_layers

    recurse_remove_peft_layers(network)
    del network.peft_config
    network._hf_peft_config_loaded = False
    _maybe_remove_and_reapply_group_offloading(network)
