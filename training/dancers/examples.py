"""`python -m training.dancers.examples`: renders the bundled example photos and motion clips.

An example is a photo of one synthetic person and the part map of another one's dance. Their seeds are not
among those of the training data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

_SIZE, _FRAMES, _FPS = 256, 64, 25.0
_SEED = 7001
# name -> (identity of the photo, its still, identity of the motion); picked by eye from a sheet.
EXAMPLES = {
    "arms": (5, 2, 2),  # the first by name is what the page begins with
    "sway": (2, 2, 3),
    "pair": (6, 0, 0),
}


def write_examples(folder: Path, *, sheet: Path | None = None) -> None:
    """Render the examples into ``folder``: ``NAME_photo.jpg`` and ``NAME_motion.mp4``.

    Args:
        folder: where; made if absent.
        sheet: overview PNG of all stills and clips instead, to pick from.
    """
    import numpy as np
    from PIL import Image

    from magicanimate.media.writer import VideoWriter
    from magicanimate.palette import PALETTE
    from training.dancers.body import Body
    from training.dancers.clip import render_identity
    from training.dancers.dataset import Spec

    body, spec = Body(), Spec(size=_SIZE, stills=3, frames=_FRAMES, fps=_FPS)
    if sheet is not None:
        rows = []
        for i in range(10):
            identity = render_identity(body, (_SEED, i), spec)
            frames = [PALETTE[identity.clip_parts[k]] for k in (0, 20, 40, 63)]
            rows.append(np.concatenate([*identity.stills_rgb, *frames], 1)[::2, ::2])
        Image.fromarray(np.concatenate(rows)).save(sheet)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, (person, still, dancer) in EXAMPLES.items():
        photo = render_identity(body, (_SEED, person), spec).stills_rgb[still]
        Image.fromarray(photo).save(folder / f"{name}_photo.jpg", quality=94)
        motion = render_identity(body, (_SEED, dancer), spec).clip_parts
        with VideoWriter(folder / f"{name}_motion.mp4", width=_SIZE, height=_SIZE, fps=_FPS) as writer:
            for labels in motion:
                writer.write(PALETTE[labels])


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(prog="python -m training.dancers.examples", description=__doc__)
    arguments.add_argument("--out", type=Path, default=Path("assets/examples"), help="(%(default)s)")
    arguments.add_argument("--sheet", type=Path, help="write an overview PNG to pick from instead")
    options = arguments.parse_args()
    write_examples(options.out, sheet=options.sheet)
