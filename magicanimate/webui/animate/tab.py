"""The tab on which photo and clip become a video: its layout, and the way from the form to jobs and back."""

from __future__ import annotations

import filecmp
import html
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.checkpoints.disk import describe_models
from magicanimate.errors import InputError
from magicanimate.webui import views
from magicanimate.webui.animate import form
from magicanimate.webui.animate.check_card import CheckCard, problem
from magicanimate.webui.animate.earlier_settings import SavedSettings, SavedSettingsPanel, UseAgain
from magicanimate.webui.animate.form_values import (
    FILES,
    LARGEST_SEED,
    PHOTOS,
    check_values,
    motion_steps,
    requests_of,
)
from magicanimate.webui.animate.mask_panel import MaskPanel
from magicanimate.webui.animate.motion_panel import MotionPanel, point_of
from magicanimate.webui.gallery.result_panel import file_url
from magicanimate.webui.jobs.animation_job import JOINED, STEPS
from magicanimate.webui.jobs.queue import Job
from magicanimate.webui.jobs.running_panel import RunningPanel
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import tr
from magicanimate.webui.views import PRIVATE, Updates

_START, _CHANGE = "Animate", "Save changes"

# On a narrow page the job's progress may be out of sight after Animate was pressed: scroll to it. The stage
# itself has no box there (display: contents), its widgets have.
_SHOW_STAGE = """
() => {
  const stage = document.querySelector("#status") ?? document.querySelector("#stage");
  const { top } = stage.getBoundingClientRect();
  if (top < 0 || top > innerHeight * 0.6) stage.scrollIntoView({ behavior: "smooth", block: "start" });
}
"""


