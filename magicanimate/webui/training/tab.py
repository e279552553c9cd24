"""The tab that trains: what to train, how it goes, and what came of it to be tried on the Animate tab."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from magicanimate.errors import InputError
from magicanimate.webui import views
from magicanimate.webui.animate.tab import AnimateTab
from magicanimate.webui.events import PRIVATE, Updates
from magicanimate.webui.service import AnimationService
from magicanimate.webui.training import form as train_form
from magicanimate.webui.training import views as train_views
from magicanimate.webui.training.config import FROM_NOTHING, PRESETS, STAGES, TrainingConfig, shown, stages_of
from magicanimate.webui.training.manager import TrainingManager
from magicanimate.webui.training.run_panel import RunPanel
from magicanimate.webui.training.trial_panel import TrialPanel

_LOOK_EVERY = 2.0  # seconds


class TrainTab:
    """Builds itself where it is made, inside a tab. Only for a program that nobody else can reach.

    Args:
        service: animates with what was trained.
    """

    def __init__(self, service: AnimationService):
        self.manager = TrainingManager(service.output / ".training.json")
        gr.HTML(train_views.INTRO, padding=False)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self._wishes()
            with gr.Column(scale=6, min_width=320):
                self.run = RunPanel()
                self.trials = TrialPanel(service, self.manager)
                with gr.Accordion("What the training prints", open=False):
                    self.output = gr.Textbox(
                        show_label=False, lines=10, max_lines=10, interactive=False, elem_id="training-output"
                    )
        self.timer = gr.Timer(_LOOK_EVERY, active=False)
        self.seen = gr.State({})  # what the page shows already
        # Told beside the looks, which come every two seconds and would wipe it out.
        self.problems = [self.start_problem, self.render_problem]

    def _wishes(self) -> None:
        config = TrainingConfig()  # the one that was made last is put in when the page is opened
        self.fields = train_form.what(config) | train_form.data(config)
        self.check = gr.Button("Check the data", size="sm", elem_id="check-data")
        self.checked = gr.HTML("", visible=False, padding=False, elem_id="checked-data")
        with gr.Accordion("No videos? Render synthetic dancers", open=False):
            self.dancers = gr.Number(
                64,
                label="People",
                info="Into the data folder, each with stills and a short clip; the mini learned from 2,000",
                precision=0,
                minimum=1,
                elem_id="dancers",
            )
            with gr.Row():
                self.render = gr.Button("Render", size="sm", elem_id="render")
                self.stop_rendering = gr.Button("Stop rendering", size="sm", interactive=False)
            self.rendering = gr.HTML("", padding=False, elem_id="rendering")
            self.render_problem = gr.HTML("", padding=False, elem_id="render-problem")
        self.fields |= train_form.runs(config)
        with gr.Accordion("More", open=False, elem_id="train-more"):
            self.fields |= train_form.more()
        with gr.Group(visible=False, elem_id="released-weights") as self.released:
            self.fields |= train_form.released_weights()
        with gr.Row():
            self.start = gr.Button("Start", variant="primary", size="lg", elem_id="start-training")
            self.stop = gr.Button("Stop", size="lg", interactive=False, elem_id="stop-training")
        self.start_problem = gr.HTML("", padding=False, elem_id="start-problem")
        self.command = gr.Textbox(
            label="Command line",
            info="Does the same",
            lines=2,
            interactive=False,
            buttons=["copy"],
            elem_id="training-command",
        )

    def connect(self, blocks: gr.Blocks, animate: AnimateTab, tabs: gr.Tabs, tab: gr.Tab) -> None:
        """Attach the handlers; every widget of the page is there now."""
        at_once = PRIVATE | {"queue": False}
        fields = {*self.fields.values()}
        inputs = {*fields, self.seen}
        looks = [*self.run.widgets, *self.trials.widgets, self.output, self.start, self.stop]
        looks += [self.timer, self.seen, self.rendering, self.stop_rendering]
        acts = [*looks, *self.problems]
        described = [self.fields["preset"], self.fields["stage"], self.released, self.command]

        blocks.load(self._restore, None, [*fields], **at_once).then(
            self._describe, fields, described, **at_once
        ).then(self._look, inputs, looks, **at_once)
        self.timer.tick(self._look, inputs, looks, **at_once)
        changes = [field.change for field in fields]
        gr.on(
            changes,
            self._changed,
            fields,
            [*described, *self.problems],
            trigger_mode="always_last",
            **at_once,
        )
        chosen = [tab.select, self.fields["preset"].change, self.fields["stage"].change]
        for name in ("runs", "data"):
            chosen += [self.fields[name].blur, self.fields[name].submit]
        gr.on(chosen, self._look, inputs, looks, trigger_mode="always_last", **at_once)
        self.start.click(self._start, inputs, [*acts, self.fields["holdout"]], **PRIVATE)
        self.stop.click(self._stop, inputs, acts, **at_once)
        self.check.click(self._check, self.fields["data"], [self.checked, self.check], **PRIVATE)
        self.render.click(self._render, {*inputs, self.dancers}, acts, **at_once)
        self.stop_rendering.click(self._stop_rendering, inputs, looks, **at_once)
        exported = self.trials.connect(blocks, animate, tabs, inputs, self._config)
        exported.then(self._look, inputs, looks, **at_once)

    def _config(self, data: dict) -> TrainingConfig:
        values = {name: data[widget] for name, widget in self.fields.items()}
        return TrainingConfig(**values | {name: values[name] or "" for name in train_form.TEXTS})

    def _restore(self) -> Updates:
        """The page was opened: show the training that was asked for last."""
        config = self.manager.config
        return {widget: gr.update(value=getattr(config, name)) for name, widget in self.fields.items()}

    def _describe(self, data: dict) -> Updates:
        """A field was changed: what follows for the others, and the command line."""
        config = self._config(data)
        stages = stages_of(config.preset) if config.preset in PRESETS else tuple(STAGES)
        try:
            command = shown(config.command())
        except InputError as error:
            command = str(error)
        # A stage that fits is left alone: the visitor may have chosen another one meanwhile.
        stage = {"info": STAGES[config.stage]} if config.stage in stages else {"value": stages[0]}
        return {
            self.fields["preset"]: gr.update(info=PRESETS.get(config.preset)),
            self.fields["stage"]: gr.update(choices=list(stages), **stage),
            self.released: gr.update(visible=config.preset not in FROM_NOTHING),
            self.command: command,
        }

    def _changed(self, data: dict) -> Updates:
        """A field was changed: what was wrong may be right now."""
        return self._describe(data) | dict.fromkeys(self.problems, "")

    def _start(self, data: dict) -> Iterator[Updates]:
        yield {
            self.start_problem: views.message("GalleryState at the data…"),
            self.start: gr.update(interactive=False),
        }
        try:
            self.manager.start(self._config(data))
        except InputError as error:
            yield self._look(data) | {self.start_problem: views.message(str(error), kind="error")}
            return
        yield self._look(data) | {self.start_problem: "", self.fields["holdout"]: self.manager.config.holdout}

    def _stop(self, data: dict) -> Updates:
        try:
            self.manager.run(self._config(data)).stop()
        except InputError as error:
            return self._look(data) | {self.start_problem: views.message(str(error), kind="error")}
        return self._look(data) | {self.start_problem: ""}

    def _render(self, data: dict) -> Updates:
        config = self._config(data)
        try:
            self.manager.render(config.data, count=data[self.dancers], preset=config.preset)
        except InputError as error:
            return self._look(data) | {self.render_problem: views.message(str(error), kind="error")}
        return self._look(data) | {self.render_problem: ""}

    def _stop_rendering(self, data: dict) -> Updates:
        self.manager.stop_rendering(self._config(data).data)
        return self._look(data)

    def _check(self, folder: str) -> Iterator[Updates]:
        """Say what a training would use of the data folder."""
        said: list[str] = []
        yield {
            self.checked: gr.update(value=views.message("GalleryState at the files."), visible=True),
            self.check: gr.update(interactive=False),
        }
        try:
            for line in self.manager.check(folder):
                said.append(line)
                yield {self.checked: train_views.lines(said)}
            yield {self.checked: train_views.lines(said, kind="done")}
        except InputError as error:
            left_out = train_views.lines(said) if said else ""
            yield {self.checked: left_out + views.message(str(error), kind="error")}
        yield {self.check: gr.update(interactive=True)}

    def _look(self, data: dict) -> Updates:
        """Bring the page up to date with the run that the fields name."""
        config = self._config(data)
        try:
            run = self.manager.run(config)
        except InputError as error:
            return {self.run.status: views.message(str(error)), self.timer: gr.Timer(active=False)}
        status = run.status()
        busy = status.state in ("running", "stopping")
        seen = data[self.seen] if data[self.seen].get("run") == str(run.folder) else {}
        now: dict[str, Any] = {"run": str(run.folder)}
        updates = self.run.updates(run, status, seen, now)
        updates |= self.trials.updates(run, status, seen, now)
        updates |= self._rendering(config.data, busy)
        return updates | {
            self.output: run.process.output(),
            self.start: gr.update(value="Resume" if status.checkpoint else "Start", interactive=not busy),
            self.stop: gr.update(
                value="Stop at once" if status.state == "stopping" else "Stop", interactive=busy
            ),
            self.seen: now,
        }

    def _rendering(self, data: str, busy: bool) -> Updates:
        try:
            rendering = self.manager.rendering(data)
        except InputError:
            return {self.timer: gr.Timer(active=busy)}
        return {
            self.rendering: train_views.rendering(rendering),
            self.stop_rendering: gr.update(interactive=rendering.running),
            self.timer: gr.Timer(active=busy or rendering.running),
        }
