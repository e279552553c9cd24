"""Gradio's page, with one answer to every error that a handler lets through."""

from __future__ import annotations

from typing import Any

import gradio as gr

from magicanimate.errors import InputError
from magicanimate.web import incidents


class GuardedBlocks(gr.Blocks):
    """As `gradio.Blocks`; visitors and callers of the API see sentences, never tracebacks."""

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
