"""The way from a result, or any file that holds settings, back into the form."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.errors import InputError
from magicanimate.studio.form_values import form_settings, of_result
from magicanimate.studio.results import result_of
from magicanimate.studio.reuse import SUFFIXES, read_settings, reuse
from magicanimate.ui import views
from magicanimate.ui.events import PRIVATE, Updates
from magicanimate.ui.form import Controls
from magicanimate.ui.result_panel import ResultPanel
from magicanimate.ui.studio import Studio

_EXPLAINED = (
    '<p class="ma-note">A video made here remembers how. Drop it, one of its png frames, or the JSON beside '
    "it: photo, clip and settings go back into the form.</p>"
)


class UseAgain:
    """A place to drop a result on, and what its settings do to the form. Builds itself where it is made.

    Args:
        studio: knows where photos and clips are kept.
        controls: the form.
    """

    def __init__(self, studio: Studio, controls: Controls):
        self.studio, self.controls = studio, controls
        with gr.Accordion("Settings of an earlier result", open=False, elem_id="use-again"):
            gr.HTML(_EXPLAINED, padding=False)
            self.dropped = gr.File(label="Result", file_types=list(SUFFIXES), height=130)
            self.notice = gr.HTML("", visible=False, elem_id="use-again-notice", padding=False)

    @property
    def filled(self) -> list[gr.components.Component]:
        """What `from_settings` updates."""
        return [self.notice, *self.controls.values()]

    def connect(self, *panels: ResultPanel, tabs: gr.Tabs) -> None:
        """Attach the handlers; the results that ``panels`` show can be used again, on the first tab."""
        self.dropped.upload(self._from_file, self.dropped, self.filled, **PRIVATE)
        for panel in panels:
            work = partial(self._from_result, tabs)
            panel.again.click(work, panel.shown, [*self.filled, tabs], **PRIVATE)

    def _from_file(self, file: str) -> Updates:
        try:
            return self.from_settings(read_settings(Path(file)), Path(file).name)
        except InputError as error:
            return {self.notice: gr.update(value=views.message(str(error), kind="error"), visible=True)}

    def _from_result(self, tabs: gr.Tabs, shown: str) -> Updates:
        try:
            result = result_of(Path(shown))
            filled = self.from_settings(result.settings, result.name)
        except InputError as error:
            gr.Warning(str(error))
            return {self.notice: gr.skip()}
        gr.Info(f"Photo, clip and settings are those of {result.name}, as far as they are there.")
        return filled | {tabs: gr.update(selected="animate")}

    def from_settings(self, settings: Mapping[str, Any], source: str) -> Updates:
        """The form as it was for a result; what cannot be had again is said, and left as it is.

        Args:
            settings: of the result.
            source: what the visitor calls it.
        """
        # On a machine of one's own any file that one's own results name may be used.
        again = reuse(settings, [self.studio.output] if self.studio.shared else None)
        found = of_result(settings, form_settings(self.studio.defaults()))
        values = dict(found.values)
        for name in ("photo", "motion"):
            file = getattr(again, name)
            if file is not None:
                values[name] = str(self.studio.lend(file))
        notes = [*again.missing, *found.notes]
        text = " ".join([f"The form has the settings of {source} now.", *notes])
        return {
            self.notice: gr.update(value=views.message(text, kind="info" if notes else "done"), visible=True),
            **{self.controls[name]: value for name, value in values.items() if name in self.controls},
        }
