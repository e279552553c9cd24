"""Find the published files: in the folders of MagicAnimate's instructions, or where other programs keep them.

The three repositories may lie side by side, in ``pretrained_models``, under their owners' names, in the Hub
library's cache or where ComfyUI has them; Stable Diffusion and the VAE may be single files. The second half
of this file has the names of the weights in them, what diffusers calls the same tensors, and the networks'
configurations where no file says them. Nothing here opens a file of weights or needs torch.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicanimate.errors import InputError
from magicanimate.files import Unreadable, read_json_object

log = logging.getLogger(__name__)

SAFETENSORS = (".safetensors",)
PICKLES = (".ckpt", ".bin", ".pth", ".pt")
INDEX = ".index.json"
INDICES = (INDEX, ".index.fp16.json")
CONFIG = "config.json"
MODEL_INDEX = "model_index.json"
TOKENIZER_FILES = (
    *("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json"),
)
# Names under which diffusers and transformers save weights, without variant and suffix, and the released one.
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model", "temporal_attention")

# Component -> repository it belongs to, and its folder there.
_PLACES: dict[str, tuple[str, str]] = {
    "appearance_encoder": ("magicanimate", "appearance_encoder"),
    "controlnet": ("magicanimate", "densepose_controlnet"),
    "motion": ("magicanimate", "temporal_attention"),
    "unet": ("stable_diffusion", "unet"),
    "text_encoder": ("stable_diffusion", "text_encoder"),
    "tokenizer": ("stable_diffusion", "tokenizer"),
    "vae": ("vae", ""),
}
# Component -> its folder in a checkpoint that was converted before; a base model brings the others.
_CONVERTED = {
    "appearance_encoder": "appearance_encoder",
    "controlnet": "controlnet",
    "motion": "unet",
    "vae": "vae",
    "tokenizer": "tokenizer",
}
# Repository -> names its folder may have, the published one first; ``*`` is any name.
FOLDERS: dict[str, tuple[str, ...]] = {
    "magicanimate": (
        "MagicAnimate",
        "zcxu-eric/MagicAnimate",
        "models--zcxu-eric--MagicAnimate/snapshots/*",
        "",
    ),
    "stable_diffusion": (
        "stable-diffusion-v1-5",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "runwayml/stable-diffusion-v1-5",
        "models--stable-diffusion-v1-5--stable-diffusion-v1-5/snapshots/*",
        "models--runwayml--stable-diffusion-v1-5/snapshots/*",
    ),
    "vae": ("sd-vae-ft-mse", "stabilityai/sd-vae-ft-mse", "models--stabilityai--sd-vae-ft-mse/snapshots/*"),
}
# Repository -> single files that hold the same, released by the same people.
SINGLE_FILES: dict[str, tuple[str, ...]] = {
    "stable_diffusion": ("v1-5-pruned-emaonly", "v1-5-pruned-emaonly-fp16", "v1-5-pruned"),
    "vae": ("vae-ft-mse-840000-ema-pruned",),
}
_BASES = ("", "pretrained_models", "models", "models/diffusers", "custom_nodes/*/pretrained_models")
_SINGLE_BASES = ("", "checkpoints", "vae", "models/checkpoints", "models/vae", "pretrained_models")


@dataclass(frozen=True)
class ComponentFiles:
    """One network's files."""

    weights: Path  # what `magicanimate.checkpoints.weight_files.open_weights` opens
    # Its ``config.json``; Stable Diffusion 1.5's sizes are meant when there is none.
    config: Path | None = None
    # Whether the file may hold several networks: one of the original format, or, for the temporal layers,
    # that of a converted UNet.
    single: bool = False


@dataclass(frozen=True)
class PublishedFiles:
    """All files that make up the full model."""

    unet: ComponentFiles  # of Stable Diffusion 1.5
    motion: ComponentFiles
    appearance_encoder: ComponentFiles  # of MagicAnimate; ``motion`` are the temporal layers
    controlnet: ComponentFiles
    vae: ComponentFiles  # sd-vae-ft-mse
    text_encoder: ComponentFiles  # of Stable Diffusion 1.5
    # Its files, copied as they are; none if Stable Diffusion is a single file and they are nowhere near.
    # Then the checkpoint takes no prompt.
    tokenizer: tuple[Path, ...]


def looks_published(folder: Path) -> bool:
    """Whether a folder holds any component of the published layout."""
    search = _Search(folder, {})
    return any(place.is_dir() for component in _PLACES for place in search.folders(component))


