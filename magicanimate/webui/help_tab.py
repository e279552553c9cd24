"""The tab that answers the first questions."""

from __future__ import annotations

import gradio as gr

from magicanimate.webui import STATIC, views
from magicanimate.webui.studio import Studio

_TEXT = STATIC / "help.md"


def build(studio: Studio) -> None:
    """Show the help, and which checkpoint runs."""
    gr.Markdown(_TEXT.read_text(encoding="utf-8"), elem_id="help")
    gr.HTML(lambda: views.checkpoint_note(studio.defaults(), trial=studio.trial), padding=False)
