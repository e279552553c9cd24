"""``python -m training evaluate`` and ``compare``."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.options import whole_number


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands, without importing anything heavy."""
    text = "evaluate a checkpoint, or finished results, on test videos"
    command = commands.add_parser(
        "evaluate",
        help=text,
        description=text + ": writes report.json, report.csv and index.html, which plays the videos offline.",
    )
    add = command.add_argument
    add(
        "--protocol",
        required=True,
        metavar="NAME",
        help="name of a protocol, such as tiktok-disco, or a JSON file of your own",
    )
    add(
        "--data",
        type=Path,
        required=True,
        help="prepared videos (training.data prepare), or rendered dancers",
    )
    add("--model", help="mini, full or a pipeline folder")
    add(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="evaluate these results instead: NAME.mp4 for every test video",
    )
    add(
        "--size",
        type=whole_number,
        default=512,
        help="size at which the results were made, with --results (%(default)s)",
    )
    add("--out", type=Path, required=True, help="folder of the report")
    add(
        "--networks", type=Path, metavar="FOLDER", help="folder of the feature networks of LPIPS, FID and FVD"
    )
    add("--fetch-networks", action="store_true", help="download missing feature networks")
    add("--most", type=whole_number, metavar="N", help="evaluate at most N test videos")
    add("--steps", type=whole_number, metavar="N", help="sampling steps (default: the checkpoint's)")
    add("--guidance", type=float, metavar="X", help="guidance scale (default: the checkpoint's)")
    add("--seed", type=int, default=1, help="seed of the noise (%(default)s)")
    add("--device", help="cuda, cuda:1, mps or cpu (default: the best)")
    text = "compare two reports video by video"
    command = commands.add_parser("compare", help=text, description=text)
    command.add_argument("first", type=Path, help="folder of a report")
    command.add_argument(
        "second", type=Path, help="folder of another report with the same protocol and videos"
    )


def evaluate(args: argparse.Namespace) -> None:
    """Run ``evaluate``."""
    from magicanimate.device import pick_device
    from magicanimate.errors import InputError
    from magicanimate.progress import say
    from training.evaluation.networks import networks_folder
    from training.evaluation.page import PAGE
    from training.evaluation.protocol import METRICS, load_protocol
    from training.evaluation.run import Checkpoint, Results
    from training.evaluation.run import evaluate as run

    if (args.model is None) == (args.results is None):
        raise InputError("Give one of --model, which animates, and --results, which are there already.")
    protocol = load_protocol(args.protocol)
    if args.results is not None:
        animate = Results(args.results, size=args.size)
    else:
        from magicanimate.checkpoints.locate import resolve_model

        how = {"steps": args.steps, "guidance_scale": args.guidance, "seed": args.seed}
        animate = Checkpoint(resolve_model(args.model), name=args.model, device=args.device, **how)
    report = run(
        protocol,
        args.data,
        animate,
        args.out,
        networks=networks_folder(args.networks),
        fetch=args.fetch_networks,
        device=pick_device(args.device).name,
        most=args.most,
        on_video=lambda name, number, total: say(f"{number} of {total}: {name}"),
    )
    for key, figure in report["figures"].items():
        title = METRICS[key].title
        if "not_computed" in figure:
            print(f"{title}: not computed: {figure['not_computed']}")
        else:
            print(f"{title}: {METRICS[key].shown(figure['mean'])}")
    print(args.out / PAGE)


def compare(args: argparse.Namespace) -> None:
    """Run ``compare``."""
    from magicanimate.files import read_json_object
    from training.evaluation.protocol import METRICS
    from training.evaluation.run import REPORT
    from training.evaluation.statistics import paired

    first, second = (read_json_object(folder / REPORT) for folder in (args.first, args.second))
    print("second minus first, 95 % interval, p of a sign-flip test")
    for key, found in paired(first, second).items():
        shown = [METRICS[key].shown(found[name]) for name in ("difference", "low", "high")]
        print(
            f"{METRICS[key].title}: {shown[0]} ({shown[1]} to {shown[2]}), p {found['p']:.3f}, "
            f"{found['videos']} videos"
        )
