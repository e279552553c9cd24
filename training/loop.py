"""The training loop of all stages; a stage differs by its networks, its samples and its loss.

It runs on `accelerate`: one or more processes (``accelerate launch``) share a global batch of fixed size. A
sample and its noise depend on (seed, step, position in the batch) only. So the losses are, up to rounding,
the same for any number of processes, and a resumed run takes exactly the steps of an uninterrupted one.

The exponential moving average and the batches by step are written here because they are part of that promise:
both are functions of the step, with nothing to restore but the averaged weights.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, send_to_device
from torch import nn
from torch.utils.data import DataLoader, Dataset

from magicanimate.config import ShouldStop
from magicanimate.device import multiplies_bfloat16
from magicanimate.errors import InputError
from training.checkpoints import read_newest, write_checkpoint
from training.config import OptimizerConfig, Precision, StageConfig
from training.run_folder import SAMPLES, Metrics

log = logging.getLogger(__name__)

_SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}

ON_HOST = "index"
"""The key of a batch that stays on the CPU: the noise is drawn from it there, and a copy back from the GPU
would have to wait for all work queued before it."""


class Stage(Protocol):
    """The interface of a stage: an ``nn.Module`` whose attributes are its networks.

    Parameters are therefore named ``<network>.<key>``, also in checkpoints. Those that require gradients are
    trained.

    Attributes:
        samples: training samples by global index, ``step * samples_a_step + k``.
    """

    samples: Dataset

    def __call__(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Losses of a batch, ``B``, one per sample."""

    def sample(self, step: int, folder: Path) -> dict[str, float]:
        """Write results on held-out data into ``folder``; returns figures to log."""


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Learning rate of a step: linear warm-up, constant, linear decay over the last ``decay_steps``."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.decay_steps:
        left = (steps - step) / config.decay_steps
        rate *= max(config.final_ratio, min(1.0, left))
    return rate


def usable_precision(precision: Precision) -> Precision:
    """Resolve "auto" for this machine; other precisions are returned as they are."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    # A CPU without bfloat16 instructions emulates them, more slowly than it computes float32.
    return "bf16" if multiplies_bfloat16() else "no"


def make_accelerator(config: StageConfig) -> Accelerator:
    """Set up accelerate: the processes, the device and the precision of a run.

    Raises:
        InputError: the device does not support the precision, or accelerate is configured to shard the
            networks, which the checkpoints and averages here do not support.
    """
    # Variables that `accelerate launch` sets from its configuration.
    for name, what in _SHARDED.items():
        if os.environ.get(name, "").lower() in ("true", "1"):
            raise InputError(
                f"The configuration of accelerate asks for {what}; this training shares batches among "
                "processes that each hold all networks. Run `accelerate config` again without it."
            )
    precision = usable_precision(config.mixed_precision)
    # A process whose samples all miss their reference computes no gradient for the appearance encoder.
    may_miss = config.stage in ("base", "stage1") and config.drop_reference > 0
    # The discriminator looks at the student's last step only.
    may_miss |= config.stage == "distill" and config.student_steps > 1
    # Without this DDP fails on parameters that got no gradient; with it, it has to look for them every step.
    unused = DistributedDataParallelKwargs(find_unused_parameters=may_miss)
    try:
        return Accelerator(
            mixed_precision=precision,
            gradient_accumulation_steps=config.accumulation,
            kwargs_handlers=[unused],
        )
    except ValueError as error:
        raise InputError(f"mixed_precision {precision!r} does not work here: {error}") from error


def make_optimizer(config: OptimizerConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, or bitsandbytes' AdamW with 8-bit states.

    Raises:
        InputError: bitsandbytes is not installed.
    """
    # The rate is set anew before every step, see _train_step.
    common = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if not config.eight_bit:
        return torch.optim.AdamW(parameters, fused=True, **common)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise InputError(
            "eight_bit needs the package bitsandbytes; install it, or leave the setting off."
        ) from error
    return AdamW8bit(parameters, **common)


