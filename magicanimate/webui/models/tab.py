"""The tab with the models: what is here, what can be fetched, and which one animates."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from magicanimate.checkpoints.disk import free_bytes, home
from magicanimate.checkpoints.locate import describe_models
from magicanimate.errors import InputError
from magicanimate.webui import views
from magicanimate.webui.animate.tab import AnimateTab
from magicanimate.webui.events import PRIVATE, Updates
from magicanimate.webui.models.fetching import ModelFetch
from magicanimate.webui.models.views import ON_LOAD, model_list
from magicanimate.webui.service import AnimationService

_LOOK_EVERY = 1.0  # seconds, while something is fetched


class ModelsTab:
    """Builds itself where it is made, inside a tab. Only for a program that nobody else can reach.

    Args:
        service: animates with the model in use.
        fetch: fetches the full one.
    """

    def __init__(self, service: AnimationService, fetch: ModelFetch):
        self.service, self.fetch = service, fetch
        self.list = gr.HTML(self._list, padding=False, elem_id="models", js_on_load=ON_LOAD)
        with gr.Row(equal_height=True):
            self.folder = gr.Textbox(
                label="A model of your own",
                placeholder="Folder of a model, as training exports it",
                max_lines=1,
                scale=4,
                elem_id="model-folder",
            )
            self.use = gr.Button("Use", scale=0, min_width=90, elem_id="use-folder")
        self.note = gr.HTML("", padding=False, elem_id="model-note")
        self.timer = gr.Timer(_LOOK_EVERY, active=False)

    def connect(self, animate: AnimateTab, tabs: gr.Tabs, tab: gr.Tab) -> None:
        """Attach the handlers; every widget of the page is there now.

        Args:
            animate: its settings follow the model, and its badge leads here.
            tabs: of the page.
            tab: the tab this is in, called "models".
        """
        self.animate = animate
        shown = [self.list, self.note, self.timer]
        self.timer.tick(self._look, None, shown, queue=False, **PRIVATE)
        tab.select(self._look, None, shown, queue=False, **PRIVATE)
        self.list.click(self._act, None, [*shown, *animate.follows_model], **PRIVATE)
        for pressed in (self.use.click, self.folder.submit):
            pressed(self._use_folder, self.folder, [*shown, *animate.follows_model], **PRIVATE)
        animate.badge.click(lambda: gr.Tabs(selected="models"), None, tabs, queue=False, **PRIVATE)

    def _list(self) -> str:
        return model_list(
            describe_models(),
            current=self.service.model_name,
            fetch=self.fetch.status,
            free=free_bytes(home()),
        )

    def _look(self, note: str = "") -> Updates:
        running = self.fetch.status.state == "running"
        return {self.list: self._list(), self.note: note, self.timer: gr.Timer(active=running)}

    def _act(self, event: gr.EventData) -> Updates:
        """A button of a card was pressed."""
        match event.action:
            case "start":
                self.fetch.start()
            case "pause":
                self.fetch.pause()
            case "cancel":
                self.fetch.cancel()
            case "use":
                return self._use(event.model)
        return self._look()

    def _use_folder(self, folder: str) -> Updates:
        folder = (folder or "").strip().strip("\"'")
        if not folder:
            return self._look(views.message("Give the folder of a model.", kind="error"))
        return self._use(Path(folder).expanduser())

    def _use(self, model: str | Path) -> Updates:
        try:
            self.service.use_model(model)
        except InputError as error:
            return self._look(views.message(str(error), kind="error"))
        told = views.message("The next video is made with this model.", kind="done")
        return self._look(told) | self.animate.switched()
