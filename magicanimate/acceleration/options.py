"""How the exact work of an animation is arranged: same output within rounding, other time and memory."""

from __future__ import annotations

from dataclasses import dataclass

ATTENTION = ("native", "flash", "xformers", "sage")


@dataclass(frozen=True)
class OptimizationConfig:
    """What is computed once instead of often, and by which kernels. The result is the same within rounding.

    Attributes:
        branches_in_turn: run the guidance branches one after the other, which halves the largest activations,
            and the UNet's down path once for both while nothing tells them apart: the texts are equal and
            only middle and up blocks read the photo.
        share_residuals: run the ControlNet once per frame and step; where windows overlap, the second one
            takes the residuals of the first.
        keep_maps: embed each control image once per animation, up to 256 MB of them.
        cpu_kernels: on a CPU, feature maps that are their tokens without a copy, and feed-forward layers in
            slices; no effect elsewhere.
        window_batch: windows of a step that go through the UNet together. More fill a large GPU; a CPU gains
            nothing.
        banks_ahead: encode the photo for all steps before the first one, so that offloading moves the encoder
            once instead of in every step; the banks of 25 steps at 512x512 take 350 MB in half precision.
        attention: the library that computes attention, one of `ATTENTION`, see
            `magicanimate.acceleration.attention_backend`; torch when ``None``.

    Raises:
        ValueError: a value outside its range.
    """

    branches_in_turn: bool = True
    share_residuals: bool = True
    keep_maps: bool = True
    cpu_kernels: bool = True
    window_batch: int = 1
    banks_ahead: bool = False
    attention: str | None = None

    def __post_init__(self) -> None:
        if self.window_batch < 1:
            raise ValueError(f"window_batch is {self.window_batch}; it is at least 1")
        if self.attention not in (None, *ATTENTION):
            raise ValueError(f"unknown attention {self.attention!r}; choose from {ATTENTION}")

    @classmethod
    def plain(cls) -> OptimizationConfig:
        """Everything as the networks are defined, nothing shared: what the others are measured against."""
        return cls(branches_in_turn=False, share_residuals=False, keep_maps=False, cpu_kernels=False)
