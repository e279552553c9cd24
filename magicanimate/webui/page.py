"""The page: its tabs, which are files of their own, its colours, and what is said when a handler fails."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import secrets
from typing import Any

import gradio as gr
from markdown_it import MarkdownIt

from magicanimate.errors import InputError
from magicanimate.webui import STATIC, views
from magicanimate.webui.animate.tab import AnimateTab, Example
from magicanimate.webui.api import API_NAMES, AnimateEndpoint
from magicanimate.webui.gallery.tab import GalleryTab
from magicanimate.webui.models import ModelsTab
from magicanimate.webui.motion_tools import MotionToolsTab
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import said, tr
from magicanimate.webui.training.tab import TrainTab

log = logging.getLogger(__name__)

_HELP = STATIC / "help.md"
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
"""The beginning of an address such as ``https://``; no path on a disk begins so."""


def help_texts() -> list[str]:
    """Headings, paragraphs and list items of the help, English Markdown, one text each."""
    blocks = re.split(r"\n\n|\n(?=[-\d])", _HELP.read_text(encoding="utf-8"))
    return [" ".join(block.split()) for block in blocks]


def _help() -> str:
    """The help in the page's language, as HTML."""
    # Not by `gr.Markdown`, which would add seven requests to everybody's first visit.
    lines = (tr(text) if text[0] in "-1234" else f"\n{tr(text)}\n" for text in help_texts())
    return MarkdownIt().render("\n".join(lines))


class Page:
    """Builds the page of a service.

    Args:
        service: runs the animations.
        examples: see `find_examples`; the first one is there from the start.
        queue_size: animations that may wait; more are turned away.
        training: whether there are the tabs that train and that choose the model, for a page that nobody
            else can reach.
    """

    def __init__(
        self, service: AnimationService, examples: list[Example], *, queue_size: int, training: bool = False
    ):
        self.service = service
        # Each hour Gradio deletes what has been in its temporary folder for a day.
        with GuardedBlocks(
            title="MagicAnimate", analytics_enabled=False, delete_cache=(3600, 86400)
        ) as self.blocks:
            with gr.Row(elem_id="top", equal_height=True):
                gr.HTML(views.title(), padding=False, min_width=300)
                badge = gr.HTML(
                    padding=False, elem_id="checkpoint", min_width=300, js_on_load=views.BUTTONS_ON_LOAD
                )
            with gr.Tabs(elem_id="tabs") as self.tabs:
                with gr.Tab(tr("Animate"), id="animate"):
                    self.animate = AnimateTab(service, examples, badge)
                with gr.Tab(tr("Gallery"), id="gallery") as gallery_tab:
                    self.gallery = GalleryTab(service, gallery_tab)
                with gr.Tab(tr("Motion tools"), id="densepose"):
                    self.densepose = MotionToolsTab(service)
                if training:
                    with gr.Tab(tr("Models"), id="models") as models_tab:
                        self.models = ModelsTab(service)
                    with gr.Tab(tr("Train"), id="train") as train_tab:
                        train = TrainTab(service)
                with gr.Tab(tr("Help"), id="help"):
                    gr.HTML(_help(), elem_id="help")
            AnimateEndpoint(service)
            self.animate.connect()  # when the widgets of all tabs are there, since one tab may fill another
            self.densepose.connect(self.animate.motion_panel, self.tabs)
            running, gallery = self.animate.running, self.gallery
            gallery.connect(running)
            self.animate.use_again.connect(running, running.result, gallery.result, tabs=self.tabs)
            if training:
                self.models.connect(self.animate, self.tabs, models_tab)
                train.connect(self.blocks, self.animate, self.tabs, train_tab)
        # Gradio makes events of its own for values that are functions; these are no part of the API either.
        for event in self.blocks.fns.values():
            if event.api_name not in API_NAMES:
                event.api_visibility = "private"
        # One at a time of each handler, unless it says otherwise.
        self.blocks.queue(max_size=queue_size, default_concurrency_limit=1)


class GuardedBlocks(gr.Blocks):
    """`gradio.Blocks` that answers every error with a sentence, never with a traceback."""

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], *args: Any, **options: Any
    ) -> list[Any]:
        """Turn what was sent into the handler's arguments.

        Raises:
            InputError: a value names a file by an address, which Gradio would download, or does not suit its
                component. The value is not repeated.
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
        """Run a handler; Gradio calls this for every event.

        Raises:
            gr.Error: with the sentence of an `InputError`, or one that names where the log says more.
        """
        try:
            return await super().process_api(*args, **options)
        except gr.Error:
            raise
        except InputError as error:
            raise gr.Error(said(str(error)), print_exception=False) from error
        except asyncio.CancelledError as error:  # the program ends, and Gradio would print a traceback
            raise gr.Error(tr("The program ends."), print_exception=False) from error
        except Exception as error:  # whatever it is, the visitor must not see it
            raise gr.Error(said(report(error)), print_exception=False) from error


def _refuse_addresses(value: Any) -> None:
    """Refuse addresses in place of files, however deep in what was sent."""
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


def report(error: BaseException) -> str:
    """Log an error with its traceback under a new number; returns a sentence with it for the visitor."""
    number = secrets.token_hex(3)
    log.error("error %s", number, exc_info=error)
    return (
        f"Something went wrong that should not have (error {number}); "
        "the window in which the program runs says more under that number."
    )


_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "Consolas", "Menlo", "DejaVu Sans Mono", "monospace")


def theme() -> gr.themes.Base:
    """Colours and fonts, light and dark; the fonts are the system's own, so nothing is fetched.

    Gradio's own shades of teal and grey are too pale to read: WCAG AA asks for a contrast of 4.5 to 1 between
    text and what is behind it, and of 3 to 1 for the borders of what can be pressed.
    """
    soft = gr.themes.Soft(
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
    # Sizes are those of both themes; everything else has a value for the dark one.
    known = inspect.signature(soft.set).parameters
    both |= {f"{name}_dark": value for name, value in both.items() if f"{name}_dark" in known}
    return soft.set(
        **both,
        **{name: light for name, (light, _) in by_theme.items()},
        **{f"{name}_dark": dark for name, (_, dark) in by_theme.items()},
        link_text_color_dark="*secondary_300",
    )
