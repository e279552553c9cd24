"""Predict several context windows at once: in one call of the networks, or in several processes.

Several in a call fill a large GPU. Processes are started by ``torchrun --nproc-per-node N -m magicanimate
animate ...``; each denoises a share of the windows of every step. All read photo and clip and hold the
latents of the whole clip; in each step they add up one prediction for each frame. The first process decodes
and writes.

Letters in shape comments: see `magicanimate.sampling`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import distributed

from magicanimate.acceleration.options import ProcessGroup
from magicanimate.device import is_out_of_memory
from magicanimate.errors import Cancelled, InputError
from magicanimate.sampling import Bank, Networks, Window


def batch_windows(networks: Networks, size: int) -> Networks:
    """Predict ``size`` windows of a step at a time; a clip's windows are all equally long."""

    def fuse(
        outer: Networks, latents: torch.Tensor, timestep: torch.Tensor, windows: Sequence[Window]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total, weight = latents.new_zeros(()), latents.new_zeros(latents.shape[2])
        for first in range(0, len(windows), size):
            batch = windows[first : first + size]
            # Several windows are so many videos in one batch: frames one after the other for the ControlNet,
            # which knows no videos, and side by side for the UNet.
            frames = [frame for window in batch for frame in window.frames]
            noisy = torch.cat([latents.index_select(2, window.index) for window in batch])  # N C K h w
            residuals = outer.control(frames, noisy.transpose(1, 2).flatten(0, 1), timestep)
            noise = outer.predict(frames, noisy, timestep, residuals).float()
            noise = noise.unflatten(0, (-1, len(batch)))  # (B N) C K h w -> B N C K h w
            if not total.ndim:
                total = noise.new_zeros(len(noise), noise.shape[2], *latents.shape[2:])  # B C F h w
            # Added up one by one: windows of a batch may overlap, and index_add_ sums what meets.
            for i, window in enumerate(batch):
                total.index_add_(2, window.index, noise[:, i] * window.weight.view(-1, 1, 1))
                weight.index_add_(0, window.index, window.weight)
        return total, weight

    return replace(networks, fuse=fuse)


# What a process tells the others after each round; the largest counts.
_WELL, _NO_MEMORY, _CANCELLED, _FAILED = range(4)


class DistributedGroup(ProcessGroup):
    """Several processes, connected by `torch.distributed`; tensors are exchanged from ``device``."""

    def __init__(self, device: str):
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self._device = device

    @contextlib.contextmanager
    def fail_together(self) -> Iterator[None]:
        """See `ProcessGroup.fail_together`.

        Raises:
            torch.OutOfMemoryError: another process has no memory left; all try again alike.
            Cancelled: another process was told to stop.
            InputError: another process failed or is gone.
        """
        # All processes must take part in every exchange: one that left early would let the others wait for
        # ever. So whatever happened here, the group is told first.
        own, worst = _WELL, None
        try:
            yield
        except Exception as error:
            own = _CANCELLED if isinstance(error, Cancelled) else _FAILED
            own = _NO_MEMORY if is_out_of_memory(error) else own
            worst = self.all_reduce_max(own)
            if worst == own:
                raise
        if worst is None:
            worst = self.all_reduce_max(own)
        if worst == _NO_MEMORY:
            raise torch.OutOfMemoryError("another process of this run is out of memory")
        if worst == _CANCELLED:
            raise Cancelled("stopped in another process")
        if worst == _FAILED:
            raise InputError("Another process of this run failed; see what it said.")

    def all_reduce_max(self, number: int) -> int:
        """See `ProcessGroup.all_reduce_max`."""
        shared = torch.tensor(number, device=self._device)
        self._reduce(shared, distributed.ReduceOp.MAX)
        return int(shared)

    def all_reduce_sum(self, *tensors: torch.Tensor) -> None:
        """See `ProcessGroup.all_reduce_sum`."""
        for tensor in tensors:
            self._reduce(tensor, distributed.ReduceOp.SUM)

    @staticmethod
    def _reduce(tensor: torch.Tensor, operation: distributed.ReduceOp.RedOpType) -> None:
        try:
            distributed.all_reduce(tensor, operation)
        except RuntimeError as error:
            raise InputError("Another process of this run has ended; start it again.") from error


def share_windows(networks: Networks, group: ProcessGroup) -> Networks:
    """Predict this process's share of each step's windows, and add up what all processes predicted.

    Each has neighbouring windows, so that it can reuse what they have in common.
    """

    def encode(timestep: torch.Tensor) -> Bank:
        with group.fail_together():
            return networks.encode(timestep)

    def fuse(
        outer: Networks, latents: torch.Tensor, timestep: torch.Tensor, windows: Sequence[Window]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # Neighbours share frames, and the ControlNet's residuals of those are computed once.
        each = math.ceil(len(windows) / group.size)
        own = windows[group.rank * each : (group.rank + 1) * each]
        total, weight = None, latents.new_zeros(latents.shape[2])
        with group.fail_together():
            if own:
                total, weight = networks.fuse(outer, latents, timestep, own)
        # A process without windows does not know whether this step is guided, but must add a tensor of that
        # shape.
        branches = group.all_reduce_max(0 if total is None else len(total))
        if total is None:  # more processes than windows
            total = latents.new_zeros(branches, *latents.shape[1:])
        group.all_reduce_sum(total, weight)
        return total, weight

    return replace(networks, encode=encode, fuse=fuse)


def own_device(device: str | None) -> str | None:
    """The device of this process: under torchrun, the GPU with the process's local rank.

    Raises:
        InputError: there are more processes than GPUs.
    """
    if "LOCAL_RANK" not in os.environ or device not in (None, "cuda") or not torch.cuda.is_available():
        return device
    number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= count:
        raise InputError(
            f"There are more processes than GPUs ({count}); start as many, or choose --device cpu."
        )
    return f"cuda:{number}"


@contextlib.contextmanager
def join_process_group(device: str | None) -> Iterator[ProcessGroup]:
    """Connect to the other processes that torchrun started; without torchrun, a group of one.

    ``device`` is that of this process, see `own_device`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ProcessGroup()
        return
    # NCCL connects GPUs only, gloo everything.
    kind = (device or "cpu").partition(":")[0]
    if kind == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield DistributedGroup(device if device and kind == "cuda" else "cpu")
    finally:
        distributed.destroy_process_group()
