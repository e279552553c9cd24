"""The tab on which photo and clip become a video: its layout, and what each button does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.config import AnimationResult, Progress
from magicanimate.errors import Cancelled, InputError
from magicanimate.ui import form, views
from magicanimate.ui.motion_panel import MotionPanel, motion_of
from magicanimate.ui.studio import Studio
from magicanimate.wording import new_output


def _without_folders(text: str, *files: str | None) -> str:
    """``text`` with the uploads named as the visitor knows them, not by where the program keeps them."""
    for file in filter(None, files):
        text = text.replace(file, Path(file).name)
    return text


class AnimateTab:
    """Builds itself where it is made, inside a tab.

    Args:
        studio: runs the animations.
        examples: pairs of photo and clip; the first one is there from the start.
    """

    def __init__(self, studio: Studio, examples: list[list[str]]):
        self.studio = studio
        self.examples = examples
        self.defaults = studio.defaults()
        with gr.Row():
            with gr.Column(scale=6, min_width=320):
                self._inputs()
            with gr.Column(scale=5, min_width=320):
                self._results()

    def _inputs(self) -> None:
        photo, motion = self.examples[0] if self.examples else (None, None)
        self.controls = form.inputs(photo=photo, motion=motion)
        self.start = gr.Button("Animate", variant="primary", size="lg", elem_id="animate", render=False)
        self.panel = MotionPanel(self.studio, self.controls["motion"], self.start)
        self.gallery = gr.Dataset(
            components=[gr.Image(visible=False)],
            samples=[[photo] for photo, _ in self.examples],
            layout="gallery",
            type="index",
            label="Examples",
            samples_per_page=12,
            visible=bool(self.examples),
        )
        settings, self.dice = form.main_settings(self.defaults)
        self.controls |= settings
        with gr.Row():
            self.start.render()
            self.cancel = gr.Button("Cancel", size="lg", interactive=False, elem_id="cancel")
        with gr.Accordion("More", open=False):
            self.controls |= form.more_settings(self.defaults)

    def _results(self) -> None:
        self.status = gr.HTML(views.message("The video will appear here."), elem_id="status", padding=False)
        self.preview = gr.HTML("", visible=False, elem_id="preview", padding=False)
        self.video = gr.Video(
            label="Result",
            interactive=False,
            autoplay=True,
            loop=True,
            height=420,
            elem_id="result",
            buttons=["download"],
        )
        self.strip = gr.Video(
            label="Side by side",
            interactive=False,
            autoplay=True,
            loop=True,
            visible=False,
            elem_id="side-by-side",
            buttons=["download"],
        )
        self.download = gr.DownloadButton("Download the video", visible=False, elem_id="download")
        with gr.Accordion("Settings of this result", open=False, visible=False) as self.settings_box:
            self.settings = gr.JSON(show_label=False)
            self.settings_file = gr.DownloadButton("Download the settings", size="sm")
        gr.HTML(views.checkpoint_note(self.defaults), padding=False)

    def connect(self) -> None:
        """Attach the handlers; every widget of the page is there now."""
        widgets = [self.status, self.preview, self.video, self.strip, self.download]
        widgets += [self.settings_box, self.settings, self.settings_file, self.controls["seed"]]
        buttons = [self.start, self.cancel]
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        self.dice.click(lambda: random.randint(0, form.LARGEST_SEED), None, self.controls["seed"], **private)
        self.gallery.click(
            lambda index: tuple(self.examples[index]),
            self.gallery,
            [self.controls["photo"], self.controls["motion"]],
            **private,
        )
        admitted = self.start.click(
            self._admit, None, [self.status, self.preview, *buttons], queue=False, **private
        )
        inputs = {*self.controls.values(), self.panel.made, self.panel.waiting}
        ended = admitted.then(self._animate, inputs, widgets, **private)
        ended.then(self._release, None, buttons, queue=False, **private)
        self.cancel.click(self._cancel, None, self.cancel, queue=False, **private)
        self.panel.connect()

    def _admit(self, request: gr.Request) -> dict:
        self.studio.admit(request.session_hash)
        return {
            self.status: views.message("Waiting for the animation before this one."),
            self.preview: gr.update(value="", visible=False),
            self.start: gr.update(interactive=False),
            self.cancel: gr.update(interactive=True),
        }

    def _cancel(self, request: gr.Request) -> dict:
        self.studio.cancel(request.session_hash)
        return {self.cancel: gr.update(value="Stopping…", interactive=False)}

    def _release(self) -> dict:
        return {
            self.start: gr.update(interactive=True),
            self.cancel: gr.update(value="Cancel", interactive=False),
        }

    def _animate(self, data: dict, request: gr.Request) -> Iterator[dict]:
        """Run one animation, updating the page as it goes."""
        values = {name: data[widget] for name, widget in self.controls.items()}
        if values["random_seed"]:
            values["seed"] = random.randint(0, form.LARGEST_SEED)
            yield {self.controls["seed"]: values["seed"]}
        values["motion"] = motion_of(values["motion"], data[self.panel.made])
        try:
            if data[self.panel.waiting] and values["check_motion"]:
                raise InputError(data[self.panel.waiting])
            output = new_output(self.studio.output, Path(values["photo"] or ""), Path(values["motion"] or ""))
            job = self.studio.animate(request.session_hash, form.request_of(values, output))
            for report in job:
                yield self._finished(report) if isinstance(report, AnimationResult) else self._moved(report)
        except InputError as error:
            text = _without_folders(str(error), values["photo"], values["motion"])
            yield self._ended(text, kind="error")
            gr.Warning(text)
        except Cancelled:
            yield self._ended("Cancelled; nothing was written.")

    def _moved(self, progress: Progress) -> dict:
        updates = {self.status: views.progress_bar(progress)}
        if progress.preview is not None:
            updates[self.preview] = gr.update(value=views.preview(progress.preview), visible=True)
            updates[self.video] = gr.update(visible=False)  # the preview takes its place
        return updates

    def _ended(self, text: str, *, kind: str = "info") -> dict:
        return {
            self.status: views.message(text, kind=kind),
            self.preview: gr.update(value="", visible=False),
            self.video: gr.update(visible=True),
        }

    def _finished(self, result: AnimationResult) -> dict:
        return {
            self.status: views.finished(result),
            self.preview: gr.update(value="", visible=False),
            self.video: gr.update(value=str(result.output), visible=True),
            self.strip: gr.update(
                value=str(result.side_by_side) if result.side_by_side else None,
                visible=result.side_by_side is not None,
            ),
            self.download: gr.update(value=str(result.output), visible=True),
            self.settings_box: gr.update(visible=True),
            self.settings: result.settings,
            self.settings_file: gr.update(value=str(result.settings_file)),
        }