class AnimateTab:
    """The tab: the form on one side, what is made of it on the other.

    Args:
        service: runs the animations.
        examples: see `find_examples`; the first one is there from the start.
        badge: tells which model runs.
    """

    def __init__(self, service: AnimationService, examples: list[Example], badge: gr.HTML):
        self.service, self.badge = service, badge
        self.examples = examples
        self.changing = gr.State("")  # id of the waiting job whose settings are in the form
        with gr.Row(elem_id="workspace"):
            with gr.Column(scale=6, min_width=320, elem_id="form"):
                self._inputs()
            with gr.Column(scale=5, min_width=320, elem_id="stage"):
                self.running = RunningPanel(
                    service, self.cancel, _stage_of(self.examples[0] if self.examples else None)
                )

    def _inputs(self) -> None:
        photo, motion = self.examples[0].files if self.examples else (None, None)
        defaults = self.built_for = self.service.defaults()
        self.controls = form.inputs(photo=photo, motion=motion, keypoints=defaults.takes_keypoints)
        self.motion_panel = MotionPanel(self.service, self.controls)
        self.gallery = gr.HTML(
            _example_list(self.examples),
            padding=False,
            visible=bool(self.examples),
            elem_id="examples",
            js_on_load=_EXAMPLES_ON_LOAD,
        )
        notice = gr.HTML("", visible=False, elem_id="use-again-notice", padding=False)
        settings, self.dice = form.main_settings(defaults)
        self.controls |= settings
        self.motion_panel.edits()
        with gr.Accordion(tr("Advanced"), open=False, elem_id="advanced"):
            self.mask = MaskPanel(self.service, self.motion_panel)
            self.controls |= form.advanced_settings(defaults, self.mask.build)
            with gr.Accordion(tr("Expert"), open=False, elem_id="expert"):
                self.controls |= form.expert_settings(defaults)
            self.saved_settings = SavedSettingsPanel(
                SavedSettings(self.service.output / ".settings"), self.controls, self.service.defaults
            )
            self.use_again = UseAgain(self.service, self.motion_panel, notice)
        gr.HTML(
            views.caption(tr("A photo of a real person? Animate it only if that person agrees.")),
            padding=False,
        )
        with gr.Row(elem_id="bar"):
            self.check = CheckCard(self.service, self.controls, self.motion_panel, self._is_example)
            self.start = gr.Button(
                tr(_START), variant="primary", size="lg", scale=0, min_width=150, elem_id="animate"
            )
            self.cancel = gr.Button(
                tr("Cancel"), size="lg", scale=0, min_width=90, visible=False, elem_id="cancel"
            )
            self.leave = gr.Button(
                tr("Discard changes"), size="lg", scale=0, min_width=150, visible=False, elem_id="leave-job"
            )

    @property
    def follows_model(self) -> list[gr.components.Component]:
        """What `switched` updates."""
        names = (*form.MODEL_SETTINGS, *form.SEED_SETTINGS, "keypoints")
        return [self.badge, self.dice, *(self.controls[name] for name in names)]

    def switched(self) -> Updates:
        """Updates after another model was chosen: its name, and its default settings."""
        defaults = self.service.defaults()
        own, ranges = form.own_settings(defaults), form.model_ranges(defaults)
        return self._opened() | {
            self.controls["keypoints"]: gr.update(value=None, visible=defaults.takes_keypoints),
            self.dice: gr.update(**ranges["seed"]),
            **{
                self.controls[name]: gr.update(**each, **({"value": own[name]} if name in own else {}))
                for name, each in ranges.items()
            },
        }

    def _opened(self) -> Updates:
        """Tell a page that was opened which model runs, and what its settings may be.

        The settings themselves follow in the browser (`form.remember`), which knows what the visitor has
        changed by then.
        """
        defaults = self.service.defaults()
        badge = views.model_badge(
            defaults,
            form.own_settings(defaults),
            trial=self.service.trial,
            full_here=any(model.name == "full" and model.available for model in describe_models()),
            choosing=not self.service.shared,
        )
        if defaults == self.built_for:
            return {self.badge: badge}
        ranges = form.model_ranges(defaults) | {"keypoints": {"visible": defaults.takes_keypoints}}
        return {
            self.badge: badge,
            self.dice: gr.update(**ranges["seed"]),
            **{self.controls[name]: gr.update(**each) for name, each in ranges.items()},
        }

    def connect(self) -> None:
        """Attach the handlers."""
        opened = gr.context.Context.root_block.load
        clips = [self.controls["photo"], self.controls["motion"], *self.motion_panel.edited]
        fillers = {
            "examples": clips,
            "motion": self.motion_panel.edited,  # kept edits are those of the kept clip
            "who-picture": [self.motion_panel.point, self.controls["people"]],
            "dice": [self.controls["seed"]],
            "preset": [self.controls["num_inference_steps"]],
            "size": [self.controls["width"], self.controls["height"]],
        }
        opening = opened(self._opened, None, self.follows_model, **PRIVATE)
        more = {"point": self.motion_panel.point, "joined": self.motion_panel.joined}
        form.remember(self.controls | more, opening, fillers)
        self.dice.click(lambda: random.randint(0, LARGEST_SEED), None, self.controls["seed"], **PRIVATE)
        self.gallery.click(
            self._example,
            None,
            [*clips, self.running.example],
            **PRIVATE,
        )
        form_state = [self.changing, self.start, self.leave]
        page = {self.running.seen, self.running.visitor, self.changing}
        submitted = self.start.click(
            self._submit,
            {*self.controls.values(), *self.motion_panel.inputs, *page},
            [
                *self.running.widgets,
                *form_state,
                self.controls["seed"],
                self.check.card,
                self.use_again.notice,
            ],
            queue=False,
            **PRIVATE,
        )
        submitted.then(None, js=_SHOW_STAGE, **PRIVATE)
        self.leave.click(self._leave, None, form_state, queue=False, **PRIVATE)
        self.running.cancel.click(
            self.running.stop,
            [self.running.seen, self.running.visitor],
            self.running.widgets,
            queue=False,
            **PRIVATE,
        )
        filled = [*form_state, self.check.card, *self.use_again.filled]
        self.running.job_list.click(self._fill_in, self.running.visitor, filled, queue=False, **PRIVATE)
        self.motion_panel.connect()
        self.mask.connect(self.controls)
        form.connect(self.controls, self.service.defaults)
        self.saved_settings.connect()
        self.check.connect()
        self.running.connect()

    def _is_example(self, photo: str, motion: str) -> bool:
        return any(each.is_pair(photo, motion) for each in self.examples)

    def _example(self, event: gr.EventData) -> Updates:
        """Put an example into the form."""
        example = self.examples[int(event.index)]
        photo, motion = example.files
        return {
            self.controls["photo"]: photo,
            self.controls["motion"]: motion,
            self.running.example: _stage_of(example),
            **self.motion_panel.no_edits(),
        }

    def _submit(self, data: dict, request: gr.Request) -> Updates:
        """Make a job, or several, of what is in the form; or change the waiting job that was put into it."""
        values = self.motion_panel.values_of(data)
        seen, visitor = data[self.running.seen], data[self.running.visitor]
        updates: Updates = {}
        if values["random_seed"]:
            values["seed"] = random.randint(0, LARGEST_SEED)
            updates[self.controls["seed"]] = values["seed"]
        owner, changing = self.running.owner(visitor, request), data[self.changing]
        try:
            check_values(values, self.service.defaults())
            first, *others = requests_of(values, self.service.output)
            joined = Path(values["joined"]) if values["joined"] else None
            before: dict[str, Any] = {"owner": owner, "steps": motion_steps(values), "joined": joined}
            jobs = [self.service.submit(first, instead_of=changing, **before)]
            jobs += [self.service.submit(other, **before) for other in others]
        except InputError as error:
            return updates | self.running.poll(seen, visitor, request) | {self.check.card: problem(error)}
        updates[self.use_again.notice] = gr.update(value="", visible=False)
        return updates | self._leave() | self.running.show_new(jobs[0], seen, visitor, request)

    def _leave(self) -> Updates:
        """Make the form one for new jobs again."""
        return {
            self.changing: "",
            self.start: gr.update(value=tr(_START)),
            self.leave: gr.update(visible=False),
        }

    def _fill_in(self, visitor: str, request: gr.Request, event: gr.EventData) -> Updates:
        """Put the settings of a job into the form, to change it or to use them again."""
        job = self.service.queue.get(event.job or "")
        mine = job is not None and job.owner == self.running.owner(visitor, request)
        if not mine or event.action not in ("edit", "use"):
            return {self.changing: gr.skip()}  # Gradio takes an empty dict for a value
        try:
            updates = self._settings_of(job)
        except InputError as error:
            return {self.check.card: problem(error)}
        if event.action == "use":
            return updates | self._leave()
        return updates | {
            self.changing: job.id,
            self.start: gr.update(value=tr(_CHANGE)),
            self.leave: gr.update(visible=True),
        }

    def _settings_of(self, job: Job) -> Updates:
        """The form filled with a job's settings and files.

        Raises:
            InputError: photo or clip are not there any more.
        """
        settings = {**job.request, **job.request.get(STEPS, {})}
        files = {name: Path(job.request[name]) for name in FILES if job.request.get(name)}
        updates, _ = self.use_again.form_updates(settings, files, map(Path, job.request.get(PHOTOS) or ()))
        if joined := job.request.get(JOINED):
            updates[self.motion_panel.joined] = str(self.service.show_copy(Path(joined)))
        if point := job.request.get(STEPS, {}).get("point"):
            updates[self.motion_panel.point] = point_of(point, job.request["motion"])
        return updates


