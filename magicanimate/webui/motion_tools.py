"""The tab that converts any video to a motion clip (DensePose part maps) and shows what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from densepose_tools.body import either_side
from densepose_tools.engines import PUBLISHED_MIN_SCORE, Selection
from densepose_tools.one_click import MadeMotion, examine, motion_config
from densepose_tools.postprocess import Postprocessing
from densepose_tools.tracking import picture_at, with_mark
from magicanimate.checkpoints.disk import human_bytes
from magicanimate.config import Progress
from magicanimate.errors import Cancelled, InputError
from magicanimate.files import without_folders
from magicanimate.webui import views
from magicanimate.webui.animate import form
from magicanimate.webui.animate.inspection import is_cut_off, some_maps
from magicanimate.webui.animate.motion_panel import MotionPanel
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import choice_name, said, tr
from magicanimate.webui.views import PRIVATE, Updates

MAKE, CORRECT, CHANGE = "Convert to motion clip", "Correct the colours", "Change the motion clip"

_ABOUT = (
    "A motion clip shows every part of the body in its own colour (DensePose). Animate makes one by itself. "
    "Convert a video here to look at it, to reduce flicker, or to match the dancer to a photo; changing "
    "settings afterwards is quick."
)


class MotionToolsTab:
    """The tab: a video and how to convert it on one side, the motion clip on the other.

    Args:
        service: does the work.
    """

    def __init__(self, service: AnimationService):
        self.service = service
        self.made = gr.State(None)  # `MadeMotion` of the visitor's last run
        gr.HTML(views.caption(tr(_ABOUT)), padding=False)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self._inputs()
            with gr.Column(scale=6, min_width=320):
                self._results()

    def _inputs(self) -> None:
        self.clip = gr.Video(
            label=tr("Video"),
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
                label=tr("Click on the person"),
                interactive=False,
                buttons=[],
                format="jpeg",
                elem_id="dp-picture",
            )
            with gr.Row(elem_id="dp-point"):
                for name, label in (("x", "Column"), ("y", "Row"), ("second", "At second")):
                    value = 0 if name == "second" else None
                    self.settings[name] = gr.Number(value, label=tr(label), minimum=0, min_width=90)
        with gr.Accordion(tr("Match the dancer to a photo"), open=False):
            self.photo = gr.Image(
                label=tr("Photo of the whole body"),
                type="filepath",
                sources=["upload", "clipboard"],
                image_mode=None,
                height=220,
                elem_id="dp-photo",
            )
            self.photo.preprocess = form.path_only
            self.use_photo = gr.Checkbox(True, label=tr("Use this photo"), container=False)

    def _results(self) -> None:
        with gr.Row():
            self.start = gr.Button(tr(MAKE), variant="primary", elem_id="make-dp")
            self.cancel = gr.Button(tr("Cancel"), visible=False, elem_id="cancel-dp")
        self.status = gr.HTML("", visible=False, padding=False, elem_id="dp-status")
        self.empty = gr.HTML(
            views.empty(tr("Your motion clip will appear here"), tr("Add a video, then convert it.")),
            padding=False,
        )
        with gr.Row(visible=False) as self.players:
            players: dict[str, Any] = {
                "interactive": False,
                "autoplay": True,
                "loop": True,
                "height": 320,
                "buttons": [],
                "min_width": 150,
            }
            self.before = gr.Video(label=tr("Before"), elem_id="dp-before", **players)
            self.after = gr.Video(label=tr("After"), elem_id="dp-after", **players)
        self.figures = gr.HTML("", visible=False, padding=False, elem_id="dp-figures")
        self.use = gr.Button(tr("Use in Animate"), variant="primary", visible=False, elem_id="dp-use")
        with gr.Row():
            self.exact = gr.DownloadButton(
                tr("Exact colours (MP4)"), size="sm", visible=False, elem_id="dp-exact"
            )
            self.near = gr.DownloadButton(tr("Plays everywhere (MP4)"), size="sm", visible=False)
            self.archive = gr.DownloadButton(tr("Detected people (NPZ)"), size="sm", visible=False)

    def connect(self, motion_panel: MotionPanel, tabs: gr.Tabs) -> None:
        """Attach the handlers.

        Args:
            motion_panel: of the tab that animates, whose clip "Use in Animate" puts in.
            tabs: of the page, the one that animates being called "animate".
        """
        self.motion_panel, self.tabs = motion_panel, tabs
        where = [self.clip, *(self.settings[name] for name in ("people", "start", "second", "x", "y"))]
        found = [self.settings[name] for name in ("min_score", "people", "margin")]
        results = [
            self.empty,
            self.players,
            self.before,
            self.after,
            self.figures,
            self.use,
            self.exact,
            self.near,
            self.archive,
        ]
        examined = [self.notice, self.status, self.start, *found, *results]
        point = [self.settings["x"], self.settings["y"]]
        # In the browser, where it happens at once: a click while Python examines the clip must not be lost.
        self.clip.change(None, None, point, js="() => [null, null]", **PRIVATE)
        self.clip.change(self._examine, self.clip, examined, concurrency_limit=4, **PRIVATE)
        # One event for all of them: with "always_last" its last run sees the values after quick changes.
        gr.on(
            [each.change for each in where],
            self._show_picture,
            where,
            [self.pointing, self.picture, self.notice],
            trigger_mode="always_last",
            **PRIVATE,
        )
        self.picture.select(self._point, None, point, queue=False, **PRIVATE)
        inputs = {self.clip, self.photo, self.use_photo, self.made, *self.settings.values()}
        buttons = [self.start, self.cancel]
        begun = self.start.click(self._begin, None, [self.status, *buttons], queue=False, **PRIVATE)
        made = begun.then(self._make, inputs, [self.status, self.start, *results, self.made], **PRIVATE)
        made.then(self._end, None, buttons, queue=False, **PRIVATE)
        self.cancel.click(self._stop, None, self.cancel, queue=False, **PRIVATE)
        sent = [motion_panel.controls["motion"], tabs, *motion_panel.edited]
        self.use.click(self._send, self.made, sent, **PRIVATE)

    def _examine(self, clip: str | None, request: gr.Request) -> Updates:
        """The clip changed: say what kind it is and offer what can be done with it."""
        self._stop(request)
        gone = gr.update(value=None, visible=False)
        updates: Updates = {
            self.notice: gr.update(value="", visible=False),
            self.status: gr.update(value="", visible=False),
            self.empty: gr.update(visible=True),
            self.players: gr.update(visible=False),
            self.before: gr.update(value=None, label=tr("Before")),
            self.after: gr.update(value=None, label=tr("After")),
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
            self.start: gr.update(value=tr(button or MAKE), interactive=button is not None),
        }

    def _offer(self, clip: Path) -> tuple[str, str, str | None]:
        """The kind of a clip, a sentence on it, and the label of the button, if there is something to do.

        Raises:
            InputError: it cannot be read, or nothing can find the people of an ordinary video.
        """
        found = examine(clip)
        if found.kind in ("ordinary", "recolourable"):
            button = MAKE if found.kind == "ordinary" else CORRECT
            return found.kind, self.service.conversion(found.kind), button
        if found.kind == "ready":
            return found.kind, tr("This is a motion clip already. Choose what to change."), CHANGE
        return found.kind, f"{clip.name} {said(found.reason)}.", None

    def _point(self, event: gr.SelectData) -> tuple[int, int]:
        return event.index[0], event.index[1]

    def _show_picture(
        self, clip: str | None, people: str, start: float, second: float, x: float | None, y: float | None
    ) -> Updates:
        """Show the frame to click on, if the person is chosen by pointing."""
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

    def _begin(self, request: gr.Request) -> Updates:
        """The visitor has pressed the button."""
        self.service.admit(request.session_hash)
        try:
            size = self.service.forecast().bytes_to_fetch
        except InputError:  # which the work itself will say
            size = 0
        text = tr("Starting…")
        if size:
            text = tr("Downloading the detector, {size}, once…", size=human_bytes(size))
        return {
            self.status: gr.update(value=views.message(text), visible=True),
            self.start: gr.update(interactive=False),
            self.cancel: gr.update(visible=True),
        }

    def _make(self, data: dict, request: gr.Request) -> Iterator[Updates]:
        """Make the clip and show it, or say why there is none."""
        values = {name: data[widget] for name, widget in self.settings.items()}
        values["like"] = data[self.photo] if data[self.use_photo] else None
        clip, earlier = data[self.clip], data[self.made]
        try:
            if not clip:
                raise InputError(tr("Add a video."))
            config = motion_config(values)
            for report in self.service.make_motion(request.session_hash, Path(clip), config, earlier=earlier):
                if isinstance(report, Progress):
                    yield {self.status: views.progress_bar(report)}
                else:
                    yield self._show(report, clip)
        except InputError as error:
            yield {self.status: views.message(without_folders(str(error), clip), kind="error")}
        except Cancelled:
            text = tr("Cancelled. What was detected is kept; converting again continues from there.")
            yield {self.status: views.message(text)}

    def _show(self, new: MadeMotion, clip: str) -> Updates:
        made = new.extraction
        plain, numbers = made.plain is not None, figures(new)
        return {
            self.status: motion_made(new),
            self.empty: gr.update(visible=False),
            self.players: gr.update(visible=True),
            self.before: gr.update(
                value=str(made.plain) if plain else clip,
                label=tr("Before: as detected" if plain else "Before: the video"),
            ),
            self.after: gr.update(value=str(made.playable), label=tr("After")),
            self.figures: gr.update(value=numbers, visible=bool(numbers)),
            self.use: gr.update(visible=True),
            self.exact: gr.update(value=str(made.video), visible=True),
            self.near: gr.update(value=str(made.playable), visible=True),
            # A clip that was only recoloured has no record of detected people.
            self.archive: gr.update(
                value=str(made.archive) if made.archive else None, visible=made.archive is not None
            ),
            self.made: new,
        }

    def _stop(self, request: gr.Request) -> Updates:
        self.service.cancel(request.session_hash)
        return {self.cancel: gr.update(value=tr("Stopping…"), interactive=False)}

    def _end(self) -> Updates:
        return {
            self.start: gr.update(interactive=True),
            self.cancel: gr.update(value=tr("Cancel"), interactive=True, visible=False),
        }

    def _send(self, made: MadeMotion) -> Updates:
        """Put the clip into the form of the Animate tab, without the edits of the clip before."""
        self.service.play_instead(made.extraction.playable, made.extraction.video)
        clip = {self.motion_panel.controls["motion"]: str(made.extraction.playable)}
        return clip | self.motion_panel.no_edits() | {self.tabs: gr.Tabs(selected="animate")}


def _settings() -> dict[str, gr.components.Component]:
    """Widgets of how a motion clip is made, by the names of `densepose_tools.one_click.motion_config`."""
    choices = [(choice_name(each), each) for each in ("largest", "all", "point")]
    people = gr.Radio(choices, value=Postprocessing().people, label=tr("Who dances"))
    with gr.Row():
        start = gr.Number(0, label=tr("Start"), info=tr("Seconds"), minimum=0, min_width=120)
        end = gr.Number(0, label=tr("End"), info=tr("Seconds; 0 is the end"), minimum=0, min_width=120)
    with gr.Row(elem_classes="ma-choices"):
        deflicker = gr.Checkbox(
            Postprocessing().deflicker, label=tr("Reduce flicker"), container=False, min_width=120
        )
        flip = gr.Checkbox(False, label=tr("Mirror"), container=False, min_width=90)
        margin = gr.Checkbox(
            False, label=tr("Keep head and legs inside the frame"), container=False, min_width=240
        )
    with gr.Accordion(tr("Detection"), open=False):
        score = gr.Slider(
            PUBLISHED_MIN_SCORE,
            0.95,
            value=Selection().min_score,
            step=0.05,
            label=tr("Detection threshold"),
            info=tr(
                "Higher: fewer things are mistaken for people. Published clips use {value}",
                value=PUBLISHED_MIN_SCORE,
            ),
        )
    found = {"min_score": score, "people": people, "start": start, "end": end}
    return found | {"deflicker": deflicker, "flip": flip, "margin": margin}


_LIMBS = {
    "torso": "Torso",
    "thigh": "Thigh",
    "shank": "Shank",
    "foot": "Foot",
    "head": "Head",
    "upper arm": "Upper arm",
    "forearm": "Forearm",
    "hand": "Hand",
}
_LITTLE = 0.03
"""Smaller changes are not reported."""


def figures(new: MadeMotion) -> str:
    """Flicker before and after, and how the build was changed, as HTML; empty if neither was measured."""
    made = new.extraction
    parts = []
    if made.flicker is not None:
        before, after = made.flicker
        parts.append(
            f"<p><b>{tr('Flicker')}</b>: "
            + tr(
                "{before} of the body changed for a moment before, {after} after.",
                before=f"<b>{before:.2%}</b>",
                after=f"<b>{after:.2%}</b>",
            )
            + "</p>"
        )
    if made.stretch is not None:
        rows = "".join(
            f"<tr><th scope='row'>{tr(_LIMBS[name])}</th>"
            f"<td>{_change(along, '{percent} longer', '{percent} shorter')}</td>"
            f"<td>{_change(across, '{percent} wider', '{percent} narrower')}</td></tr>"
            for name, (along, across) in either_side(made.stretch).items()
        )
        parts.append(
            f"<p><b>{tr('Build')}</b>: {tr('how the dancer was changed to match the photo')}</p>"
            f"<table><thead><tr><th>{tr('Limb')}</th><th>{tr('Length')}</th><th>{tr('Width')}</th></tr></thead>"
            f"{rows}</table>"
        )
    return f'<div class="ma-figures">{"".join(parts)}</div>' if parts else ""


def _change(factor: float, more: str, less: str) -> str:
    if abs(factor - 1) < _LITTLE:
        return tr("as it is")
    return tr(more if factor > 1 else less, percent=f"{abs(factor - 1):.0%}")


def cut_off(new: MadeMotion) -> str:
    """A warning if the clip cuts off a dancer who was made smaller, and who now hangs in the air."""
    made = new.extraction
    if not made.stretch or np.median([along for along, _ in made.stretch.values()]) > 1 - _LITTLE:
        return ""
    if not is_cut_off(some_maps(made.plain or new.clip)):
        return ""
    return tr("The clip cuts the dancer off, so it cannot be fitted: choose a clip with the whole body.")


def motion_made(new: MadeMotion) -> str:
    """What was made, by which detector, and how good it is."""
    made = new.extraction
    sentences = [tr("Motion clip of {count} frame.|Motion clip of {count} frames.", count=made.num_frames)]
    sentences.append(tr("Its colours were corrected.") if new.engine is None else tr(_FOUND_BY[new.engine]))
    if made.empty:
        text = "{count} of them shows nobody.|{count} of them show nobody."
        sentences.append(tr(text, count=len(made.empty)))
    if made.filled:
        text = "{count} of them repeats a neighbour.|{count} of them repeat a neighbour."
        sentences.append(tr(text, count=len(made.filled)))
    sentences.append(tr("Saved as {name}.", name=made.video.name))
    warning = cut_off(new)
    return views.message(" ".join(sentences), kind="done") + (views.message(warning) if warning else "")


_FOUND_BY = {
    "torch": "People were found by the released DensePose network.",
    "detectron2": "People were found by the released DensePose network (detectron2).",
    "mini": "People were found by a simple built-in detector.",
}
