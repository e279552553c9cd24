"""The tab on which photo and clip become a video: its layout, and the way from the form to jobs and back."""

from __future__ import annotations

import random
from pathlib import Path

import gradio as gr

from magicanimate.errors import InputError
from magicanimate.webui import views
from magicanimate.webui.animate import form
from magicanimate.webui.animate.check_card import CheckCard
from magicanimate.webui.animate.form_values import FILES
from magicanimate.webui.animate.motion_panel import MotionPanel, motion_of
from magicanimate.webui.animate.presets_panel import PresetsPanel
from magicanimate.webui.animate.setting_presets import SettingPresets
from magicanimate.webui.animate.use_again import UseAgain
from magicanimate.webui.events import PRIVATE, Updates
from magicanimate.webui.jobs.job import Job
from magicanimate.webui.jobs.running_panel import RunningPanel
from magicanimate.webui.studio import Studio

_START, _CHANGE = "Animate", "Change the job"

# On a narrow page what runs lies below the form.
_SHOW_STATUS = """
() => {
  const status = document.querySelector("#status"), { top } = status.getBoundingClientRect();
  if (top < 0 || top > innerHeight * 0.8) status.scrollIntoView({ behavior: "smooth", block: "start" });
}
"""


class AnimateTab:
    """Builds itself where it is made, inside a tab.

    Args:
        studio: runs the animations.
        examples: pairs of photo and clip; the first one is there from the start.
    """

    def __init__(self, studio: Studio, examples: list[list[str]]):
        self.studio = studio
        self.examples = examples
        self.changing = gr.State("")  # id of the waiting job whose settings are in the form
        with gr.Row():
            with gr.Column(scale=6, min_width=320):
                self._inputs()
            with gr.Column(scale=5, min_width=320):
                self.running = RunningPanel(studio, self.cancel)
                self.note = gr.HTML(self._checkpoint_note, padding=False, elem_id="checkpoint")

    def _inputs(self) -> None:
        photo, motion = self.examples[0] if self.examples else (None, None)
        defaults = self.studio.defaults()
        self.controls = form.inputs(photo=photo, motion=motion, keypoints=defaults.takes_keypoints)
        self.start = gr.Button(_START, variant="primary", size="lg", elem_id="animate", render=False)
        self.panel = MotionPanel(self.studio, self.controls["motion"], self.start)
        self.gallery = gr.Dataset(
            components=[gr.Image(visible=False)],
            samples=[[photo] for photo, _ in self.examples],
            layout="gallery",
            type="index",
            label="Examples",
            elem_id="examples",
            samples_per_page=12,
            visible=bool(self.examples),
        )
        settings, self.dice = form.main_settings(defaults)
        self.controls |= settings
        self.check = CheckCard(self.studio, self.controls, self.panel)
        with gr.Row():
            self.start.render()
            self.cancel = gr.Button("Cancel", size="lg", interactive=False, elem_id="cancel")
            self.leave = gr.Button("Leave it as it is", size="lg", visible=False, elem_id="leave-job")
        gr.HTML(views.CONSENT, padding=False)
        with gr.Accordion("More", open=False):
            self.controls |= form.more_settings(defaults)
            self.presets = PresetsPanel(
                SettingPresets(self.studio.output / ".settings"), self.controls, self.studio.defaults
            )
        self.use_again = UseAgain(self.studio, self.controls)

    def _checkpoint_note(self) -> str:
        """Right again whenever the page is opened."""
        return views.checkpoint_note(self.studio.defaults(), trial=self.studio.trial)

    def connect(self) -> None:
        """Attach the handlers; every widget of the page is there now."""
        self.dice.click(lambda: random.randint(0, form.LARGEST_SEED), None, self.controls["seed"], **PRIVATE)
        self.gallery.click(
            lambda index: tuple(self.examples[index]),
            self.gallery,
            [self.controls["photo"], self.controls["motion"]],
            **PRIVATE,
        )
        form_state = [self.changing, self.start, self.leave]
        told = {self.running.seen, self.running.visitor, self.changing}
        submitted = self.start.click(
            self._submit,
            {*self.controls.values(), self.panel.made, self.panel.waiting, *told},
            [*self.running.widgets, *form_state, self.controls["seed"]],
            queue=False,
            **PRIVATE,
        )
        submitted.then(None, js=_SHOW_STATUS, **PRIVATE)
        self.leave.click(self._leave, None, form_state, queue=False, **PRIVATE)
        self.running.cancel.click(
            self._cancel, told, [*self.running.widgets, *form_state], queue=False, **PRIVATE
        )
        filled = [*form_state, *self.controls.values(), self.running.status]
        self.running.jobs.list.click(self._fill_in, self.running.visitor, filled, queue=False, **PRIVATE)
        self.panel.connect()
        form.connect(self.controls, self.studio.defaults)
        self.presets.connect()
        self.check.connect()
        self.running.connect()

    def _submit(self, data: dict, request: gr.Request) -> Updates:
        """Make a job, or several, of what is in the form; or change the waiting one that was put into it."""
        values = {name: data[widget] for name, widget in self.controls.items()}
        seen, visitor = data[self.running.seen], data[self.running.visitor]
        updates: Updates = {}
        if values["random_seed"]:
            values["seed"] = random.randint(0, form.LARGEST_SEED)
            updates[self.controls["seed"]] = values["seed"]
        values["motion"] = motion_of(values["motion"], data[self.panel.made])
        owner, changing = self.running.owner(visitor, request), data[self.changing]
        try:
            if data[self.panel.waiting] and values["check_motion"]:
                raise InputError(data[self.panel.waiting])
            first, *others = form.requests_of(values, self.studio.output)
            jobs = [self.studio.submit(first, owner=owner, instead_of=changing)]
            jobs += [self.studio.submit(other, owner=owner) for other in others]
        except InputError as error:
            told = self.running.look(seen, visitor, request)
            return updates | told | {self.running.status: views.message(str(error), kind="error")}
        return updates | self._leave() | self.running.turn_to(jobs[0], seen, visitor, request)

    def _cancel(self, data: dict, request: gr.Request) -> Updates:
        """While a job is being edited Cancel ends the editing, else it stops the job that runs."""
        if data[self.changing]:
            return self._leave()
        return self.running.stop(data[self.running.seen], data[self.running.visitor], request)

    def _leave(self) -> Updates:
        """The form is about new jobs again."""
        return {self.changing: "", self.start: gr.update(value=_START), self.leave: gr.update(visible=False)}

    def _fill_in(self, visitor: str, request: gr.Request, event: gr.EventData) -> Updates:
        """Put the settings of a job into the form, to change it or to use them again."""
        job = self.studio.queue.get(event.job or "")
        mine = job is not None and job.owner == self.running.owner(visitor, request)
        if not mine or event.action not in ("edit", "use"):
            return {self.changing: gr.skip()}
        try:
            updates = self._settings_of(job)
        except InputError as error:
            return {self.running.status: views.message(str(error), kind="error")}
        if event.action == "use":
            return updates | self._leave()
        return updates | {
            self.changing: job.id,
            self.start: gr.update(value=_CHANGE),
            self.leave: gr.update(visible=True),
        }

    def _settings_of(self, job: Job) -> Updates:
        """The form as it was for a job.

        Raises:
            InputError: photo or clip are not there any more.
        """
        defaults = self.studio.defaults()
        values = form.values_of(job.request, defaults)
        names = FILES if defaults.takes_keypoints else FILES[:2]
        files = {name: job.request[name] for name in names if job.request.get(name)}
        values |= {name: str(self.studio.lend(Path(file))) for name, file in files.items()}
        return {self.controls[name]: value for name, value in values.items() if name in self.controls}
