"""How well the people of SynthDance can be drawn by copying the photo through exact correspondences.

    python -m benchmarks.oracle [--people 12] [--frames 16]

The renderer knows which place of the body each pixel shows. A pixel of the person takes the photo's colour at
the nearest places of the same person; what the photo does not show takes the mean colour of its body part in
the photo, or of the whole person. Light and shadow stay the photo's. No network takes part: this is what
finding the right places is worth, and what a checkpoint's PSNR on the person is compared with.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

REACH = 0.05
"""Metres of the rest pose within which a place of the photo counts as the same."""
_NEIGHBOURS = 4


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.oracle", description=__doc__.splitlines()[0])
    top.add_argument("--data", type=Path, default=Path("data/synthdance"), help="kept test set (%(default)s)")
    top.add_argument("--people", type=int, default=12, choices=range(1, 13), help="of the 12 (%(default)s)")
    top.add_argument("--frames", type=int, default=16, help="of each clip (%(default)s)")
    return top


def copied(task, photo_places: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The person of every frame, drawn with the photo's pixels; the rest is the photo.

    Args:
        task: a `benchmarks.synthdance_data.Task`.
        photo_places: of the photo, float32 ``H W 4`` (`training.dancers.render.render_places`).
        places: of the frames, ``F H W 4``.

    Returns:
        uint8 ``F H W 3``, and bool ``F H W``, where the photo shows the place.
    """
    frames = np.repeat(task.photo[None], len(places), 0)
    shown = np.zeros(places.shape[:3], bool)
    person = task.photo_parts > 0
    usual = task.photo[person].mean(0) if person.any() else task.photo.mean((0, 1))
    for label in np.unique(task.parts[task.parts > 0]):
        here = task.photo_parts == label
        frames[task.parts == label] = (task.photo[here].mean(0) if here.any() else usual).round()
    for number in np.unique(places[..., 3][places[..., 3] > 0]):
        there, here = photo_places[..., 3] == number, places[..., 3] == number
        if there.sum() < _NEIGHBOURS:
            continue
        distances, nearest = _nearest(places[here][:, :3], photo_places[there][:, :3])
        weights = 1 / (distances + 1e-3) ** 2
        colours = task.photo[there].astype(np.float64)[nearest]
        mixed = (weights[..., None] * colours).sum(1) / weights.sum(1, keepdims=True)
        found = distances[:, 0] < REACH
        at = tuple(index[found] for index in np.nonzero(here))
        frames[at], shown[at] = mixed[found].round(), True
    return frames, shown


def _nearest(wanted: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances from ``wanted N 3`` to the nearest of ``places M 3``, and which these are; ``N 4`` each."""
    import torch

    places, found = torch.from_numpy(places), []
    for part in torch.from_numpy(wanted).split(2048):
        apart = torch.cdist(
            part, places, compute_mode="donot_use_mm_for_euclid_dist"
        )  # which rounds away 1 mm
        found.append(apart.topk(_NEIGHBOURS, largest=False))
    return torch.cat([f.values for f in found]).numpy(), torch.cat([f.indices for f in found]).numpy()


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    args = parser().parse_args(argv)
    from benchmarks.synthdance_data import FPS, FRAMES, SEED, SIZE, render, self_tasks, still_tasks
    from magicanimate.errors import InputError
    from training.metrics.pixels import gradient_energy, psnr, ssim

    try:
        render(args.data)
        from training.dancers.body import Body
        from training.dancers.clip import identity_places
        from training.dancers.dataset import Spec

        groups = {"the clip's first frame": self_tasks, "another still": still_tasks}
        groups = {name: make(args.data, people=args.people) for name, make in groups.items()}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    body, rows = Body(), {name: [] for name in groups}
    for k in range(args.people):
        places = identity_places(body, (SEED, k), Spec(SIZE, stills=1, frames=FRAMES, fps=FPS))
        for name, tasks in groups.items():
            task = tasks[k].first(args.frames)
            photo_places = places[0 if name == "another still" else 1]
            result, shown = copied(task, photo_places, places[1 : 1 + args.frames])
            person = task.parts > 0
            rows[name].append(
                (
                    psnr(task.truth, result, person),
                    ssim(task.truth, result, person),
                    gradient_energy(task.truth, result, person),
                    100 * (shown & person).sum() / person.sum(),
                    psnr(task.truth, result, person & shown),
                    psnr(task.truth, result, person & ~shown),
                )
            )
    titles = (
        "PSNR person",
        "SSIM person",
        "sharpness",
        "shown by the photo, %",
        "PSNR shown",
        "PSNR not shown",
    )
    print("| photo | " + " | ".join(titles) + " |")
    print("|---" * (len(titles) + 1) + "|")
    for name, people in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in np.nanmean(people, 0)) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
