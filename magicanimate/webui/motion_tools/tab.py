"""The tab on which a DensePose clip is made of any clip, with all that can be said about how."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from densepose_tools.engine import PUBLISHED_MIN_SCORE, Selection
from densepose_tools.one_click import MadeMotion, motion_config
from densepose_tools.pointing import picture_at, with_mark
from densepose_tools.postprocess import Postprocessing
from magicanimate.errors import InputError
from magicanimate.files import without_folders
from magicanimate.webui import views
from magicanimate.webui.animate import form
from magicanimate.webui.animate.motion_panel import MotionPanel
from magicanimate.webui.events import PRIVATE, Updates
from magicanimate.webui.motion_tools.figures import figures
from magicanimate.webui.motion_tools.job import MotionJob
from magicanimate.webui.service import AnimationService

MAKE, CORRECT, CHANGE = "Convert to motion clip", "Correct the colours", "Change the motion clip"

_ABOUT = """
<p class="ma-caption">A motion clip shows every part of the body in its own colour (DensePose). Animate makes
one by itself. Convert a video here to look at it, to reduce flicker, or to match the dancer to a photo;
changing settings afterwards is quick.</p>
"""


class DensePoseTab:
    """Builds itself where it is made, inside a tab.

    Args:
        service: does the work.
    """

    def __init__(self, service: AnimationService):
        self.service = service
        self.made = gr.State(None)  # MadeMotion of the visitor's last run
        gr.HTML(_ABOUT, padding=False)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self._inputs()
            with gr.Column(scale=6, min_width=320):
                self._results()

    def _inputs(self) -> None:
        self.clip = gr.Video(
            label="Video",
            sources=["upload"],
            height=280,
            loop=True,
            autoplay=True,
            elem_id="dp-clip",
            elem_classes="ma-uncut",
        )
        self.notice = gr.HTML("", visible=False, padding=False, elem_id="dp-notice")
        self.settings = _settings()
        with gr.Column(visible=False, elem_classes="ma-panel") as self.pointing:
            self.picture = gr.Image(
                label="Click on the person",
                interactive=False,
                buttons=[],
                format="jpeg",
                elem_id="dp-picture",
            )
            with gr.Row(elem_id="dp-point"):
                for name, label in (("x", "Column"), ("y", "Row"), ("second", "At second")):
                    value = 0 if name == "second" else None
                    self.settings[name] = gr.Number(value, label=label, minimum=0, min_width=90)
        with gr.Row():
            self.settings["flip"] = gr.Checkbox(False, label="Mirror", container=False)
            self.settings["margin"] = gr.Checkbox(
                False, label="Keep head and legs inside the frame", container=False
            )
        with gr.Accordion("Match the dancer to a photo", open=False):
            self.photo = gr.Image(
                label="Photo of the whole body",
                type="filepath",
                sources=["upload", "clipboard"],
                image_mode=None,
                height=220,
                elem_id="dp-photo",
            )
            self.photo.preprocess = form.path_only
            self.use_photo = gr.Checkbox(True, label="Use this photo", container=False)

    def _results(self) -> None:
        self.job = MotionJob(self.service, "dp", MAKE)
        with gr.Row():
            players: dict[str, Any] = {
                "interactive": False,
                "autoplay": True,
                "loop": True,
                "height": 320,
                "buttons": [],
                "min_width": 150,
            }
            self.before = gr.Video(label="Before", elem_id="dp-before", **players)
            self.after = gr.Video(label="After", elem_id="dp-after", **players)
        self.figures = gr.HTML("", visible=False, padding=False, elem_id="dp-figures")
        self.use = gr.Button("Use in Animate", variant="primary", visible=False, elem_id="dp-use")
        with gr.Row():
            self.exact = gr.DownloadButton(
                "Exact colours (MP4)", size="sm", visible=False, elem_id="dp-exact"
            )
            self.near = gr.DownloadButton("Plays everywhere (MP4)", size="sm", visible=False)
            self.archive = gr.DownloadButton("Detected people (NPZ)", size="sm", visible=False)

    def connect(self, panel: MotionPanel, tabs: gr.Tabs) -> None:
        """Attach the handlers; every widget of the page is there now.

        Args:
            panel: of the tab that animates, whose clip "Use in Animate" puts in.
            tabs: of the page, the one that animates being called "animate".
        """
        where = [self.clip, *(self.settings[name] for name in ("people", "start", "second", "x", "y"))]
        found = [self.settings[name] for name in ("min_score", "people", "margin")]
        results = [self.before, self.after, self.figures, self.use, self.exact, self.near, self.archive]
        examined = [self.notice, self.job.status, self.job.start, *found, *results]
        self.clip.change(self._examine, self.clip, examined, concurrency_limit=4, **PRIVATE).then(
            self._forget_point, None, [self.settings["x"], self.settings["y"]], **PRIVATE
        ).then(self._show_picture, where, [self.pointing, self.picture, self.notice], **PRIVATE)
        for name in ("people", "start", "second", "x", "y"):
            changed = self.settings[name].input
            changed(self._show_picture, where, [self.pointing, self.picture, self.notice], **PRIVATE)
        self.picture.select(self._point, None, [self.settings["x"], self.settings["y"]], **PRIVATE).then(
            self._show_picture, where, [self.pointing, self.picture, self.notice], **PRIVATE
        )
        inputs = {self.clip, self.photo, self.use_photo, self.made, *self.settings.values()}
        self.job.connect(self._make, inputs, [*results, self.made])
        self.use.click(self._send, self.made, [panel.controls["motion"], tabs], **PRIVATE).then(
            self._link, [panel.controls["motion"], panel.made, self.made], panel.made, **PRIVATE
        )

    def _examine(self, clip: str | None, request: gr.Request) -> Updates:
        """A clip was put in, or taken away: say what it is and what can be made of it."""
        self.job.stop(request)
        gone = gr.update(value=None, visible=False)
        updates: Updates = {
            self.notice: gr.update(value="", visible=False),
            self.job.status: gr.update(value="", visible=False),
            self.before: gr.update(value=None, label="Before"),
            self.after: gr.update(value=None, label="After"),
            self.figures: gr.update(value="", visible=False),
            self.use: gr.update(visible=False),
            **dict.fromkeys((self.exact, self.near, self.archive), gone),
        }
        if not clip:
            return updates
        try:
            kind, text, button = self._offer(Path(clip))
        except InputError as error:
            kind, text, button = "", without_folders(str(error), clip), None
        for name in ("min_score", "people", "margin"):
            updates[self.settings[name]] = gr.update(visible=kind in ("", "ordinary"))
        return updates | {
            self.notice: gr.update(
                value=views.message(text, kind="info" if button else "error"), visible=True
            ),
            self.job.start: gr.update(value=button or MAKE, interactive=button is not None),
        }

    def _offer(self, clip: Path) -> tuple[str, str, str | None]:
        """What a clip is, what to say of it, and what the button does with it.

        Raises:
            InputError: it cannot be read, or nothing can find the people of an ordinary video.
        """
        found = self.service.examine(clip)
        if found.kind in ("ordinary", "recolourable"):
            button = MAKE if found.kind == "ordinary" else CORRECT
            return found.kind, self.service.conversion(found.kind), button
        if found.kind == "ready":
            return found.kind, "This is a motion clip already. Choose what to change.", CHANGE
        return found.kind, f"{clip.name} {found.advice('')}.", None

    def _forget_point(self) -> tuple[None, None]:
        return None, None

    def _point(self, event: gr.SelectData) -> tuple[int, int]:
        return event.index[0], event.index[1]

    def _show_picture(
        self, clip: str | None, people: str, start: float, second: float, x: float | None, y: float | None
    ) -> Updates:
        """The frame on which somebody is pointed at, if that is how a person is chosen."""
        if people != "point" or not clip:
            return {self.pointing: gr.update(visible=False)}
        try:
            picture = picture_at(Path(clip), (start or 0) + (second or 0))
        except InputError as error:
            text = views.message(without_folders(str(error), clip), kind="error")
            return {self.pointing: gr.update(visible=True), self.notice: gr.update(value=text, visible=True)}
        if x is not None and y is not None:
            picture = with_mark(picture, x, y)
        return {self.pointing: gr.update(visible=True), self.picture: gr.update(value=picture)}

    def _make(self, data: dict, request: gr.Request) -> Iterator[Updates]:
        """Make the clip, updating the tab as it goes."""
        values = {name: data[widget] for name, widget in self.settings.items()}
        values["like"] = data[self.photo] if data[self.use_photo] else None
        clip = data[self.clip]

        def made(new: MadeMotion) -> Updates:
            result = new.extraction
            plain = result.plain is not None
            numbers = figures(new)
            return {
                self.before: gr.update(
                    value=str(result.plain) if plain else clip,
                    label="Before: as detected" if plain else "Before: the video",
                ),
                self.after: gr.update(value=str(result.playable), label="After"),
                self.figures: gr.update(value=numbers, visible=bool(numbers)),
                self.use: gr.update(visible=True),
                self.exact: gr.update(value=str(result.video), visible=True),
                self.near: gr.update(value=str(result.playable), visible=True),
                self.archive: _archive_download(new),
                self.made: new,
            }

        yield from self.job.run(request, clip, lambda: motion_config(values), made, earlier=data[self.made])

    def _send(self, made: MadeMotion) -> tuple[str, gr.Tabs]:
        return str(made.extraction.playable), gr.Tabs(selected="animate")

    def _link(self, clip: str, of_clips: dict[str, str], made: MadeMotion) -> dict[str, str]:
        """The clip in the player, which has near colours, stands for the one with exact colours."""
        return {**of_clips, clip: str(made.extraction.video)}


def _archive_download(new: MadeMotion) -> Updates:
    """The download of what was found; of a part map that was recoloured there is none."""
    archive = new.extraction.archive
    return gr.update(value=str(archive) if archive else None, visible=archive is not None)


def _settings() -> dict[str, gr.components.Component]:
    """Widgets of how a motion clip is made, by the names of `densepose_tools.one_click.motion_config`."""
    choices = [("The largest person", "largest"), ("Everyone", "all"), ("The person I click on", "point")]
    with gr.Row():
        score = gr.Slider(
            PUBLISHED_MIN_SCORE,
            0.95,
            value=Selection().min_score,
            step=0.05,
            label="How sure to be that it is a person",
            info=f"Higher: fewer mistakes. Published clips use {PUBLISHED_MIN_SCORE}",
            min_width=260,
        )
        people = gr.Radio(
            choices,
            value=Postprocessing().people,
            label="Who dances",
            min_width=200,
        )
    with gr.Row():
        start = gr.Number(0, label="Start", info="Seconds", minimum=0, min_width=120)
        end = gr.Number(0, label="End", info="Seconds; 0 is the end", minimum=0, min_width=120)
    steady = gr.Checkbox(
        Postprocessing().deflicker,
        label="Reduce flicker",
        container=False,
    )
    return {"min_score": score, "people": people, "start": start, "end": end, "steady": steady}
