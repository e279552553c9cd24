"""The diffusers pipeline itself: arrays in, arrays out, and any of diffusers' schedulers.

python examples/pipeline.py [OUTPUT.png]
"""

import sys

import numpy as np
from diffusers import UniPCMultistepScheduler
from PIL import Image

from magicanimate import ASSETS
from magicanimate.media.motion import open_motion
from magicanimate.pipeline import MagicAnimatePipeline

pipe = MagicAnimatePipeline.from_pretrained(ASSETS / "mini")
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction")
size = (pipe.config.default_width, pipe.config.default_height)

photo = np.asarray(Image.open(ASSETS / "examples" / "arms_photo.jpg").convert("RGB").resize(size))
clip = list(open_motion(ASSETS / "examples" / "arms_motion.mp4").frames())[:16]
poses = np.stack([Image.fromarray(frame).resize(size, Image.Resampling.NEAREST) for frame in clip])

frames = pipe(photo, poses, num_inference_steps=4, seed=1).frames  # uint8 (16, height, width, 3)
output = sys.argv[1] if len(sys.argv) > 1 else "arms.png"
Image.fromarray(np.concatenate([photo, poses[-1], frames[-1]], axis=1)).save(output)
print(output, frames.shape)
