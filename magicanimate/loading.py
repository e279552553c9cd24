"""Load a checkpoint into the computer's memory: the pipeline, on demand its text encoder, another scheduler.

`benchmark` times the loaded networks before the first animation, so that its duration can be estimated.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from diffusers.utils import logging
from safetensors import SafetensorError, safe_open

from magicanimate.checkpoints.disk import read_model_index
from magicanimate.config import ShouldStop
from magicanimate.device import LOADING, dtype_argument, without_collection
from magicanimate.errors import InputError, first_line
from magicanimate.files import read_json_object
from magicanimate.memory import DENOISERS, MemoryProfile, OutOfMemoryFallback, store_in_eight_bits
from magicanimate.models.appearance_encoder import AppearanceEncoder
from magicanimate.models.unet import VideoUNet
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.sampling import Networks, denoise
from magicanimate.windows import WindowPlan


def read_pipeline(folder: Path, profile: MemoryProfile, *, dtype: str) -> MagicAnimatePipeline:
    """The pipeline of a checkpoint's folder, on the CPU and without its text encoder.

    With a profile of 8 bits the networks are read one by one, so that only one is there at its full size.

    Raises:
        InputError: the checkpoint cannot be used.
    """
    logging.disable_progress_bar()  # loading has a progress report of its own
    logging.set_verbosity_error()  # what is missing is an error here, not a warning
    _check_configs(folder)
    wanted = {dtype_argument(): getattr(torch, dtype)}
    classes = {"unet": VideoUNet, "appearance_encoder": AppearanceEncoder}
    networks = {}
    try:
        with LOADING, without_collection():
            for name in DENOISERS if profile.eight_bit else ():
                if (folder / name).is_dir():
                    cls = classes.get(name, ControlNetModel)
                    networks[name] = cls.from_pretrained(folder / name, **wanted)
                    store_in_eight_bits(networks[name])
            pipe = MagicAnimatePipeline.from_pretrained(
                folder,
                text_encoder=None,  # the empty prompt is stored; `add_text_encoder` serves the others
                tokenizer=None,
                **networks,
                **wanted,
            )
            for name, part in pipe.components.items():
                if isinstance(part, torch.nn.Module):
                    _require_complete(part, folder / name)
            return pipe
    except InputError:
        raise
    except (
        *(OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError),
        SafetensorError,
    ) as error:
        reason = first_line(error).partition(". ")[0]  # what follows is for programmers
        raise InputError(
            f"The checkpoint {folder} cannot be loaded ({reason}); convert or fetch it again."
        ) from error


def _check_configs(folder: Path) -> None:
    """Refuse a damaged configuration: diffusers would ask the Hub for another one."""
    for name in read_model_index(folder):
        for file in (folder / name / "config.json", folder / name / "scheduler_config.json"):
            if file.exists():
                read_json_object(file)


def _require_complete(network: torch.nn.Module, folder: Path) -> None:
    """Refuse a network of which tensors are missing: diffusers goes on without them, or with zeros."""
    missing = [name for name, tensor in network.named_parameters() if tensor.is_meta]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        there: set[str] = set()
        for file in files:
            with safe_open(file, framework="pt") as weights:
                there.update(weights.keys())
        missing += sorted(network.state_dict().keys() - there)
    if missing:
        others = f" and {len(set(missing)) - 1} more tensors" if len(set(missing)) > 1 else ""
        raise InputError(
            f"The weights in {folder} lack {missing[0]}{others}; convert or fetch the checkpoint again."
        )


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


def named_scheduler(own: Any, name: str | None, *, steps: int) -> Any:
    """The checkpoint's ``own`` scheduler, or the diffusers scheduler of that name with its settings.

    Raises:
        InputError: there is no such scheduler, or it cannot do so many steps for this checkpoint.
    """
    if name is None:
        return own
    import diffusers

    cls: Any = getattr(diffusers, name, None)
    is_scheduler = isinstance(cls, type) and issubclass(cls, diffusers.SchedulerMixin)
    if not is_scheduler:
        raise InputError(
            f"There is no scheduler {name!r} in diffusers; try DDIMScheduler, UniPCMultistepScheduler, "
            "DPMSolverMultistepScheduler or EulerDiscreteScheduler."
        )
    try:
        scheduler = cls.from_config(own.config)
        check_scheduler(scheduler, steps)
    except Exception as error:  # noqa: BLE001  (each scheduler has its own ways to fail)
        raise InputError(
            f"The scheduler {name} does not work with this checkpoint and {steps} steps "
            f"({first_line(error)}); choose another or more steps."
        ) from error
    return scheduler


def check_scheduler(scheduler: Any, steps: int) -> None:
    """Try a scheduler: take all its steps on a few numbers instead of latents.

    Some of diffusers' schedulers want more steps, other predictions or further arguments, and say so only
    when they run.

    Raises:
        Exception: whatever the scheduler raises.
        ValueError: it ends with numbers that are not finite.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    scheduler.set_timesteps(steps)
    latents = torch.randn((1, 4, 1, 2, 2), generator=generator) * float(scheduler.init_noise_sigma)
    # A network that answers in bounds: what diverges here is the scheduler's own doing.
    bounded = Networks(
        encode=lambda timestep: {},
        show=lambda bank: None,
        control=lambda *_: [],
        predict=lambda frames, noisy, timestep, residuals: noisy.clamp(-1, 1),
    )
    steps_taken = denoise(
        latents,
        scheduler,
        scheduler.timesteps,
        lambda: bounded,
        plan=WindowPlan(),
        guidance_scale=1.0,
        generator=generator,
        attempt=lambda step: step(),
    )
    for after, _ in steps_taken:
        latents = after
    if not torch.isfinite(latents).all():
        raise ValueError("its numbers are not finite")


WINDOW = 16  # frames, as many as a window has by default
_LARGE = 300_000_000  # parameters; Stable Diffusion's UNet alone has 860 million
_TRIES = 3  # the quickest counts: while a program starts much else does, too
_LONG = 1.0  # seconds of the small frames
_SMALLEST = 64  # pixels of a side, below which networks of several levels run out of feature map


def benchmark(
    pipe: MagicAnimatePipeline, fallback: OutOfMemoryFallback, *, should_stop: ShouldStop | None = None
) -> dict[str, Any]:
    """Time one denoising step, without guidance, and the decoding of a blank clip.

    Args:
        pipe: placed, with its own scheduler.
        fallback: for a window of the checkpoint's own size.

    Returns:
        ``width`` and ``height`` in pixels, ``num_frames``, and ``seconds`` by stage, "denoise" and "decode",
        named as in the settings of a result.

    Raises:
        Cancelled: ``should_stop()``, called before each block of a network, was true.
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
