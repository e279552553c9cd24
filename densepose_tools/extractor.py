"""Load an extractor of any of `densepose_tools.engines`: ``load_extractor``.

The engine "auto" is detectron2 where it can be imported, else torch; mini, with a warning, if the released
weights are neither here nor to be had.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from densepose_tools.engines import (
    Detectron2Extractor,
    Extractor,
    MiniExtractor,
    Selection,
    TorchExtractor,
)
from densepose_tools.segmenter import DEFAULT_FOLDER, is_segmenter
from magicanimate.config import OnProgress, ShouldStop
from magicanimate.errors import InputError

log = logging.getLogger(__name__)

ENGINES = ("auto", "detectron2", "torch", "mini")

_RETRIES = (1.0, 2.0)
"""Seconds between attempts to fetch the weights where the mini can stand in for them."""


def load_extractor(
    engine: str = "auto",
    *,
    weights: Path | None = None,
    device: str | None = None,
    selection: Selection | None = None,
    offline: bool = False,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Extractor:
    """Make an extractor ready.

    Args:
        engine: one of ``ENGINES``; see the top of this file.
        weights: the released ``model_final_162be9.pkl`` or its converted copy; fetched when ``None``. For
            the engine mini the folder of a part segmenter.
        device: "cuda", "cuda:1", "mps" or "cpu"; the best when ``None``.
        selection: whom to report.
        offline: fetch nothing.
        on_progress: told of "download" and "convert".
        should_stop: asked while fetching.

    Raises:
        InputError: an unknown engine, one that is not installed, weights that cannot be used or had.
        Cancelled: ``should_stop()`` said so.
    """
    if engine not in ENGINES:
        raise InputError(f"The engine {engine!r} is unknown; choose one of: {', '.join(ENGINES)}.")
    selection = selection or Selection()
    if engine == "mini":
        return MiniExtractor.load(weights or DEFAULT_FOLDER, device=device)
    if engine == "detectron2" and selection.margin:
        raise InputError("The engine detectron2 keeps boxes as they are; use torch for a margin.")
    if engine == "detectron2" and not has_detectron2():
        raise InputError(
            "detectron2 with its DensePose project is not installed; use the engine torch instead."
        )
    from densepose_tools.weights import RETRY_DELAYS, Unreachable, ensure_weights
    from magicanimate.device import pick_device

    _require_torchvision()
    may_be_mini = engine == "auto" and weights is None and has_mini()
    picked = pick_device(device, "float32").name
    try:
        path = ensure_weights(
            weights,
            offline=offline,
            on_progress=on_progress,
            should_stop=should_stop,
            retry_delays=_RETRIES if may_be_mini else RETRY_DELAYS,
        )
    except Unreachable as error:
        if not may_be_mini:
            raise
        log.warning("%s Until then the mini finds the parts; it is a small stand-in, not DensePose.", error)
        return MiniExtractor.load(DEFAULT_FOLDER, device=device)
    if engine != "torch" and has_detectron2() and not selection.margin:
        try:
            return Detectron2Extractor.load(path, device=picked, selection=selection)
        except InputError as error:
            if engine == "detectron2":
                raise
            log.warning("%s", error)
    return TorchExtractor.load(path, device=picked, selection=selection)


def has_detectron2() -> bool:
    """Whether detectron2 and its DensePose project are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("detectron2", "densepose"))


def has_mini() -> bool:
    """Whether the mini's part segmenter lies in this program's assets."""
    return is_segmenter(DEFAULT_FOLDER)


def _require_torchvision() -> None:
    """Import the network of the engine "torch", before anything is fetched for it."""
    try:
        import densepose_tools.rcnn.network  # noqa: F401
    except (ImportError, RuntimeError) as error:  # torchvision of another release fails with the latter
        raise InputError(
            f"torchvision is missing or does not fit the torch that is installed ({error}); install the two "
            "of one release and one kind, both for CPU or both for CUDA."
        ) from error
