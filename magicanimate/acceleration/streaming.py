"""Finish the beginning of a long clip first: windows on a diagonal, each a step behind the one before it.

In the ordinary order (`magicanimate.sampling.denoise`) all windows take a step before any takes the next.
But a frame's noise is the mean over the windows that contain it (paper, section 3.4), and the scheduler's
step treats each frame by itself, so a window may take its next step as soon as its own frames have taken the
one before: the windows beside it must be there, those further off need not. Taking the latest step that can
be taken gives

    window     0   1   2   3
    step 0     1   2   4   7      numbers: what is computed when
    step 1     3   5   8
    step 2     6   9

Every number is made of the same numbers as in the ordinary order, so the result is the same within rounding
and there is no seam. Of ``N`` windows and ``T`` steps, which is ``N T`` predictions, the first window is
final after ``T (T + 1) / 2``: of 500 frames (42 windows) 6 % with 4 steps, 11 % with 8, 31 % with 25. What is
lost are ControlNet results that overlapping windows share, as their turns are too far apart.

Letters in shape comments: see `magicanimate.sampling`.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import torch

from magicanimate.device import to_device
from magicanimate.sampling import Networks, Window, denoise
from magicanimate.windows import WindowPlan


def stream(
    latents: torch.Tensor,
    scheduler: Any,
    timesteps: torch.Tensor,
    networks: Callable[[], Networks],
    *,
    plan: WindowPlan,
    guidance_scale: float,
    generator: torch.Generator,
    attempt: Callable[[Callable[[], Any]], Any],
    begin: Callable[[range], None] = lambda window: None,
) -> Iterator[torch.Tensor]:
    """Yield the final latents, float32 ``1 C k h w``, of a few frames at a time, from the first to the last.

    The arguments are those of `magicanimate.sampling.denoise`; ``attempt`` runs a window's prediction, and
    ``begin`` is called before a window's first one and may still write its frames of ``latents``. The plan is
    no closed loop. Schedulers that add noise in their steps draw other numbers than in the ordinary
    order.
    """
    steps = [_windows(plan, latents.shape[2], step=i) for i in range(len(timesteps))]
    cells = _cells(latents, steps, scheduler, timesteps, guidance_scale, generator)
    places = {cell.first: i for i, cell in enumerate(cells)} | {latents.shape[2]: len(cells)}
    waiting = [deque(windows) for windows in steps]  # of each step, the windows that are still to come

    def cells_of(window: range) -> list[_Cell]:
        return cells[places[window.start] : places[window.stop]]

    def ready(step: int) -> bool:
        # A step takes its windows from the first to the last, so only the next one can be ready.
        windows = waiting[step]
        return bool(windows) and all(cell.steps_taken == step for cell in cells_of(windows[0]))

    def predict(noisy: torch.Tensor, timestep: torch.Tensor, window: Window) -> Any:
        now = networks()
        now.show(now.encode(timestep))
        return now.fuse(now, noisy, timestep, [window])

    @cache  # as in the core: most plans have the same windows in every step
    def alone(window: range) -> Window:
        weights = torch.tensor(plan.weights(list(window)))
        index = torch.arange(len(window))  # its frames are all that it is given
        return Window(list(window), *(to_device(x, latents.device) for x in (index, weights)))

    shown = 0
    while any(waiting):
        # The latest step that can go on: it brings the beginning nearest to its end.
        number = max(filter(ready, range(len(steps))))
        window, timestep = waiting[number].popleft(), timesteps[number]
        own = cells_of(window)
        if number == 0:
            begin(window)
        noisy = torch.cat([cell.scheduler.scale_model_input(cell.latents, timestep) for cell in own], dim=2)
        # Several cells share a window, and their noise is predicted together, as in the ordinary order.
        total, weight = attempt(partial(predict, noisy, timestep, alone(window)))  # B C K h w, K
        for cell in own:
            part = slice(cell.first - window[0], cell.first - window[0] + cell.latents.shape[2])
            cell.add(total[:, :, part], weight[part])
        # Handed out in order: a later cell may be done before an earlier one.
        while shown < len(cells) and cells[shown].steps_taken == len(timesteps):
            yield cells[shown].latents
            shown += 1


def _windows(plan: WindowPlan, num_frames: int, *, step: int) -> list[range]:
    if plan.closed_loop:
        raise ValueError("a closed loop has no beginning, which streaming needs")
    return [range(each[0], each[-1] + 1) for each in plan.windows(num_frames, step=step)]


@dataclass
class _Cell:
    """Neighbouring frames that are in the same windows in every step, and so take their steps together."""

    first: int  # number of the first frame
    latents: torch.Tensor  # after the steps taken so far, ``1 C k h w``
    scheduler: Any  # one of its own, as solvers remember what they have seen
    windows: list[int]  # for each step, how many windows contain the frames
    # The paper's loop over these frames alone; it takes the noise from ``total`` and ``weight``.
    loop: Iterator[tuple[torch.Tensor, torch.Tensor]] | None = None
    steps_taken: int = 0
    missing: int = 0  # windows of the present step that are still to come
    total: torch.Tensor | None = None  # noise of the windows so far, ``B C k h w``
    weight: torch.Tensor | None = None  # their weights, ``k``

    def add(self, total: torch.Tensor, weight: torch.Tensor) -> None:
        """Add one window's prediction; with the last one the frames take their step."""
        self.total = total if self.total is None else self.total + total
        self.weight = weight if self.weight is None else self.weight + weight
        self.missing -= 1
        if self.missing == 0:
            assert self.loop is not None
            # Only now may the loop ask for the noise: it takes the sums as they are.
            self.latents, _ = next(self.loop)
            self.total = self.weight = None
            self.steps_taken += 1
            if self.steps_taken < len(self.windows):
                self.missing = self.windows[self.steps_taken]


def _cells(
    latents: torch.Tensor,
    steps: list[list[range]],
    scheduler: Any,
    timesteps: torch.Tensor,
    guidance_scale: float,
    generator: torch.Generator,
) -> list[_Cell]:
    """The clip's frames in cells, each with a loop and a random stream of its own."""
    # Between two edges of any window of any step, frames are never apart.
    cuts = sorted({edge for windows in steps for window in windows for edge in (window.start, window.stop)})
    begin = [Counter(window.start for window in windows) for windows in steps]
    end = [Counter(window.stop for window in windows) for windows in steps]
    counts = [0] * len(steps)  # windows of each step that contain the cell
    cells = []
    for first, last in pairwise(cuts):
        counts = [n + begin[i][first] - end[i][first] for i, n in enumerate(counts)]
        part = latents[:, :, first:last]
        cell = _Cell(first, part, copy.deepcopy(scheduler), counts, missing=counts[0])
        # The core's own loop: what it asks the networks for has been computed window by window.
        collected = replace(_NOTHING, fuse=lambda *_, cell=cell: (cell.total, cell.weight))
        # Cells take their steps at different times, so one shared stream would depend on their order.
        seed = int(torch.randint(2**63 - 1, (1,), generator=generator))
        cell.loop = denoise(
            part,
            cell.scheduler,
            timesteps,
            lambda collected=collected: collected,  # type: ignore[misc]
            plan=WindowPlan(context_length=last - first, context_overlap=0),
            guidance_scale=guidance_scale,
            generator=torch.Generator("cpu").manual_seed(seed),
            attempt=lambda step: step(),
        )
        cells.append(cell)
    return cells


_NOTHING = Networks(
    encode=lambda timestep: {},
    show=lambda bank: None,
    control=lambda *_: [],
    predict=lambda frames, noisy, timestep, residuals: noisy,
)
