"""The tab that trains: what to train, how it goes, and what came of it to be tried on the Animate tab."""

from __future__ import annotations

import html
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.config import Progress
from magicanimate.errors import InputError
from magicanimate.webui import views
from magicanimate.webui.animate.tab import AnimateTab
from magicanimate.webui.scratch import temporary_folder
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import said, tr
from magicanimate.webui.training.detached import DetachedProcess
from magicanimate.webui.training.runs import (
    FROM_NOTHING,
    PRESETS,
    STAGES,
    RunStatus,
    TrainingConfig,
    TrainingManager,
    TrainingRun,
    shown,
    stages_of,
    trials,
)
from magicanimate.webui.views import PRIVATE, Updates, refusal

_CURVES = {"one step": "#a3b5c9", "mean": "#21918c"}
"""Of `TrainingRun.curve`, with their colours."""


class RunPanel:
    """Progress, loss and samples of one run."""

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
        """Updates of what has changed.

        Args:
            run, status: what to show.
            seen: what the page shows of this run already.
            now: filled in here with what it will show.
        """
        stage = run.folder.name
        updates: Updates = {self.status: status_of(status, stage)}
        curve = run.curve()
        now["curve"] = [len(curve), curve[-1][0] if curve else 0]
        if now["curve"] != seen.get("curve"):
            updates[self.curve] = gr.update(value=_frame(curve) if curve else None, visible=bool(curve))
        newest = [next(iter(run.samples(suffix)), None) for suffix in (".png", ".mp4")]
        now["samples"] = [file and file.name for file in newest]
        if now["samples"] != seen.get("samples"):
            grid = newest[0]
            caption = _samples_caption(int(grid.stem), stage) if grid else ""
            updates[self.caption] = gr.update(value=caption, visible=grid is not None)
            for widget, file in zip((self.grid, self.clip), newest, strict=True):
                shown = self._copied(run, file) if file else None
                updates[widget] = gr.update(value=shown, visible=file is not None)
        return updates

    def _copied(self, run: TrainingRun, file: Path) -> str:
        """A copy of a sample in a folder that the page may serve, which a run's folder need not be."""
        copy = Path(self._copies.name) / f"{run.folder.name}_{file.name}"
        return str(shutil.copyfile(file, copy))


def _frame(curve: list[tuple[int, float, str]]):
    """The curve as `gr.LinePlot` takes it."""
    import pandas

    return pandas.DataFrame(curve, columns=["step", "loss", "loss of"])


