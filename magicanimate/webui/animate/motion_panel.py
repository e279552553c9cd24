"""What happens to the visitor's clip before it animates: conversion, whom to follow, trimming, edits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from densepose_tools.photo_people import PersonDetector
from magicanimate.errors import InputError
from magicanimate.files import without_folders
from magicanimate.webui import views
from magicanimate.webui.animate import form
from magicanimate.webui.animate.form_values import MOTION_STEPS, form_settings
from magicanimate.webui.animate.inspection import ANIMATED_PICTURES, ClipStrip, clip_strip, nearest_start
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import tr
from magicanimate.webui.views import PRIVATE, Updates

# Two marks on a strip of frames. The strip follows them as they move; Python is told when one is let go.
_MARKS = """
const seconds = (input) => Number(input.value) / 1000 * Number(input.closest(".ma-strip").dataset.seconds);
const show = () => {
  const strip = element.querySelector(".ma-strip");
  if (!strip) return;
  const [start, end] = strip.querySelectorAll("input");
  strip.style.setProperty("--ma-start", start.value / 1000);
  strip.style.setProperty("--ma-end", end.value / 1000);
  const [from, to] = [start, end].map((input) => seconds(input).toFixed(1));
  start.setAttribute("aria-valuetext", `${from} s`);
  end.setAttribute("aria-valuetext", `${to} s`);
  const said = strip.dataset.said.replace("{start}", from).replace("{end}", to);
  strip.querySelector("output").textContent = said;
};
element.addEventListener("input", (event) => {
  const [start, end] = element.querySelectorAll(".ma-strip input");
  const least = 20;
  if (event.target === start) start.value = Math.min(start.value, end.value - least);
  if (event.target === end) end.value = Math.max(end.value, Number(start.value) + least);
  show();
});
element.addEventListener("change", () => {
  const [start, end] = element.querySelectorAll(".ma-strip input");
  trigger("select", { start: seconds(start), end: end.value === "1000" ? 0 : seconds(end) });
});
watch("value", show);
show();
globalThis.maMarks = (from, to) => {
  const strip = element.querySelector(".ma-strip");
  if (!strip) return;
  const [start, end] = strip.querySelectorAll("input");
  start.value = 1000 * (from ?? 0) / strip.dataset.seconds;
  end.value = to ? 1000 * to / strip.dataset.seconds : 1000;
  show();
};
"""

# The marks follow the numbers, whatever changes those.
_FOLLOW = "(from, to) => globalThis.maMarks?.(from, to)"


class MotionPanel:
    """What the page says of the clip under its player, and the widgets that edit it.

    Args:
        service: tells what will convert an ordinary video.
        controls: of the form; the panel adds those of its own settings.
    """

    def __init__(self, service: AnimationService, controls: form.Controls):
        self.service, self.controls = service, controls
        self.detector = PersonDetector.at_hand()
        defaults = service.defaults()
        self.after = gr.State(None)  # the dance that the next clip continues, see `UseAgain`
        self.second = gr.State(0.0)  # of the picture to click on
        self.line = gr.HTML("", visible=False, padding=False, elem_id="motion-line")
        with gr.Column(visible=False, elem_classes="ma-panel", elem_id="who") as self.who:
            self.several = gr.HTML("", padding=False)
            controls["people"] = form.people(defaults)
            # Who was clicked on, as `_point` writes it; no `gr.State`, so that the browser keeps it, too.
            self.point = gr.Textbox("", visible="hidden", elem_id="point")
            self.picture = gr.Image(
                label=tr("Click on the person"),
                interactive=False,
                buttons=[],
                format="jpeg",
                height=260,
                elem_id="who-picture",
            )

    def edits(self) -> None:
        """Build the widgets of the edits; they stand apart from the others, below the main settings."""
        with gr.Accordion(tr("Trim and edit the dance"), open=False, elem_id="edit-motion"):
            self.strip = gr.HTML("", padding=False, elem_id="strip", js_on_load=_MARKS)
            self.controls |= form.motion_settings(self.service.defaults())
            with gr.Row():
                self.joined = gr.File(
                    label=tr("Then this video"),
                    file_types=["video", *ANIMATED_PICTURES],
                    height=140,
                    elem_id="joined",
                )
                self.undo = gr.Button(tr("Undo all edits"), size="sm", min_width=120, elem_id="undo-edits")

    @property
    def inputs(self) -> set[gr.components.Component]:
        """What `values_of` reads beside the form's controls."""
        return {self.point, self.joined}

    def values_of(self, data: dict) -> dict[str, Any]:
        """The form's values, with the clip that animates in place of the one that is played."""
        values = {name: data[widget] for name, widget in self.controls.items()}
        point = _point_in(data[self.point], values["motion"])
        original = self.service.original_of(values["motion"])
        return values | {"motion": original, "point": point, "joined": data[self.joined]}

    def connect(self) -> None:
        """Attach the handlers."""
        clip = self.controls["motion"]
        shown = [self.line, self.who, self.several, self.picture, self.strip, self.second]
        clip.upload(self._playable, clip, [clip, self.line], **PRIVATE)
        # A clip from a reload or a result comes with its edits and with who dances; a clip that somebody
        # uploads has none. Both raise "change", only the latter "upload".
        for chosen in (clip.upload, clip.clear):
            chosen(self.no_edits, None, self.edited, queue=False, **PRIVATE)
        stretch = [self.controls["start"], self.controls["end"]]
        # The clip that the page begins with is never put in, so nothing would tell of a change.
        gr.on(
            [gr.context.Context.root_block.load, clip.change],
            self._examine,
            [clip, self.after, *stretch, self.controls["people"], self.point],
            [*shown, self.after, self.controls["start"]],
            concurrency_limit=4,
            trigger_mode="always_last",
            **PRIVATE,
        )
        self.strip.select(self._marked, None, stretch, **PRIVATE)
        gr.on([each.change for each in stretch], None, stretch, None, js=_FOLLOW, **PRIVATE)
        self.picture.select(
            self._pointed,
            [clip, self.second],
            [self.point, self.picture, self.controls["people"]],
            **PRIVATE,
        )
        self.undo.click(self._undone, clip, [*self.edited, self.strip], **PRIVATE)

    def _playable(self, clip: str | None) -> Updates:
        """Play an animated picture as a video; it animates as it is."""
        motion = self.controls["motion"]
        if not clip or not clip.lower().endswith(ANIMATED_PICTURES):
            return {motion: gr.skip()}  # Gradio takes an empty dict for a value
        try:
            return {motion: str(self.service.show_as_video(clip))}
        except InputError as error:
            return {self.line: _line(str(error), kind="error")}

    def _examine(
        self,
        clip: str | None,
        after: str | None = None,
        start: float | None = 0.0,
        end: float | None = 0.0,
        who: str = "largest",
        point: str = "",
    ) -> Iterator[Updates]:
        """The clip changed: say what kind it is, and ask who dances if it shows several people."""
        hidden = gr.update(visible=False)
        updates: Updates = {
            self.line: gr.update(value="", visible=False),
            self.who: hidden,
            self.strip: "",
        }
        if not clip:
            yield updates
            return
        try:
            found = clip_strip(self.service.original_of(clip))
        except InputError as error:
            yield updates | {self.line: _line(without_folders(str(error), clip), kind="error")}
            return
        updates[self.strip] = strip(found, start or 0.0, end or 0.0)
        if after:
            updates |= self._going_on(Path(self.service.original_of(clip)), Path(after))
        if found.kind not in ("ordinary", "recolourable"):
            yield updates
            return
        try:
            updates[self.line] = _line(self.service.conversion(found.kind))
        except InputError as error:
            yield updates | {self.line: _line(str(error), kind="error")}
            return
        yield updates
        people, second = found.people(self.detector) if self.detector else (0, 0.0)
        if people > 1:
            clicked = _point_in(point, clip) if who == "point" else None
            if clicked and clicked[2] in found.times:
                second = clicked[2]
            yield updates | {
                self.who: gr.update(visible=True),
                self.several: views.caption(
                    tr("{count} people are in this video. Click on the one to follow.", count=people)
                ),
                self.picture: found.picture(second, mark=clicked and clicked[:2]),
                self.second: second,
            }

    def _going_on(self, clip: Path, after: Path) -> Updates:
        """Begin where the pose is nearest to the last one of the earlier dance."""
        try:
            start = nearest_start(clip, after)
        except InputError:  # the earlier dance is gone
            start = None
        if start is None:
            return {self.after: None}
        text = tr("It begins at {seconds} s, nearest to the last pose.", seconds=f"{start:.1f}")
        return {self.after: None, self.controls["start"]: round(start, 2), self.line: _line(text)}

    def _pointed(self, clip: str, second: float, event: gr.SelectData) -> Updates:
        column, row = event.index
        found = clip_strip(clip)
        return {
            self.point: point_of((column, row, second), clip),
            self.picture: found.picture(second, mark=(column, row)),
            self.controls["people"]: "point",
        }

    def _marked(self, event: gr.EventData) -> tuple[float, float]:
        return round(float(event.start), 2), round(float(event.end), 2)

    def _undone(self, clip: str | None) -> Updates:
        updates = self.no_edits()
        del updates[self.point], updates[self.controls["people"]]  # who dances is no edit
        try:
            return updates | {self.strip: strip(clip_strip(self.service.original_of(clip))) if clip else ""}
        except InputError:  # `_examine` has shown what is wrong with the clip
            return updates

    @property
    def edited(self) -> list[gr.components.Component]:
        """What `no_edits` updates."""
        return [self.joined, self.point, *(self.controls[name] for name in _EDITS)]

    def no_edits(self) -> Updates:
        """Updates that undo all edits of the clip, and the choice of who dances."""
        defaults = form_settings(self.service.defaults())
        edits = {self.controls[name]: defaults[name].default for name in _EDITS}
        return {self.joined: None, self.point: "", **edits}


