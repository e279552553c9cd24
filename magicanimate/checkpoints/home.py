"""This program's own folders on the user's disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HOME_VARIABLE = "MAGICANIMATE_HOME"


def home() -> Path:
    """Folder of this program's data: ``MAGICANIMATE_HOME`` or "magicanimate" in the user's cache folder."""
    if os.environ.get(HOME_VARIABLE):
        return Path(os.environ[HOME_VARIABLE]).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "magicanimate"


def full_folder() -> Path:
    """Where the converted full model lies, or will."""
    return home() / "full"


def downloads_folder() -> Path:
    """Where files from the Hub lie until they are converted."""
    return home() / "downloads"
