"""What this program does on a GPU, in one command: numbers, speed, memory, training, the mini.

    python -m benchmarks.gpu --out FOLDER [--minutes 8] [--parts abcd]
    python -m benchmarks.gpu --train-mini --minutes 9 --out FOLDER       (see `benchmarks.train_mini`)

a. the reference numbers of the published program in float32 without TF32, and the mini's frames in 16 bits;
b. networks of Stable Diffusion 1.5's size with random weights: a step by memory profile, preset and switch,
   beside the published order of work; TFLOP/s; running out of memory;
c. a training step of stage 1 and of stage 2 at that size;
d. the mini's frames beside those of the CPU.

``FOLDER/gpu.json`` and ``FOLDER/gpu.md`` are written anew after each row, so that a run that is cut off still
tells. What no time is left for is named. Without a GPU everything runs on the CPU in small: networks,
pictures and clips that take seconds, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

# Nothing heavy is imported here: --train-mini brings diffusers itself.


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    top.add_argument("--out", type=Path, required=True, help="folder for the tables, or the weights")
    top.add_argument("--minutes", type=float, default=8, help="no work begins after them (%(default)s)")
    top.add_argument("--parts", default="abcd", help="some of a, b, c and d (%(default)s)")
    top.add_argument("--device", help="cuda if there is one, else cpu")
    top.add_argument("--small", action="store_true", help="as on a CPU")
    top.add_argument("--train-mini", action="store_true", help="train the mini's checkpoint instead")
    top.add_argument(
        "--pack", action="store_true", help="write what --train-mini needs where little is installed"
    )
    top.add_argument("--packed", type=Path, help="with --train-mini: what --pack wrote")
    top.add_argument("--tiny", action="store_true", help="with --train-mini: the tests' sizes")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run it; the exit status is 1 if a row failed."""
    args = parser().parse_args(argv)
    if strange := set(args.parts) - set("abcd"):
        parser().error(f"there is no part {', '.join(sorted(strange))}; choose some of a, b, c and d")
    if args.pack or args.train_mini:
        from benchmarks import train_mini

        if args.pack:
            train_mini.pack(args.out)
        else:
            train_mini.train(args.out, minutes=args.minutes, packed=args.packed, tiny=args.tiny)
        return 0
    import torch

    from benchmarks.gpu_parts import BY, PARTS, SMALL, Bench, Report, Scale

    began = time.monotonic()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    small = args.small or device == "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    about = {"device": name, "torch": torch.__version__, "small": small, "format": ""}
    bench = Bench(device, SMALL if small else Scale(), Report(args.out, about), began)
    about["format"] = str(bench.dtype).removeprefix("torch.")
    for letter in args.parts:
        bench.deadline = began + 60 * args.minutes * BY[letter]
        PARTS[letter](bench)
    failed = [
        row
        for rows in bench.report.parts.values()
        for row in rows
        if str(row.get("note", "")).startswith("failed") or row.get("within") is False
    ]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