_STRETCH = "{start} s to {end} s"  # the script of the marks fills in the numbers
_MARKED = ("Start of the part that is used", "End of the part that is used")
_EDITS = ("start", "end", *MOTION_STEPS)


def strip(found: ClipStrip, start: float = 0.0, end: float = 0.0) -> str:
    """Frames of a clip in a row, with marks where the used part begins and ends; 0 is the clip's end."""
    marked = [round(1000 * min(1.0, second / found.seconds)) for second in (start, end or found.seconds)]
    marks = "".join(
        f'<input type="range" min="0" max="1000" step="1" value="{value}" aria-label="{tr(label)}">'
        for label, value in zip(_MARKED, marked, strict=True)
    )
    picture = views.picture(found.row(), label="", css="ma-strip-row")
    return (
        f'<div class="ma-strip" data-seconds="{found.seconds:.3f}" data-said="{tr(_STRETCH)}">'
        f'<div class="ma-strip-frames">{picture}{marks}</div><output></output></div>'
    )


def point_of(point: Sequence[float], clip: str | Path) -> str:
    """Column, row and second of a click on somebody, and the clip's name, as the form holds them."""
    return " ".join([*map(str, point), Path(clip).stem])  # without ".gif", which is played as ".mp4"


def _point_in(text: str | None, clip: str | None) -> tuple[int, int, float] | None:
    """The point that `point_of` wrote; ``None`` if there is none, or if it is one in another clip."""
    try:
        column, row, second, name = (text or "").split(" ", 3)
        return (int(column), int(row), float(second)) if clip and Path(clip).stem == name else None
    except ValueError:
        return None


def _line(text: str, *, kind: str = "info") -> dict:
    return gr.update(value=views.message(text, kind=kind), visible=True)
