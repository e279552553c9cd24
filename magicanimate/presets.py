"""Speed for likeness: approximations, whose result differs a little from the full one, and four choices.

`magicanimate.acceleration.options` holds what changes the time only. The choices come from the table that
``python -m benchmarks.presets`` prints; `benchmarks/RESULTS.md` has it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from magicanimate.config import PRESETS, AnimationRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

SOLVER = "DPMSolverMultistepScheduler"  # DPM-Solver++ of second order; UniPC does no better in the table
FEWEST_STEPS = 2


@dataclass(frozen=True)
class Approximations:
    """What is left out of the denoising; by default nothing.

    Attributes:
        guidance_start, guidance_stop: guide only in this part of the steps, 0 the first and 1 behind the
            last; outside of it the guided half runs alone. Source: Kynkäänniemi et al. 2024, "Applying
            Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models".
        deep_reuse: timesteps (a training run has 1000) for which a window's deep features serve again; the
            steps in between compute the outermost layers only. 0 for never. Source: Ma et al. 2023,
            "DeepCache: Accelerating Diffusion Models for Free".
        encoder_reuse: timesteps for which what the appearance encoder found serves again; 0 for never.

    Raises:
        ValueError: a value outside its range.
    """

    guidance_start: float = 0.0
    guidance_stop: float = 1.0
    deep_reuse: int = 0
    encoder_reuse: int = 0

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
        """Those of a request's settings, see `AnimationRequest.settings`; what is open is not shortened.

        Raises:
            ValueError: a value outside its range.
        """
        asked = {name: settings.get(name) for name in cls.__dataclass_fields__}
        return cls(**{name: value for name, value in asked.items() if value is not None})

    def guides(self, step: int, steps: int) -> bool:
        """Whether step number ``step`` of ``steps`` is guided."""
        return self.guidance_start * steps <= step < self.guidance_stop * steps


@dataclass(frozen=True)
class SpeedPreset:
    """One of the choices.

    Attributes:
        summary: for people who choose, one sentence.
        most_steps: denoising steps, but never more than half of the checkpoint's own; all when ``None``.
        scheduler: diffusers class; the checkpoint's own when ``None``.
        approximations: what is left out.
    """

    summary: str
    most_steps: int | None = None
    scheduler: str | None = None
    approximations: Approximations = Approximations()

    def steps(self, own: int) -> int:
        """Denoising steps for a checkpoint that has ``own``."""
        return own if self.most_steps is None else min(own, max(FEWEST_STEPS, min(self.most_steps, own // 2)))


_CHOICES: Mapping[str, SpeedPreset] = {
    "exact": SpeedPreset("Every step in full."),
    "balanced": SpeedPreset(
        "Fewer steps with a better solver: at least twice as quick, hardly a difference to be seen.",
        most_steps=10,
        scheduler=SOLVER,
    ),
    "fast": SpeedPreset(
        "Few steps, two of three at the surface only: five times as quick; fine detail may suffer.",
        most_steps=8,
        scheduler=SOLVER,
        approximations=Approximations(guidance_stop=0.75, deep_reuse=255, encoder_reuse=255),
    ),
    "draft": SpeedPreset(
        "The quickest, to see whether photo and motion suit each other.",
        most_steps=4,
        scheduler=SOLVER,
        approximations=Approximations(guidance_stop=0.5, deep_reuse=260, encoder_reuse=260),
    ),
}


def speed_preset(name: str) -> SpeedPreset:
    """The choice of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in _CHOICES:
        raise ValueError(f"unknown preset {name!r}; choose from {PRESETS}")
    return _CHOICES[name]


def completed(request: AnimationRequest, *, steps: int) -> AnimationRequest:
    """``request`` with its preset's values where it has none of its own.

    Args:
        request: what was asked for; what it names stays.
        steps: the checkpoint's own number of steps.
    """
    preset = speed_preset(request.preset)
    filled = {
        "num_inference_steps": preset.steps(steps),
        "scheduler": preset.scheduler,
        **{name: getattr(preset.approximations, name) for name in Approximations.__dataclass_fields__},
    }
    return replace(
        request, **{name: value for name, value in filled.items() if getattr(request, name) is None}
    )
