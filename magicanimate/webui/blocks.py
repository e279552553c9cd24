"""Gradio's page, with one answer to every error that a handler lets through."""

from __future__ import annotations

import re
from typing import Any

import gradio as gr

from magicanimate.errors import InputError
from magicanimate.webui.security import incidents

_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
"""How an address begins, such as ``https://``; no path on a disk does, nor does ``C:`` alone."""


class GuardedBlocks(gr.Blocks):
    """As `gradio.Blocks`; visitors and callers of the API see sentences, never tracebacks."""

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], *args: Any, **options: Any
    ) -> list[Any]:
        """Make what a handler is given of what was sent.

        Raises:
            InputError: it names a file by an address, which Gradio would fetch, or is of another kind than
                the handler's components take. What was sent is not repeated.
        """
        _refuse_addresses(inputs)
        try:
            return await super().preprocess_data(block_fn, inputs, *args, **options)
        except (gr.Error, InputError):
            raise
        except Exception as error:  # noqa: BLE001  (each component has its own ways to fail)
            raise InputError(
                "What was sent cannot be used: a value is missing or of another kind than is wanted here, or "
                "a file was not uploaded."
            ) from error

    async def process_api(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Run a handler, as Gradio does for every event.

        Raises:
            gr.Error: with the sentence of an `InputError`, or one that names where the log says more.
        """
        try:
            return await super().process_api(*args, **options)
        except gr.Error:
            raise
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:  # whatever it is, the visitor must not see it
            raise gr.Error(incidents.report(error), print_exception=False) from error


def _refuse_addresses(value: Any) -> None:
    """Refuse files that are to be fetched from somewhere, however deep in what was sent."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and _ADDRESS.match(path):
                raise InputError("This program fetches nothing from other sites; upload the file itself.")
            left += value.values()
        elif isinstance(value, (list, tuple)):
            left += value