def find_published(
    source: str | Path,
    *,
    magicanimate: Path | None = None,
    stable_diffusion: Path | None = None,
    vae: Path | None = None,
) -> PublishedFiles:
    """Find the published files.

    Args:
        source: folder in which the repositories are looked for, see `FOLDERS` and `SINGLE_FILES`; or a
            converted checkpoint, which has all but ``stable_diffusion``.
        magicanimate, stable_diffusion, vae: folder of a repository, wherever it is and whatever it is called;
            of the latter two also a single file.

    Raises:
        InputError: a folder or a component is missing; the sentence names each of them, and where it was
            looked for.
    """
    source = Path(source)
    places = {"magicanimate": magicanimate, "stable_diffusion": stable_diffusion, "vae": vae}
    given = {name: Path(path) for name, path in places.items() if path is not None}
    if not source.is_dir():
        raise InputError(f"{source} is not a folder; give the one that holds MagicAnimate's published files.")
    for name, path in given.items():
        if not path.is_dir() and not (path.is_file() and name in SINGLE_FILES):
            kind = "file or folder" if name in SINGLE_FILES else "folder"
            raise InputError(f"{path}, given as {_option(name)}, is not a {kind}; check the path.")
    # All components are searched before an error, so that one message names everything that is missing.
    search, missing = _Search(source, given), []
    if search.is_converted and "stable_diffusion" not in given:
        raise InputError(f"{source} is converted already; say with --base for which base model it is wanted.")
    found: dict[str, Any] = {}
    for component in _PLACES:
        found[component] = search.tokenizer() if component == "tokenizer" else search.component(component)
        if (
            component == "tokenizer"
            and not found[component]
            and found["text_encoder"]
            and found["text_encoder"].single
        ):
            log.warning(
                "%s holds no tokenizer, and there is none (%s): the checkpoint will take no prompt; put "
                "vocab.json and merges.txt there, and convert again, if you need prompts",
                found["text_encoder"].weights,
                search.why_not(component),
            )
        elif not found[component]:
            missing.append(f"{_expected(component)} ({search.why_not(component)})")
    if missing:
        options = ", ".join(map(_option, FOLDERS))
        raise InputError(
            f"{source} lacks {'; '.join(missing)}. Put them there, say where they are with {options}, or let "
            "`--model full` fetch everything."
        )
    return PublishedFiles(**found)


def published_folder(component: str) -> str:
    """Where a component is in the layout of MagicAnimate's instructions."""
    repository, below = _PLACES[component]
    return "/".join(filter(None, (FOLDERS[repository][0], below)))


def choose_weights(names: set[str]) -> str | None:
    """The one weight file to read among the file names of a component's folder; ``None`` if there is none.

    Safetensors come before pickles, full precision before the fp16 variant, known names before others.
    """
    # The order of the loops is the order of preference.
    for variant in ("", ".fp16"):
        for suffix in SAFETENSORS + PICKLES:
            for stem in STEMS:
                for name in (
                    f"{stem}{variant}{suffix}",
                    f"{stem}{variant}{suffix}{INDEX}",
                    f"{stem}{suffix}.index{variant}.json",
                ):
                    if name in names:
                        return name
    # A single file of unknown name can only be the one that is meant.
    rest = [name for name in names if name.endswith(SAFETENSORS + PICKLES)]
    return rest[0] if len(rest) == 1 else None


