"""Colours and fonts; the fonts are the system's own, so nothing is fetched from elsewhere."""

from __future__ import annotations

import gradio as gr

_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "Consolas", "Menlo", "DejaVu Sans Mono", "monospace")


def make() -> gr.themes.Base:
    """The theme of the page, light and dark.

    Gradio's own shades of teal and grey are too pale to read: WCAG AA asks for a contrast of 4.5 to 1 between
    text and what is behind it, and of 3 to 1 for the borders of what can be pressed.
    """
    theme = gr.themes.Soft(
        primary_hue=gr.themes.colors.teal, secondary_hue=gr.themes.colors.indigo, font=_SANS, font_mono=_MONO
    )
    filled = {
        "button_primary_background_fill": "*primary_700",
        "checkbox_label_background_fill_selected": "*primary_700",
    }
    return theme.set(
        **filled,
        **{f"{name}_dark": value for name, value in filled.items()},
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_border_color="*primary_700",
        button_primary_border_color_dark="*primary_600",
        checkbox_label_text_color_selected="white",
        checkbox_label_text_color_selected_dark="white",
        # Labels are plain text, not coloured pills.
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_label_background_fill="*neutral_100",
        block_label_background_fill_dark="*neutral_700",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_border_color="*neutral_400",
        input_border_color_dark="*neutral_500",
        link_text_color_dark="*secondary_300",
    )
