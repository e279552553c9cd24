"""The mask that cuts people out of their background: shown before anything is animated, and painted on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from magicanimate.config import Progress
from magicanimate.errors import InputError
from magicanimate.mask import Stroke
from magicanimate.webui import views
from magicanimate.webui.animate import form
from magicanimate.webui.animate.form_values import check_values, motion_steps, request_of
from magicanimate.webui.animate.inspection import MaskFiles, mask_picture, paint_mask
from magicanimate.webui.animate.motion_panel import MotionPanel
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import label_of, tr
from magicanimate.webui.views import PRIVATE, Updates, refusal

_OTHER_CLIP = (
    *("start", "end", "speed", "mirror", "boomerang", "fit_dancer", "people", "stride", "fps", "fit"),
    *("width", "height", "start_from_photo"),
)
"""Settings that change the clip, so that a mask of it fits no more."""

_HOW = "Red is cut out. Up to the yellow line, hair and clothes are looked for. Paint to change it."
_ADD, _TAKE = "Add to the cut-out", "Take away from it"

# A stroke is drawn as the pointer moves; Python is told when it is lifted.
_BRUSH = """
let points = null;
const at = (event, canvas) => {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
};
const draw = (canvas) => {
  const { width, height } = canvas, pen = canvas.getContext("2d"), data = canvas.parentElement.dataset;
  pen.clearRect(0, 0, width, height);
  pen.strokeStyle = data.adds ? "rgb(254 0 0 / 70%)" : "rgb(0 90 255 / 70%)";
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = 2 * Number(data.radius) * Math.max(width, height);
  pen.beginPath();
  pen.moveTo(points[0][0] * width - 0.1, points[0][1] * height);
  for (const [x, y] of points) pen.lineTo(x * width, y * height);
  pen.stroke();
};
element.addEventListener("pointerdown", (event) => {
  const canvas = event.target.closest("canvas");
  if (!canvas) return;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  [canvas.width, canvas.height] = [canvas.clientWidth, canvas.clientHeight];
  points = [at(event, canvas)];
  draw(canvas);
});
element.addEventListener("pointermove", (event) => {
  if (!points) return;
  points.push(at(event, event.target));
  draw(event.target);
});
element.addEventListener("pointerup", () => {
  if (points) trigger("select", { points });
  points = null;
});
element.addEventListener("pointercancel", () => { points = null; });
"""


class MaskPanel:
    """The mask of the animation in the form: shown, painted on, uploaded.

    Args:
        service: draws it.
        motion_panel: knows which clip animates in place of the one that is played.
    """

    def __init__(self, service: AnimationService, motion_panel: MotionPanel):
        self.service, self.motion_panel = service, motion_panel

    def build(self, controls: form.Controls) -> None:
        """Build the widgets; the file of the mask is added to the form's controls."""
        self.files = gr.State(None)  # `MaskFiles`, or nothing is shown
        self.show = gr.Button(tr("Show the mask"), size="sm", elem_id="show-mask")
        self.line = gr.HTML("", visible=False, padding=False, elem_id="mask-told")
        with gr.Column(visible=False, elem_classes="ma-panel", elem_id="mask-editor") as self.editor:
            gr.HTML(views.caption(tr(_HOW)), padding=False)
            with gr.Row():
                self.picture = gr.HTML("", padding=False, elem_id="mask-picture", js_on_load=_BRUSH)
                self.photo = gr.HTML("", padding=False, elem_id="mask-photo")
            self.frame = gr.Slider(1, 2, 1, step=1, label=tr("Frame"), elem_id="mask-frame")
            with gr.Row():
                self.brush = gr.Radio(
                    [(tr(_ADD), "add"), (tr(_TAKE), "take")],
                    value="take",
                    label=tr("Brush"),
                    elem_id="mask-brush",
                )
                self.radius = gr.Slider(
                    1, 20, 4, step=1, label=tr("Brush size"), min_width=120, elem_id="mask-radius"
                )
            with gr.Row():
                self.first = gr.Number(1, precision=0, label=tr("From frame"), min_width=90)
                self.last = gr.Number(1, precision=0, label=tr("To frame"), min_width=90)
                self.undo = gr.Button(tr("Undo all strokes"), size="sm", min_width=120, elem_id="mask-undo")
        for number in (self.frame, self.radius, self.first, self.last):
            number.preprocess = form.as_typed  # numbers out of range are clamped when they are used
        controls["mask"] = gr.File(
            label=label_of("mask"), file_types=[".mp4", ".webm", ".mov"], height=110, elem_id="mask"
        )

    def connect(self, controls: form.Controls) -> None:
        """Attach the handlers."""
        self.controls = controls
        mask = controls["mask"]
        shown = [self.line, self.editor, self.picture, self.photo, self.frame, self.first, self.last]
        drawn = {self.frame, controls["mask_grow"], controls["mask_feather"], self.brush, self.radius}
        inputs = {*drawn, self.files, mask}
        self.show.click(
            self._show,
            {*controls.values(), *self.motion_panel.inputs, *drawn},
            [self.files, *shown, mask],
            concurrency_limit=4,
            **PRIVATE,
        )
        changes = [each.change for each in drawn]
        gr.on(changes, self._drawn, inputs, self.picture, trigger_mode="always_last", **PRIVATE)
        strokes = {*inputs, self.first, self.last}
        self.picture.select(self._painted, strokes, [mask, self.picture, self.line], **PRIVATE)
        self.undo.click(self._undone, inputs, [mask, self.picture], **PRIVATE)
        mask.upload(self._closed, None, [self.files, self.editor], queue=False, **PRIVATE)
        mask.clear(self._closed, None, [self.files, self.editor], queue=False, **PRIVATE)
        clip = [controls[name].change for name in ("motion", *_OTHER_CLIP)]
        clip += [self.motion_panel.point.change, self.motion_panel.joined.change]
        gr.on(clip, self._gone, self.files, [self.files, self.editor, mask], queue=False, **PRIVATE)

    def _show(self, data: dict) -> Iterator[Updates]:
        """Draw the mask of what is in the form."""
        values = self.motion_panel.values_of(data)
        joined = Path(values["joined"]) if values["joined"] else None
        try:
            check_values(values, self.service.defaults())
            request = request_of(values, self.service.output / "mask.mp4")
            for update in self.service.draw_mask(request, motion_steps(values), joined):
                if isinstance(update, Progress):
                    yield {self.line: gr.update(value=views.progress_bar(update), visible=True)}
                else:
                    yield self._opened(update, data)
        except InputError as error:
            yield {self.line: refusal(error)} | self._closed()

    def _opened(self, files: MaskFiles, data: dict) -> Updates:
        mask = self.controls["mask"]
        data = data | {self.files: files, mask: str(files.mask), self.frame: 1}
        return {
            self.files: files,
            self.line: gr.update(value="", visible=False),
            self.editor: gr.update(visible=True),
            self.picture: self._drawn(data),
            self.photo: _photo(files),
            self.frame: gr.update(value=1, maximum=max(2, files.count)),
            self.first: gr.update(value=1, minimum=1, maximum=files.count),
            self.last: gr.update(value=files.count, minimum=1, maximum=files.count),
            mask: data[mask],
        }

    def _drawn(self, data: dict) -> str:
        """The picture to paint on."""
        files: MaskFiles | None = data[self.files]
        if files is None:
            return ""
        grow, feather = (data[self.controls[name]] for name in ("mask_grow", "mask_feather"))
        mask = Path(data[self.controls["mask"]] or files.mask)
        number = min(max(int(data[self.frame]), 1), files.count) - 1
        try:
            shown = mask_picture(files.scene, mask, number, grow=int(grow), feather=float(feather))
        except InputError as error:
            return views.message(str(error), kind="error")
        image = views.picture(shown, label=tr("The mask over the dance"), css="ma-mask-picture")
        adds = ' data-adds="yes"' if data[self.brush] == "add" else ""
        radius = float(data[self.radius]) / 100
        return f'<div class="ma-mask" data-radius="{radius}"{adds}>{image}<canvas></canvas></div>'

    def _painted(self, data: dict, event: gr.EventData) -> Updates:
        """A stroke was drawn."""
        files: MaskFiles | None = data[self.files]
        if files is None:
            return {self.picture: ""}
        mask = self.controls["mask"]
        stroke = {
            "points": event.points,
            "radius": float(data[self.radius]) / 100,
            "adds": data[self.brush] == "add",
            "first": int(data[self.first] or 1) - 1,
            "last": int(data[self.last] or files.count) - 1,
        }
        try:
            painted = str(paint_mask(Path(data[mask] or files.mask), Stroke.of(stroke)))
        except InputError as error:
            return {self.line: refusal(error)}
        return {
            mask: painted,
            self.picture: self._drawn(data | {mask: painted}),
            self.line: gr.update(value="", visible=False),
        }

    def _undone(self, data: dict) -> Updates:
        files, mask = data[self.files], self.controls["mask"]
        first = None if files is None else str(files.mask)
        return {mask: first, self.picture: self._drawn(data | {mask: first})}

    def _closed(self) -> Updates:
        return {self.files: None, self.editor: gr.update(visible=False)}

    def _gone(self, files: MaskFiles | None) -> Updates:
        """The clip has changed: drop the mask that was drawn of it."""
        return self._closed() | ({} if files is None else {self.controls["mask"]: None})


def _photo(files: MaskFiles) -> str:
    label = tr("photo as used")
    image = views.picture(files.photo, label=label, css="ma-mask-picture")
    return f'<figure class="ma-figure">{image}<figcaption>{label}</figcaption></figure>'
