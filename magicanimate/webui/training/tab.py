"""The tab that trains: what to train, how it goes, and what came of it to be tried on the Animate tab."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.errors import InputError
from magicanimate.webui import views
from magicanimate.webui.animate.tab import AnimateTab
from magicanimate.webui.events import PRIVATE, Updates, refusal
from magicanimate.webui.scratch import temporary_folder
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import tr
from magicanimate.webui.training import form as train_form
from magicanimate.webui.training import views as train_views
from magicanimate.webui.training.config import FROM_NOTHING, PRESETS, STAGES, TrainingConfig, shown, stages_of
from magicanimate.webui.training.manager import TrainingManager
from magicanimate.webui.training.run import RunStatus, TrainingRun, trials

_LOOK_EVERY = 2.0  # seconds


class TrainTab:
    """Builds itself where it is made, inside a tab. Only for a program that nobody else can reach.

    Args:
        service: animates with what was trained.
    """

    def __init__(self, service: AnimationService):
        self.manager = TrainingManager(service.output / ".training.json")
        gr.HTML(train_views.intro(), padding=False)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self._wishes()
            with gr.Column(scale=6, min_width=320):
                self.run = RunPanel()
                self.trials = TrialPanel(service, self.manager)
                with gr.Accordion(tr("What the training prints"), open=False):
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
        self.check = gr.Button(tr("Check the data"), size="sm", elem_id="check-data")
        self.checked = gr.HTML("", visible=False, padding=False, elem_id="checked-data")
        with gr.Accordion(tr("No videos? Render synthetic dancers"), open=False):
            self.dancers = gr.Number(
                64,
                label=tr("People"),
                info=tr(
                    "Each gets stills and a short clip in the data folder; the mini model learned from 2,000"
                ),
                precision=0,
                minimum=1,
                elem_id="dancers",
            )
            with gr.Row():
                self.render = gr.Button(tr("Render"), size="sm", elem_id="render")
                self.stop_rendering = gr.Button(tr("Stop rendering"), size="sm", interactive=False)
            self.rendering = gr.HTML("", padding=False, elem_id="rendering")
            self.render_problem = gr.HTML("", padding=False, elem_id="render-problem")
        self.fields |= train_form.runs(config)
        with gr.Accordion(tr("More"), open=False, elem_id="train-more"):
            self.fields |= train_form.more()
        with gr.Group(visible=False, elem_id="released-weights") as self.released:
            self.fields |= train_form.released_weights()
        with gr.Row():
            self.start = gr.Button(
                tr("Start training"), variant="primary", size="lg", elem_id="start-training"
            )
            self.stop = gr.Button(tr("Stop"), size="lg", interactive=False, elem_id="stop-training")
        self.start_problem = gr.HTML("", padding=False, elem_id="start-problem")
        self.command = gr.Textbox(
            label=tr("Command line"),
            info=tr("Does the same"),
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
        stage = {"info": tr(STAGES[config.stage])} if config.stage in stages else {"value": stages[0]}
        return {
            self.fields["preset"]: gr.update(info=tr(PRESETS.get(config.preset, ""))),
            self.fields["stage"]: gr.update(choices=list(stages), **stage),
            self.released: gr.update(visible=config.preset not in FROM_NOTHING),
            self.command: command,
        }

    def _changed(self, data: dict) -> Updates:
        """A field was changed: what was wrong may be right now."""
        return self._describe(data) | dict.fromkeys(self.problems, "")

    def _start(self, data: dict) -> Iterator[Updates]:
        yield {
            self.start_problem: views.message(tr("Looking at the data…")),
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
            self.checked: gr.update(value=views.message(tr("Looking at the data…")), visible=True),
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
            self.start: gr.update(
                value=tr("Resume") if status.checkpoint else tr("Start training"), interactive=not busy
            ),
            self.stop: gr.update(
                value=tr("Stop at once") if status.state == "stopping" else tr("Stop"), interactive=busy
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


_CURVES = {"one step": "#a3b5c9", "mean": "#21918c"}
"""Of `TrainingRun.curve`, with their colours."""


class RunPanel:
    """Builds itself where it is made."""

    def __init__(self) -> None:
        self._copies = temporary_folder()
        self.status = gr.HTML("", padding=False, elem_id="training-status")
        self.curve = gr.LinePlot(
            x="step",
            y="loss",
            color="loss of",
            colors_in_legend=list(_CURVES),
            color_map=_CURVES,
            title=tr("Loss"),
            height=260,
            visible=False,
            elem_id="loss-curve",
        )
        self.caption = gr.HTML("", visible=False, padding=False, elem_id="samples-caption")
        hidden: dict[str, Any] = {"interactive": False, "show_label": False, "visible": False}
        self.grid = gr.Image(format="png", buttons=["download", "fullscreen"], elem_id="samples", **hidden)
        self.clip = gr.Video(autoplay=True, loop=True, buttons=["download"], elem_id="sample-clip", **hidden)
        self.widgets = [self.status, self.curve, self.caption, self.grid, self.clip]

    def updates(self, run: TrainingRun, status: RunStatus, seen: dict, now: dict) -> Updates:
        """What has changed.

        Args:
            run, status: what to show.
            seen: what the page shows of this run already.
            now: is filled with what it will show.
        """
        stage = run.folder.name
        updates: Updates = {self.status: train_views.training(status, stage)}
        curve = run.curve()
        now["curve"] = [len(curve), curve[-1][0] if curve else 0]
        if now["curve"] != seen.get("curve"):
            updates[self.curve] = gr.update(value=_frame(curve) if curve else None, visible=bool(curve))
        newest = [next(iter(run.samples(suffix)), None) for suffix in (".png", ".mp4")]
        now["samples"] = [file and file.name for file in newest]
        if now["samples"] != seen.get("samples"):
            grid = newest[0]
            caption = train_views.samples_caption(int(grid.stem), stage) if grid else ""
            updates[self.caption] = gr.update(value=caption, visible=grid is not None)
            for widget, file in zip((self.grid, self.clip), newest, strict=True):
                shown = self._copied(run, file) if file else None
                updates[widget] = gr.update(value=shown, visible=file is not None)
        return updates

    def _copied(self, run: TrainingRun, file: Path) -> str:
        """A sample where the page may serve it from: a run can be anywhere."""
        copy = Path(self._copies.name) / f"{run.folder.name}_{file.name}"
        return str(shutil.copyfile(file, copy))


def _frame(curve: list[tuple[int, float, str]]):
    """A table as the plot wants it."""
    import pandas

    return pandas.DataFrame(curve, columns=["step", "loss", "loss of"])


class TrialPanel:
    """Builds itself where it is made.

    Args:
        service: animates with what was trained.
        manager: makes pipelines of checkpoints.
    """

    def __init__(self, service: AnimationService, manager: TrainingManager):
        self.service, self.manager = service, manager
        with gr.Column(visible=False, elem_classes="ma-panel", elem_id="trials") as self.box:
            self.choice = gr.Radio([], label=tr("Try what was trained"))
            self.note = gr.HTML("", visible=False, padding=False, elem_id="trial-note")
            with gr.Row():
                self.use = gr.Button(tr("Try in Animate"), variant="primary", size="sm", elem_id="try")
                self.export = gr.Button(tr("Export the newest checkpoint"), size="sm", elem_id="export")
                self.back = gr.Button(tr("Back to the first model"), size="sm", visible=False, elem_id="back")
        self.widgets = [self.box, self.choice, self.export]

    def connect(
        self,
        blocks: gr.Blocks,
        animate: AnimateTab,
        tabs: gr.Tabs,
        config: set[gr.components.Component],
        wish_of: Callable[[dict], TrainingConfig],
    ) -> gr.events.Dependency:
        """Attach the handlers; every widget of the page is there now.

        Args:
            blocks, animate, tabs: of the page.
            config: widgets that hold the config.
            wish_of: reads it from their values.

        Returns:
            The export's event, for what is to follow it.
        """
        self.animate, self.tabs = animate, tabs
        switched = [tabs, self.back, self.note, *animate.follows_model]
        blocks.load(self._opened, None, self.back, **PRIVATE)
        self.use.click(self._use, self.choice, switched, **PRIVATE)
        self.back.click(self._back, None, switched, **PRIVATE)

        def export(data: dict) -> Iterator[Updates]:
            yield from self._export(wish_of(data))

        return self.export.click(export, config, [self.note, self.export, self.choice], **PRIVATE)

    def updates(self, run: TrainingRun, status: RunStatus, seen: dict, now: dict) -> Updates:
        """What has changed; see `RunPanel.updates`."""
        found = [(trial.name, str(trial.folder)) for trial in trials(run.folder.parent)]
        now["trials"] = [folder for _, folder in found]
        exportable = status.checkpoint > 0 and run.folder.name != "vae"  # which alone animates nothing
        updates: Updates = {
            self.box: gr.update(visible=bool(found) or exportable),
            self.export: gr.update(visible=exportable),
        }
        if now["trials"] != seen.get("trials"):
            updates[self.choice] = gr.update(choices=found, value=next(iter(now["trials"]), None))
        return updates

    def _export(self, config: TrainingConfig) -> Iterator[Updates]:
        note = views.message(tr("Exporting the newest checkpoint…"))
        yield {self.note: gr.update(value=note, visible=True), self.export: gr.update(interactive=False)}
        updates: Updates = {self.export: gr.update(interactive=True)}
        try:
            out = self.manager.export(config)
        except InputError as error:
            yield updates | {self.note: views.message(str(error), kind="error")}
            return
        found = [(trial.name, str(trial.folder)) for trial in trials(config.runs_folder)]
        yield updates | {
            self.note: views.message(tr("Written to {folder}", folder=out), kind="done"),
            self.choice: gr.update(choices=found, value=str(out)),
        }

    def _use(self, folder: str | None) -> Updates:
        try:
            if not folder:
                raise InputError(tr("There is nothing to try yet; export a checkpoint first."))
            self.service.use_model(Path(folder))
        except InputError as error:
            return {self.note: refusal(error)}
        return self._switched() | {self.tabs: gr.Tabs(selected="animate")}

    def _opened(self) -> Updates:
        """The page was opened."""
        return {self.back: gr.update(visible=self.service.trial is not None)}

    def _back(self) -> Updates:
        self.service.use_model(None)
        return self._switched()

    def _switched(self) -> Updates:
        """The service animates with another checkpoint: its note, and the settings it would choose."""
        return self.animate.switched() | {
            self.back: gr.update(visible=self.service.trial is not None),
            self.note: gr.update(visible=False),
        }
