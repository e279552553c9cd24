"""``animate``: one photo with one clip, or the jobs of a YAML file."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from magicanimate.animator import Animator
from magicanimate.cli.batch import load_batch
from magicanimate.config import AnimationRequest, AnimationResult, MediaLimits
from magicanimate.errors import InputError
from magicanimate.files import timestamp
from magicanimate.importing import import_diffusers
from magicanimate.request_checks import check_inputs, check_outputs, check_request
from magicanimate.terminal import ProgressBar, say, stop_on_interrupt


def run(args: argparse.Namespace) -> None:
    """Animate and print the path of each result on standard output.

    Raises:
        InputError: an input, a setting or the output cannot be used; a batch goes on to its end first.
        Cancelled: Ctrl-C; finished jobs of a batch stay, nothing half-written does.
    """
    requests = requests_of(args)
    for request in requests:
        check_request(request)
        check_outputs(request, config=getattr(args, "config", None))
    if len(requests) == 1:  # of several the others are still made
        check_inputs(requests[0])
    from magicanimate.acceleration.process_group import join_process_group, own_device

    device = own_device(args.device)
    with join_process_group(device) as group, ProgressBar(quiet=args.quiet or group.rank > 0) as bar:
        animator = Animator(
            args.model,
            device=device,
            dtype=args.dtype,
            offline=args.offline,
            memory=args.memory,
            compile=args.compile,
            attention=args.attention,
            group=group,
            on_progress=bar,
        )
        _ = animator.folder  # what is wrong with it is said before the imports
        import_diffusers()
        for request in requests:
            animator.check_size(request)
        for size in dict.fromkeys((request.width, request.height) for request in requests):
            warning = animator.defaults.size_warning(*size)
            if warning:
                say(f"warning: {warning}")
        animator.load()  # outside `stop_on_interrupt`: here Ctrl-C may end it at once
        failed = _animate_all(animator, requests, bar, quiet=args.quiet)
    if failed:
        raise InputError(f"{failed} of {len(requests)} animations failed; see the messages above.")


def _animate_all(
    animator: Animator, requests: list[AnimationRequest], bar: ProgressBar, *, quiet: bool
) -> int:
    """Animate one after the other; how many could not be."""
    failed = 0
    with stop_on_interrupt() as should_stop:
        for request in requests:
            try:
                result = animator.animate(request, on_progress=bar, should_stop=should_stop)
            except InputError as error:
                if len(requests) == 1:
                    raise
                failed += 1
                bar.close()
                say(f"error: {error}")
                continue
            bar.close()
            if result is not None:
                _report(result, quiet=quiet)
    return failed


def requests_of(args: argparse.Namespace) -> list[AnimationRequest]:
    """The requests that the parsed command line means, with a warning line about keys of no meaning.

    Raises:
        InputError: photo, motion or output is missing, or the YAML file cannot be used.
    """
    given = _given(args)
    config = getattr(args, "config", None)
    if config is None:
        missing = [name for name in ("photo", "motion", "output") if name not in given]
        if missing:
            raise InputError(
                f"{' and '.join(missing)} missing; write `animate PHOTO MOTION -o OUT` or use --config."
            )
        return [AnimationRequest(**given)]
    output = given.pop("output", None)
    batch = load_batch(config, given)
    if batch.ignored:
        say(f"warning: {config} sets what has no meaning here: {_listed(batch.ignored)}")
    if batch.model_keys:
        say(
            f"note: the model is {args.model}, not made of the files that {config} names "
            f"({', '.join(batch.model_keys)}); choose it with --model"
        )
    for missing in batch.missing:
        say(f"warning: {config} names files that are not there: {missing}")
    jobs = list(batch.jobs)
    if len(jobs) == 1 and (output is None or output.suffix) and (output or jobs[0].get("output")):
        return [AnimationRequest(**{**jobs[0], "output": output or jobs[0]["output"]})]
    if output is not None and output.suffix:
        raise InputError(f"{config} holds {len(jobs)} animations, so -o must be a folder, not {output}.")
    folder = output or Path("outputs") / (batch.name or f"{config.stem}_{timestamp()}")
    return [
        AnimationRequest(**{**job, "output": path})
        for job, path in zip(jobs, _names(jobs, folder), strict=True)
    ]


def _listed(names: Sequence[str], most: int = 10) -> str:
    shown = [name if len(name) <= 40 else f"{name[:37]}..." for name in names[:most]]
    return ", ".join([*shown, *([f"and {len(names) - most} more"] if len(names) > most else [])])


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """What was written on the command line, by the names of `AnimationRequest`."""
    given = {
        name: value
        for name, value in vars(args).items()
        if name in AnimationRequest.names() and value is not None
    }
    if hasattr(args, "size"):
        given["width"], given["height"] = args.size
    if hasattr(args, "limit"):
        given["limits"] = replace(MediaLimits(), **dict(args.limit))
    return given


def _names(jobs: list[dict[str, Any]], folder: Path) -> list[Path]:
    """A file for each job, named by photo and clip, and numbered where that is not enough."""
    names: dict[str, None] = {}
    last: Counter[str] = Counter()  # by name, so that thousands of one name are no quadratic work
    for job in jobs:
        base = name = f"{Path(job['photo']).stem}_{Path(job['motion']).stem}"
        while name in names:
            last[base] += 1
            name = f"{base}_{last[base] + 1}"
        names[name] = None
    return [folder / f"{name}.mp4" for name in names]


def _report(result: AnimationResult, *, quiet: bool) -> None:
    print(result.output)
    if not quiet:
        seconds = sum(result.seconds.values())
        say(
            f"{result.num_frames} frames of {result.width}x{result.height} at {result.fps:g} fps"
            f" in {seconds:.1f} s; settings in {result.settings_file}"
        )
