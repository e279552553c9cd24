"""The smaller speed-ups, how all of them are put together, progress by windows, and stopping.

Each function that takes `Networks` returns them with one function replaced, and can be deleted with its line
in `accelerated`: guidance one branch at a time or in some steps only, the ControlNet once a frame, the
appearance encoder in some steps. What is more than a wrapper has a file of its own beside this one.

Letters in shape comments: see `magicanimate.sampling`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from torch import nn

from magicanimate.acceleration.deep_cache import cache_deep_features
from magicanimate.acceleration.options import Approximations, OptimizationConfig, ProcessGroup
from magicanimate.acceleration.window_parallel import batch_windows, share_windows
from magicanimate.config import ShouldStop, raise_if_stopped
from magicanimate.memory import CONTROL_CACHE_BYTES
from magicanimate.models.hybrid_attention import HybridSelfAttention
from magicanimate.models.unet import VideoUNet
from magicanimate.sampling import Bank, Networks, Residuals, Window

EMBEDDED_AT_ONCE = 4  # frames; the first layers work at the picture's full size


def accelerated(
    paper: Callable[..., Networks],
    unet: VideoUNet,
    readers: Mapping[str, HybridSelfAttention],
    text: torch.Tensor,
    timesteps: torch.Tensor,
    *,
    optimization: OptimizationConfig,
    approximations: Approximations,
    group: ProcessGroup,
    progress: WindowProgress,
) -> Networks:
    """Wrap the paper's networks in the speed-ups that are wanted; each line can be deleted by itself.

    Args:
        paper: `magicanimate.sampling.paper_networks` but for ``text`` and ``visible``.
        text: ``B L D``, [unconditional, conditional] with guidance.
        timesteps: of all steps, on the CPU.
    """
    # Layers know a step by its timestep, which is on the CPU: asking a GPU would wait for all queued work.
    number = len(timesteps)
    guided_at = {timestep.item() for i, timestep in enumerate(timesteps) if approximations.guides(i, number)}

    def guided(timestep: torch.Tensor) -> bool:
        return timestep.item() in guided_at

    networks, conditional = paper(text=text), paper(text=text[-1:])
    if len(text) == 2 and optimization.sequential_guidance:
        # Nothing tells the branches apart before a block reads the photo, unless their texts do.
        alike = torch.equal(text[0], text[1]) and not any(name.startswith("down_blocks") for name in readers)
        branches = [paper(text=text[:1], visible=[False]), conditional]
        networks = sequential_guidance(networks, branches, unet, share_down=alike)
    if len(text) == 2 and len(guided_at) < number:
        networks = guide_in_interval(networks, conditional, guided)
    # From here on the order matters: what comes later wraps, and decides whether the earlier runs at all.
    if optimization.window_batch > 1:
        networks = batch_windows(networks, optimization.window_batch)
    if optimization.share_residuals:
        networks = share_residuals(networks)
    if approximations.deep_reuse:
        reuse = approximations.deep_reuse
        last = timesteps[-1].item()
        networks = cache_deep_features(networks, unet, readers, text, reuse=reuse, last=last, guided=guided)
    # Inside of the process group: each process counts, and is stopped at, its own windows.
    networks = progress.around(networks)
    if approximations.encoder_reuse:
        networks = reuse_bank(networks, reuse=approximations.encoder_reuse)
    if group.size > 1:
        networks = share_windows(networks, group)
    # Last: it calls the encoder now, through the layers before it.
    if optimization.precompute_banks:
        networks = precompute_banks(networks, timesteps)
    return networks


def sequential_guidance(
    networks: Networks, branches: Sequence[Networks], unet: VideoUNet, *, share_down: bool
) -> Networks:
    """Predict the guidance branches one after the other, which halves the largest activations.

    Args:
        branches: the networks with the text of one branch each, the unconditional one first.
        share_down: run the UNet's down path once for all branches. Right only where the texts are equal and
            the down blocks do not read the photo, so that nothing tells the branches apart.
    """

    def predict(
        frames: list[int], noisy: torch.Tensor, timestep: torch.Tensor, residuals: Residuals
    ) -> torch.Tensor:
        # The order of the branches is that in which `denoise` splits them: unconditional, conditional.
        with down_path_once(unet) if share_down else contextlib.nullcontext():
            return torch.cat([branch.predict(frames, noisy, timestep, residuals) for branch in branches])

    return replace(networks, predict=predict)


@contextlib.contextmanager
def down_path_once(unet: VideoUNet) -> Iterator[None]:
    """A context in which each down block computes once and then returns the same result again."""
    # diffusers offers no hook that skips a block, so their forward is exchanged on the instance for a moment.
    before = [(block, vars(block).get("forward")) for block in unet.down_blocks]
    for block in unet.down_blocks:
        block.forward = _computed_once(block.forward)
    try:
        yield
    finally:
        for block, forward in before:
            if forward is None:
                del block.forward
            else:  # offloading has put a forward of its own there
                block.forward = forward


def _computed_once(forward: Callable[..., Any]) -> Callable[..., Any]:
    # A block's inputs are the same in every branch, so what it is called with need not be compared.
    kept: list[Any] = []

    def once(*args: Any, **kwargs: Any) -> Any:
        if not kept:
            kept.append(forward(*args, **kwargs))
        return kept[0]

    return once


def guide_in_interval(
    networks: Networks, conditional: Networks, guided: Callable[[torch.Tensor], bool]
) -> Networks:
    """Run the conditional branch alone at timesteps for which ``guided`` is false.

    Source: Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval Improves Sample and
    Distribution Quality in Diffusion Models".
    """

    def predict(
        frames: list[int], noisy: torch.Tensor, timestep: torch.Tensor, residuals: Residuals
    ) -> torch.Tensor:
        # One row of noise tells the loop that there is nothing to guide, see `denoise`.
        chosen = networks if guided(timestep) else conditional
        return chosen.predict(frames, noisy, timestep, residuals)

    return replace(networks, predict=predict)


def share_residuals(networks: Networks) -> Networks:
    """Run the ControlNet once per frame and step: overlapping windows share its residuals."""
    still_to_come: Counter[int] = Counter()
    kept: dict[int, list[torch.Tensor]] = {}

    def fuse(
        outer: Networks, latents: torch.Tensor, timestep: torch.Tensor, windows: Sequence[Window]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kept.clear()
        still_to_come.clear()
        still_to_come.update(frame for window in windows for frame in window.frames)
        try:
            return networks.fuse(outer, latents, timestep, windows)
        finally:
            kept.clear()

    def control(frames: list[int], noisy: torch.Tensor, timestep: torch.Tensor) -> Residuals:
        # Counted down window by window, so that what no later window needs is freed at once.
        still_to_come.subtract(frames)
        # A batch of windows may name a frame twice; dict.fromkeys keeps the order.
        new = [frame for frame in dict.fromkeys(frames) if frame not in kept]
        rows = [frames.index(frame) for frame in new]
        fresh: Residuals = []
        if new:
            # The latents of a frame are the same in all windows of a step, so any of its rows will do.
            some = noisy if new == frames else torch.stack([noisy[row] for row in rows])
            fresh = networks.control(new, some, timestep)
        if new == frames:
            residuals = fresh
        else:
            known = kept | {frame: [level[i] for level in fresh] for i, frame in enumerate(new)}
            residuals = [
                torch.stack(level) for level in zip(*(known[frame] for frame in frames), strict=True)
            ]
        for frame in set(frames):
            kept.pop(frame, None)
            if still_to_come[frame] > 0:
                # A view would keep the residuals of the whole window alive.
                kept[frame] = [level[frames.index(frame)].clone() for level in residuals]
        return residuals

    return replace(networks, control=control, fuse=fuse)


class CachedEmbeddings:
    """A ControlNet with its control images, whose embeddings are kept for the whole animation.

    It takes the place of both in `paper_networks`: indexed as the images, by frame numbers, it reads those
    that are not embedded yet, uint8 ``K H W 3``; called as the network it embeds these and takes the others
    from memory. There is room for 256 MB; images beyond that are embedded in every step.
    """

    def __init__(self, network: ControlNetModel, images: Any):
        self._network, self._images = network, images
        self._frames: list[int] = []
        self._kept: dict[int, torch.Tensor] = {}
        self._room = CONTROL_CACHE_BYTES

    def __getitem__(self, frames: list[int]) -> np.ndarray:
        """Control images ``K' H W 3`` of the frames whose embeddings are not kept yet."""
        self._frames = frames
        unknown = self._unknown()
        # An empty array of the right size: the network needs images to be called with.
        return self._images[unknown] if unknown else self._images[frames[:1]][:0]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network for the frames that were indexed last."""
        # The network adds the embedding inside of its forward, so it is exchanged for the time of a call.
        embedding = self._network.controlnet_cond_embedding
        self._network.controlnet_cond_embedding = _StandIn(lambda pixels: self._embed(embedding, pixels))
        try:
            return self._network(*args, **kwargs)
        finally:
            self._network.controlnet_cond_embedding = embedding

    def _unknown(self) -> list[int]:
        return [frame for frame in dict.fromkeys(self._frames) if frame not in self._kept]

    def _embed(self, embedding: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        """Embed the new pixels ``K' 3 H W`` and return the embeddings ``K C h w`` of all frames."""
        fresh: list[torch.Tensor] = []
        for some in pixels.split(EMBEDDED_AT_ONCE):
            fresh += embedding(some) if len(some) else ()
        new = dict(zip(self._unknown(), fresh, strict=True))
        known = self._kept | new
        found = torch.stack([known[frame] for frame in self._frames])
        for frame, one in new.items():
            # First come, first kept: every frame is needed once a step, so replacing others would gain
            # nothing.
            if one.nbytes <= self._room:
                self._kept[frame] = one
                self._room -= one.nbytes
        return found


