"""The text encoder's part of a conversion: weights, tokenizer and what it makes of the empty prompt."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from magicanimate.checkpoints.layout import Part
from magicanimate.checkpoints.reading import open_weights
from magicanimate.checkpoints.single_file import open_single_file
from magicanimate.checkpoints.writing import Source
from magicanimate.errors import InputError
from magicanimate.files import LARGEST_JSON, parse_json, read_text, write_json
from magicanimate.models.prompt import EmptyPrompt


def text_sources(part: Part, config: dict[str, Any]) -> dict[str, Source]:
    """The text encoder's tensors under their own names, without the numbering of positions."""
    file = open_weights(part.weights)
    if part.single:
        file = open_single_file("text_encoder", part.weights, config)
    return {key: Source(file, key) for key in file if not key.endswith(".position_ids")}


def write_text_config(folder: Path, config: dict[str, Any]) -> None:
    """Write the ``config.json`` of a CLIP text encoder."""
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
    encoder_folder: Path, tokenizer_folder: Path | None, *, part: Part, dtype: torch.dtype | None
) -> EmptyPrompt:
    """The embedding of "" by a converted text encoder, as the published program computes it.

    Args:
        encoder_folder, tokenizer_folder: of the converted pipeline. Without a tokenizer the tokens are those
            of every CLIP: the last but one of the vocabulary begins a text, and the last ends and fills it.
        part: where the encoder came from, for messages.
        dtype: to store it in; float32 when ``None``. It is computed in float32.

    Returns:
        The component: the last hidden state of "" padded to the tokenizer's length.

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
            f"{part.weights.parent} and the tokenizer beside it are not a CLIP text encoder"
            f" ({_short(error)}); download stable-diffusion-v1-5 again."
        ) from error
    _check_loaded(info, part)
    length, vocabulary = encoder.config.max_position_embeddings, encoder.config.vocab_size
    if tokenizer is None:
        tokens = torch.tensor([[vocabulary - 2] + (length - 1) * [vocabulary - 1]])
    else:
        length = min(tokenizer.model_max_length, length)
        filled = {"padding": "max_length", "max_length": length, "truncation": True}
        tokens = tokenizer("", **filled, return_tensors="pt").input_ids
    if int(tokens.max()) >= vocabulary:
        raise InputError(
            f"{part.weights.parent} has {vocabulary} tokens, fewer than the tokenizer beside"
            " it; download stable-diffusion-v1-5 again."
        )
    with torch.inference_mode():
        embedding = encoder.eval()(tokens).last_hidden_state
    prompt = EmptyPrompt(num_tokens=embedding.shape[1], width=embedding.shape[2])
    prompt.embedding = embedding.to(dtype or torch.float32, copy=True)
    return prompt


def _check_loaded(info: dict[str, Any], part: Part) -> None:
    for kind, verb in (("missing_keys", "lacks"), ("unexpected_keys", "holds"), ("mismatched_keys", "holds")):
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info.get(kind, ()))
        if keys:
            why = {
                "missing_keys": "which the text encoder needs",
                "unexpected_keys": "for which the text encoder has no place",
                "mismatched_keys": "whose shape is not that of its config.json",
            }[kind]
            raise InputError(f"{part.weights} {verb} {keys[0]}, {why}; download the file again.")


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Transformers draws a bar for every model it loads, in the middle of ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _short(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:160]
