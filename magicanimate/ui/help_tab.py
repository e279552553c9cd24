"""The tab that answers the first questions."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from magicanimate.animator import ModelDefaults
from magicanimate.ui import views

_TEXT = Path(__file__).with_name("help.md")


def build(defaults: ModelDefaults) -> None:
    """Show the help, and which checkpoint runs."""
    gr.Markdown(_TEXT.read_text(encoding="utf-8"), elem_id="help")
    gr.HTML(views.checkpoint_note(defaults), padding=False)
