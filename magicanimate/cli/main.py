"""Entry point: picks the command; an error the user can mend is one sentence, Ctrl-C ends with 130."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from magicanimate.cli.parser import build_parser
from magicanimate.terminal import exit_status


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for an `InputError`, 130 when interrupted."""
    args = build_parser().parse_args(argv)
    level = logging.WARNING if getattr(args, "quiet", True) else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("magicanimate").setLevel(level)
    return exit_status(lambda: _run(args))


def _run(args) -> None:
    if args.command == "animate":
        from magicanimate.cli.animate import run
    elif args.command == "convert":
        from magicanimate.cli.convert import run
    elif args.command == "inspect":
        from magicanimate.cli.inspect import run
    else:
        from magicanimate.cli.info import run
    run(args)
