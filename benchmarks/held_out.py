"""Figures of a checkpoint on rendered people that training never saw.

    python -m benchmarks.held_out [--data data/dancers] [--model mini] [--people 8]

Each of the last identities of the data set dances its own clip, from its first still. Printed against the
truth: PSNR of the whole frame and of the person, and the error of frame-to-frame changes; the same for
copying the photo and for the autoencoder alone, which is the ceiling.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def figures(result, truth, person) -> tuple[float, float, float]:
    """PSNR in dB of frame and person, mean error of changes in grey levels; uint8 ``F H W 3``."""
    import numpy as np

    error = (result.astype(np.float64) - truth.astype(np.float64)) ** 2
    whole = 10 * np.log10(255**2 / error.mean())
    on_person = 10 * np.log10(255**2 / error[person].mean())
    changes = [np.diff(x.astype(np.float64), axis=0) for x in (result, truth)]
    return whole, on_person, float(np.abs(changes[0] - changes[1]).mean())


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/dancers"))
    parser.add_argument("--model", default="mini")
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--holdout", type=int, default=16)
    args = parser.parse_args()

    import numpy as np
    import torch

    from magicanimate.animator import Animator
    from magicanimate.palette import PALETTE
    from training.data import DancerData

    animator = Animator(args.model, device="cpu")
    animator.load()
    pipe, data = animator._pipe, DancerData(args.data, holdout=args.holdout)
    rows: dict[str, list[tuple[float, float, float]]] = {}

    def per_frame(photo, control):
        return np.concatenate([pipe(photo, control[i : i + 1]).frames for i in range(len(control))])

    for i in data.held_out[: args.people]:
        photo, truth = np.array(data.rgb[i, 0]), np.array(data.rgb[i, data.stills :])
        parts = np.array(data.parts[i, data.stills :])
        with torch.no_grad():
            encoded = torch.cat([pipe.encode_image(frame) for frame in truth])
            ceiling = np.stack(list(pipe.decode(encoded.transpose(0, 1)[None])))
        results = {
            "this checkpoint": pipe(photo, PALETTE[parts]).frames,
            "the same, frame by frame": per_frame(photo, PALETTE[parts]),
            "copying the photo": np.broadcast_to(photo, truth.shape),
            "autoencoder (ceiling)": ceiling,
        }
        for name, result in results.items():
            rows.setdefault(name, []).append(figures(result, truth, parts > 0))
    print("| what | PSNR whole frame, dB | PSNR person, dB | error of changes, grey levels |")
    print("|---|---|---|---|")
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(f"{x:.2f}" for x in np.mean(values, axis=0)) + " |")


if __name__ == "__main__":
    main()
