"""The line beside Animate: how long the video will be and how long it takes, and what to know before.

It unfolds to the pictures as the networks will see them and to warnings, with buttons that change the
settings they are about.
"""

from __future__ import annotations

import html
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from densepose_tools.photo_people import PersonDetector
from magicanimate.errors import InputError
from magicanimate.webui import views
from magicanimate.webui.animate.forecast import Forecast, Forecaster, Remark
from magicanimate.webui.animate.form import Controls
from magicanimate.webui.animate.motion_panel import MotionPanel
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import label_of, said, tr
from magicanimate.webui.views import PRIVATE, Updates

_MARKS = {"good": "✓", "note": "·", "warning": "!", "error": "✕"}
_SPOKEN = {"good": "fine", "note": "note", "warning": "warning", "error": "problem"}
_SIDE = 320  # pixels of the pictures

# Tells Python which button was pressed, and stays unfolded when the card is drawn again.
_ON_LOAD = """
let open = false;
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-mends]");
  if (button) trigger("click", { mends: JSON.parse(button.dataset.mends) });
});
// If two dancers would now become the same person, the other one takes over this one's old photo.
element.addEventListener("change", (event) => {
  const chosen = event.target, cast = [...element.querySelectorAll(".ma-cast select")];
  const other = cast.find((each) => each !== chosen && each.value === chosen.value);
  const before = chosen.dataset.photo;
  if (other && before !== "0" && !cast.some((each) => each.value === before)) other.value = before;
  if (cast.every((each) => each.value !== "0"))
    trigger("click", { mends: { cast: cast.map((each) => each.value).join(",") } });
});
element.addEventListener("toggle", (event) => { open = event.target.open; }, true);
let again = null;
watch("value", () => {
  const card = element.querySelector("details");
  if (card) card.open = open;
  // While the networks are loading the forecast is incomplete: ask again.
  clearTimeout(again);
  if (card?.dataset.loading) again = setTimeout(() => trigger("select"), 3000);
});
"""


class CheckCard:
    """Says what to expect of the animation in the form, anew at every change; Animate never waits for it.

    Args:
        service: knows the checkpoint, the device and the folder of results.
        controls: of the form.
        motion_panel: knows which clip animates in place of the one that is played.
        is_example: whether photo and clip are those of an example, whose result everybody can see.
    """

    def __init__(
        self,
        service: AnimationService,
        controls: Controls,
        motion_panel: MotionPanel,
        is_example: Callable[[str, str], bool],
    ):
        self.is_example = is_example
        self.service, self.controls, self.motion_panel = service, controls, motion_panel
        self.detector = PersonDetector.at_hand()
        self.card = gr.HTML(
            views.caption(tr("Looking at photo and video")),
            padding=False,
            elem_id="check",
            js_on_load=_ON_LOAD,
        )

    def connect(self) -> None:
        """Attach the handlers."""
        matters = [each for name, each in self.controls.items() if name not in _MATTERS_NOT]
        changes = [each.change for each in (*matters, self.motion_panel.joined)]
        opened = gr.context.Context.root_block.load
        gr.on(
            [opened, self.card.select, *changes],
            self._forecast,
            {*self.controls.values(), *self.motion_panel.inputs},
            self.card,
            # While a forecast is made the form changes again and again: only the last state matters.
            trigger_mode="always_last",
            concurrency_limit=4,
            **PRIVATE,
        )
        self.mended = {
            name: self.controls[name]
            for name in ("fit_dancer", "fit", "size", "width", "height", "scheduler")
            + ("num_inference_steps", "guidance_scale", "cast")
        }
        self.card.click(self._mend, None, [*self.mended.values()], queue=False, **PRIVATE)

    def _mend(self, event: gr.EventData) -> Updates:
        """Change settings: the button of a warning was pressed, or another photo chosen for a dancer."""
        changed = {self.mended[name]: value for name, value in event.mends.items() if name in self.mended}
        return changed or {self.controls["fit"]: gr.skip()}  # Gradio takes an empty dict for a value

    def _forecast(self, data: dict) -> Iterator[Any]:
        """Draw the card for what is in the form, again and again as more is known."""
        values = self.motion_panel.values_of(data)
        missing = [name for name in _MISSING if not values[name]]
        if missing:
            both = "Add a photo and a dance video, or choose an example."
            yield views.caption(tr(both if len(missing) > 1 else _MISSING[missing[0]]))
            return
        forecaster = Forecaster(
            self.service.defaults(),
            self.service.output,
            detector=self.detector,
            device=lambda: self.service.animator.device,
            benchmark=lambda: self.service.animator.benchmark,
            memory=self.service.animator.memory_warning,
            ready=lambda: self.service.was_ready,
            conversion=self.service.conversion,
        )
        tried = self.is_example(values["photo"], values["motion"])
        for forecast in forecaster.forecasts(values, tried=tried):
            yield card(forecast)


