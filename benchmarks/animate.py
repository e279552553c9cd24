"""Times a checkpoint on this machine, and what the ControlNet's sharing between windows saves.

    python -m benchmarks.animate [--model mini] [--frames 16 48] [--steps 10]

Prints seconds a frame by stage, and the ratio against the same run whose windows do not share residuals.
"""

from __future__ import annotations

import argparse
import time


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 48])
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()

    import numpy as np

    from magicanimate.acceleration.options import OptimizationConfig
    from magicanimate.animator import Animator
    from magicanimate.palette import PALETTE

    animator = Animator(args.model)
    animator.load()
    pipe, size = animator.pipe, animator.defaults.width
    photo = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)

    def run(frames: int, optimization: OptimizationConfig) -> tuple[float, float]:
        control = np.broadcast_to(PALETTE[2], (frames, size, size, 3))
        began = time.perf_counter()
        output = pipe(
            photo, control, num_inference_steps=args.steps, optimization=optimization, output_type="stream"
        )
        denoised = time.perf_counter()
        for _ in output.frames:
            pass
        return denoised - began, time.perf_counter() - denoised

    run(4, OptimizationConfig())  # warm-up
    print(f"{animator.defaults.kind}, {size}x{size}, {args.steps} steps, {animator.device}")
    for frames in args.frames:
        denoise, decode = run(frames, OptimizationConfig())
        alone, _ = run(frames, OptimizationConfig(share_residuals=False))
        print(
            f"{frames} frames: denoise {denoise:.1f} s, decode {decode:.2f} s, "
            f"{(denoise + decode) / frames:.2f} s a frame; without sharing {alone / denoise:.2f} times that"
        )


if __name__ == "__main__":
    main()