class _StandIn(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.forward = function


def reuse_bank(networks: Networks, *, reuse: int) -> Networks:
    """Reuse the bank of an earlier step that lies at most ``reuse`` timesteps back (of 1000 in training)."""
    kept: list[tuple[int | float, Bank]] = []

    def encode(timestep: torch.Tensor) -> Bank:
        at = timestep.item()
        # A bank of a later timestep than this one is of a step that is done again.
        if not kept or not 0 <= kept[0][0] - at <= reuse:
            kept[:] = [(at, networks.encode(timestep))]
        return kept[0][1]

    return replace(networks, encode=encode)


def precompute_banks(networks: Networks, timesteps: torch.Tensor) -> Networks:
    """Compute the banks of all ``timesteps`` now, so that offloading moves the encoder once."""
    # Timesteps are few and the photo's features do not depend on the latents, so all are known beforehand.
    banks = {timestep.item(): networks.encode(timestep) for timestep in timesteps}
    return replace(networks, encode=lambda timestep: banks[timestep.item()])


@contextlib.contextmanager
def stopping_between_blocks(networks: Iterable[nn.Module], should_stop: ShouldStop | None) -> Iterator[None]:
    """A context in which the networks call ``should_stop`` before each of their blocks.

    Blocks are what diffusers keeps in lists: down and up blocks, their residual blocks, attentions and motion
    modules. What ``torch.compile`` has compiled is left alone, since a hook would have it compiled anew.

    Raises:
        Cancelled: out of the network's call, when ``should_stop()`` was true.
    """
    if should_stop is None:
        yield
        return

    def ask(*_: object) -> None:
        raise_if_stopped(should_stop, "within a network")

    # A step of a large network takes minutes on a CPU; between its blocks there is a chance every few
    # seconds.
    hooks = [block.register_forward_pre_hook(ask) for network in networks for block in _blocks(network)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    for child in network.children():
        # A hook on a compiled module, or on one inside of it, would make torch compile it anew.
        if getattr(child, "_compiled_call_impl", None) is not None:
            continue
        if isinstance(network, (nn.ModuleList, nn.Sequential)):
            yield child
        yield from _blocks(child)


class WindowProgress:
    """Counts the windows that are done, and asks whether to stop.

    Args:
        counts: windows of each step.
        on_window: called with the number of windows done and of all.
        should_stop: called before each window.
        processes: that share the windows of a step.
    """

    def __init__(
        self,
        counts: Sequence[int],
        on_window: Callable[[int, int], None] | None,
        should_stop: ShouldStop | None,
        *,
        processes: int,
    ):
        self._counts, self._processes = counts, processes
        self._on_window, self._should_stop = on_window, should_stop
        self._steps = self._done = 0

    def begin_step(self) -> None:
        """Start counting a step's windows, also when the step is run again."""
        self._done = sum(self._counts[: self._steps])

    def end_step(self) -> None:
        """Finish a step: the next windows are those of the next step."""
        self._steps += 1

    def around(self, networks: Networks) -> Networks:
        """Wrap the networks so that each prediction is counted and can be stopped.

        Raises:
            Cancelled: out of ``predict``, when ``should_stop()`` was true.
        """

        def predict(
            frames: list[int], noisy: torch.Tensor, timestep: torch.Tensor, residuals: Residuals
        ) -> torch.Tensor:
            raise_if_stopped(self._should_stop, "while denoising")
            noise = networks.predict(frames, noisy, timestep, residuals)
            if self._on_window is not None:
                # Processes do not tell each other what they finished: each counts for all, up to the end of
                # the step.
                end = sum(self._counts[: self._steps + 1])
                self._done = min(self._done + len(noisy) * self._processes, end)
                self._on_window(self._done, sum(self._counts))
            return noise

        return replace(networks, predict=predict)
