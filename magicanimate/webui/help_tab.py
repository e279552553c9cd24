"""The tab that answers the first questions."""

from __future__ import annotations

import gradio as gr

from magicanimate.webui import STATIC

_TEXT = STATIC / "help.md"


def build() -> None:
    """Show the help."""
    gr.Markdown(_TEXT.read_text(encoding="utf-8"), elem_id="help")
