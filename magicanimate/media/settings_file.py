"""The JSON with every setting that lies beside each result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magicanimate.errors import InputError
from magicanimate.files import write_json


def settings_path(output: Path | str) -> Path:
    """Where the settings of an output go: ``dance.mp4`` and the folder ``dance`` have ``dance.json``."""
    return Path(output).with_suffix(".json")


def write_settings(output: Path | str, settings: Mapping[str, Any]) -> Path:
    """Write settings beside an output, whole or not at all.

    Args:
        output: the video file or folder of frames.
        settings: JSON-ready values; paths become strings.

    Returns:
        The file written.

    Raises:
        InputError: the folder cannot be written to.
    """
    path = settings_path(output)
    try:
        write_json(path, settings)
    except OSError as error:
        raise InputError(
            f"The settings {path} cannot be written ({error.strerror}); choose another place."
        ) from error
    return path
