"""The errors a user can cause and mend, and the one that says the user pressed stop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence that names the file or value, what is wrong with it and what to do.
    The command line and the app show it as it is, without a traceback.
    """


class Cancelled(Exception):
    """The caller's ``should_stop()`` returned true; nothing half-written is left behind.

    Attributes:
        kept: files that remain all the same, such as a preview of what was being made.
    """

    def __init__(self, message: str = "stopped", *, kept: Sequence[Path] = ()):
        super().__init__(message)
        self.kept = tuple(kept)


def first_line(error: Exception) -> str:
    """What a library says is wrong, cut to fit into a sentence; the error's kind if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:160] if lines else type(error).__name__
