"""Memory while the full model is converted and loaded, against the bytes of its largest part.

    python -m benchmarks.loading [--folder FOLDER] [--dtype bfloat16]

Writes files of the released layout and size with all weights 0 (5.4 GB in half precision, as much again
converted), converts and loads them in processes of their own, and takes them away again. "Peak" is of the
whole process without its libraries and counts pages of mapped files, which the system takes back at need;
"own" is memory of the process alone, looked at a hundred times a second; "left" of that what stays. Linux
only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from magicanimate.device import DTYPES

CONVERT, LOAD = "convert", "load"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__.splitlines()[0])
    top.add_argument("--folder", type=Path, help="where to write (default: the system's folder for such)")
    top.add_argument("--dtype", choices=DTYPES, default="float32", help="to load in (%(default)s)")
    top.add_argument("--only", choices=(CONVERT, LOAD), help="do this in FOLDER and print its figures")
    return top


def write_source(folder: Path) -> None:
    """The released files in half precision, all weights 0."""
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    from magicanimate.checkpoints.convert import NETWORKS, empty_network
    from magicanimate.checkpoints.layout import (
        is_motion_key,
        is_positional,
        published_folder,
        published_key,
        sd15_config,
        video_unet_config,
    )

    def zeros(shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
        return {key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}

    def save(part: str, shapes: dict[str, torch.Size], config: dict, stem: str) -> None:
        place = folder / published_folder(part)
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(config))
        save_file(zeros(shapes), place / f"{stem}.safetensors")

    for part in NETWORKS:
        config = sd15_config(part)
        built = video_unet_config(config, motion_length=24, origin=None) if part == "unet" else config
        shapes = {
            published_key(part, key): value.shape
            for key, value in empty_network(part, built, origin=None).state_dict().items()
            if not is_positional(key)
        }
        motion = {key: shape for key, shape in shapes.items() if part == "unet" and is_motion_key(key)}
        save(part, {key: shapes[key] for key in shapes.keys() - motion}, config, "diffusion_pytorch_model")
        if motion:
            place = folder / published_folder("motion")
            place.mkdir(parents=True)
            torch.save({"state_dict": zeros(motion)}, place / "temporal_attention.ckpt")
    text = sd15_config("text_encoder")
    with torch.device("meta"):
        encoder = CLIPTextModel(CLIPTextConfig(**text))
    shapes = {
        f"text_model.{key.removeprefix('text_model.')}": v.shape for key, v in encoder.state_dict().items()
    }
    save("text_encoder", shapes, {"architectures": ["CLIPTextModel"], **text}, "model")
    _write_tokenizer(folder / published_folder("tokenizer"))


def _write_tokenizer(place: Path) -> None:
    place.mkdir(parents=True)
    tokens = {"<|startoftext|>": 0, "<|endoftext|>": 2, "a</w>": 1}
    (place / "vocab.json").write_text(json.dumps(tokens))
    (place / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
    (place / "tokenizer_config.json").write_text(json.dumps(config))


class OwnMemory:
    """The most memory of this process alone, in MB, while it does something."""

    def __init__(self) -> None:
        self.most, self._stop = 0.0, threading.Event()

    def during(self, work: Callable[[], object]) -> object:
        """Do the work; returns its result."""
        watch = threading.Thread(target=self._watch)
        watch.start()
        try:
            return work()
        finally:
            self._stop.set()
            watch.join()

    def _watch(self) -> None:
        from benchmarks.speed import memory

        while not self._stop.wait(0.01):
            self.most = max(self.most, memory("RssAnon"))


def measure(what: str, folder: Path, dtype: str) -> dict[str, float]:
    """Convert or load in this process; figures in MB, libraries taken off."""
    from benchmarks.speed import memory, start_peak
    from magicanimate.animator import Animator
    from magicanimate.checkpoints.convert import convert_checkpoint

    source, converted = folder / "source", folder / "converted"
    if what == CONVERT:
        import transformers  # noqa: F401  (its code is no part of the work)

        work = lambda: convert_checkpoint(source, converted)  # noqa: E731
    else:
        from magicanimate.loading import read_pipeline  # noqa: F401

        animator = Animator(converted, device="cpu", dtype=dtype, memory="standard")
        work = animator.load
    own = OwnMemory()
    held, before = memory("RssAnon"), start_peak()
    own.during(work)
    found = {"peak": memory("VmHWM") - before, "own": own.most - held, "left": memory("RssAnon") - held}
    bytes_of = part_bytes(converted)
    if what == LOAD:
        import torch

        bytes_of.pop("text_encoder", None)
        factor = getattr(torch, dtype).itemsize / 2  # stored in half precision
        bytes_of = {part: factor * count for part, count in bytes_of.items()}
    return found | {"largest part": max(bytes_of.values()) / 1e6, "all parts": sum(bytes_of.values()) / 1e6}


def part_bytes(folder: Path) -> dict[str, float]:
    """Bytes of the weights of each part of a pipeline's folder."""
    found: dict[str, float] = defaultdict(float)
    for file in folder.glob("*/*.safetensors"):
        found[file.parent.name] += file.stat().st_size
    return dict(found)


def main() -> None:
    """Print the table."""
    args = parser().parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args.folder, args.dtype)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        write_source(Path(name) / "source")
        rows = {}
        for what in (CONVERT, LOAD):
            command = [sys.executable, "-m", "benchmarks.loading", "--only", what, "--folder", name]
            command += ["--dtype", args.dtype]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows[what] = json.loads(done.stdout.splitlines()[-1])
    print(f"| MB | {' | '.join(rows[LOAD])} |\n" + "|---" * (1 + len(rows[LOAD])) + "|")
    for what, row in rows.items():
        print(f"| {what} | {' | '.join(f'{figure:.0f}' for figure in row.values())} |")


if __name__ == "__main__":
    main()
