"""Show a folder in the system's own file manager."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from magicanimate.errors import InputError


def open_folder(folder: Path) -> None:
    """Open a window with the folder on the machine that the program runs on.

    Raises:
        InputError: this machine has nothing that does.
    """
    if sys.platform == "win32":
        os.startfile(folder)
        return
    program = shutil.which("open" if sys.platform == "darwin" else "xdg-open")
    if program is None:
        raise InputError(f"No file manager was found on this machine; the results are in {folder}.")
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen([program, str(folder)], start_new_session=True, **quiet)
