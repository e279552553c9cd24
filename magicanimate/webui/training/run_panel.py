"""How a training goes, on its tab: progress, loss and samples, and what came of it to try."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.config import Progress
from magicanimate.errors import InputError
from magicanimate.webui import views
from magicanimate.webui.animate.tab import AnimateTab
from magicanimate.webui.scratch import temporary_folder
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import tr
from magicanimate.webui.training.config import TrainingConfig
from magicanimate.webui.training.runs import RunStatus, TrainingManager, TrainingRun, trials
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
        updates: Updates = {self.status: _status_of(status, stage)}
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


def _status_of(status: RunStatus, stage: str) -> str:
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
    return views.progress_progress_of(progress, name=tr("Training {stage}", stage=stage))


def _samples_caption(step: int, stage: str) -> str:
    """What the rows of the sample picture show."""
    rows = (
        tr("above the pictures, below what the autoencoder makes of them")
        if stage == "vae"
        else tr("photo, motion, result and how it should be, of people it does not learn from")
    )
    return views.caption(tr("Step {step}: {rows}", step=step, rows=rows))
