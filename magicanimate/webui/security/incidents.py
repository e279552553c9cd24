"""Errors nobody foresaw: the visitor gets a sentence and a number, the program's log the rest."""

from __future__ import annotations

import logging
import secrets

log = logging.getLogger(__name__)


def report(error: BaseException) -> str:
    """Log an error with its traceback under a new number; the sentence for the visitor, which names it."""
    number = secrets.token_hex(3)
    log.error("error %s", number, exc_info=error)
    return (
        f"Something went wrong that should not have (error {number}); "
        "the window in which the program runs says more under that number."
    )
