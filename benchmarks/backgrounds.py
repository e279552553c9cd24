"""Figures of other backgrounds: the person of one rendered photo in the scene of another's clip.

    python -m benchmarks.backgrounds [--model mini] [--scenes 4] [--frames 32] [--out runs/backgrounds]

The truth is rendered: the same room, light, camera and choreography with the photo's person in it. Each
scene is animated with ``--background clip`` and, to compare, with the photo's own background, from which the
map's outline is cut and pasted into the clip. Writes ``results.md``, ``results.json`` and a PNG strip for
each scene: photo, clip, motion, these three, truth.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

SIZE, FPS = 128, 25.0
RING = 4  # pixels around the true person in which a halo would be
AWAY = 10  # pixels from everybody, the dancer of the clip and the person of the truth


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.backgrounds", description=__doc__.splitlines()[0]
    )
    top.add_argument("--model", default="mini", help="name or folder of the checkpoint (%(default)s)")
    top.add_argument("--scenes", type=int, default=4, choices=range(1, 13), help="(%(default)s)")
    top.add_argument("--frames", type=int, default=32, help="of each clip (%(default)s)")
    top.add_argument("--out", type=Path, default=Path("runs/backgrounds"), help="folder (%(default)s)")
    return top


def scene(number: int, frames: int, cache: Path) -> dict:
    """Photo of one test person, clip and map of another, the truth, and masks; kept in ``cache``."""
    import numpy as np

    from benchmarks.synthdance_data import IDENTITIES, SEED
    from training.dancers.body import Body
    from training.dancers.clip import identity_places, render_identity
    from training.dancers.dataset import Spec

    file = cache / f"scene_{number}_{frames}.npz"
    if file.is_file():
        with np.load(file) as kept:
            return dict(kept)
    body, spec = Body(), Spec(size=SIZE, stills=1, frames=frames, fps=FPS)
    dancer, person = (SEED, number), (SEED, (number + 1) % IDENTITIES)
    photo = render_identity(body, person, Spec(size=SIZE, stills=1, frames=1, fps=FPS))
    clip = render_identity(body, dancer, spec)
    truth = render_identity(body, dancer, spec, person=person)
    found = {
        "photo": photo.stills_rgb[0],
        "clip": clip.clip_rgb,
        "parts": clip.clip_parts,
        "truth": truth.clip_rgb,
        # Everything of them, with hair and clothes.
        "dancer": identity_places(body, dancer, spec)[1:, ..., 3] > 0,
        "person": identity_places(body, dancer, spec, person=person)[1:, ..., 3] > 0,
    }
    np.savez_compressed(file, **found)
    return found


def figures(result, scene: dict) -> dict[str, float]:
    """How near a result, uint8 ``F H W 3``, is to a scene's truth, away from the person and around it."""
    import numpy as np

    from magicanimate.mask import grown

    truth = scene["truth"].astype(np.float32)
    error = result.astype(np.float32) - truth
    person, dancer = scene["person"], scene["dancer"]
    away = np.stack([~grown(mask, AWAY) for mask in person | dancer])
    # Where the dancer of the clip was and the new person is not: what the plate has to show.
    uncovered = dancer & np.stack([~grown(mask, RING) for mask in person])
    # The map has the build of the clip's dancer, which the result is meant to have, the truth the person's.
    ring = np.stack([grown(mask, RING + 1) & ~grown(mask, 1) for mask in person | (scene["parts"] > 0)])

    def psnr(mask) -> float:
        return (
            float(10 * np.log10(255**2 / max(1e-3, (error[mask] ** 2).mean())))
            if mask.any()
            else float("nan")
        )

    def shake(video):
        return np.abs(np.diff(video, n=2, axis=0)).mean(-1)

    still = ring[1:-1] & ring[2:] & ring[:-2]
    return {
        "background PSNR": psnr(away),
        "uncovered PSNR": psnr(uncovered),
        "ring error": float(np.abs(error[ring]).mean()),
        "ring brightness": float(error[ring].mean()),
        "ring flicker": float(shake(result.astype(np.float32))[still].mean()),
        "ring flicker of the truth": float(shake(truth)[still].mean()),
        "person PSNR": psnr(person),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    args = parser().parse_args(argv)
    import numpy as np

    from benchmarks.figures import mean_figures, write_report
    from benchmarks.methods import through_files
    from benchmarks.strips import save_png, strip
    from magicanimate.animator import Animator
    from magicanimate.errors import InputError
    from magicanimate.palette import PALETTE

    args.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, float]]] = {}
    text = ""
    try:
        animator = Animator(args.model)
        for number in range(args.scenes):
            found = scene(number, args.frames, args.out)
            files = {"driving": found["clip"], "fps": FPS}
            with tempfile.TemporaryDirectory() as folder:
                given = animator, Path(folder), found["photo"], PALETTE[found["parts"]]
                made = {
                    "--background clip": through_files(*given, **files, background="clip"),
                    "photo's own background": through_files(*given, **files, background="photo"),
                }
            hard = (found["parts"] > 0)[..., None]
            made["hard mask, clip unchanged"] = np.where(hard, made["photo's own background"], found["clip"])
            made["the clip itself"] = found["clip"]
            for name, video in made.items():
                rows.setdefault(name, []).append(figures(video, found))
            shown = [found["clip"], PALETTE[found["parts"]], *list(made.values())[:3], found["truth"]]
            save_png(args.out / f"scene_{number}.png", strip(found["photo"], shown, moments=6))
            means = {name: mean_figures(each) for name, each in rows.items()}
            # Also if it is stopped before the end.
            text = write_report(args.out, means, digits=2, model=args.model, scenes=rows)
            print(f"scene {number}: {rows['--background clip'][-1]}", flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
