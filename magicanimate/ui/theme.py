"""Colours and fonts; the fonts are the system's own, so nothing is fetched from elsewhere."""

from __future__ import annotations

import gradio as gr

_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "Consolas", "Menlo", "DejaVu Sans Mono", "monospace")


def make() -> gr.themes.Base:
    """The theme of the page, light and dark."""
    return gr.themes.Soft(
        primary_hue=gr.themes.colors.teal, secondary_hue=gr.themes.colors.indigo, font=_SANS, font_mono=_MONO
    )
