"""A moving picture of what the program does, for a page or a README: photo, dance and result of each example.

python examples/reel.py [OUTPUT.webp]
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from magicanimate import ASSETS
from magicanimate.animator import Animator
from magicanimate.config import AnimationRequest
from magicanimate.media.motion import open_motion

SIDE, FRAMES, FPS = 192, 50, 12.5

animator, rows = Animator("mini"), []
with TemporaryDirectory() as folder:
    for photo in sorted((ASSETS / "examples").glob("*_photo.jpg")):
        motion = photo.with_name(photo.name.replace("_photo.jpg", "_motion.mp4"))
        output = Path(folder) / f"{photo.stem}.mp4"
        # The strip that the program makes of photo, motion and result in one video.
        request = AnimationRequest(photo, motion, output, fps=FPS, end=FRAMES / FPS, side_by_side=True)
        strip = animator.animate(request).side_by_side
        rows.append(list(open_motion(strip).frames()))
frames = [np.concatenate(together) for together in zip(*rows, strict=False)]
scale = SIDE * len(rows) / frames[0].shape[0]
size = (round(frames[0].shape[1] * scale), SIDE * len(rows))
pictures = [Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS) for frame in frames]
target = Path(sys.argv[1] if len(sys.argv) > 1 else "reel.webp")
pictures[0].save(
    target, save_all=True, append_images=pictures[1:], duration=1000 / FPS, loop=0, quality=70, method=6
)
print(target, len(pictures), "frames of", size[0], "x", size[1])
