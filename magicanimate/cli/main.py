"""Entry point: picks the command; an error the user can mend is one sentence, Ctrl-C ends with 130."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from magicanimate.cli.parser import build_parser
from magicanimate.errors import Cancelled, InputError

OK, INPUT_ERROR, INTERRUPTED = 0, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for an `InputError`, 130 when interrupted."""
    args = build_parser().parse_args(argv)
    level = logging.WARNING if getattr(args, "quiet", True) else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("magicanimate").setLevel(level)
    try:
        _run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return INPUT_ERROR
    except (Cancelled, KeyboardInterrupt):
        print("cancelled", file=sys.stderr)
        return INTERRUPTED
    return OK


def _run(args) -> None:
    if args.command == "animate":
        from magicanimate.cli.animate import run
    elif args.command == "convert":
        from magicanimate.cli.convert import run
    else:
        from magicanimate.cli.info import run
    run(args)
