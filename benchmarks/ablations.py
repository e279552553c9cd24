"""The paper's ablations in miniature: the method with one of its parts taken away, same budget each.

    python -m benchmarks.ablations --data data/dancers64 --vae runs/mini [--runs runs/ablations]

Trains small networks on rendered dancers of 64 pixels (``python -m training.dancers --size 64``) with the
mini's autoencoder, and measures them on the test people of `benchmarks.synthdance`. The same command again
resumes. Writes ``results.md`` and ``results.json`` into the folder of the runs.

Source: MagicAnimate paper, section 4.3 (ablation studies).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "whole method": {},
    "without appearance encoder": {"reference": False},
    "reference in all blocks (full)": {"fusion": "full"},
    "without image joint training": {"tau_0": 0.0, "tau_1": 0.0, "tau_2": 0.0},
}
"""What is trained: row -> settings that differ from the whole method's."""

WHOLE = "whole method"
SIZE = 64
CHANNELS = (64, 96, 128)
COLUMNS = (
    ("l1", "L1, % ↓", 2),
    ("psnr", "PSNR, dB ↑", 2),
    ("psnr_person", "PSNR person ↑", 2),
    ("ssim", "SSIM ↑", 3),
    ("temporal", "temporal ↓", 2),
    ("identity", "identity, ΔE ↓", 2),
)


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.ablations", description=__doc__.splitlines()[0])
    top.add_argument("--data", type=Path, required=True, help=f"rendered dancers of {SIZE} pixels")
    top.add_argument("--vae", type=Path, required=True, help="folder of runs with the trained autoencoder")
    top.add_argument("--runs", type=Path, default=Path("runs/ablations"), help="folder (%(default)s)")
    top.add_argument("--test-data", type=Path, default=Path("data/synthdance64"), help="kept test set")
    top.add_argument("--segmenter", type=Path, help="folder of the part segmenter (the bundled one)")
    top.add_argument("--steps", type=int, default=1200, help="of the base stage (%(default)s)")
    top.add_argument("--clip-steps", type=int, default=300, help="of stage 2 (%(default)s)")
    top.add_argument("--people", type=int, default=12, choices=range(1, 13), help="(%(default)s)")
    top.add_argument("--threads", type=int, help="CPU threads")
    return top


def settings(stage: str, changes: dict[str, Any], *, steps: int):
    """Settings and network sizes of a stage of a variant: the mini's, smaller.

    Returns:
        `StageConfig`, `NetworkConfig`.
    """
    from training.presets import mini

    config, network = mini(stage)
    optimizer = replace(config.optimizer, decay_steps=steps // 3)
    # From noise, as in the paper: the warped photo would show a network the reference that it does not see.
    changes = {"first_latents": "noise", **changes}
    config = replace(config, size=SIZE, steps=steps, sample_every=steps, optimizer=optimizer, **changes)
    return config, replace(network, size=SIZE, unet_channels=CHANNELS)


def train(name: str, args: argparse.Namespace) -> Path:
    """Train both stages of a variant, as far as that is not done; returns its folder of runs."""
    from training.runs import train as train_stage
    from training.sets import DataFolders

    folder = args.runs / name.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    shared = {"vae": args.vae / "vae"}
    if name != WHOLE:  # the data encoded by the autoencoder are the same for all
        whole = args.runs / WHOLE.replace(" ", "_")
        shared |= {path.name: path for path in whole.glob("*_latents.npy")}
    for link, target in shared.items():
        if not (folder / link).is_symlink():
            (folder / link).symlink_to(target.resolve())
    for stage, steps in (("base", args.steps), ("stage2", args.clip_steps)):
        config, network = settings(stage, VARIANTS[name], steps=steps)
        train_stage(config, network, data=DataFolders(args.data), runs=folder, threads=args.threads)
    return folder


def blind_pipeline(whole: Any, folder: Path) -> Any:
    """The pipeline of networks that were trained without a reference: their blocks find no tokens in it."""
    from benchmarks.methods import with_components
    from magicanimate.models.appearance_encoder import AppearanceEncoder
    from training.build import add_temporal_layers, image_networks, load_earlier
    from training.initial_networks import NewNetworks

    class NoReference(AppearanceEncoder):
        """Yields banks without tokens."""

        def forward(self, *args, **kwargs):
            return {name: tokens[:, :0] for name, tokens in super().forward(*args, **kwargs).items()}

    config, network = settings("stage2", {"reference": False}, steps=1)
    parts = NewNetworks(network)
    networks = image_networks(config, parts)
    load_earlier(networks, folder, ("base",))
    add_temporal_layers(networks, parts, None)
    load_earlier(networks, folder, ("stage2",))
    return with_components(
        whole,
        unet=networks["unet"].eval(),
        controlnet=networks["controlnet"].eval(),
        appearance_encoder=NoReference.from_config(whole.appearance_encoder.config).eval(),
    )


def rows(folders: dict[str, Path]) -> dict[str, Callable[[Any], Any]]:
    """How each row of the table makes a clip: `Task` -> uint8 ``F H W 3``."""
    from benchmarks.methods import copy_photo, reconstruct, with_components, without_temporal_layers
    from magicanimate.pipeline import MagicAnimatePipeline
    from magicanimate.windows import WindowPlan

    def load(name: str) -> MagicAnimatePipeline:
        pipe = MagicAnimatePipeline.from_pretrained(folders[name] / "stage2" / "pipeline")
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def maker(pipe: MagicAnimatePipeline, **options: Any) -> Callable[[Any], Any]:
        return lambda task: pipe(task.photo, task.control, **options).frames

    whole = load(WHOLE)
    still = with_components(whole, unet=without_temporal_layers(whole.unet))
    found = {WHOLE: maker(whole)}
    for name, changes in VARIANTS.items():
        if name != WHOLE:
            pipe = load(name) if changes.get("reference", True) else blind_pipeline(whole, folders[name])
            found[name] = maker(pipe, fusion=changes.get("fusion", "midup"))
    return found | {
        "without temporal layers": maker(still, windows=WindowPlan(context_length=1, context_overlap=0)),
        "without window fusion": maker(whole, windows=WindowPlan(context_overlap=0)),
        "copying the photo": copy_photo,
        "autoencoder (ceiling)": lambda task: reconstruct(whole, task.truth),
    }


def main(argv: list[str] | None = None) -> int:
    """Train, measure, print and write the table; returns the exit status."""
    import logging

    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    from benchmarks.figures import Judge, mean_figures, table, write_json
    from benchmarks.synthdance_data import render, self_tasks
    from densepose_tools.segmenter import DEFAULT_FOLDER, PartSegmenter
    from magicanimate.errors import InputError

    try:
        judge = Judge(PartSegmenter.load(args.segmenter or DEFAULT_FOLDER))
        render(args.test_data, size=SIZE)
        makers = rows({name: train(name, args) for name in VARIANTS})
        tasks = self_tasks(args.test_data, people=args.people)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results = {
        name: mean_figures([judge.figures(task, make(task)) for task in tasks])
        for name, make in makers.items()
    }
    text = table(results, COLUMNS)
    write_json(
        args.runs / "results.json", {"steps": args.steps, "clip_steps": args.clip_steps, "rows": results}
    )
    (args.runs / "results.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
