"""The tab that trains: what to train, how it goes, and what came of it to be tried on the Animate tab."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.errors import InputError
from magicanimate.studio.training_desk import TrainingDesk
from magicanimate.studio.training_run import RunStatus, TrainingRun, trials
from magicanimate.studio.training_wish import FROM_NOTHING, PRESETS, STAGES, TrainingWish, shown, stages_of
from magicanimate.ui import train_form, train_views, views
from magicanimate.ui.animate_tab import AnimateTab
from magicanimate.ui.studio import Studio

_LOOK_EVERY = 2.0  # seconds
_CURVES = {"one step": "#a3b5c9", "mean": "#21918c"}
"""Of `TrainingRun.curve`, with their colours."""

Updates = dict[gr.components.Component, Any]


class TrainTab:
    """Builds itself where it is made, inside a tab. Only for a program that nobody else can reach.

    Args:
        studio: animates with what was trained.
    """

    def __init__(self, studio: Studio):
        self.studio = studio
        self.desk = TrainingDesk(studio.output / ".training.json")
        self._copies = tempfile.TemporaryDirectory(prefix="magicanimate-", ignore_cleanup_errors=True)
        gr.HTML(train_views.INTRO, padding=False)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self._wishes()
            with gr.Column(scale=6, min_width=320):
                self._results()
        self.timer = gr.Timer(_LOOK_EVERY, active=False)
        self.seen = gr.State({})  # what the page shows already

    def _wishes(self) -> None:
        wish = TrainingWish()  # the one that was made last is put in when the page is opened
        self.fields = train_form.what(wish) | train_form.data(wish)
        self.check = gr.Button("Check the data", size="sm", elem_id="check-data")
        self.checked = gr.HTML("", visible=False, padding=False, elem_id="checked-data")
        with gr.Accordion("No videos? Render synthetic dancers", open=False):
            self.dancers = gr.Number(
                64,
                label="People",
                info="into the data folder, each with stills and a short clip; the mini learned from 2000",
                precision=0,
                minimum=1,
                elem_id="dancers",
            )
            with gr.Row():
                self.render = gr.Button("Render", size="sm", elem_id="render")
                self.stop_rendering = gr.Button("Stop rendering", size="sm", interactive=False)
            self.rendering = gr.HTML("", padding=False, elem_id="rendering")
        self.fields |= train_form.runs(wish)
        with gr.Accordion("More", open=False):
            self.fields |= train_form.more()
        with gr.Group(visible=False, elem_id="released-weights") as self.released:
            self.fields |= train_form.released_weights()
        with gr.Row():
            self.start = gr.Button("Start", variant="primary", size="lg", elem_id="start-training")
            self.stop = gr.Button("Stop", size="lg", interactive=False, elem_id="stop-training")
        self.command = gr.Textbox(
            label="The same on the command line, in the program's folder",
            lines=2,
            interactive=False,
            buttons=["copy"],
            elem_id="training-command",
        )

    def _results(self) -> None:
        self.status = gr.HTML("", padding=False, elem_id="training-status")
        self.curve = gr.LinePlot(
            x="step",
            y="loss",
            color="loss of",
            colors_in_legend=list(_CURVES),
            color_map=_CURVES,
            title="Loss",
            height=260,
            visible=False,
            elem_id="loss-curve",
        )
        self.caption = gr.HTML("", visible=False, padding=False, elem_id="samples-caption")
        self.grid = gr.Image(
            interactive=False,
            format="png",
            show_label=False,
            visible=False,
            buttons=["download", "fullscreen"],
            elem_id="samples",
        )
        self.clip = gr.Video(
            interactive=False,
            show_label=False,
            autoplay=True,
            loop=True,
            visible=False,
            buttons=["download"],
            elem_id="sample-clip",
        )
        with gr.Column(visible=False, elem_classes="ma-panel", elem_id="trials") as self.trial_box:
            self.trial = gr.Radio(
                [], label="Try what was trained", info="on the Animate tab, until you go back"
            )
            self.trial_note = gr.HTML("", visible=False, padding=False, elem_id="trial-note")
            with gr.Row():
                self.use = gr.Button("Try in Animate", variant="primary", size="sm", elem_id="try")
                self.export = gr.Button("Export the newest checkpoint", size="sm", elem_id="export")
                self.back = gr.Button("Back to the program's own", size="sm", visible=False, elem_id="back")
        with gr.Accordion("What the training prints", open=False):
            self.output = gr.Textbox(
                show_label=False, lines=10, max_lines=10, interactive=False, elem_id="training-output"
            )

    def connect(self, blocks: gr.Blocks, animate: AnimateTab, tabs: gr.Tabs, tab: gr.Tab) -> None:
        """Attach the handlers; every widget of the page is there now."""
        self.animate, self.tabs = animate, tabs
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        at_once = private | {"queue": False}
        fields = list(self.fields.values())
        looks = [
            self.status,
            self.curve,
            self.caption,
            self.grid,
            self.clip,
            self.trial_box,
            self.trial,
            self.output,
        ]
        looks += [self.export, self.start, self.stop, self.timer, self.seen]
        looks += [self.rendering, self.stop_rendering]
        wish = {*fields, self.seen, self.trial}
        described = [self.fields["preset"], self.fields["stage"], self.released, self.command]

        blocks.load(self._restore, None, [*fields, self.back], **at_once).then(
            self._describe, {*fields}, described, **at_once
        ).then(self._look, wish, looks, **at_once)
        self.timer.tick(self._look, wish, looks, **at_once)
        tab.select(self._look, wish, looks, **at_once)
        changes = [field.change for field in fields]
        gr.on(changes, self._describe, {*fields}, described, trigger_mode="always_last", **at_once)
        for name in ("stage", "runs", "preset", "data"):
            self.fields[name].change(self._look, wish, looks, trigger_mode="always_last", **at_once)
        self.start.click(self._start, wish, looks, **at_once)
        self.stop.click(self._stop, wish, looks, **at_once)
        self.check.click(self._check, self.fields["data"], [self.checked, self.check], **private)
        rendering = {*fields, self.seen, self.trial, self.dancers}
        self.render.click(self._render, rendering, looks, **at_once)
        self.stop_rendering.click(self._stop_rendering, wish, looks, **at_once)
        exported = self.export.click(
            self._export, wish, [self.trial_note, self.export, self.trial], **private
        )
        exported.then(self._look, wish, looks, **at_once)
        switched = [self.tabs, animate.note, self.back, self.trial_note]
        switched += [animate.controls[name] for name in train_form.CHECKPOINTS_OWN]
        self.use.click(self._use, self.trial, switched, **private)
        self.back.click(self._back, None, switched, **private)

    def _wish(self, data: dict) -> TrainingWish:
        values = {name: data[widget] for name, widget in self.fields.items()}
        return TrainingWish(**values | {name: values[name] or "" for name in train_form.TEXTS})

    def _restore(self) -> Updates:
        """The page was opened: show the training that was asked for last."""
        wish = self.desk.wish
        updates = {widget: gr.update(value=getattr(wish, name)) for name, widget in self.fields.items()}
        return updates | {self.back: gr.update(visible=self.studio.trial is not None)}

    def _describe(self, data: dict) -> Updates:
        """A field was changed: what follows for the others, and the command line."""
        wish = self._wish(data)
        stages = stages_of(wish.preset) if wish.preset in PRESETS else tuple(STAGES)
        try:
            command = shown(wish.command())
        except InputError as error:
            command = str(error)
        # A stage that fits is left alone: the visitor may have chosen another one meanwhile.
        stage = {"info": STAGES[wish.stage]} if wish.stage in stages else {"value": stages[0]}
        return {
            self.fields["preset"]: gr.update(info=PRESETS.get(wish.preset)),
            self.fields["stage"]: gr.update(choices=list(stages), **stage),
            self.released: gr.update(visible=wish.preset not in FROM_NOTHING),
            self.command: command,
        }

    def _start(self, data: dict) -> Updates:
        try:
            self.desk.start(self._wish(data))
        except InputError as error:
            return self._look(data) | {self.status: views.message(str(error), kind="error")}
        return self._look(data)

    def _stop(self, data: dict) -> Updates:
        try:
            self.desk.run(self._wish(data)).stop()
        except InputError as error:
            return self._look(data) | {self.status: views.message(str(error), kind="error")}
        return self._look(data)

    def _render(self, data: dict) -> Updates:
        wish = self._wish(data)
        try:
            self.desk.render(wish.data, count=data[self.dancers], preset=wish.preset)
        except InputError as error:
            return self._look(data) | {self.rendering: views.message(str(error), kind="error")}
        return self._look(data)

    def _stop_rendering(self, data: dict) -> Updates:
        self.desk.stop_rendering(self._wish(data).data)
        return self._look(data)

    def _check(self, folder: str) -> Iterator[Updates]:
        """Say what a training would use of the data folder."""
        said: list[str] = []
        yield {
            self.checked: gr.update(value=views.message("Looking at the files."), visible=True),
            self.check: gr.update(interactive=False),
        }
        try:
            for line in self.desk.check(folder):
                said.append(line)
                yield {self.checked: train_views.lines(said)}
            yield {self.checked: train_views.lines(said, kind="done")}
        except InputError as error:
            left_out = train_views.lines(said) if said else ""
            yield {self.checked: left_out + views.message(str(error), kind="error")}
        yield {self.check: gr.update(interactive=True)}

    def _look(self, data: dict) -> Updates:
        """Bring the page up to date with the run that the fields name."""
        wish = self._wish(data)
        try:
            run = self.desk.run(wish)
        except InputError as error:
            return {self.status: views.message(str(error)), self.timer: gr.Timer(active=False)}
        status = run.status()
        busy = status.state in ("running", "stopping")
        seen = data[self.seen] if data[self.seen].get("run") == str(run.folder) else {}
        now: dict[str, Any] = {"run": str(run.folder)}
        updates = self._pictures(run, wish.stage, seen, now)
        updates |= self._trials(run, status, data[self.trial], seen, now)
        updates |= self._rendering(wish.data, busy)
        return updates | {
            self.status: train_views.training(status, wish.stage),
            self.output: run.process.output(),
            self.start: gr.update(value="Resume" if status.checkpoint else "Start", interactive=not busy),
            self.stop: gr.update(
                value="Stop at once" if status.state == "stopping" else "Stop", interactive=busy
            ),
            self.seen: now,
        }

    def _pictures(self, run: TrainingRun, stage: str, seen: dict, now: dict) -> Updates:
        """Curve and samples, as far as they are new."""
        updates: Updates = {}
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
                shown_file = self._copied(run, file) if file else None
                updates[widget] = gr.update(value=shown_file, visible=file is not None)
        return updates

    def _copied(self, run: TrainingRun, file: Path) -> str:
        """A sample where the page may serve it from: a run can be anywhere."""
        copy = Path(self._copies.name) / f"{run.folder.name}_{file.name}"
        return str(shutil.copyfile(file, copy))

    def _trials(
        self, run: TrainingRun, status: RunStatus, chosen: str | None, seen: dict, now: dict
    ) -> Updates:
        found = [(trial.name, str(trial.folder)) for trial in trials(run.folder.parent)]
        now["trials"] = [folder for _, folder in found]
        exportable = status.checkpoint > 0 and run.folder.name != "vae"  # which alone animates nothing
        updates: Updates = {
            self.trial_box: gr.update(visible=bool(found) or exportable),
            self.export: gr.update(visible=exportable),
        }
        if now["trials"] != seen.get("trials"):
            kept = chosen if chosen in now["trials"] else next(iter(now["trials"]), None)
            updates[self.trial] = gr.update(choices=found, value=kept)
        return updates

    def _rendering(self, data: str, busy: bool) -> Updates:
        try:
            rendering = self.desk.rendering(data)
        except InputError:
            return {self.timer: gr.Timer(active=busy)}
        return {
            self.rendering: train_views.rendering(rendering),
            self.stop_rendering: gr.update(interactive=rendering.running),
            self.timer: gr.Timer(active=busy or rendering.running),
        }

    def _export(self, data: dict) -> Iterator[Updates]:
        note = views.message("Writing the newest checkpoints as a pipeline.")
        yield {
            self.trial_note: gr.update(value=note, visible=True),
            self.export: gr.update(interactive=False),
        }
        updates: Updates = {self.export: gr.update(interactive=True)}
        try:
            out = self.desk.export(self._wish(data))
        except InputError as error:
            yield updates | {self.trial_note: views.message(str(error), kind="error")}
            return
        found = [(trial.name, str(trial.folder)) for trial in trials(out.parent.parent)]
        yield updates | {
            self.trial_note: views.message(f"Written to {out}", kind="done"),
            self.trial: gr.update(choices=found, value=str(out)),
        }

    def _use(self, folder: str | None) -> Updates:
        if not folder:
            note = views.message("There is nothing to try yet; export a checkpoint first.", kind="error")
            return {self.trial_note: gr.update(value=note, visible=True)}
        try:
            self.studio.use_model(Path(folder))
        except InputError as error:
            return {self.trial_note: gr.update(value=views.message(str(error), kind="error"), visible=True)}
        return self._switched(to_animate=True)

    def _back(self) -> Updates:
        self.studio.use_model(None)
        return self._switched(to_animate=False)

    def _switched(self, *, to_animate: bool) -> Updates:
        """The studio animates with another checkpoint: its note, and the settings it would choose."""
        defaults = self.studio.defaults()
        updates = {
            self.animate.controls[name]: update
            for name, update in train_form.checkpoints_own(defaults).items()
        }
        if to_animate:
            updates[self.tabs] = gr.Tabs(selected="animate")
        return updates | {
            self.animate.note: views.checkpoint_note(defaults, trial=self.studio.trial),
            self.back: gr.update(visible=self.studio.trial is not None),
            self.trial_note: gr.update(visible=False),
        }


def _frame(curve: list[tuple[int, float, str]]):
    import pandas

    return pandas.DataFrame(curve, columns=["step", "loss", "loss of"])
