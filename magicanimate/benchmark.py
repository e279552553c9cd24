"""Measure how fast a checkpoint is on a device: denoise a blank clip for one step and decode it.

It is what there is to go by before the first animation, and must not keep anybody waiting: where two small
frames take long they have to do; otherwise it is a whole window.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from magicanimate.config import ShouldStop

if TYPE_CHECKING:
    from magicanimate.memory.placement import OutOfMemoryFallback
    from magicanimate.pipeline import MagicAnimatePipeline

WINDOW = 16  # frames, as many as a window has by default
_LARGE = 300_000_000  # parameters; Stable Diffusion's UNet alone has 860 million
_TRIES = 3  # the quickest counts: while a program starts much else does, too
_LONG = 1.0  # seconds of the small frames
_SMALLEST = 64  # pixels of a side, below which networks of several levels run out of feature map


def benchmark(
    pipe: MagicAnimatePipeline, fallback: OutOfMemoryFallback, *, should_stop: ShouldStop | None = None
) -> dict[str, Any]:
    """Time one denoising step and the decoding of a blank clip.

    Args:
        pipe: placed, with its own scheduler.
        fallback: for a window of the checkpoint's own size.
        should_stop: asked before each network's turn.

    Returns:
        ``width`` and ``height`` in pixels, ``num_frames``, and ``seconds`` by stage, "denoise" and "decode",
        named as in the settings of a result. One step without guidance was made.

    Raises:
        Cancelled: ``should_stop()`` was true.
    """
    own = pipe.config.default_width, pipe.config.default_height
    width, height = (min(side, max(_SMALLEST, side // 16 * 8)) for side in own)
    timed = partial(_timed, pipe, fallback, should_stop)
    timed(width, height, 2)  # what is only done once is done then
    # Small networks are always quick; that a try of theirs took long would only say that the machine is busy.
    if sum(weight.numel() for weight in pipe.unet.parameters()) > _LARGE:
        found = timed(width, height, 2)
        if sum(found["seconds"].values()) > _LONG:
            return found
    tries = [timed(*own, WINDOW) for _ in range(_TRIES)]
    quickest = {stage: min(found["seconds"][stage] for found in tries) for stage in tries[0]["seconds"]}
    return tries[0] | {"seconds": quickest}


def _timed(
    pipe: MagicAnimatePipeline,
    fallback: OutOfMemoryFallback,
    should_stop: ShouldStop | None,
    width: int,
    height: int,
    frames: int,
) -> dict[str, Any]:
    blank = np.zeros((frames, height, width, 3), dtype=np.uint8)
    keypoints = None if pipe.controlnet_keypoints is None else blank
    began = time.monotonic()
    output = pipe(
        blank[0],
        blank,
        keypoints=keypoints,
        num_inference_steps=1,
        guidance_scale=1.0,
        fallback=fallback,
        output_type="latent",
        should_stop=should_stop,
    )
    output.latents.cpu()  # a GPU has only then done its work
    denoised = time.monotonic()
    for _ in pipe.decode(output.latents, fallback=fallback, should_stop=should_stop):
        pass
    seconds = {"denoise": denoised - began, "decode": time.monotonic() - denoised}
    return {"width": width, "height": height, "num_frames": frames, "seconds": seconds}
