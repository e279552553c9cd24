"""Command-line options generated from the fields of the settings, and settings updated from them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from training.config import StageConfig, flat
from training.presets import NOT_IN_THE_PAPER


def add_run(command: argparse.ArgumentParser, presets: Sequence[str]) -> None:
    """Add ``--runs`` and ``--preset``: where a training is, and what its settings are by default."""
    command.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/mini"),
        help="folder with one subfolder per stage (default: %(default)s)",
    )
    command.add_argument(
        "--preset", default="mini", choices=presets, help="set of default settings (default: %(default)s)"
    )


def add_training(command: argparse.ArgumentParser) -> None:
    """Add what every training takes: ``--data``, ``--stop-after`` and ``--threads``."""
    command.add_argument(
        "--data", type=Path, required=True, help="folder of training videos, or of rendered dancers"
    )
    command.add_argument(
        "--stop-after", type=whole_number, metavar="N", help="stop after N steps, with a checkpoint"
    )
    command.add_argument("--threads", type=whole_number, metavar="N", help="CPU threads")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for every field of `StageConfig` and its dataclasses; those not given are ``None``.

    ``batch_size`` becomes ``--batch-size N``, ``optimizer.learning_rate`` ``--learning-rate``, a boolean
    ``--compile`` and ``--no-compile``.
    """
    _add(parser.add_argument_group("settings (default: the preset's, see --dry-run)"), StageConfig)


def _add(group: Any, cls: type) -> None:
    hints = get_type_hints(cls)
    for f in fields(cls):
        hint = hints[f.name]
        if is_dataclass(hint):
            _add(group, hint)
            continue
        # Only `stage` has no help text: it is the name of the command, not an option.
        if "help" not in f.metadata:
            continue
        flag = "--" + f.name.replace("_", "-")
        # A default of None, not the field's: an option that was not given must not override the preset.
        options: dict[str, Any] = {"help": f.metadata["help"], "default": None, "dest": f.name}
        if hint is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif get_origin(hint) is Literal:
            options["choices"] = get_args(hint)
        else:
            options |= {"type": hint, "metavar": {int: "N", float: "X"}[hint]}
        group.add_argument(flag, **options)


def whole_number(text: str) -> int:
    """An argparse type: a positive whole number.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number") from error
    if not 1 <= value <= 10**9:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not between 1 and {10**9}")
    return value


def with_settings(config: Any, chosen: argparse.Namespace) -> Any:
    """``config`` updated with the options that were given on the command line."""
    changes = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            changes[f.name] = with_settings(value, chosen)
        elif "help" in f.metadata and getattr(chosen, f.name) is not None:
            changes[f.name] = getattr(chosen, f.name)
    return replace(config, **changes)


def origins(config: StageConfig, preset: str, chosen: argparse.Namespace) -> Iterator[tuple[str, Any, str]]:
    """Every setting by dotted name, its value, and its origin (command line, preset or default).

    Args:
        config: the settings in effect.
        preset: name of the preset.
        chosen: the command line.
    """
    # Compared with the dataclass defaults, since a preset may set a field to its default value.
    own = flat(StageConfig(config.stage))
    for name, value in flat(config).items():
        if getattr(chosen, name.rpartition(".")[2], None) is not None:
            origin = "command line"
        elif value != own[name]:
            origin = f"preset {preset}"
        else:
            origin = "default"
        if preset.startswith("paper_") and name in NOT_IN_THE_PAPER:
            origin += "; the paper does not say"
        yield name, value, origin
