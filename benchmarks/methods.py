"""What is compared: a checkpoint, the same without its temporal side, and what must be beaten."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.synthdance_data import Task
from densepose_tools.segmenter import parts_in_photo
from magicanimate.animator import Animator
from magicanimate.background import photo_backdrop
from magicanimate.config import AnimationRequest
from magicanimate.mask import Masks
from magicanimate.media.writer import VideoWriter
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.windows import WindowPlan

_ONE_FRAME = WindowPlan(context_length=1, context_overlap=0)


@dataclass(frozen=True)
class Method:
    """A way to make a clip.

    Attributes:
        name: of its row.
        make: `Task` -> uint8 ``F H W 3``.
        frame_by_frame: a frame of the result does not depend on how many there are.
        needs_truth: cannot be applied where the task has none.
        long_clips: worth running on more than the shortest clips.
    """

    name: str
    make: Callable[[Task], np.ndarray]
    frame_by_frame: bool = False
    needs_truth: bool = False
    long_clips: bool = True


def methods(pipe: MagicAnimatePipeline) -> list[Method]:
    """All rows of the table, the checkpoint first."""
    still = with_components(pipe, unet=without_temporal_layers(pipe.unet))

    def animate(task: Task) -> np.ndarray:
        return pipe(task.photo, task.control).frames

    def before_the_photo(task: Task) -> np.ndarray:
        request = AnimationRequest(Path("photo"), Path("motion"), Path("result"))
        backdrop = photo_backdrop(request, task.photo, Masks(task.control), parts_in_photo)
        frames = animate(task)
        return frames if backdrop is None else np.stack(list(backdrop.composited(iter(frames))))

    def frames_alone(task: Task) -> np.ndarray:
        return still(task.photo, task.control, windows=_ONE_FRAME).frames

    def frames_alone_own_noise(task: Task) -> np.ndarray:
        noise = own_noise(still, len(task.parts), task.photo.shape[:2])
        return still(task.photo, task.control, windows=_ONE_FRAME, latents=noise).frames

    def untrained(task: Task) -> np.ndarray:
        return fresh(task.photo, task.control).frames

    fresh = with_untrained_networks(pipe)
    return [
        Method("checkpoint", animate),
        Method("checkpoint, --background still", before_the_photo, long_clips=False),
        Method("frame by frame, shared noise", frames_alone, frame_by_frame=True),
        Method("frame by frame, own noise", frames_alone_own_noise, frame_by_frame=True),
        Method("copying the photo", copy_photo, frame_by_frame=True),
        Method("untrained networks", untrained, long_clips=False),
        Method(
            "autoencoder (ceiling)",
            lambda task: reconstruct(pipe, task.truth),
            frame_by_frame=True,
            needs_truth=True,
        ),
        Method("truth", lambda task: task.truth, frame_by_frame=True, needs_truth=True),
    ]


def through_files(
    animator: Animator,
    folder: Path,
    photo: np.ndarray,
    control: np.ndarray,
    *,
    driving: np.ndarray | None = None,
    fps: float = 25,
    **settings: Any,
) -> np.ndarray:
    """The frames, uint8 ``F H W 3``, that the whole program makes from files, of which it leaves some.

    Args:
        animator: of the checkpoint.
        folder: for the files.
        photo: uint8 ``H W 3``.
        control: part maps in their colours, uint8 ``F H W 3``.
        driving: the ordinary video that they were made of.
        fps: of the clips.
        settings: of `AnimationRequest`.
    """
    Image.fromarray(photo).save(folder / "photo.png")
    for name, frames in {"motion": control, "clip": driving}.items():
        if frames is None:
            continue
        height, width = frames.shape[1:3]
        with VideoWriter(
            folder / f"{name}.mp4", width=width, height=height, fps=fps, lossless=True
        ) as writer:
            for frame in frames:
                writer.write(frame)
    if driving is not None:
        settings["driving_video"] = folder / "clip.mp4"
    files = folder / "photo.png", folder / "motion.mp4", folder / "result"
    result = animator.animate(AnimationRequest(*files, credentials=False, **settings))
    return np.stack([np.asarray(Image.open(file)) for file in sorted(result.output.glob("*.png"))])


def with_components(pipe: MagicAnimatePipeline, **components) -> MagicAnimatePipeline:
    """The same pipeline with some networks replaced."""
    settings = {k: v for k, v in pipe.config.items() if k not in pipe.components and not k.startswith("_")}
    return type(pipe)(**{**pipe.components, **components}, **settings)


@torch.no_grad()
def without_temporal_layers(unet: torch.nn.Module) -> torch.nn.Module:
    """A copy whose temporal layers add nothing: their last projection, before the residual sum, is zero."""
    unet = deepcopy(unet)
    layers = [m for name, m in unet.named_modules() if name.endswith("proj_out") and "motion_modules" in name]
    if not layers:
        raise ValueError("the network has no temporal layers")
    for layer in layers:
        for parameter in layer.parameters():
            parameter.zero_()
    return unet


def with_untrained_networks(pipe: MagicAnimatePipeline, *, seed: int = 0) -> MagicAnimatePipeline:
    """Random weights in UNet, appearance encoder and ControlNet; the autoencoder stays."""
    torch.manual_seed(seed)
    names = ("unet", "appearance_encoder", "controlnet")
    networks = {name: pipe.components[name] for name in names}
    fresh = {name: type(net).from_config(net.config).to(net.device) for name, net in networks.items()}
    return with_components(pipe, **{name: net.eval() for name, net in fresh.items()})


def own_noise(
    pipe: MagicAnimatePipeline, frames: int, size: tuple[int, int], *, seed: int = 1
) -> torch.Tensor:
    """Initial latents ``1 C F h w``, other noise in each frame; a frame's does not depend on their number."""
    height, width = (side // pipe.vae_scale_factor for side in size)
    shape = (1, pipe.unet.config.in_channels, 1, height, width)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.cat([torch.randn(shape, generator=generator) for _ in range(frames)], dim=2)
    return noise * float(pipe.scheduler.init_noise_sigma)


def copy_photo(task: Task) -> np.ndarray:
    """The photo as every frame."""
    return np.repeat(task.photo[None], len(task.parts), axis=0)


@torch.no_grad()
def reconstruct(pipe: MagicAnimatePipeline, truth: np.ndarray) -> np.ndarray:
    """The truth through the image autoencoder: what no denoiser can surpass."""
    nobody = np.zeros(truth.shape[1:3], np.uint8)  # of the part map, which is not decoded
    latents = torch.cat([pipe.encode_image(frame, nobody) for frame in truth])[
        :, : pipe.unet.config.in_channels
    ]
    return np.stack(list(pipe.decode(latents.transpose(0, 1)[None])))
