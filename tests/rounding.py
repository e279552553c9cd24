"""Comparing work that was done in two ways.

Equal bytes may be asked only of the same code that ran twice on one machine, and of integers. Another order
of the same additions rounds otherwise, and every other arrangement, thread count, process count or processor
brings one.
"""

from __future__ import annotations

import numpy as np
import torch

# Float32 keeps 6e-8 of a number. The tiny networks of the tests, a few hundred layers over several steps,
# make of that up to 2e-5 of the largest value. What the tests are to find (a stale cache, a lost window, a
# wrong mask) changes it by a hundredth and more.
ROUNDING = 1e-4
# A value that lies just between two grey levels may fall to either side.
GREY_LEVELS = 1


def assert_same_but_for_rounding(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Floating-point tensors of one shape, `ROUNDING` of the largest expected value apart at most."""
    assert found.shape == expected.shape
    apart, largest = float((found - expected).detach().abs().max()), float(expected.detach().abs().max())
    assert apart <= ROUNDING * largest, f"{apart:.2e} apart, where {largest:.2e} is the largest value"


def assert_same_pictures(found: np.ndarray, expected: np.ndarray) -> None:
    """Pictures of one shape with values of 0 to 255."""
    assert found.shape == expected.shape
    apart = np.abs(found.astype(int) - expected.astype(int)).max()
    assert apart <= GREY_LEVELS, f"{apart} grey levels apart"
