"""Batches by step: each process reads its own part of every global batch, from any first step on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from magicanimate.errors import InputError
from training.config import StageConfig


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
