"""Exponential moving average of the trained parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class Averages:
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
