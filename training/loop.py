"""The one training loop: every stage is this loop with another loss.

It runs on `accelerate`: one process or many (``accelerate launch``) share a global batch of fixed size. A
sample and its noise depend on (seed, step, place in the batch) only, so the losses are the same whatever
the number of processes, up to rounding, and those of a resumed run are those of one never interrupted.
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
"""What a batch has for the host alone: from it the noise is drawn, and reading it back would wait."""


class Stage(Protocol):
    """What a stage gives the loop: an ``nn.Module`` with the networks as attributes, so that the names of
    its parameters are ``<network>.<key>``; those that require gradients are trained.

    Attributes:
        samples: by global sample index.
    """

    samples: Dataset

    def __call__(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Losses of the samples of a batch, ``B``."""

    def sample(self, step: int, folder: Path) -> dict[str, float]:
        """Write pictures of held-out data into ``folder``; return figures worth logging."""


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Warm-up, constant, linear decay over the last ``decay_steps`` of ``steps``."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.decay_steps:
        left = (steps - step) / config.decay_steps
        rate *= max(config.final_ratio, min(1.0, left))
    return rate


def usable_precision(precision: Precision) -> Precision:
    """What "auto" means on this machine; other formats are what they are.

    A CPU without instructions for it computes bfloat16 more slowly than float32.
    """
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if multiplies_bfloat16() else "no"


def make_accelerator(config: StageConfig) -> Accelerator:
    """The processes, device and number format of a run.

    Raises:
        InputError: the device cannot compute in that format, or networks would be cut into pieces, which
            checkpoints and averages here are not made for.
    """
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
    """AdamW, or its 8-bit relative.

    Raises:
        InputError: the 8-bit one is not installed.
    """
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
    """Runs a stage to its last step, writing checkpoints on the way."""

    def __init__(self, stage: Stage, config: StageConfig, folder: Path, *, accelerator: Accelerator):
        self.stage, self.config, self.folder, self.accelerator = stage, config, folder, accelerator
        if config.channels_last:
            stage.to(memory_format=torch.channels_last)
        if config.compile:
            for network in stage.children():
                network.compile()
        trained = [p for p in stage.parameters() if p.requires_grad]
        self.model, self.optimizer = accelerator.prepare(stage, make_optimizer(config.optimizer, trained))
        self.parameters = {name: p for name, p in stage.named_parameters() if p.requires_grad}
        self.averages = EMA(self.parameters, decay=config.optimizer.ema_decay)
        self.step, self.mean_loss = 0, None

    def run(self, *, stop_after: int | None = None, should_stop: ShouldStop | None = None) -> int:
        """Train from the newest checkpoint, or from the start, to ``config.steps``.

        Args:
            stop_after: leave after this many steps of this call, checkpoint written.
            should_stop: asked after every step, in every process: leave, checkpoint written.

        Returns:
            Steps taken.

        Raises:
            InputError: a checkpoint cannot be written, the data cannot be read, or the loss is not finite.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        main = self.accelerator.is_main_process
        metrics = Metrics(self.folder, step=self.step) if main else None
        if main:
            log.info("%d processes on %s", self.accelerator.num_processes, self.accelerator.device)
        first, began = self.step, time.monotonic()
        last = self.config.steps if stop_after is None else min(self.config.steps, first + stop_after)
        parts = self._parts()
        while self.step < last:
            loss = self._train_step(parts)
            if not math.isfinite(loss):
                raise InputError(
                    f"The loss of step {self.step + 1} is {loss}: the weights or the data are damaged, or "
                    f"the learning rate is too high. The checkpoints in {self.folder} from before are kept."
                )
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
            if should_stop and self._any_process(should_stop()):
                last = self.step
            if self.step % self.config.checkpoint_every == 0 or self.step == last:
                self.save()
        if metrics:
            metrics.close()
        return self.step - first

    def _any_process(self, answer: bool) -> bool:
        """Whether one process at least says yes; all learn the same, so that they leave at the same step."""
        votes = torch.tensor(float(answer), device=self.accelerator.device)
        return self.accelerator.reduce(votes, "sum").item() > 0

    def _parts(self) -> Iterator[Mapping[str, Any]]:
        """This process's parts of the batches, from the present step on."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        loader = batches(
            self.stage.samples, self.config, first_step=self.step, process=process, processes=processes
        )
        return (
            send_to_device(part, self.accelerator.device, non_blocking=True, skip_keys=ON_HOST)
            for part in loader
        )

    def _train_step(self, parts: Iterator[Mapping[str, Any]]) -> float:
        """One step of the optimizer; returns the mean loss of the global batch."""
        config = self.config.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step, self.config.steps)
        total = torch.zeros((), device=self.accelerator.device)
        for _ in range(self.config.accumulation):
            with self.accelerator.accumulate(self.model):
                loss = self.model(next(parts)).mean()
                self.accelerator.backward(loss)
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
            with self.averages.in_place(self.parameters), self.accelerator.autocast():
                figures = self.stage.sample(self.step, samples)
        self.accelerator.wait_for_everyone()
        return figures

    def save(self) -> None:
        """Write a checkpoint; all processes call it, the main one writes."""
        whole = self.accelerator.get_state_dict(self.model)
        if self.accelerator.is_main_process:
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
                p.copy_(state["parameters"][name])
        self.averages.load(state["averages"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.mean_loss = state["step"], state.get("mean_loss")
        log.info("resumed %s at step %d", path, self.step)


class EMA:
    """The averaged values, by the parameters' names; with a decay of 0 the parameters themselves."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, decay: float):
        self.decay = decay
        self.values = {name: p.detach().clone() if decay else p.detach() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """Take in the parameters after ``step``."""
        if not self.decay:
            return
        # The first averages follow quickly: a fixed decay would carry the random start for long.
        decay = min(self.decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(self.values.values()), [p.detach() for p in parameters.values()], 1 - decay)

    @torch.no_grad()
    def load(self, values: Mapping[str, torch.Tensor]) -> None:
        """Take over saved averages."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @contextmanager
    def in_place(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Within the block the networks have the averaged weights."""
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
    """Global sample indices ``step * samples_a_step + k`` of the parts that one process computes.

    A batch is cut into ``processes`` x ``accumulation`` equal parts; a process takes every so many-th.
    Iterating yields the parts in the order they are computed, ``accumulation`` of them a step.

    Raises:
        InputError: the batch cannot be cut so.
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
    """Samples that know their global index, from which a stage draws their noise."""

    def __init__(self, samples: Dataset):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.samples[index], "index": index}


def batches(
    samples: Dataset, config: StageConfig, *, first_step: int, process: int = 0, processes: int = 1
) -> DataLoader:
    """Loader of this process's parts of the batches; ``config.workers`` processes read ahead."""
    plan = StepBatches(config, first_step=first_step, process=process, processes=processes)
    return DataLoader(
        Numbered(samples),
        batch_sampler=plan,
        num_workers=config.workers,
        # A fork of a process with threads can wait for ever for a lock that one of them held.
        multiprocessing_context="spawn" if config.workers else None,
        pin_memory=torch.cuda.is_available(),
    )
