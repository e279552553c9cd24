"""Where the published files lie: the folders of MagicAnimate's instructions, found with some tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from magicanimate.errors import InputError

SAFETENSORS = (".safetensors",)
PICKLES = (".bin", ".ckpt", ".pth", ".pt")
INDEX = ".index.json"
CONFIG = "config.json"
TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Names under which diffusers and transformers save weights, without variant and suffix.
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_SUFFIXES = tuple(f"{suffix}{index}" for suffix in SAFETENSORS + PICKLES for index in ("", INDEX))

# Part -> folders it may lie in, the published one first.
FOLDERS: dict[str, tuple[str, ...]] = {
    "appearance_encoder": ("MagicAnimate/appearance_encoder", "appearance_encoder"),
    "controlnet": ("MagicAnimate/densepose_controlnet", "densepose_controlnet"),
    "motion": ("MagicAnimate/temporal_attention", "temporal_attention"),
    "unet": ("stable-diffusion-v1-5/unet",),
    "text_encoder": ("stable-diffusion-v1-5/text_encoder",),
    "tokenizer": ("stable-diffusion-v1-5/tokenizer",),
    "vae": ("sd-vae-ft-mse",),
}


@dataclass(frozen=True)
class Part:
    """One network's files.

    Attributes:
        weights: what `magicanimate.checkpoints.reading.open_weights` opens.
        config: its ``config.json``; Stable Diffusion 1.5's sizes are meant when there is none.
    """

    weights: Path
    config: Path | None = None


@dataclass(frozen=True)
class PublishedParts:
    """All files that make up the full model.

    Attributes:
        unet, text_encoder: of Stable Diffusion 1.5.
        tokenizer: its files, copied as they are.
        vae: sd-vae-ft-mse.
        appearance_encoder, controlnet, motion: of MagicAnimate; ``motion`` are the temporal layers.
    """

    unet: Part
    motion: Part
    appearance_encoder: Part
    controlnet: Part
    vae: Part
    text_encoder: Part
    tokenizer: tuple[Path, ...]


def looks_published(folder: Path) -> bool:
    """Whether a folder holds any part of the published layout."""
    return any(_folders(folder, part) for part in FOLDERS)


def find_parts(source: str | Path) -> PublishedParts:
    """Find the published files in a folder.

    Args:
        source: folder with ``MagicAnimate``, ``stable-diffusion-v1-5`` and ``sd-vae-ft-mse`` in it, or
            the ``pretrained_models`` folder's parent.

    Raises:
        InputError: the folder or a part is missing; the sentence names every missing part.
    """
    source = Path(source)
    if not source.is_dir():
        raise InputError(f"{source} is not a folder; give the one that holds MagicAnimate's published files.")
    found, missing = {}, []
    for part in FOLDERS:
        found[part] = _tokenizer_files(source) if part == "tokenizer" else _find_part(source, part)
        if not found[part]:
            missing.append(_expected(part))
    if missing:
        raise InputError(
            f"{source} lacks {', '.join(missing)}; put them there or let `--model full` fetch everything."
        )
    return PublishedParts(**found)


def choose_weights(names: set[str]) -> str | None:
    """The one weight file to read among the file names of a part's folder; ``None`` if there is none.

    Safetensors come before pickles, full precision before the fp16 variant, known names before others.
    """
    for variant in ("", ".fp16"):
        for suffix in _SUFFIXES:
            for stem in STEMS:
                if f"{stem}{variant}{suffix}" in names:
                    return f"{stem}{variant}{suffix}"
    rest = sorted(name for name in names if name.endswith(SAFETENSORS + PICKLES))
    return rest[0] if len(rest) == 1 else None


def _folders(source: Path, part: str) -> list[Path]:
    places = [base / name for base in (source, source / "pretrained_models") for name in FOLDERS[part]]
    return [place for place in places if place.is_dir()]


def _find_part(source: Path, part: str) -> Part | None:
    for folder in _folders(source, part):
        name = choose_weights({path.name for path in folder.iterdir()})
        if name is not None:
            config = folder / CONFIG
            return Part(folder / name, config if config.is_file() else None)
    return None


def _tokenizer_files(source: Path) -> tuple[Path, ...]:
    for folder in _folders(source, "tokenizer"):
        files = {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}
        if "tokenizer.json" in files or {"vocab.json", "merges.txt"} <= files.keys():
            return tuple(files.values())
    return ()


def _expected(part: str) -> str:
    """How a missing part is called."""
    folder = FOLDERS[part][0]
    if part == "tokenizer":
        return f"{folder} (vocab.json and merges.txt)"
    return f"{folder}/temporal_attention.ckpt" if part == "motion" else f"the weights in {folder}"
