"""The page: its tabs, each in a file of its own."""

from __future__ import annotations

import re
from pathlib import Path

import gradio as gr

from magicanimate.webui import STATIC, views
from magicanimate.webui.animate.tab import AnimateTab
from magicanimate.webui.api import API_NAMES, AnimateEndpoint
from magicanimate.webui.blocks import GuardedBlocks
from magicanimate.webui.gallery.tab import GalleryTab
from magicanimate.webui.models.fetching import ModelFetch
from magicanimate.webui.models.tab import ModelsTab
from magicanimate.webui.motion_tools.tab import DensePoseTab
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import tr
from magicanimate.webui.training.tab import TrainTab

_HELP = STATIC / "help.md"
_EXAMPLE_PHOTOS = (".png", ".jpg", ".jpeg")


def find_examples(folder: Path) -> list[list[str]]:
    """Pairs ``NAME_photo.png`` (or jpg) and ``NAME_motion.mp4`` of a folder, by name."""
    pairs = []
    for motion in sorted(folder.glob("*_motion.mp4")):
        name = motion.name.removesuffix("_motion.mp4")
        photos = [folder / f"{name}_photo{suffix}" for suffix in _EXAMPLE_PHOTOS]
        pairs += [[str(photo), str(motion)] for photo in photos if photo.exists()][:1]
    return pairs


def help_texts() -> list[str]:
    """The headings, paragraphs and items of the help, Markdown in English, each in a line of its own."""
    blocks = re.split(r"\n\n|\n(?=[-\d])", _HELP.read_text(encoding="utf-8"))
    return [" ".join(block.split()) for block in blocks]


def _help() -> str:
    """The help in the page's language, as Markdown; items of a list stand close together."""
    return "\n".join(tr(text) if text[0] in "-1234" else f"\n{tr(text)}\n" for text in help_texts())


class Page:
    """Builds the page of a service.

    Args:
        service: runs the animations.
        examples: pairs of photo and clip; the first one is there from the start.
        queue_size: animations that may wait; more are turned away.
        training: whether there are tabs that start trainings and choose the model: only where nobody else can
            reach the page.
    """

    def __init__(
        self, service: AnimationService, examples: list[list[str]], *, queue_size: int, training: bool = False
    ):
        self.service, self.fetch = service, ModelFetch()
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
                        self.models = ModelsTab(service, self.fetch)
                    with gr.Tab(tr("Train"), id="train") as train_tab:
                        train = TrainTab(service)
                with gr.Tab(tr("Help"), id="help"):
                    gr.Markdown(_help(), elem_id="help")
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
