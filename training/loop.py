"""The one training loop: every stage is this loop with another loss.

A run folder holds ``config.json``, ``metrics.jsonl``, ``samples/`` and ``checkpoints/``. The same command
resumes from the newest checkpoint; as each step draws its batch and noise from (seed, step), the losses
are those of a run that was never interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from training.config import OptimizerConfig, StageConfig

log = logging.getLogger(__name__)
KEPT_CHECKPOINTS = 2


class Stage(Protocol):
    """What a stage gives the loop.

    Attributes:
        networks: networks by name; those with parameters that require gradients are trained.
    """

    networks: Mapping[str, nn.Module]

    def loss(self, step: int) -> torch.Tensor:
        """Scalar loss of this step's batch."""

    def sample(self, step: int, folder: Path) -> dict[str, float]:
        """Write pictures of held-out data into ``folder``; return figures worth logging."""


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Warm-up, constant, linear decay over the last ``decay_steps`` of ``steps``."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.decay_steps:
        left = (steps - step) / config.decay_steps
        rate *= max(config.final_ratio, min(1.0, left))
    return rate


class Averages:
    """Exponential moving average of the trained parameters."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, decay: float):
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        # The first averages follow quickly: a fixed decay would carry the random start for long.
        decay = min(self.decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(self.values.values()), [p.detach() for p in parameters.values()], 1 - decay)

    @torch.no_grad()
    def swap(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Exchange averaged and trained values; call again to change back."""
        for name, p in parameters.items():
            kept = p.detach().clone()
            p.copy_(self.values[name])
            self.values[name] = kept


class Trainer:
    """Runs a stage to its last step, writing checkpoints on the way."""

    def __init__(self, stage: Stage, config: StageConfig, folder: Path):
        self.stage, self.config, self.folder = stage, config, folder
        self.parameters = {
            f"{name}.{key}": p
            for name, network in stage.networks.items()
            for key, p in network.named_parameters()
            if p.requires_grad
        }
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            fused=True,
            lr=config.optimizer.learning_rate,
            weight_decay=config.optimizer.weight_decay,
        )
        self.averages = Averages(self.parameters, decay=config.optimizer.ema_decay)
        self.step = 0

    def run(self, *, stop_after: int | None = None) -> None:
        """Train from the newest checkpoint, or from the start, to ``config.steps``.

        Args:
            stop_after: leave after this many steps of this call, checkpoint written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        self._resume()
        first, began, mean = self.step, time.monotonic(), None
        while self.step < self.config.steps and (stop_after is None or self.step - first < stop_after):
            loss = self._train_step()
            mean = loss if mean is None else 0.98 * mean + 0.02 * loss
            self.step += 1
            if self.step % self.config.log_every == 0:
                pace = (time.monotonic() - began) / (self.step - first)
                self._log({"loss": loss, "mean_loss": mean, "seconds_per_step": pace})
            if self.step % self.config.checkpoint_every == 0:
                self.save()
            if self.step % self.config.sample_every == 0 or self.step == self.config.steps:
                self._sample()
        self.save()

    def _train_step(self) -> float:
        config = self.config.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step, self.config.steps)
        torch.manual_seed(hash((self.config.seed, self.step)) & 0x7FFFFFFF)
        loss = self.stage.loss(self.step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.averages.update(self.parameters, self.step)
        return loss.item()

    def _sample(self) -> None:
        self.averages.swap(self.parameters)
        try:
            samples = self.folder / "samples"
            samples.mkdir(exist_ok=True)
            self._log(self.stage.sample(self.step, samples))
        finally:
            self.averages.swap(self.parameters)

    def _log(self, figures: Mapping[str, float]) -> None:
        row = {"step": self.step, **{k: round(v, 6) for k, v in figures.items()}}
        log.info("%s", row)
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def save(self) -> None:
        """Write a checkpoint under a temporary name, rename it, drop all but the newest few."""
        checkpoints = self.folder / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        path = checkpoints / f"step_{self.step:07d}.pt"
        state = {
            "step": self.step,
            "parameters": {name: p.detach() for name, p in self.parameters.items()},
            "averages": self.averages.values,
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)
        for old in sorted(checkpoints.glob("step_*.pt"))[:-KEPT_CHECKPOINTS]:
            old.unlink()

    def _resume(self) -> None:
        path = newest_checkpoint(self.folder)
        if path is None:
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(state["parameters"][name])
        self.averages.values = state["averages"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        log.info("resumed %s at step %d", path, self.step)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run folder, if it has any."""
    found = sorted((folder / "checkpoints").glob("step_*.pt"))
    return found[-1] if found else None


def load_averages(networks: Mapping[str, nn.Module], folder: Path, *, partly: bool = False) -> int:
    """Put a run's averaged weights into ``networks`` (names as in its stage); returns the run's step.

    Args:
        networks: what to fill.
        folder: of the run.
        partly: the run trained only some of the parameters; the others keep their values.

    Raises:
        FileNotFoundError: the run has no checkpoint yet.
        KeyError: the run has no weights for a parameter.
    """
    path = newest_checkpoint(folder)
    if path is None:
        raise FileNotFoundError(f"{folder} has no checkpoint; run that stage first")
    state = torch.load(path, map_location="cpu", weights_only=True)
    with torch.no_grad():
        for name, network in networks.items():
            for key, p in network.named_parameters():
                if not partly or f"{name}.{key}" in state["averages"]:
                    p.copy_(state["averages"][f"{name}.{key}"])
    return state["step"]
