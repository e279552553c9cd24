"""The tab with the models: what is here, what can be fetched, and which one animates."""

from __future__ import annotations

import html
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import gradio as gr

from magicanimate import lora
from magicanimate.checkpoints.disk import (
    ModelInfo,
    describe_models,
    downloads_folder,
    free_bytes,
    home,
    human_bytes,
)
from magicanimate.checkpoints.locate import fetch_full
from magicanimate.config import Progress
from magicanimate.errors import Cancelled, InputError
from magicanimate.files import without_folders
from magicanimate.webui import views
from magicanimate.webui.animate.tab import AnimateTab
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import tr
from magicanimate.webui.views import PRIVATE, Updates

FetchState = Literal["idle", "running", "paused", "failed", "done"]


@dataclass(frozen=True)
class FetchStatus:
    """A moment of the download.

    Attributes:
        state: "idle" if it was never begun, or given up.
        progress: the last report.
        error: why it failed, a sentence.
    """

    state: FetchState = "idle"
    progress: Progress | None = None
    error: str = ""


class ModelFetch:
    """At most one download at a time. Every method may be called from any thread.

    It goes on where it was stopped, also by the end of the program.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        # What an earlier program has fetched already lies in a folder that goes when all is there.
        paused = any(downloads_folder().rglob("*")) if downloads_folder().is_dir() else False
        self._status = FetchStatus("paused" if paused else "idle")

    @property
    def status(self) -> FetchStatus:
        """How it stands."""
        with self._lock:
            return self._status

    def start(self) -> None:
        """Begin, or go on; nothing happens while it runs."""
        with self._lock:
            if self._status.state == "running":
                return
            self._stop = threading.Event()
            self._status = FetchStatus("running", self._status.progress)
            self._thread = threading.Thread(target=self._run, args=(self._stop,), daemon=True)
            self._thread.start()

    def pause(self) -> None:
        """Stop; what was fetched is kept."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def cancel(self) -> None:
        """Stop, and delete what was fetched."""
        self.pause()
        shutil.rmtree(downloads_folder(), ignore_errors=True)
        with self._lock:
            self._status = FetchStatus()

    def _run(self, stop: threading.Event) -> None:
        def report(progress: Progress) -> None:
            with self._lock:
                self._status = replace(self._status, progress=progress)

        try:
            fetch_full(on_progress=report, should_stop=stop.is_set)
            outcome: dict = {"state": "done"}
        except Cancelled:
            outcome = {"state": "paused"}
        except InputError as error:
            outcome = {"state": "failed", "error": str(error)}
        with self._lock:
            self._status = replace(self._status, **outcome)


_LOOK_EVERY = 1.0  # seconds, while something is fetched


class ModelsTab:
    """The tab; only in a program that nobody else can reach, since it changes the model for everybody.

    Args:
        service: animates with the model in use.
    """

    def __init__(self, service: AnimationService):
        self.service, self.fetch = service, ModelFetch()
        self.list = gr.HTML(self._list, padding=False, elem_id="models", js_on_load=views.BUTTONS_ON_LOAD)
        with gr.Row(elem_id="own-model"):
            self.folder = gr.Textbox(
                label=tr("A model of your own"),
                info=tr("Folder of a model, or a fine-tune of Stable Diffusion 1.5"),
                max_lines=1,
                scale=4,
                elem_id="model-folder",
            )
            self.use = gr.Button(tr("Use"), scale=0, min_width=90, elem_id="use-folder")
        self.note = gr.HTML("", padding=False, elem_id="model-note")
        text = "LoRAs (.safetensors) in {folder} are offered under Advanced."
        gr.HTML(views.caption(html.escape(tr(text, folder=lora.folder()))), padding=False)
        self.timer = gr.Timer(_LOOK_EVERY, active=False)

    def connect(self, animate: AnimateTab, tabs: gr.Tabs, tab: gr.Tab) -> None:
        """Attach the handlers.

        Args:
            animate: its settings follow the model, and its badge leads here.
            tabs: of the page.
            tab: the tab this is in, called "models".
        """
        self.animate = animate
        shown = [self.list, self.note, self.timer]
        self.timer.tick(self._update, None, shown, queue=False, **PRIVATE)
        tab.select(self._update, None, shown, queue=False, **PRIVATE)
        self.list.click(self._act, None, [*shown, *animate.follows_model], **PRIVATE)
        for pressed in (self.use.click, self.folder.submit):
            announced = pressed(self._announce, self.folder, self.note, queue=False, **PRIVATE)
            announced.then(self._use_folder, self.folder, [*shown, *animate.follows_model], **PRIVATE)
        animate.badge.click(lambda: gr.Tabs(selected="models"), None, tabs, queue=False, **PRIVATE)

    def _list(self) -> str:
        return model_list(
            describe_models(),
            current=self.service.model_name,
            fetch=self.fetch.status,
            free=free_bytes(home()),
        )

    def _update(self, note: str = "") -> Updates:
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
        return self._update()

    def _announce(self, folder: str) -> str:
        """Say beforehand that what follows takes a while."""
        if not _is_base_model(_path(folder)):
            return ""
        return views.message(tr("The full model is combined with this base model, which takes some minutes."))

    def _use_folder(self, folder: str) -> Updates:
        if not (folder or "").strip():
            return self._update(views.message(tr("Give the folder of a model."), kind="error"))
        path = _path(folder)
        try:
            if _is_base_model(path):
                from magicanimate.checkpoints.convert import convert_base

                path = convert_base(path)
            return self._use(path)
        except InputError as error:
            told = without_folders(str(error), _path(folder))
            return self._update(views.message(told, kind="error"))

    def _use(self, model: str | Path) -> Updates:
        try:
            self.service.use_model(model)
        except InputError as error:
            return self._update(views.message(str(error), kind="error"))
        note = views.message(tr("The next video is made with this model."), kind="done")
        return self._update(note) | self.animate.switched()


