"""Convert the published weights to a diffusers pipeline folder, the format of every checkpoint here."""

from __future__ import annotations

import contextlib
import gc
import inspect
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler
from torch import nn

from magicanimate.checkpoints.disk import (
    PIPELINE_CLASS,
    check_replaceable,
    full_folder,
    home,
    require_free,
    staged_folder,
)
from magicanimate.checkpoints.layout import (
    MODEL_INDEX,
    MOTION_LENGTH,
    SCHEDULER,
    ComponentFiles,
    PublishedFiles,
    find_published,
    is_motion_key,
    read_config,
    video_unet_config,
)
from magicanimate.checkpoints.weight_files import (
    DTYPES,
    UNET_PREFIX,
    SomeWeights,
    Source,
    WeightFile,
    match_network,
    open_single_file,
    open_weights,
    position_tables,
    stored_bytes,
    write_weights,
)
from magicanimate.config import OnProgress, Progress, ShouldStop, raise_if_stopped
from magicanimate.errors import InputError, first_line
from magicanimate.files import LARGEST_JSON, Unreadable, parse_json, read_json_object, read_text, write_json
from magicanimate.models.appearance_encoder import AppearanceEncoder
from magicanimate.models.prompt import EmptyPrompt
from magicanimate.models.unet import VideoUNet

NETWORKS: dict[str, type[nn.Module]] = {
    "unet": VideoUNet,
    "appearance_encoder": AppearanceEncoder,
    "controlnet": ControlNetModel,
    "vae": AutoencoderKL,
}

STEPS, GUIDANCE_SCALE = 25, 7.5  # the published demo's settings


@dataclass(frozen=True)
class _Plan:
    """What a conversion will write, checked before the first byte; sources are released one by one."""

    components: PublishedFiles
    networks: dict[str, nn.Module]
    sources: dict[str, dict[str, Source]]
    text_config: dict[str, Any]
    text: dict[str, Source]
    dtype: torch.dtype | None

    @property
    def nbytes(self) -> int:
        return sum(stored_bytes(sources, self.dtype) for sources in (*self.sources.values(), self.text))