# An example's video plays while the pointer or the focus is on it.
_EXAMPLES_ON_LOAD = (
    views.BUTTONS_ON_LOAD
    + """
const play = (event, on) => {
  const video = event.target.closest?.("button[data-index]")?.querySelector("video");
  if (!video) return;
  if (on && !video.src) video.src = video.dataset.src;
  video.hidden = !on;
  if (on) video.play().catch(() => {});
  else video.pause();
};
for (const name of ["pointerover", "focusin"]) element.addEventListener(name, (event) => play(event, true));
for (const name of ["pointerout", "focusout"]) element.addEventListener(name, (event) => play(event, false));
"""
)


_INVITATION = "A finished example. Press Animate to make it yourself, or add a photo and a dance of your own."


@dataclass(frozen=True)
class Example:
    """A photo and a clip, and perhaps the video that the mini model made of them."""

    photo: Path
    motion: Path

    @property
    def name(self) -> str:
        """What people call it."""
        return self.photo.stem.removesuffix("_photo").capitalize()

    @property
    def files(self) -> tuple[str, str]:
        """Photo and clip, as the form takes them."""
        return str(self.photo), str(self.motion)

    def is_pair(self, photo: str, motion: str) -> bool:
        """Whether two files are copies of its own, wherever they are."""
        return all(
            Path(given).name == own.name and Path(given).is_file() and filecmp.cmp(given, own, shallow=False)
            for given, own in ((photo, self.photo), (motion, self.motion))
        )

    @property
    def result(self) -> Path | None:
        """The finished video, if it is there."""
        path = self.motion.with_name(self.motion.name.replace("_motion", "_result"))
        return path if path != self.motion and path.is_file() else None


def find_examples(folder: Path) -> list[Example]:
    """The pairs ``NAME_photo.png`` (or jpg) and ``NAME_motion.mp4`` of a folder, by name."""
    found = []
    for motion in sorted(folder.glob("*_motion.mp4")):
        name = motion.name.removesuffix("_motion.mp4")
        photos = [folder / f"{name}_photo{suffix}" for suffix in (".png", ".jpg", ".jpeg")]
        found += [Example(photo, motion) for photo in photos if photo.exists()][:1]
    return found


def _example_list(examples: Sequence[Example]) -> str:
    """The examples as buttons."""
    buttons = "".join(
        f'<button type="button" data-index="{index}" aria-label="{tr("Example")}: {html.escape(each.name)}" '
        f'title="{html.escape(each.name)}"><img alt="" src="{file_url(each.photo)}">{_video(each)}</button>'
        for index, each in enumerate(examples)
    )
    return f'<div class="ma-examples"><span>{tr("Examples")}</span>{buttons}</div>'


def _stage_of(example: Example | None) -> str:
    """The finished video of an example, large; a caption in its place if there is none."""
    if example is None or example.result is None:
        return views.caption(tr("Your video will appear here."))
    return (
        f'<figure class="ma-example"><video src="{file_url(example.result)}" autoplay loop muted playsinline '
        f'aria-label="{tr("A finished example")}"></video><figcaption>{tr(_INVITATION)}</figcaption></figure>'
    )


def _video(example: Example) -> str:
    if example.result is None:
        return ""
    return f'<video hidden muted loop playsinline data-src="{file_url(example.result)}"></video>'
