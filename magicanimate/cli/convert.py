"""``convert``: from the published files to a checkpoint of this program."""

from __future__ import annotations

import argparse

from magicanimate.terminal import ProgressBar, stop_on_interrupt


def run(args: argparse.Namespace) -> None:
    """Convert and print the folder.

    Raises:
        InputError: see `magicanimate.checkpoints.convert.convert_checkpoint`.
        Cancelled: Ctrl-C; nothing is left behind.
    """
    from magicanimate.checkpoints.convert import convert_checkpoint

    with ProgressBar(quiet=args.quiet) as bar, stop_on_interrupt() as should_stop:
        folder = convert_checkpoint(
            args.source,
            args.dest,
            dtype=args.dtype,
            overwrite=args.overwrite,
            magicanimate=args.magicanimate,
            stable_diffusion=args.stable_diffusion,
            vae=args.vae,
            on_progress=bar,
            should_stop=should_stop,
        )
    print(folder)
