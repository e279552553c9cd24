"""Options that make an animation faster: exact optimizations, approximations, and presets of approximations.

The presets come from the table that ``python -m benchmarks.presets`` prints; `benchmarks/RESULTS.md` has it.
Nothing heavy is imported here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from magicanimate.config import PRESETS, AnimationRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

ATTENTION = ("native", "flash", "xformers", "sage")
SOLVER = "DPMSolverMultistepScheduler"  # DPM-Solver++ of second order; UniPC does no better in the table
FEWEST_STEPS = 2

COMPILE = "compile parts of the networks with torch.compile; meant for CUDA, slower on a CPU"


@dataclass(frozen=True)
class OptimizationConfig:
    """Exact optimizations: the result is the same within rounding, only time and memory differ.

    Raises:
        ValueError: a value outside its range.
    """

    # Run the guidance branches one after the other, which halves the largest activations, and the UNet's
    # down path once for both while their inputs are equal: the same texts, and only middle and up blocks
    # read the photo.
    sequential_guidance: bool = True
    # Run the ControlNet once per frame and step; where windows overlap, the second one takes the residuals
    # of the first.
    share_residuals: bool = True
    # Embed each control image once per animation; keeps up to 256 MB of embeddings.
    cache_embeddings: bool = True
    # Modules with less copying on a CPU, see `magicanimate.acceleration.cpu_kernels`; no effect elsewhere.
    cpu_kernels: bool = True
    # Windows of a step that go through the UNet together. More fill a large GPU; a CPU gains nothing.
    window_batch: int = 1
    # Encode the photo for all steps before the first one, so that offloading moves the encoder once instead
    # of in every step; the banks of 25 steps at 512x512 take 350 MB in half precision.
    precompute_banks: bool = False
    # The library that computes attention, one of `ATTENTION`, see `magicanimate.acceleration.backends`;
    # torch when ``None``.
    attention: str | None = None

    def __post_init__(self) -> None:
        if self.window_batch < 1:
            raise ValueError(f"window_batch is {self.window_batch}; it is at least 1")
        if self.attention not in (None, *ATTENTION):
            raise ValueError(f"unknown attention {self.attention!r}; choose from {ATTENTION}")

    @classmethod
    def plain(cls) -> OptimizationConfig:
        """No optimization at all: the baseline of tests and benchmarks."""
        return cls(
            sequential_guidance=False, share_residuals=False, cache_embeddings=False, cpu_kernels=False
        )


@dataclass(frozen=True)
class Approximations:
    """Approximations, which change the result; none by default.

    Raises:
        ValueError: a value outside its range.
    """

    # Guide only in this part of the steps, 0 the first and 1 behind the
    # last; outside of it the conditional branch runs alone. Source: Kynkäänniemi et al. 2024, "Applying
    # Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models".
    guidance_start: float = 0.0
    guidance_stop: float = 1.0
    # Timesteps (of 1000 in training) for which a window's deep features are reused; the steps in between
    # compute the outermost layers only. 0 for never. Source: Ma et al. 2023, "DeepCache: Accelerating
    # Diffusion Models for Free".
    deep_reuse: int = 0
    encoder_reuse: int = 0  # timesteps for which the appearance encoder's output is reused; 0 for never

    def __post_init__(self) -> None:
        if not 0 <= self.guidance_start <= self.guidance_stop <= 1:
            raise ValueError(
                f"guidance from {self.guidance_start} to {self.guidance_stop} is not possible; "
                "start and stop are from 0 to 1, in this order"
            )
        for name in ("deep_reuse", "encoder_reuse"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 0")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Approximations:
        """Read the approximations from a request's settings (`AnimationRequest.settings`); unset means none.

        Raises:
            ValueError: a value outside its range.
        """
        given = {name: settings.get(name) for name in cls.__dataclass_fields__}
        return cls(**{name: value for name, value in given.items() if value is not None})

    def guides(self, step: int, steps: int) -> bool:
        """Whether guidance applies in step number ``step`` of ``steps``."""
        # The stop is left out, so that two intervals that meet have no step in common.
        return self.guidance_start * steps <= step < self.guidance_stop * steps


@dataclass(frozen=True)
class SpeedPreset:
    """A preset: how many steps, with which scheduler and approximations."""

    summary: str  # one sentence for the user who chooses
    # Denoising steps, but never more than half of the checkpoint's own; all when ``None``.
    most_steps: int | None = None
    scheduler: str | None = None  # diffusers class; the checkpoint's own when ``None``
    approximations: Approximations = Approximations()

    def steps(self, own: int) -> int:
        """Denoising steps for a checkpoint whose default is ``own``."""
        # Never more than half of the checkpoint's own, which for a distilled one are few already.
        return own if self.most_steps is None else min(own, max(FEWEST_STEPS, min(self.most_steps, own // 2)))


_CHOICES: Mapping[str, SpeedPreset] = {
    "exact": SpeedPreset("Every step in full."),
    "balanced": SpeedPreset(
        "Fewer steps with a better solver: at least twice as fast, with hardly a visible difference.",
        most_steps=10,
        scheduler=SOLVER,
    ),
    "fast": SpeedPreset(
        "Few steps, two of three reuse deep features: five times as fast; fine detail may suffer.",
        most_steps=8,
        scheduler=SOLVER,
        approximations=Approximations(guidance_stop=0.75, deep_reuse=255, encoder_reuse=255),
    ),
    "draft": SpeedPreset(
        "The fastest, to see whether photo and motion suit each other.",
        most_steps=4,
        scheduler=SOLVER,
        approximations=Approximations(guidance_stop=0.5, deep_reuse=260, encoder_reuse=260),
    ),
}


def speed_preset(name: str) -> SpeedPreset:
    """The preset of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in _CHOICES:
        raise ValueError(f"unknown preset {name!r}; choose from {PRESETS}")
    return _CHOICES[name]


def completed(request: AnimationRequest, *, steps: int) -> AnimationRequest:
    """Fill in the preset's values where the request has none; ``steps`` is the checkpoint's own number."""
    # The request's own values win over the preset, which only fills the gaps.
    preset = speed_preset(request.preset)
    if steps == 1:  # nothing of which could be left out
        preset = _CHOICES["exact"]
    filled = {
        "num_inference_steps": preset.steps(steps),
        "scheduler": preset.scheduler,
        **{name: getattr(preset.approximations, name) for name in Approximations.__dataclass_fields__},
    }
    return replace(
        request, **{name: value for name, value in filled.items() if getattr(request, name) is None}
    )


class ProcessGroup:
    """The processes that share an animation; this base class is a group of one, which exchanges nothing."""

    rank, size = 0, 1

    def fail_together(self) -> AbstractContextManager[None]:
        """A context around work that all processes do: if one fails, all fail."""
        return nullcontext()

    def all_reduce_sum(self, *tensors: torch.Tensor) -> None:
        """Replace the tensors by the sums over all processes."""

    def all_reduce_max(self, number: int) -> int:
        """The largest of the numbers that the processes give."""
        return number
