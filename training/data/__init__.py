"""Training data: sets of videos and images, what is drawn from them, and the samples a stage learns from.

``sources`` says what a set is; ``dancers``, ``videos``, ``images`` and ``shards`` are the kinds there are,
``opening`` finds out which of them a folder holds. ``draws`` has everything that is left to chance,
``samples`` puts the tensors together. ``python -m training.data --help`` prepares and checks folders.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "DancerData": "dancers",
    "pack": "dancers",
    "encode_all": "latents",
    "step_generator": "draws",
    "jitter_colours": "tensors",
    "to_control": "tensors",
    "to_images": "tensors",
}


def __getattr__(name: str) -> Any:
    """The names used most, from their modules; torch is loaded with the first one that needs it."""
    if name in _HOMES:
        return getattr(import_module(f"training.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
