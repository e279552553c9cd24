"""The page: its tabs, each in a file of its own, and one answer to every error of a handler."""

from __future__ import annotations

import asyncio
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
from magicanimate.webui.motion_tools import DensePoseTab
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import said, tr
from magicanimate.webui.training.tab import TrainTab

log = logging.getLogger(__name__)

_HELP = STATIC / "help.md"
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
"""How an address begins, such as ``https://``; no path on a disk does, nor does ``C:`` alone."""


def help_texts() -> list[str]:
    """The headings, paragraphs and items of the help, Markdown in English, each in a line of its own."""
    blocks = re.split(r"\n\n|\n(?=[-\d])", _HELP.read_text(encoding="utf-8"))
    return [" ".join(block.split()) for block in blocks]


def _help() -> str:
    """The help in the page's language, as HTML; items of a list stand close together.

    Gradio's own widget for Markdown would add seven requests to every first visit.
    """
    lines = (tr(text) if text[0] in "-1234" else f"\n{tr(text)}\n" for text in help_texts())
    return MarkdownIt().render("\n".join(lines))


class Page:
    """Builds the page of a service.

    Args:
        service: runs the animations.
        examples: see `find_examples`; the first one is there from the start.
        queue_size: animations that may wait; more are turned away.
        training: whether there are tabs that start trainings and choose the model: only where nobody else can
            reach the page.
    """

    def __init__(
        self, service: AnimationService, examples: list[Example], *, queue_size: int, training: bool = False
    ):
        self.service = service
        with GuardedBlocks(
            title="MagicAnimate", analytics_enabled=False, delete_cache=(3600, 86400)
        ) as self.blocks:
            with gr.Row(elem_id="top", equal_height=True):
                gr.HTML(views.title(), padding=False, min_width=300)
                badge = gr.HTML(
                    padding=False, elem_id="checkpoint", min_width=300, js_on_load=views.BADGE_ON_LOAD
                )
            with gr.Tabs(elem_id="tabs") as self.tabs:
                with gr.Tab(tr("Animate"), id="animate"):
                    self.animate = AnimateTab(service, examples, badge)
                with gr.Tab(tr("Gallery"), id="gallery") as gallery_tab:
                    self.gallery = GalleryTab(service, gallery_tab)
                with gr.Tab(tr("Motion tools"), id="densepose"):
                    self.densepose = DensePoseTab(service)
                if training:
                    with gr.Tab(tr("Models"), id="models") as models_tab:
                        self.models = ModelsTab(service)
                    with gr.Tab(tr("Train"), id="train") as train_tab:
                        train = TrainTab(service)
                with gr.Tab(tr("Help"), id="help"):
                    gr.HTML(_help(), elem_id="help")
            AnimateEndpoint(service)
            self.animate.connect()  # when the widgets of all tabs are there, since one tab may fill another
            self.densepose.connect(self.animate.panel, self.tabs)
            running, gallery = self.animate.running, self.gallery
            gallery.connect(running)
            self.animate.use_again.connect(
                running, running.result, gallery.result, tabs=self.tabs, motion=self.animate.panel
            )
            if training:
                self.models.connect(self.animate, self.tabs, models_tab)
                train.connect(self.blocks, self.animate, self.tabs, train_tab)
        for event in self.blocks.fns.values():  # texts worked out when the page opens are events, too
            if event.api_name not in API_NAMES:
                event.api_visibility = "private"
        self.blocks.queue(max_size=queue_size, default_concurrency_limit=1)


class GuardedBlocks(gr.Blocks):
    """As `gradio.Blocks`; visitors and callers of the API see sentences, never tracebacks."""

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], *args: Any, **options: Any
    ) -> list[Any]:
        """Make what a handler is given of what was sent.

        Raises:
            InputError: it names a file by an address, which Gradio would fetch, or is of another kind than
                the handler's components take. What was sent is not repeated.
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
        """Run a handler, as Gradio does for every event.

        Raises:
            gr.Error: with the sentence of an `InputError`, or one that names where the log says more.
        """
        try:
            return await super().process_api(*args, **options)
        except gr.Error:
            raise
        except InputError as error:
            raise gr.Error(said(str(error)), print_exception=False) from error
        except asyncio.CancelledError as error:  # the program ends; Gradio would print a traceback
            raise gr.Error(tr("The program ends."), print_exception=False) from error
        except Exception as error:  # whatever it is, the visitor must not see it
            raise gr.Error(said(report(error)), print_exception=False) from error


def _refuse_addresses(value: Any) -> None:
    """Refuse files that are to be fetched from somewhere, however deep in what was sent."""
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
    """Log an error with its traceback under a new number; the sentence for the visitor, which names it."""
    number = secrets.token_hex(3)
    log.error("error %s", number, exc_info=error)
    return (
        f"Something went wrong that should not have (error {number}); "
        "the window in which the program runs says more under that number."
    )