_MISSING = {
    "photo": "Add a photo, or choose an example.",
    "motion": "Add a dance video, or choose an example.",
}
_MATTERS_NOT = ("seed", "random_seed", "side_by_side", "sound", "credentials", "prompt", "negative_prompt")
"""Settings on which the forecast does not depend."""


def card(forecast: Forecast) -> str:
    """The card as HTML: the line, and what unfolds under it."""
    pictures = "".join(
        f"<figure>{_picture(pixels, label)}<figcaption>{label}</figcaption></figure>"
        for pixels, label in (
            (forecast.photo, tr("photo as used")),
            (forecast.motion, tr("dance as used")),
        )
        if pixels is not None
    )
    order = ("error", "warning", "note", "good")
    lines = "".join(map(_line, sorted(forecast.remarks, key=lambda remark: order.index(remark.level))))
    worst = next((level for level in order if any(r.level == level for r in forecast.remarks)), "note")
    waiting = "" if forecast.complete else '<span class="ma-waiting" aria-hidden="true"> …</span>'
    role = ' role="alert"' if worst == "error" else ""
    return (
        f'<details class="ma-check ma-worst-{worst}" aria-busy="{str(not forecast.complete).lower()}"'
        f"{' data-loading=yes' if forecast.loading else ''}>"
        f"<summary><span{role}>{html.escape(forecast.headline())}</span>{waiting}</summary>"
        f'<div class="ma-check-more" tabindex="0" role="group" aria-label="{tr("What to expect")}">'
        f'<div class="ma-check-pictures">{pictures}</div>{_cast(forecast)}'
        f"<ul>{lines}</ul></div></details>"
    )


def _cast(forecast: Forecast) -> str:
    """For each dancer, marked by a colour, the choice of a photo; empty if there is only one photo."""
    if not forecast.cast:
        return ""
    shown = []
    for number, member in enumerate(forecast.cast, start=1):
        choices = range(1, len(forecast.photos) + 1) if member.photo else range(len(forecast.photos) + 1)
        options = "".join(
            f'<option value="{photo}"{" selected" if photo == member.photo else ""}>'
            f"{tr('Photo {number}', number=photo) if photo else '–'}</option>"
            for photo in choices
        )
        label = tr("Dancer {number} from the left becomes", number=number)
        photo = _picture(forecast.photos[member.photo - 1], "", css="ma-cast-photo") if member.photo else ""
        colour = "#{:02x}{:02x}{:02x}".format(*member.colour)
        shown.append(
            f'<label style="border-color:{colour}"><b style="background:{colour}">{number}</b>{photo}'
            f'<select data-photo="{member.photo}" aria-label="{label}">{options}</select></label>'
        )
    return f'<div class="ma-cast" role="group" aria-label="{label_of("cast")}">{"".join(shown)}</div>'


def problem(error: InputError) -> str:
    """The card with the error that a press of Animate met; any change in the form replaces it."""
    return card(Forecast(remarks=(Remark("error", said(str(error))),), complete=True))


def _line(remark: Remark) -> str:
    button = ""
    if remark.mends:
        button = " " + views.button(remark.button, mends=json.dumps(dict(remark.mends)))
    return (
        f'<li class="ma-is-{remark.level}"><span aria-label="{tr(_SPOKEN[remark.level])}" role="img">'
        f"{_MARKS[remark.level]}</span><div>{html.escape(remark.text)}{button}</div></li>"
    )


def _picture(pixels: np.ndarray, label: str, *, css: str = "ma-check-picture") -> str:
    """A picture, uint8 (H, W, 3), as an ``img`` of its own."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=85)
    return views.picture(file.getvalue(), label=label, css=css)