class Trainer:
    """Trains a stage to its last step, resuming from its newest checkpoint and writing new ones."""

    def __init__(self, stage: Stage, config: StageConfig, folder: Path, *, accelerator: Accelerator):
        self.stage, self.config, self.folder, self.accelerator = stage, config, folder, accelerator
        # Before the optimizer is made, whose states take over the parameters' memory layout.
        if config.channels_last:
            stage.to(memory_format=torch.channels_last)
        if config.compile:
            for network in stage.children():
                network.compile()
        trained = [p for p in stage.parameters() if p.requires_grad]
        self.model, self.optimizer = accelerator.prepare(stage, make_optimizer(config.optimizer, trained))
        # Named by the stage itself: accelerate's wrapper may put "module." in front of the names.
        self.parameters = {name: p for name, p in stage.named_parameters() if p.requires_grad}
        # After prepare(), which has moved the parameters to their device.
        self.averages = EMA(self.parameters, decay=config.optimizer.ema_decay)
        self.step, self.mean_loss = 0, None

    def run(self, *, stop_after: int | None = None, should_stop: ShouldStop | None = None) -> int:
        """Train from the newest checkpoint, or from the beginning, to ``config.steps``.

        Args:
            stop_after: write a checkpoint and return after this many steps of this call.
            should_stop: called after every step, in every process; if any answers yes, all write a checkpoint
                and return.

        Returns:
            Steps taken in this call.

        Raises:
            InputError: a checkpoint cannot be written, the data cannot be read, or the loss is not finite.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        main = self.accelerator.is_main_process
        metrics = Metrics(self.folder, step=self.step) if main else None
        if main:
            log.info("%d processes on %s", self.accelerator.num_processes, self.accelerator.device)
        # Seconds per step count this call only: an earlier one may have run on another machine.
        first, began = self.step, time.monotonic()
        last = self.config.steps if stop_after is None else min(self.config.steps, first + stop_after)
        parts = self._parts()
        while self.step < last:
            loss = self._train_step(parts)
            # Before a checkpoint is written. The loss is the mean over all processes, so all of them stop.
            if not math.isfinite(loss):
                raise InputError(
                    f"The loss of step {self.step + 1} is {loss}: the weights or the data are damaged, or "
                    f"the learning rate is too high. The checkpoints in {self.folder} from before are kept."
                )
            # Single losses scatter with their timesteps; this average over about fifty steps shows the trend.
            self.mean_loss = loss if self.mean_loss is None else 0.98 * self.mean_loss + 0.02 * loss
            self.step += 1
            figures = {}
            if self.step % self.config.log_every == 0:
                pace = (time.monotonic() - began) / (self.step - first)
                figures = {"loss": loss, "mean_loss": self.mean_loss, "seconds_per_step": pace}
            if self.step % self.config.sample_every == 0 or self.step == self.config.steps:
                figures |= self._sample()
            if metrics and figures:
                metrics.write(self.step, figures)
            # Every process has to ask: what combines the answers is a collective operation.
            if should_stop and self._any_process(should_stop()):
                last = self.step
            if self.step % self.config.checkpoint_every == 0 or self.step == last:
                self.save()
        if metrics:
            metrics.close()
        return self.step - first

    def _any_process(self, answer: bool) -> bool:
        """Whether any process answers yes. All get the same answer, so that they stop at the same step."""
        votes = torch.tensor(float(answer), device=self.accelerator.device)
        return self.accelerator.reduce(votes, "sum").item() > 0

    def _parts(self) -> Iterator[Mapping[str, Any]]:
        """This process's parts of the batches from the current step on, on its device."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        loader = batches(
            self.stage.samples, self.config, first_step=self.step, process=process, processes=processes
        )
        return (
            send_to_device(part, self.accelerator.device, non_blocking=True, skip_keys=ON_HOST)
            for part in loader
        )

    def _train_step(self, parts: Iterator[Mapping[str, Any]]) -> float:
        """Take one optimizer step; returns the mean loss of the global batch."""
        config = self.config.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step, self.config.steps)
        total = torch.zeros((), device=self.accelerator.device)
        for _ in range(self.config.accumulation):
            with self.accelerator.accumulate(self.model):
                # A mean over equal parts of a batch is the mean over the batch, however it is divided.
                loss = self.model(next(parts)).mean()
                self.accelerator.backward(loss)
                # Only the gradients of the whole batch are clipped, not those of its parts.
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.parameters.values(), config.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            total += loss.detach().float() / self.config.accumulation
        self.averages.update(self.parameters, self.step)
        return self.accelerator.reduce(total, "mean").item()

    def _sample(self) -> dict[str, float]:
        figures: dict[str, float] = {}
        if self.accelerator.is_main_process:
            samples = self.folder / SAMPLES
            samples.mkdir(exist_ok=True)
            # With the averaged weights, since those are what is exported.
            with self.averages.in_place(self.parameters), self.accelerator.autocast():
                figures = self.stage.sample(self.step, samples)
        self.accelerator.wait_for_everyone()
        return figures

    def save(self) -> None:
        """Write a checkpoint. All processes call this, the main process writes.

        Raises:
            InputError: weights are not finite, or the file cannot be written.
        """
        # Outside of the condition: this may be a collective operation.
        whole = self.accelerator.get_state_dict(self.model)
        if self.accelerator.is_main_process:
            # Before older checkpoints are deleted: a finite loss does not imply finite weights.
            strange = next((name for name in self.parameters if not whole[name].isfinite().all()), None)
            if strange is not None:
                raise InputError(
                    f"After step {self.step} there are values that are not finite in {strange}; no "
                    "checkpoint was written. Lower the learning rate; the checkpoints from before are kept."
                )
            scaler = self.accelerator.scaler
            state = {
                "step": self.step,
                "parameters": {name: whole[name].detach() for name in self.parameters},
                "averages": self.averages.values,
                "optimizer": self.optimizer.state_dict(),
                "mean_loss": self.mean_loss,
                "scaler": scaler.state_dict() if scaler is not None else None,
            }
            write_checkpoint(self.folder, state, keep=self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        found = read_newest(self.folder)
        if found is None:
            return
        path, state = found
        missing = self.parameters.keys() - state["parameters"].keys()
        if missing:
            raise InputError(f"{path} has no weights for {min(missing)}; it belongs to another network.")
        with torch.no_grad():
            for name, p in self.parameters.items():
                # In place, as the optimizer holds these very tensors.
                p.copy_(state["parameters"][name])
        self.averages.load(state["averages"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.mean_loss = state["step"], state.get("mean_loss")
        log.info("resumed %s at step %d", path, self.step)


class EMA:
    """Exponential moving average of the trained parameters; with a decay of 0, the parameters themselves.

    diffusers' ``EMAModel`` keeps its averages in a list without names; here they need names, since later
    stages, which train other networks, look up theirs in a checkpoint.

    Attributes:
        values: averages by parameter name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, decay: float):
        self.decay = decay
        self.values = {name: p.detach().clone() if decay else p.detach() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """Move the averages towards the parameters after ``step``."""
        if not self.decay:
            return
        # A smaller decay at first, so that the random initial weights do not stay in the average for long.
        decay = min(self.decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(self.values.values()), [p.detach() for p in parameters.values()], 1 - decay)

    @torch.no_grad()
    def load(self, values: Mapping[str, torch.Tensor]) -> None:
        """Restore averages from a checkpoint."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @contextmanager
    def in_place(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Context in which the networks have the averaged weights."""
        self._swap(parameters)
        try:
            yield
        finally:
            self._swap(parameters)

    @torch.no_grad()
    def _swap(self, parameters: Mapping[str, nn.Parameter]) -> None:
        if not self.decay:
            return
        for name, p in parameters.items():
            kept = p.detach().clone()
            p.copy_(self.values[name])
            self.values[name] = kept


class StepBatches:
    """A batch sampler: the global sample indices ``step * samples_a_step + k`` that one process computes.

    The global batch is cut into ``processes`` x ``accumulation`` equal parts, of which a process takes every
    ``processes``-th. Iterating yields the parts in the order in which they are computed, ``accumulation`` per
    step.

    Raises:
        InputError: the batch cannot be divided like that.
    """

    def __init__(self, config: StageConfig, *, first_step: int, process: int, processes: int):
        parts = processes * config.accumulation
        if config.batch_size % (parts * config.targets):
            raise InputError(
                f"a batch of {config.batch_size} cannot be cut into {parts} equal parts ({processes}"
                f" processes, accumulation {config.accumulation}) of whole samples; choose a multiple of"
                f" {parts * config.targets} as batch_size."
            )
        self.config, self.first_step = config, first_step
        self.process, self.processes = process, processes
        self.part = config.samples_a_step // parts

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.config.steps):
            for turn in range(self.config.accumulation):
                first = step * self.config.samples_a_step + (turn * self.processes + self.process) * self.part
                yield list(range(first, first + self.part))

    def __len__(self) -> int:
        return max(0, self.config.steps - self.first_step) * self.config.accumulation


class Numbered(Dataset):
    """Samples with their global index added, from which a stage derives their noise."""

    def __init__(self, samples: Dataset):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.samples[index], "index": index}


def batches(
    samples: Dataset, config: StageConfig, *, first_step: int, process: int = 0, processes: int = 1
) -> DataLoader:
    """Data loader of this process's parts of the batches; ``config.workers`` worker processes read ahead."""
    plan = StepBatches(config, first_step=first_step, process=process, processes=processes)
    return DataLoader(
        Numbered(samples),
        batch_sampler=plan,
        num_workers=config.workers,
        # Not forked: a fork of a process with threads can wait for ever for a lock that one of them held.
        multiprocessing_context="spawn" if config.workers else None,
        pin_memory=torch.cuda.is_available(),
    )