@dataclass(frozen=True)
class _Search:
    """Searches a folder for components."""

    source: Path  # where, for repositories that are not given
    given: dict[str, Path]  # repository -> its folder, or its single file

    @property
    def is_converted(self) -> bool:
        """Whether the source is a checkpoint of this program."""
        return (self.source / MODEL_INDEX).is_file() and (self.source / "appearance_encoder").is_dir()

    def folders(self, component: str) -> Iterator[Path]:
        """Folders in which a component may be, existing or not."""
        repository, below = _PLACES[component]
        given = self.given.get(repository)
        if given is not None:
            yield given / below
            if repository == "magicanimate":
                yield given / "MagicAnimate" / below
        else:
            for pattern in self._patterns(component):
                yield from self._matching(pattern)
            if self.is_converted and component in _CONVERTED:
                yield self.source / _CONVERTED[component]
        # MagicAnimate's instructions name sd-vae-ft-mse, so this is tried last.
        if component == "vae":  # Stable Diffusion has one of its own
            for folder in self.folders("unet"):
                yield folder.with_name("vae")

    def _patterns(self, component: str) -> list[str]:
        repository, below = _PLACES[component]
        pieces = ((base, name, below) for base in _BASES for name in FOLDERS[repository])
        return ["/".join(filter(None, each)) for each in pieces]

    def _matching(self, pattern: str) -> list[Path]:
        """Paths below the source; of several snapshots in a cache the newest goes first."""
        if "*" not in pattern:
            return [self.source / pattern]
        return sorted(self.source.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)

    def component(self, component: str) -> ComponentFiles | None:
        given = self.given.get(_PLACES[component][0])
        # A file that the user names is taken, whatever else is there.
        if given is not None and given.is_file():
            return ComponentFiles(given, single=True)
        for folder in self.folders(component):
            if not folder.is_dir():
                continue
            name = choose_weights({path.name for path in folder.iterdir()})
            if name is not None:
                config = folder / CONFIG
                converted = self.is_converted and folder.parent == self.source
                if component == "vae" and folder.name == "vae" and not converted:
                    log.warning(
                        "sd-vae-ft-mse was not found; Stable Diffusion's own VAE, %s, is used", folder
                    )
                return ComponentFiles(
                    folder / name,
                    config if config.is_file() else None,
                    single=component == "motion" and converted,
                )
        return self._single_file(component)

    def _single_file(self, component: str) -> ComponentFiles | None:
        """A component inside a single file; Stable Diffusion's holds a VAE as well."""
        repositories = {"vae": ("vae", "stable_diffusion")}.get(component, (_PLACES[component][0],))
        for repository in repositories:
            for path in self._single_paths(repository):
                if path.is_file():
                    return ComponentFiles(path, single=True)
        return None

    def _single_paths(self, repository: str) -> Iterator[Path]:
        given = self.given.get(repository)
        if given is not None and given.is_file():
            yield given
            return
        # Other programs keep single files in folders by kind, not by repository.
        bases = [self.source / base for base in _SINGLE_BASES] if given is None else [given]
        if given is None and repository in SINGLE_FILES:
            bases += [place for name in FOLDERS[repository] for place in self._matching(name)]
        for base in bases:
            for stem in SINGLE_FILES.get(repository, ()):
                for suffix in SAFETENSORS + PICKLES[:2]:
                    yield base / f"{stem}{suffix}"

    def _tokenizer_folders(self) -> list[Path]:
        """Folders in which a tokenizer may be: also beside a single file, which holds none."""
        given = self.given.get("stable_diffusion")
        # All fine-tunes have the tokenizer of the original.
        others = [self.source / "tokenizer", self.source / FOLDERS["stable_diffusion"][0] / "tokenizer"]
        if given is not None and given.is_file():
            return [given.parent / "tokenizer", given.parent, *others]
        return [*self.folders("tokenizer"), *others]

    def tokenizer(self) -> tuple[Path, ...]:
        for folder in self._tokenizer_folders():
            files = {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}
            if "tokenizer.json" in files or {"vocab.json", "merges.txt"} <= files.keys():
                return tuple(files.values())
        return ()

    def why_not(self, component: str) -> str:
        """Where a component was searched, and what was found instead."""
        searched = [folder for folder in dict.fromkeys(self.folders(component)) if folder.is_dir()]
        for folder in searched:
            weights = sorted(path.name for path in folder.iterdir() if path.suffix in SAFETENSORS + PICKLES)
            if len(weights) > 1:
                return f"{folder} holds {', '.join(weights)}, none of them under a known name; leave one"
        repository = _PLACES[component][0]
        if repository in self.given and component == "tokenizer":
            return f"looked for in {', '.join(map(str, dict.fromkeys(self._tokenizer_folders())))}"
        if repository in self.given:
            return f"looked for in {', '.join(map(str, dict.fromkeys(self.folders(component))))}"
        places = [*self._patterns(component), *(["tokenizer"] if component == "tokenizer" else [])]
        text = f"looked for in {', '.join(filter(None, places))}"
        if repository in SINGLE_FILES and component != "tokenizer":
            files = ", ".join(f"{stem}.safetensors" for stem in SINGLE_FILES[repository])
            text += f", and for {files} in {', '.join(filter(None, _SINGLE_BASES))}"
        return text


def _option(repository: str) -> str:
    return f"--{repository.replace('_', '-')}"


def _expected(component: str) -> str:
    """What messages call a missing component."""
    folder = published_folder(component)
    if component == "tokenizer":
        return f"{folder}: vocab.json and merges.txt"
    return f"{folder}/temporal_attention.ckpt" if component == "motion" else f"the weights in {folder}"


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

# The original program's names of the parts of a residual block, and of the layers outside the blocks.
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
    # diffusers numbers attentions and norms from 1 in their names, the release from 0 in lists.
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
        # The first of the input blocks is the convolution in front, so theirs are counted from 1.
        block = 3 * level + number + (words[0] == "down_blocks")
        side = "input" if words[0] == "down_blocks" else "output"
        place = f"{side}_blocks.{block}.{what == 'attentions':d}"
    # Only residual blocks have parts with other names; attentions are called alike.
    if "resnets" in words:
        rest = [_ORIGINAL_RESNET[rest[0]], *rest[1:]]
    return ".".join([place, *rest])


def vae_key(published: str) -> str:
    """Diffusers' present name of an autoencoder weight, also of files saved by old versions."""
    key = strip_prefixes(published)
    return _OLD_VAE_KEY.sub(lambda match: f"{match[1]}.{_OLD_VAE_ATTENTION[match[2]]}.", key)


def convert_key(component: str, published: str) -> str | None:
    """The key of one weight in this program's network; ``None`` when the network does not store it.

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
    # Training programs wrap the weights, some of them twice.
    inner = state.get("state_dict") if "state_dict" in state else None
    return unwrap(inner) if isinstance(inner, Mapping) else state


# The temporal layers' file has no config.json: 24 positions unless its tables say otherwise, 8 heads.
MOTION_LENGTH = 24
MOTION_HEADS = 8

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
    *("sample_size", "in_channels", "out_channels", "block_out_channels", "layers_per_block"),
    *("downsample_padding", "mid_block_scale_factor", "act_fn", "norm_num_groups", "norm_eps"),
    *("cross_attention_dim", "use_linear_projection"),
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
        spatial: of the 2-D UNet; its ``attention_head_dim`` counts heads, not widths.
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
