"""The text encoder of a checkpoint, loaded only when somebody writes a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from magicanimate.checkpoints.disk import read_model_index
from magicanimate.errors import InputError

if TYPE_CHECKING:
    import torch

    from magicanimate.pipeline import MagicAnimatePipeline


def add_text_encoder(pipe: MagicAnimatePipeline, folder: Path, *, device: str, dtype: torch.dtype) -> None:
    """Give a pipeline the text encoder and tokenizer of its folder; once is enough.

    Raises:
        InputError: the checkpoint has none (the mini), or its files cannot be read.
    """
    if pipe.text_encoder is not None:
        return
    index = read_model_index(folder)
    parts = index.get("text_encoder")
    if not (isinstance(parts, list) and parts and parts[0]):
        raise InputError(
            f"The checkpoint {index['kind']!r} understands no text; leave prompt and negative prompt empty."
        )
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"The text encoder in {folder} cannot be read ({type(error).__name__}); convert it again."
        ) from error
    pipe.register_modules(text_encoder=encoder.to(device), tokenizer=tokenizer)
