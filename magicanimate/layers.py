"""Wrappers around the paper's networks: all speed-ups in their order, progress by windows, and stopping."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from magicanimate.acceleration.condition_cache import precompute_banks, reuse_bank, share_residuals
from magicanimate.acceleration.deep_cache import cache_deep_features
from magicanimate.acceleration.guidance import guide_in_interval, sequential_guidance
from magicanimate.acceleration.options import Approximations, OptimizationConfig
from magicanimate.acceleration.window_parallel import ProcessGroup, batch_windows, share_windows
from magicanimate.errors import raise_if_stopped
from magicanimate.models.hybrid_attention import HybridSelfAttention
from magicanimate.models.unet import VideoUNet
from magicanimate.sampling import Networks, Residuals


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
        readers: the UNet's hybrid self-attentions.
        text: ``B L D``, [unconditional, conditional] with guidance.
        timesteps: of all steps, on the CPU.
        optimization, approximations: which layers are wanted.
        group: the processes that share the windows.
        progress: counts windows and asks whether to stop.
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


@contextlib.contextmanager
def stopping_between_blocks(
    networks: Iterable[nn.Module], should_stop: Callable[[], bool] | None
) -> Iterator[None]:
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
        should_stop: Callable[[], bool] | None,
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
