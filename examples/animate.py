"""Animate the photo of an example with its DensePose clip: the shortest way from Python.

python examples/animate.py [OUTPUT.mp4]
"""

import sys
from pathlib import Path

from magicanimate import ASSETS
from magicanimate.animator import Animator
from magicanimate.config import AnimationRequest

output = Path(sys.argv[1] if len(sys.argv) > 1 else "sway.mp4")
request = AnimationRequest(
    photo=ASSETS / "examples" / "sway_photo.jpg",
    motion=ASSETS / "examples" / "sway_motion.mp4",
    output=output,
    seed=7,
)
result = Animator("mini").animate(
    request, lambda progress: print(progress.stage, progress.step, "of", progress.total)
)
print(result.output, result.num_frames, "frames")
