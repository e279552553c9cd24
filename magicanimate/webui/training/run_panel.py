"""What a training shows of itself: how far it is, its losses, its samples."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.webui.events import Updates
from magicanimate.webui.scratch import temporary_folder
from magicanimate.webui.training import views as train_views
from magicanimate.webui.training.run import RunStatus, TrainingRun

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
            title="Loss",
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