class TrialPanel:
    """The pipelines that a training has written, to be tried on the Animate tab.

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
        config_of: Callable[[dict], TrainingConfig],
    ) -> gr.events.Dependency:
        """Attach the handlers.

        Args:
            blocks, animate, tabs: of the page.
            config: the widgets that `config_of` reads.
            config_of: the training's config from their values.

        Returns:
            The event of the export, for others to follow.
        """
        self.animate, self.tabs = animate, tabs
        switched = [tabs, self.back, self.note, *animate.follows_model]
        blocks.load(self._opened, None, self.back, **PRIVATE)
        self.use.click(self._use, self.choice, switched, **PRIVATE)
        self.back.click(self._back, None, switched, **PRIVATE)

        def export(data: dict) -> Iterator[Updates]:
            yield from self._export(config_of(data))

        return self.export.click(export, config, [self.note, self.export, self.choice], **PRIVATE)

    def updates(self, run: TrainingRun, status: RunStatus, seen: dict, now: dict) -> Updates:
        """Updates of what has changed; see `RunPanel.updates`."""
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
        """Show the way back to the first model, if another one is in use when the page is opened."""
        return {self.back: gr.update(visible=self.service.trial is not None)}

    def _back(self) -> Updates:
        self.service.use_model(None)
        return self._switched()

    def _switched(self) -> Updates:
        """Show which model is in use now, and its default settings."""
        return self.animate.switched() | {
            self.back: gr.update(visible=self.service.trial is not None),
            self.note: gr.update(visible=False),
        }


def status_of(status: RunStatus, stage: str) -> str:
    """How far a run is, or how it ended, as HTML."""
    if status.state == "none":
        text = tr("{stage} has not been trained in this folder yet.", stage=stage)
        return views.empty(tr("Your training will appear here"), text)
    if status.state == "failed":
        return views.message(status.words or tr(SILENT), kind="error")
    if status.state == "finished":
        text = "Finished {stage} after {step} steps. For more, set a higher number of steps and resume."
        return views.message(tr(text, stage=stage, step=status.step), kind="done")
    if status.state == "stopped":
        steps = {"step": status.step, "steps": status.steps or "?", "kept": status.checkpoint}
        if status.checkpoint:
            return views.message(
                tr("Stopped at step {step} of {steps}; Resume goes on at step {kept}.", **steps)
            )
        return views.message(
            tr("Stopped at step {step} of {steps}; with no checkpoint yet it begins anew.", **steps)
        )
    if status.state == "stopping":
        note = tr("Stopping: it finishes its step and writes a checkpoint. Stop at once leaves that out.")
        return _progress_of(status, stage) + views.message(note)
    return _progress_of(status, stage)


SILENT = "It ended without saying why."


def _progress_of(status: RunStatus, stage: str) -> str:
    if not status.steps:
        return views.message(f"{tr('Getting ready…')} {status.words}".strip())
    progress = Progress("train", status.step, status.steps, status.seconds_left)
    return views.progress_bar(progress, name=tr("Training {stage}", stage=stage))


def _samples_caption(step: int, stage: str) -> str:
    """What the rows of the sample picture show."""
    rows = (
        tr("above the pictures, below what the autoencoder makes of them")
        if stage == "vae"
        else tr("photo, motion, result and how it should be, of people it does not learn from")
    )
    return views.caption(tr("Step {step}: {rows}", step=step, rows=rows))


_INTRO = (
    "Train a model on videos of your own. A training goes on when this page is closed or the program ends, "
    "and is found again. On several GPUs, run the command line below with {launch} in place of {python}."
)

_LOOK_EVERY = 2.0  # seconds


class TrainTab:
    """The tab; only in a program that nobody else can reach, since it starts processes.

    Args:
        service: animates with what was trained.
    """

    def __init__(self, service: AnimationService):
        self.manager = TrainingManager(service.output / ".training.json")
        gr.HTML(
            views.caption(
                tr(_INTRO, launch="<code>accelerate launch -m</code>", python="<code>python -m</code>")
            ),
            padding=False,
        )
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self._inputs()
            with gr.Column(scale=6, min_width=320):
                self.run = RunPanel()
                self.trials = TrialPanel(service, self.manager)
                with gr.Accordion(tr("What the training prints"), open=False):
                    self.output = gr.Textbox(
                        show_label=False, lines=10, max_lines=10, interactive=False, elem_id="training-output"
                    )
        self.timer = gr.Timer(_LOOK_EVERY, active=False)
        self.seen = gr.State({})  # what the page shows already, so that only changes are sent
        # Apart from the status, which is drawn again every two seconds and would wipe out what went wrong.
        self.problems = [self.start_problem, self.render_problem]

    def _inputs(self) -> None:
        config = TrainingConfig()  # `_restore` puts in the last one when the page is opened
        # Named as the fields of `TrainingConfig`.
        self.fields: dict[str, gr.components.Component] = {}
        for name, label, texts in (("preset", "Preset", PRESETS), ("stage", "Stage", STAGES)):
            chosen = getattr(config, name)
            self.fields[name] = gr.Dropdown(
                list(PRESETS) if name == "preset" else list(stages_of(config.preset)),
                value=chosen,
                label=tr(label),
                info=tr(texts[chosen]),
                filterable=False,
                elem_id=f"train-{name}",
            )
        self.fields["data"] = gr.Textbox(
            config.data,
            label=tr("Data folder"),
            info=tr("Videos NAME.mp4 with their motion clips NAME.densepose.mp4, or rendered dancers"),
            elem_id="data",
        )
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
        self.fields["runs"] = gr.Textbox(
            config.runs,
            label=tr("Folder of the runs"),
            info=tr("The same for all stages of one training: each stage continues from the one before"),
            elem_id="runs",
        )
        with gr.Accordion(tr("More"), open=False, elem_id="train-more"):
            self._more()
        with gr.Group(visible=False, elem_id="released-weights") as self.released:
            self.fields["stable_diffusion"] = gr.Textbox(
                label=tr("Stable Diffusion 1.5"),
                info=tr("Its folder; not needed if you go on from a checkpoint (More)"),
            )
            self.fields["vae"] = gr.Textbox(label=tr("Autoencoder"), info=tr("Folder of sd-vae-ft-mse"))
            self.fields["motion"] = gr.Textbox(
                label=tr("Motion weights"),
                info=tr("For stage2: AnimateDiff's mm_sd_v15.ckpt; may stay empty"),
            )
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

    def _more(self) -> None:
        """Settings that are the preset's as long as they are empty."""
        gr.HTML(views.caption(tr("Empty fields are as the preset has them.")), padding=False)
        whole: dict[str, Any] = {"precision": 0, "minimum": 1}
        with gr.Row():
            self.fields["steps"] = gr.Number(
                label=tr("Steps in all"), min_width=120, elem_id="train-steps", **whole
            )
            self.fields["batch_size"] = gr.Number(
                label=tr("Batch size"), min_width=120, elem_id="batch-size", **whole
            )
            self.fields["holdout"] = gr.Number(
                label=tr("Videos kept for checking"),
                info=tr("Never learned from; empty: up to 16, at most a quarter"),
                min_width=160,
                elem_id="holdout",
                **whole,
            )
            self.fields["learning_rate"] = gr.Number(
                label=tr("Peak learning rate"), min_width=120, elem_id="learning-rate"
            )
        self.fields["images"] = gr.Textbox(
            label=tr("Folder of pictures"), info=tr("For training on pictures and videos together")
        )
        self.fields["pipeline"] = gr.Textbox(
            label=tr("Go on from a checkpoint"), info=tr("Folder of a model, such as assets/mini")
        )

    def connect(self, blocks: gr.Blocks, animate: AnimateTab, tabs: gr.Tabs, tab: gr.Tab) -> None:
        """Attach the handlers."""
        at_once = PRIVATE | {"queue": False}
        fields = {*self.fields.values()}
        inputs = {*fields, self.seen}
        shown = [*self.run.widgets, *self.trials.widgets, self.output, self.start, self.stop]
        shown += [self.timer, self.seen, self.rendering, self.stop_rendering]
        acted = [*shown, *self.problems]
        described = [self.fields["preset"], self.fields["stage"], self.released, self.command]

        blocks.load(self._restore, None, [*fields], **at_once).then(
            self._describe, fields, described, **at_once
        ).then(self._show_run, inputs, shown, **at_once)
        self.timer.tick(self._show_run, inputs, shown, **at_once)
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
        gr.on(chosen, self._show_run, inputs, shown, trigger_mode="always_last", **at_once)
        self.start.click(self._start, inputs, [*acted, self.fields["holdout"]], **PRIVATE)
        self.stop.click(self._stop, inputs, acted, **at_once)
        self.check.click(self._check, self.fields["data"], [self.checked, self.check], **PRIVATE)
        self.render.click(self._render, {*inputs, self.dancers}, acted, **at_once)
        self.stop_rendering.click(self._stop_rendering, inputs, shown, **at_once)
        exported = self.trials.connect(blocks, animate, tabs, inputs, self._config)
        exported.then(self._show_run, inputs, shown, **at_once)

    def _config(self, data: dict) -> TrainingConfig:
        values = {name: data[widget] for name, widget in self.fields.items()}
        # An empty text field is ``None`` once it was cleared.
        texts = {
            name: values[name] or "" for name, field in self.fields.items() if isinstance(field, gr.Textbox)
        }
        return TrainingConfig(**values | texts)

    def _restore(self) -> Updates:
        """Fill the form with the training that was started last."""
        config = self.manager.config
        return {widget: gr.update(value=getattr(config, name)) for name, widget in self.fields.items()}

    def _describe(self, data: dict) -> Updates:
        """Bring the other fields and the command line up to date after a change."""
        config = self._config(data)
        stages = stages_of(config.preset) if config.preset in PRESETS else tuple(STAGES)
        try:
            command = shown(config.command())
        except InputError as error:
            command = said(str(error))
        # A stage that the preset has is left alone: the visitor may have chosen another one meanwhile.
        stage = {"info": tr(STAGES[config.stage])} if config.stage in stages else {"value": stages[0]}
        return {
            self.fields["preset"]: gr.update(info=tr(PRESETS.get(config.preset, ""))),
            self.fields["stage"]: gr.update(choices=list(stages), **stage),
            self.released: gr.update(visible=config.preset not in FROM_NOTHING),
            self.command: command,
        }

    def _changed(self, data: dict) -> Updates:
        """As `_describe`; errors go, since what caused them may have been changed."""
        return self._describe(data) | dict.fromkeys(self.problems, "")

    def _start(self, data: dict) -> Iterator[Updates]:
        yield {
            self.start_problem: views.message(tr("Looking at the data…")),
            self.start: gr.update(interactive=False),
        }
        try:
            self.manager.start(self._config(data))
        except InputError as error:
            yield self._show_run(data) | {self.start_problem: views.message(str(error), kind="error")}
            return
        yield self._show_run(data) | {
            self.start_problem: "",
            self.fields["holdout"]: self.manager.config.holdout,
        }

    def _stop(self, data: dict) -> Updates:
        try:
            self.manager.run(self._config(data)).stop()
        except InputError as error:
            return self._show_run(data) | {self.start_problem: views.message(str(error), kind="error")}
        return self._show_run(data) | {self.start_problem: ""}

    def _render(self, data: dict) -> Updates:
        config = self._config(data)
        try:
            self.manager.render(config.data, count=data[self.dancers], preset=config.preset)
        except InputError as error:
            return self._show_run(data) | {self.render_problem: views.message(str(error), kind="error")}
        return self._show_run(data) | {self.render_problem: ""}

    def _stop_rendering(self, data: dict) -> Updates:
        self.manager.stop_rendering(self._config(data).data)
        return self._show_run(data)

    def _check(self, folder: str) -> Iterator[Updates]:
        """Show what a training would use of the data folder."""
        found: list[str] = []
        yield {
            self.checked: gr.update(value=views.message(tr("Looking at the data…")), visible=True),
            self.check: gr.update(interactive=False),
        }
        try:
            for line in self.manager.check(folder):
                found.append(line)
                yield {self.checked: lines_box(found)}
            yield {self.checked: lines_box(found, kind="done")}
        except InputError as error:
            left_out = lines_box(found) if found else ""
            yield {self.checked: left_out + views.message(str(error), kind="error")}
        yield {self.check: gr.update(interactive=True)}

    def _show_run(self, data: dict) -> Updates:
        """Show the run that the fields name, as it is now."""
        config = self._config(data)
        try:
            run = self.manager.run(config)
        except InputError as error:
            return {self.run.status: views.message(said(str(error))), self.timer: gr.Timer(active=False)}
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
            self.rendering: _rendering(rendering),
            self.stop_rendering: gr.update(interactive=rendering.running),
            self.timer: gr.Timer(active=busy or rendering.running),
        }


def _rendering(process: DetachedProcess) -> str:
    """How far the rendering of people is, or how it ended; empty if it was never started."""
    record = process.record
    if record is None:
        return ""
    if process.running:
        return views.message(process.output(lines=1) or tr("Getting ready…"))
    if record.exit_status and not record.asked_to_stop:
        return views.message(process.last_words() or tr(SILENT), kind="error")
    if record.exit_status == 0:
        return views.message(tr("Rendered: {what}", what=process.last_words()), kind="done")
    return views.message(tr("Stopped; Render goes on with those that are missing."))


_UNUSABLE = "{count} file cannot be used|{count} files cannot be used"


def lines_box(text: Sequence[str], *, kind: str = "info") -> str:
    """Lines in a box; those about files that cannot be used are folded into a list."""
    left_out = [line for line in text if line.startswith("left out: ")]
    body = "".join(f"<div>{html.escape(line)}</div>" for line in text if line not in left_out)
    if left_out:
        items = "".join(f"<div>{html.escape(line)}</div>" for line in left_out)
        body += f"<details><summary>{tr(_UNUSABLE, count=len(left_out))}</summary>{items}</details>"
    return f'<div class="ma-message ma-{kind}" role="status">{body}</div>'