def _path(typed: str) -> Path:
    """What is meant, without the quotation marks that file managers put around a copied path."""
    return Path((typed or "").strip().strip("\"'")).expanduser()


def _is_base_model(path: Path) -> bool:
    """Whether it is not a checkpoint of this program, but may be what one is made of."""
    return path.is_file() or ((path / "unet").is_dir() and not (path / "appearance_encoder").is_dir())


FULL_BYTES = 11_000_000_000
"""Of the released weights, all files together; what is here already is not fetched again."""

_WHAT = {
    "mini": (
        "Mini",
        "256 × 256. Comes with the program: sharp only where the photo shows it from the same side.",
    ),
    "full": ("Full", "512 × 512. The released MagicAnimate weights, for a graphics card with 8 GB or more."),
}


def model_list(models: Sequence[ModelInfo], *, current: str, fetch: FetchStatus, free: int) -> str:
    """The cards of the models with names, and of a folder in use.

    Args:
        models: see `describe_models`.
        current: name or folder of the one that animates.
        fetch: how the download of the full model stands.
        free: bytes of the disk that it would go to.
    """
    cards = [_named(model, current == model.name, fetch, free) for model in models]
    if current not in {model.name for model in models}:
        name, text = Path(current).name, tr("Your own model in {folder}", folder=current)
        cards.append(_card(name, text, _in_use()))
    return f'<div class="ma-models">{"".join(cards)}</div>'


def _in_use() -> str:
    return f'<span class="ma-in-use">{tr("In use")}</span>'


def _named(model: ModelInfo, in_use: bool, fetch: FetchStatus, free: int) -> str:
    title, text = map(tr, _WHAT[model.name])
    if model.available:
        size = " " + tr("{size} on disk.", size=human_bytes(model.bytes))
        return _card(title, text + size, _in_use() if in_use else _button("use", "Use", model.name))
    size = human_bytes(FULL_BYTES)
    text += " " + tr("{size} to download, {free} free on this disk.", size=size, free=human_bytes(free))
    if fetch.state == "running":
        progress = views.progress_bar(fetch.progress) if fetch.progress else views.message(tr("Connecting…"))
        return _card(title, text, _button("pause", "Pause") + _button("cancel", "Cancel"), progress)
    if fetch.state == "paused":
        below = views.progress_bar(fetch.progress) if fetch.progress else ""
        return _card(title, text, _button("start", "Resume", main=True) + _button("cancel", "Cancel"), below)
    error = views.message(fetch.error, kind="error") if fetch.state == "failed" else ""
    again = tr("Download ({size})", size=size) if fetch.state != "failed" else tr("Try again")
    return _card(title, text, _button("start", again, main=True), error)


def _card(title: str, text: str, actions: str, below: str = "") -> str:
    return (
        f'<section class="ma-model" aria-label="{html.escape(title)}"><div class="ma-model-line"><div>'
        f"<h3>{html.escape(title)}</h3><p>{html.escape(text)}</p></div>"
        f'<div class="ma-job-buttons">{actions}</div></div>{below}</section>'
    )


def _button(action: str, text: str, model: str = "full", *, main: bool = False) -> str:
    return views.button(tr(text), css="ma-small ma-main" if main else "ma-small", action=action, model=model)
