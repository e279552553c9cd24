"""Time of a training step of the mini's stage "base", against the same step as it was fed before.

    python -m benchmarks.training_step [--data data/synthdance] [--steps 6] [--rounds 3]

"Before" reads pictures and drawn maps though the latents are cached, finds the labels for the loss on the
look back from the colours, on the host, and blurs the maps of each sample by itself. All take the same
networks and batches, in turn, on one thread; reading the samples is part of the step. "Feeding" is what the
host has to do even if a GPU computes the networks in no time: reading, drawing, blurring and finding labels.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.training_step", description=__doc__.splitlines()[0]
    )
    top.add_argument("--data", type=Path, default=Path("data/synthdance"), help="dancers of 128x128 pixels")
    top.add_argument("--steps", type=int, default=6, help="in a row, of each (%(default)s)")
    top.add_argument("--rounds", type=int, default=3, help="the best of so many counts (%(default)s)")
    top.add_argument("--mixed-precision", default="no", choices=("no", "bf16"), help="(%(default)s)")
    return top


def stages(data: Path, folder: Path, precision: str) -> dict[str, object]:
    """The stage as it was fed before, and as it is, with the loss by part maps and by body points."""
    import numpy as np
    import torch
    from torch.nn import functional

    from magicanimate.palette import nearest_labels
    from training.build import Start, build_networks, scheduler_of
    from training.latents import Latents
    from training.presets import preset
    from training.sets import DataFolders, open_data
    from training.stages import denoiser

    config, network = preset("mini", "base")
    network = replace(network, photo_map=False)
    config = replace(config, holdout=1, mixed_precision=precision, size=128)
    by_parts = replace(config, loss=replace(config.loss, attention_weight=0.3, attention_by="parts"))
    sets = open_data(config, DataFolders(data))
    initial = Start().initial_networks(network)
    latents = Latents(initial.autoencoder())
    computed = sets.computed(config, {"latents": latents.encode}, folder)

    class Now(denoiser.Denoiser):
        """As it is."""

        def feed(self, batch) -> None:
            """What a step does before and beside the networks."""
            denoiser.softened(self._control(batch)["densepose"], [np.random.default_rng(0)] * 8)
            if self.config.loss.attention_by == "parts":
                self._labels(batch)

    class Before(Now):
        """Fed with pictures and drawn maps; the latents are looked up beside them."""

        def feed(self, batch) -> None:
            _one_by_one(batch["control"]["densepose"], [np.random.default_rng(0)] * 8)
            self._labels(batch)

        def forward(self, batch):
            known = computed.samples.videos.videos._arrays["latents"]
            video, frames, shown = (batch[k].numpy() for k in ("video", "frames", "reference_frame"))
            batch["latents"] = torch.from_numpy(known[video[:, None], frames]).float()
            batch["reference_latents"] = torch.from_numpy(known[video, shown]).float()
            softened, denoiser.softened = denoiser.softened, _one_by_one
            try:
                return super().forward(batch)
            finally:
                denoiser.softened = softened

        def _labels(self, batch):
            drawn = batch["reference_control"]["densepose"], batch["control"]["densepose"]
            colours = ((maps * 255).round().byte().movedim(-3, -1).numpy() for maps in drawn)
            return tuple(torch.from_numpy(nearest_labels(c)[0]) for c in colours)

    def _one_by_one(maps, rngs):
        out = torch.empty_like(maps)
        for i, rng in enumerate(rngs):
            size = maps.shape[-1]
            soft = functional.interpolate(
                maps[i], size=int(rng.integers(size * 3 // 4, size + 1)), mode="area"
            )
            soft = functional.interpolate(soft, size=size, mode="bilinear", align_corners=False)
            out[i] = (soft + torch.from_numpy(rng.normal(0, 0.01, (len(soft), 3, 1, 1))).float()).clamp(0, 1)
        return out

    def made(kind: type, settings, samples):
        torch.manual_seed(0)
        return kind(
            settings,
            build_networks(settings, initial, folder),
            text=initial.empty_prompt().embedding,
            scheduler=scheduler_of(settings),
            latents=latents,
            samples=samples,
            held_out=sets.held_out,
        )

    return {
        "before": made(Before, by_parts, sets.samples),
        "part maps": made(Now, by_parts, computed.samples),
        "body points": made(
            Now,
            replace(config, loss=replace(config.loss, attention_weight=0.3, attention_by="points")),
            computed.samples,
        ),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    args = parser().parse_args(argv)
    import torch

    from magicanimate.errors import InputError
    from training.loop import batches

    torch.set_num_threads(1)
    best: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = stages(args.data, Path(folder), args.mixed_precision)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        for turn in range(args.rounds + 1):  # the first one warms up
            for name, stage in made.items():
                optimizer = torch.optim.AdamW(stage.parameters(), lr=1e-4, fused=True)
                loader = iter(batches(stage.samples, stage.config, first_step=turn * args.steps))
                began = time.process_time()
                for _ in range(args.steps):
                    batch = next(loader)
                    with torch.autocast("cpu", torch.bfloat16, enabled=args.mixed_precision == "bf16"):
                        loss = stage(batch).mean()
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                seconds = (time.process_time() - began) / args.steps
                loader = iter(batches(stage.samples, stage.config, first_step=turn * args.steps))
                began = time.process_time()
                for _ in range(args.steps):
                    stage.feed(next(loader))
                feeding = (time.process_time() - began) / args.steps
                if turn:
                    before = best.get(name, (seconds, feeding))
                    best[name] = min(seconds, before[0]), min(feeding, before[1])
    print(
        "| the loss on attention goes by | CPU s a step | times as quick | feeding, CPU s | times as quick |"
    )
    print("|---|---|---|---|---|")
    for name, found in best.items():
        ratios = [old / new for old, new in zip(best["before"], found, strict=True)]
        print(f"| {name} | {found[0]:.2f} | {ratios[0]:.2f} | {found[1]:.3f} | {ratios[1]:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