def convert_checkpoint(
    source: str | Path,
    dest: str | Path,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    magicanimate: Path | None = None,
    stable_diffusion: Path | None = None,
    vae: Path | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Path:
    """Convert the published files to a pipeline folder.

    Args:
        source, magicanimate, stable_diffusion, vae: see `magicanimate.checkpoints.layout.find_published`.
        dest: folder to make; it appears when all of it is written.
        dtype: "float32", "float16" or "bfloat16"; ``None`` stores every weight as it is.
        overwrite: replace an earlier pipeline at ``dest``.
        on_progress: gets the stage "convert" in bytes.

    Raises:
        InputError: a file is missing, broken or of another model, the disk is too full, or ``dest`` is
            taken; nothing is left behind.
        Cancelled: ``should_stop()``, called after every tensor, said so; nothing is left behind.
    """
    if stable_diffusion is not None and Path(stable_diffusion).exists():
        require_sd15(Path(stable_diffusion))
    return convert_files(
        lambda: find_published(source, magicanimate=magicanimate, stable_diffusion=stable_diffusion, vae=vae),
        dest,
        dtype=dtype,
        overwrite=overwrite,
        on_progress=on_progress,
        should_stop=should_stop,
    )


def convert_base(base: Path) -> Path:
    """Convert the full model with another base model, in this program's own folder, and return that.

    An earlier conversion of a base model of this name is replaced.

    Raises:
        InputError: ``base`` is no fine-tune of Stable Diffusion 1.5, or the full model is not here yet.
    """
    require_sd15(base)  # before anybody fetches 11 GB for it
    full = full_folder()
    if not (full / MODEL_INDEX).is_file():
        raise InputError(
            "The full model is not here yet, which brings all but the base model; fetch it first (Full, or "
            "--model full)."
        )
    return convert_checkpoint(full, home() / "bases" / base.stem, overwrite=True, stable_diffusion=base)


def convert_files(
    find: Callable[[], PublishedFiles],
    dest: str | Path,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Path:
    """Like `convert_checkpoint`, for files that ``find`` locates."""
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"{dtype!r} is not a weight format; choose one of {', '.join(DTYPES)}.")
    dest = Path(dest)
    # Before anything is read: the mistake is in the command.
    check_replaceable(dest, overwrite=overwrite)
    plan = _plan(find(), DTYPES[dtype] if dtype else None)
    require_free(dest, plan.nbytes, what="the converted checkpoint", fix="free some or choose another disk")
    tick = _ticker(plan.nbytes, on_progress, should_stop)
    with staged_folder(dest) as folder:
        _write(plan, folder, tick)
    return dest


def _plan(components: PublishedFiles, dtype: torch.dtype | None) -> _Plan:
    """Open and check every file."""
    motion = open_weights(components.motion.weights)
    if components.motion.single:  # a converted checkpoint has them among the other layers of its UNet
        motion = SomeWeights(motion, is_motion_key)
    networks, configs = {}, {}
    for name in NETWORKS:
        component = getattr(components, name)
        configs[name] = config = read_config(name, component.config)
        if name == "unet":
            config = video_unet_config(config, motion_length=_motion_length(motion), origin=component.config)
        # On the meta device: names and shapes to check against, without memory.
        networks[name] = empty_network(name, config, origin=component.config)
    # Before the weights are opened: a wrong combination of components is the commonest mistake.
    _check_fit(networks, components)
    sources = {}
    for name, network in networks.items():
        component = getattr(components, name)
        file = open_weights(component.weights)
        if component.single:
            file = open_single_file(name, component.weights, configs[name])
        if name == "unet":
            files = [(file, lambda key: not is_motion_key(key)), (motion, is_motion_key)]
        else:
            files = [(file, lambda key: True)]
        sources[name] = match_network(name, network, files)
    text_config = read_config("text_encoder", components.text_encoder.config)
    # transformers would fail on a damaged tokenizer with an error about something else.
    check_tokenizer(components.tokenizer)
    return _Plan(
        components, networks, sources, text_config, text_sources(components.text_encoder, text_config), dtype
    )


def empty_network(component: str, config: Mapping[str, Any], *, origin: Path | None = None) -> nn.Module:
    """An empty network of a component on torch's meta device: names and shapes that take no memory.

    Entries of ``config`` that the class does not know are left out, as diffusers does; ``origin`` is the file
    it came from, for messages.

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


def _motion_length(motion: WeightFile) -> int:
    """Frames that the temporal layers have positions for, from their tables if the file has any."""
    lengths = {tensor.shape[1] for key in motion if key.endswith(".pe") and (tensor := motion[key]).ndim == 3}
    if len(lengths) > 1:
        raise InputError(
            f"{motion.path} has position tables of several lengths {sorted(lengths)}; use the file as"
            " released."
        )
    return lengths.pop() if lengths else MOTION_LENGTH


def _check_fit(networks: dict[str, nn.Module], components: PublishedFiles) -> None:
    """Check that the networks' widths agree with the UNet's, to which they pass tensors."""
    unet = networks["unet"].config
    for name in ("appearance_encoder", "controlnet"):
        other = networks[name].config
        for field in ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim"):
            if _comparable(other[field]) != _comparable(unet[field]):
                raise InputError(
                    f"{getattr(components, name).config or name} sets {field} to {other[field]} but the UNet "
                    f"has {unet[field]}; use components of one model."
                )
    latent = networks["vae"].config["latent_channels"]
    if latent != unet["in_channels"]:
        raise InputError(
            f"{components.vae.config or 'the VAE'} has {latent} latent channels but the UNet takes"
            f" {unet['in_channels']}; use components of one model."
        )


def _comparable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _ticker(
    total: int, on_progress: OnProgress | None, should_stop: ShouldStop | None
) -> Callable[[int], None]:
    done = 0
    start = time.monotonic()

    def tick(count: int) -> None:
        nonlocal done
        raise_if_stopped(should_stop, "while converting")
        done += count
        if on_progress is not None:
            # Tensors differ a thousandfold in size, so time goes by bytes.
            left = (time.monotonic() - start) / done * (total - done) if done else None
            on_progress(Progress("convert", done, total, left))

    return tick


def _write(plan: _Plan, folder: Path, tick: Callable[[int], None]) -> None:
    _write_text(plan, folder, tick)  # first: what can still be wrong with it shows before gigabytes
    plan.text.clear()
    for name, network in plan.networks.items():
        target = folder / name
        target.mkdir()
        network.save_config(target)
        sources = plan.sources[name]
        write_weights(target, sources, dtype=plan.dtype, tables=position_tables(network), tick=tick)
        sources.clear()  # closes the mapped files, whose pages count as this process's memory
    DDIMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    write_json(folder / MODEL_INDEX, _index(plan))


def _write_text(plan: _Plan, folder: Path, tick: Callable[[int], None]) -> None:
    encoder, tokenizer = folder / "text_encoder", folder / "tokenizer" if plan.components.tokenizer else None
    encoder.mkdir()
    write_text_config(encoder, plan.text_config)
    write_weights(encoder, plan.text, stem="model", dtype=plan.dtype, tick=tick)
    if tokenizer is not None:
        tokenizer.mkdir()
        copy_tokenizer(plan.components.tokenizer, tokenizer)
    prompt = empty_prompt(encoder, tokenizer, component=plan.components.text_encoder, dtype=plan.dtype)
    width = plan.networks["unet"].config["cross_attention_dim"]
    if prompt.config["width"] != width:
        weights, made = plan.components.text_encoder.weights, prompt.config["width"]
        raise InputError(
            f"{weights} makes tokens of width {made}, the UNet takes {width}; use components of one model."
        )
    prompt.save_pretrained(folder / "empty_prompt")
    gc.collect()  # closes the mapped files, without which Windows would not rename the folder
    if tokenizer is None:  # without a tokenizer it is of no use
        shutil.rmtree(encoder)


def _index(plan: _Plan) -> dict[str, Any]:
    """The pipeline's ``model_index.json``: component -> library and class, and the pipeline's settings."""
    vae, unet = plan.networks["vae"].config, plan.networks["unet"].config
    # The size of the latents at which the UNet was trained, times what the VAE enlarges.
    pixels = (unet["sample_size"] or 64) * 2 ** (len(vae["block_out_channels"]) - 1)
    return {
        "_class_name": PIPELINE_CLASS,
        "_diffusers_version": diffusers.__version__,
        "appearance_encoder": ["magicanimate.models.appearance_encoder", "AppearanceEncoder"],
        "controlnet": ["diffusers", "ControlNetModel"],
        "empty_prompt": ["magicanimate.models.prompt", "EmptyPrompt"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"] if plan.components.tokenizer else [None, None],
        "tokenizer": ["transformers", "CLIPTokenizer"] if plan.components.tokenizer else [None, None],
        "unet": ["magicanimate.models.unet", "VideoUNet"],
        "vae": ["diffusers", "AutoencoderKL"],
        "kind": "full",
        "default_width": pixels,
        "default_height": pixels,
        "default_steps": STEPS,
        "default_guidance_scale": GUIDANCE_SCALE,
        "fusion": "midup",
        "driving": "densepose",
    }


def text_sources(component: ComponentFiles, config: dict[str, Any]) -> dict[str, Source]:
    """The text encoder's tensors under their own names, without the numbering of positions."""
    file = open_weights(component.weights)
    if component.single:
        file = open_single_file("text_encoder", component.weights, config)
    return {key: Source(file, key) for key in file if not key.endswith(".position_ids")}


def write_text_config(folder: Path, config: dict[str, Any]) -> None:
    """Write the ``config.json`` of a CLIP text encoder."""
    # Files of the original program name neither, and transformers picks the class by them.
    config = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"} | config
    write_json(folder / "config.json", config)


def check_tokenizer(files: tuple[Path, ...]) -> None:
    """Whether a tokenizer's files can be read, before a library chokes on them.

    Raises:
        InputError: a file is damaged, or merges make tokens that the vocabulary lacks.
    """
    texts = {}
    for file in files:
        try:
            texts[file.name] = read_text(file, most=LARGEST_JSON)
            content = parse_json(texts[file.name]) if file.suffix == ".json" else {}
        except ValueError as error:
            raise InputError(f"{file} is damaged; download stable-diffusion-v1-5 again.") from error
        if not isinstance(content, dict):
            raise InputError(f"{file} is not a tokenizer's file; download stable-diffusion-v1-5 again.")
    if {"vocab.json", "merges.txt"} <= texts.keys():
        vocabulary = parse_json(texts["vocab.json"])
        # A merge to a token that is missing would show only when a prompt needs it.
        for merge in texts["merges.txt"].rstrip().split("\n"):
            if merge.startswith("#version"):
                continue
            if not {*merge.split(" "), merge.replace(" ", "")} <= vocabulary.keys() or merge.count(" ") != 1:
                raise InputError(
                    f"merges.txt in {files[0].parent} does not fit vocab.json at {merge!r}; download"
                    " stable-diffusion-v1-5 again."
                )


def copy_tokenizer(files: tuple[Path, ...], folder: Path) -> None:
    """Copy a tokenizer's files as they are."""
    for file in files:
        shutil.copyfile(file, folder / file.name)


def empty_prompt(
    encoder_folder: Path,
    tokenizer_folder: Path | None,
    *,
    component: ComponentFiles,
    dtype: torch.dtype | None,
) -> EmptyPrompt:
    """What a converted text encoder makes of "", as the published program computes it.

    Args:
        encoder_folder, tokenizer_folder: of the converted pipeline. Without a tokenizer the tokens are those
            of every CLIP: the last but one of the vocabulary begins a text, and the last ends and fills it.
        component: where the encoder came from, for messages.
        dtype: to store it in; float32 when ``None``. It is computed in float32.

    Raises:
        InputError: weights and configuration, or the tokenizer, do not fit together.
    """
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        with _no_progress_bars():
            tokenizer = None
            if tokenizer_folder is not None:
                tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
            encoder, info = CLIPTextModel.from_pretrained(
                encoder_folder,
                local_files_only=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{component.weights.parent} and the tokenizer beside it are not a CLIP text encoder"
            f" ({first_line(error)}); download stable-diffusion-v1-5 again."
        ) from error
    _check_loaded(info, component)
    length, vocabulary = encoder.config.max_position_embeddings, encoder.config.vocab_size
    if tokenizer is None:
        tokens = torch.tensor([[vocabulary - 2] + (length - 1) * [vocabulary - 1]])
    else:
        # Tokenizers without a limit of their own claim 10^30 tokens.
        length = min(tokenizer.model_max_length, length)
        filled = {"padding": "max_length", "max_length": length, "truncation": True}
        tokens = tokenizer("", **filled, return_tensors="pt").input_ids
    if int(tokens.max()) >= vocabulary:
        raise InputError(
            f"{component.weights.parent} has {vocabulary} tokens, fewer than the tokenizer beside"
            " it; download stable-diffusion-v1-5 again."
        )
    with torch.inference_mode():
        embedding = encoder.eval()(tokens).last_hidden_state
    # Stored, so that animations without a prompt need no text encoder in memory.
    prompt = EmptyPrompt(num_tokens=embedding.shape[1], width=embedding.shape[2])
    prompt.embedding = embedding.to(dtype or torch.float32, copy=True)
    return prompt


def _check_loaded(info: dict[str, Any], component: ComponentFiles) -> None:
    for kind, verb in (("missing_keys", "lacks"), ("unexpected_keys", "holds"), ("mismatched_keys", "holds")):
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info.get(kind, ()))
        if keys:
            why = {
                "missing_keys": "which the text encoder needs",
                "unexpected_keys": "for which the text encoder has no place",
                "mismatched_keys": "whose shape is not that of its config.json",
            }[kind]
            raise InputError(f"{component.weights} {verb} {keys[0]}, {why}; download the file again.")


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """A context without transformers' progress bars, which would appear in the middle of ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


# By these names and sizes other models are known. Sources: the state dicts of CompVis/stable-diffusion (1.x
# and its inpainting), Stability-AI/stablediffusion (2.x, OpenCLIP), Stability-AI/generative-models (XL),
# timothybrooks/instruct-pix2pix and black-forest-labs/flux, and the config.json files of their folders.
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
    """Refuse a base model, single file or folder, that is not a fine-tune of Stable Diffusion 1.5.

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
    # In this order, since a file of one kind may contain the names of another.
    for pattern, what in _BY_NAME:
        if any(re.search(pattern, key) for key in weights):
            return what
    # Names are alike in Stable Diffusion 1 and 2, so widths have to tell them apart.
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
    # Two models may have equal networks and predict different things.
    scheduler = _config(folder / "scheduler" / "scheduler_config.json")
    by_sizes = _by_sizes(channels=unet.get("in_channels"), text=unet.get("cross_attention_dim"))
    return by_sizes or (_VELOCITY if scheduler.get("prediction_type") == "v_prediction" else None)


def _by_sizes(*, channels: Any, text: Any) -> str | None:
    """Name the kind of model by its UNet's input channels and text width."""
    return (_BY_CHANNELS.get(channels) if isinstance(channels, int) else None) or (
        _BY_TEXT_WIDTH.get(text) if isinstance(text, int) else None
    )


def _config(file: Path) -> dict[str, Any]:
    """A configuration, empty if there is none; what is wrong with it is said when it is used."""
    try:
        return read_json_object(file) if file.exists() else {}
    except Unreadable:
        return {}
