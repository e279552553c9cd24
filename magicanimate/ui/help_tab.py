"""The tab that answers the first questions."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from magicanimate.ui import views
from magicanimate.ui.studio import Studio

_TEXT = Path(__file__).with_name("help.md")


def build(studio: Studio) -> None:
    """Show the help, and which checkpoint runs."""
    gr.Markdown(_TEXT.read_text(encoding="utf-8"), elem_id="help")
    gr.HTML(lambda: views.checkpoint_note(studio.defaults(), trial=studio.trial), padding=False)
