"""What the handlers of the page's tabs have in common."""

from __future__ import annotations

from typing import Any

import gradio as gr

from magicanimate.errors import InputError
from magicanimate.webui import views

Updates = dict[gr.components.Component, Any]
"""What a handler answers: widget -> its new value, or ``gr.update(...)``."""

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""Options of an event that programs may not call, and that draws no progress of Gradio's own."""


def refusal(error: InputError) -> dict[str, Any]:
    """The update of a `gr.HTML` that shows what cannot be done."""
    return gr.update(value=views.message(str(error), kind="error"), visible=True)
