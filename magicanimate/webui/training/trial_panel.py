"""What was trained, to be tried on the Animate tab."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr

from magicanimate.errors import InputError
from magicanimate.webui import views
from magicanimate.webui.animate.tab import AnimateTab
from magicanimate.webui.events import PRIVATE, Updates
from magicanimate.webui.service import AnimationService
from magicanimate.webui.training.config import TrainingConfig
from magicanimate.webui.training.manager import TrainingManager
from magicanimate.webui.training.run import RunStatus, TrainingRun, trials


class TrialPanel:
    """Builds itself where it is made.

    Args:
        service: animates with what was trained.
        manager: makes pipelines of checkpoints.
    """

    def __init__(self, service: AnimationService, manager: TrainingManager):
        self.service, self.manager = service, manager
        with gr.Column(visible=False, elem_classes="ma-panel", elem_id="trials") as self.box:
            self.choice = gr.Radio([], label="Try what was trained")
            self.note = gr.HTML("", visible=False, padding=False, elem_id="trial-note")
            with gr.Row():
                self.use = gr.Button("Try in Animate", variant="primary", size="sm", elem_id="try")
                self.export = gr.Button("Export the newest checkpoint", size="sm", elem_id="export")
                self.back = gr.Button("Back to the first model", size="sm", visible=False, elem_id="back")
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
        note = views.message("Exporting the newest checkpoint…")
        yield {self.note: gr.update(value=note, visible=True), self.export: gr.update(interactive=False)}
        updates: Updates = {self.export: gr.update(interactive=True)}
        try:
            out = self.manager.export(config)
        except InputError as error:
            yield updates | {self.note: views.message(str(error), kind="error")}
            return
        found = [(trial.name, str(trial.folder)) for trial in trials(config.runs_folder)]
        yield updates | {
            self.note: views.message(f"Written to {out}", kind="done"),
            self.choice: gr.update(choices=found, value=str(out)),
        }

    def _use(self, folder: str | None) -> Updates:
        try:
            if not folder:
                raise InputError("There is nothing to try yet; export a checkpoint first.")
            self.service.use_model(Path(folder))
        except InputError as error:
            return {self.note: gr.update(value=views.message(str(error), kind="error"), visible=True)}
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
