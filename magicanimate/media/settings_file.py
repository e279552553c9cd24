"""The JSON with every setting that lies beside each result."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magicanimate.errors import InputError


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
    text = json.dumps(dict(settings), indent=2, ensure_ascii=False, default=str) + "\n"
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise InputError(f"The settings {path} cannot be written ({error.strerror}); free it.") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise InputError(
            f"The settings {path} cannot be written ({error.strerror}); choose another place."
        ) from error
    return path
