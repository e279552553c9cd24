"""Colours and fonts; the fonts are the system's own, so nothing is fetched from elsewhere."""

from __future__ import annotations

import inspect

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
    # Teal of this shade on white, and white on it, is 5.5 to 1.
    both = {
        "button_primary_background_fill": "*primary_700",
        "button_primary_background_fill_hover": "*primary_800",
        "checkbox_label_background_fill_selected": "*primary_700",
        "checkbox_background_color_selected": "*primary_700",
        "checkbox_label_text_color_selected": "white",
        # Labels are plain text, not coloured pills, and begin where the text below them does.
        "block_title_background_fill": "none",
        "block_title_padding": "0",
        "block_title_text_weight": "600",
        # Lines tell what belongs together, shadows do not.
        "block_border_width": "1px",
        "block_shadow": "none",
        "input_border_width": "1px",
        "input_shadow": "none",
        "checkbox_label_shadow": "none",
        "checkbox_label_border_width": "1px",
        "button_border_width": "1px",
        "button_primary_shadow": "none",
        "button_primary_shadow_hover": "none",
        "button_secondary_shadow": "none",
        "button_secondary_shadow_hover": "none",
        "block_radius": "10px",
        "block_padding": "12px 14px",
        "layout_gap": "12px",
    }
    by_theme = {  # light, dark
        "body_background_fill": ("#f6f8f9", "#0b0f14"),
        "block_background_fill": ("white", "#141a21"),
        "block_border_color": ("*neutral_200", "#29323c"),
        "border_color_primary": ("*neutral_200", "#29323c"),
        "background_fill_primary": ("white", "#0f141a"),
        "background_fill_secondary": ("*neutral_50", "#1b232c"),
        "block_title_text_color": ("*neutral_700", "*neutral_200"),
        "block_label_background_fill": ("white", "#141a21"),
        "block_label_text_color": ("*neutral_700", "*neutral_100"),
        "body_text_color_subdued": ("*neutral_600", "*neutral_300"),
        "input_background_fill": ("white", "#0f141a"),
        "input_placeholder_color": ("*neutral_500", "*neutral_400"),
        "input_border_color": ("*neutral_400", "*neutral_500"),
        "checkbox_border_color": ("*neutral_500", "*neutral_400"),
        "checkbox_background_color": ("white", "#0f141a"),
        "checkbox_label_background_fill": ("white", "#1b232c"),
        "checkbox_label_border_color": ("*neutral_300", "#3a4551"),
        "button_primary_border_color": ("*primary_700", "*primary_600"),
        "button_secondary_background_fill": ("white", "#1f2831"),
        "button_secondary_background_fill_hover": ("*neutral_100", "#2a3540"),
        "button_secondary_border_color": ("*neutral_300", "#3a4551"),
        "button_secondary_text_color": ("*neutral_800", "*neutral_100"),
    }
    return theme.set(
        **{f"{name}{suffix}": value for name, value in both.items() for suffix in _suffixes(name)},
        **{name: light for name, (light, _) in by_theme.items()},
        **{f"{name}_dark": dark for name, (_, dark) in by_theme.items()},
        link_text_color_dark="*secondary_300",
    )


def _suffixes(name: str) -> tuple[str, ...]:
    """Sizes are those of both themes; everything else has a value for the dark one."""
    known = inspect.signature(gr.themes.Base.set).parameters
    return ("", "_dark") if f"{name}_dark" in known else ("",)
