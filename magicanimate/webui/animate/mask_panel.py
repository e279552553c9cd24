"""How people will be cut out, shown before anything is animated, to paint on and to keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from magicanimate.config import Progress
from magicanimate.errors import InputError
from magicanimate.mask import Stroke
from magicanimate.webui import views
from magicanimate.webui.animate import form
from magicanimate.webui.animate.form_values import check_values, motion_steps
from magicanimate.webui.animate.inspection import MaskFiles, mask_picture, paint_mask
from magicanimate.webui.animate.motion_panel import MotionPanel
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import label_of, tr
from magicanimate.webui.views import PRIVATE, Updates, refusal

_OTHER_CLIP = ("start", "end", "speed", "mirror", "boomerang", "fit_dancer", "people", "stride", "fps", "fit")
_OTHER_CLIP += ("width", "height", "start_from_photo")
"""Settings that make another clip, to which a mask does not belong any more."""

_HOW = "Red is cut out. Up to the yellow line, hair and clothes are looked for. Paint to change it."
_ADD, _TAKE = "Add to the cut-out", "Take away from it"

# A stroke is drawn as the pointer moves; when it is lifted, Python hears.
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
    """Shows the mask of the animation in the form.

    Args:
        service: draws it.
        panel: knows what stands behind the visitor's clip.
    """

    def __init__(self, service: AnimationService, panel: MotionPanel):
        self.service, self.panel = service, panel

    def build(self, controls: form.Controls) -> None:
        """Build the widgets where this is called; the mask itself is added to the form's controls."""
        self.files = gr.State(None)  # `MaskFiles`, or nothing is shown
        self.show = gr.Button(tr("Show the mask"), size="sm", elem_id="show-mask")
        self.told = gr.HTML("", visible=False, padding=False, elem_id="mask-told")
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
            number.preprocess = form.as_typed  # what is out of range is brought into it here
        controls["mask"] = gr.File(
            label=label_of("mask"), file_types=[".mp4", ".webm", ".mov"], height=110, elem_id="mask"
        )

    def connect(self, controls: form.Controls) -> None:
        """Attach the handlers; every widget of the page is there now."""
        self.controls = controls
        mask, brush = controls["mask"], [self.brush, self.radius]
        shown = [self.told, self.editor, self.picture, self.photo, self.frame, self.first, self.last]
        editor = [self.files, *shown, mask]
        self.show.click(
            self._show,
            {*controls.values(), *self.panel.inputs, *brush},
            editor,
            concurrency_limit=4,
            **PRIVATE,
        )
        how = [self.files, mask, self.frame, controls["mask_grow"], controls["mask_feather"]]
        gr.on(
            [each.change for each in (*how[2:], *brush)],
            self._drawn,
            [*how, *brush],
            self.picture,
            trigger_mode="always_last",
            **PRIVATE,
        )
        self.picture.select(
            self._painted, [*how, *brush, self.first, self.last], [mask, self.picture, self.told], **PRIVATE
        )
        self.undo.click(self._undone, [*how, *brush], [mask, self.picture], **PRIVATE)
        mask.upload(self._closed, None, [self.files, self.editor], queue=False, **PRIVATE)
        mask.clear(self._closed, None, [self.files, self.editor], queue=False, **PRIVATE)
        clip = [controls[name].change for name in ("motion", *_OTHER_CLIP)]
        gr.on(clip, self._gone, self.files, [self.files, self.editor, mask], queue=False, **PRIVATE)

    def _show(self, data: dict) -> Iterator[Updates]:
        """Draw the mask of what is in the form."""
        values = self.panel.values_of(data)
        joined = Path(values["joined"]) if values["joined"] else None
        try:
            check_values(values, self.service.defaults())
            request = form.request_of(values, self.service.output / "mask.mp4")
            for update in self.service.draw_mask(request, motion_steps(values), joined):
                if isinstance(update, Progress):
                    yield {self.told: gr.update(value=views.progress_bar(update), visible=True)}
                else:
                    yield self._opened(update, data)
        except InputError as error:
            yield {self.told: refusal(error)} | self._closed()

    def _opened(self, files: MaskFiles, data: dict) -> Updates:
        how = data[self.controls["mask_grow"]], data[self.controls["mask_feather"]]
        return {
            self.files: files,
            self.told: gr.update(value="", visible=False),
            self.editor: gr.update(visible=True),
            self.picture: self._drawn(files, str(files.mask), 1, *how, data[self.brush], data[self.radius]),
            self.photo: _photo(files),
            self.frame: gr.update(value=1, maximum=max(2, files.count)),
            self.first: gr.update(value=1, minimum=1, maximum=files.count),
            self.last: gr.update(value=files.count, minimum=1, maximum=files.count),
            self.controls["mask"]: str(files.mask),
        }

    def _drawn(
        self,
        files: MaskFiles | None,
        mask: str | None,
        frame: float,
        grow: float,
        feather: float,
        brush: str,
        radius: float,
    ) -> str:
        """The picture to paint on."""
        if files is None:
            return ""
        number = min(max(int(frame), 1), files.count) - 1
        try:
            shown = mask_picture(
                files.scene, Path(mask or files.mask), number, grow=int(grow), feather=float(feather)
            )
        except InputError as error:
            return views.message(str(error), kind="error")
        image = views.picture(shown, label=tr("The mask over the dance"), css="ma-mask-picture")
        adds = ' data-adds="yes"' if brush == "add" else ""
        return (
            f'<div class="ma-mask" data-radius="{float(radius) / 100}"{adds}>{image}<canvas></canvas></div>'
        )

    def _painted(
        self,
        files: MaskFiles | None,
        mask: str | None,
        frame: float,
        grow: float,
        feather: float,
        brush: str,
        radius: float,
        first: float | None,
        last: float | None,
        event: gr.EventData,
    ) -> Updates:
        """A stroke was drawn."""
        if files is None:
            return {self.picture: ""}
        stroke = {"points": event.points, "radius": float(radius) / 100, "adds": brush == "add"}
        stroke |= {"first": int(first or 1) - 1, "last": int(last or files.count) - 1}
        try:
            new = str(paint_mask(Path(mask or files.mask), Stroke.of(stroke)))
        except InputError as error:
            return {self.told: refusal(error)}
        shown = self._drawn(files, new, frame, grow, feather, brush, radius)
        return {
            self.controls["mask"]: new,
            self.picture: shown,
            self.told: gr.update(value="", visible=False),
        }

    def _undone(self, files: MaskFiles | None, mask: str | None, *how: float | str) -> Updates:
        first = None if files is None else str(files.mask)
        return {self.controls["mask"]: first, self.picture: self._drawn(files, first, *how)}

    def _closed(self) -> Updates:
        return {self.files: None, self.editor: gr.update(visible=False)}

    def _gone(self, files: MaskFiles | None) -> Updates:
        """Another clip is made: the mask that was drawn here is not its."""
        return self._closed() | ({} if files is None else {self.controls["mask"]: None})


def _photo(files: MaskFiles) -> str:
    label = tr("photo as used")
    image = views.picture(files.photo, label=label, css="ma-mask-picture")
    return f'<figure class="ma-figure">{image}<figcaption>{label}</figcaption></figure>'
