"""Settings saved under a name, one JSON file each: choose, save, delete; and back to the model's own."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate import __version__
from magicanimate.animator import ModelDefaults
from magicanimate.errors import InputError
from magicanimate.files import read_json
from magicanimate.webui import views
from magicanimate.webui.animate.form import Controls
from magicanimate.webui.animate.form_values import ReadBack, Setting, form_settings, read_back
from magicanimate.webui.texts import said, tr
from magicanimate.webui.views import PRIVATE, Updates

LONGEST_NAME = 60
_LARGEST_FILE = 100_000  # bytes


class SavedSettings:
    """Settings saved in a folder, which is made when the first ones are saved.

    Methods raise `InputError` for a name that cannot be used, or if the folder cannot be written to.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def names(self) -> list[str]:
        """Names of the saved settings, sorted."""
        found = (_content(file) for file in self.folder.glob("*.json"))
        return sorted((content["name"] for content in found if content is not None), key=str.casefold)

    def save(self, name: str, values: Mapping[str, Any], *, overwrite: bool = False) -> str:
        """Save settings.

        Args:
            name: any text.
            values: of the form, JSON-ready.
            overwrite: replace settings of the same name.

        Returns:
            The name without superfluous spaces.
        """
        from magicanimate.request_checks import write_settings

        name = _tidy(name)
        if not overwrite and self._file(name).exists():
            raise InputError(
                f"There are settings named “{name}” already; overwrite them or choose another name."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"The folder {self.folder} cannot be made ({error.strerror}), so nothing was saved; free it."
            ) from error
        content = {"name": name, "program": f"MagicAnimate {__version__}", "values": dict(values)}
        write_settings(self._file(name), content)
        return name

    def load(self, name: str, settings: Mapping[str, Setting]) -> ReadBack:
        """The saved settings that this version of the form has."""
        content = _content(self._file(_tidy(name)))
        if content is None:
            raise InputError(f"There are no settings named “{name}”, or their file is damaged.")
        return read_back(content["values"], settings)

    def delete(self, name: str) -> None:
        """Delete saved settings."""
        try:
            self._file(_tidy(name)).unlink()
        except OSError as error:
            raise InputError(
                f"The settings named “{name}” cannot be deleted ({error.strerror}); look in {self.folder}."
            ) from error

    def _file(self, name: str) -> Path:
        """The file of a name, which is any text: only its plain letters and its hash get into the path."""
        letters = re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")[:40]
        return self.folder / f"{letters}-{hashlib.sha256(name.encode()).hexdigest()[:12]}.json"


def _tidy(name: str) -> str:
    """A name without superfluous spaces and invisible characters."""
    name = unicodedata.normalize("NFC", name or "")
    name = " ".join("".join(letter for letter in name if letter.isprintable() or letter == " ").split())
    if not name:
        raise InputError("The settings have no name yet; type one.")
    if len(name) > LONGEST_NAME:
        raise InputError(f"The name has {len(name)} letters; {LONGEST_NAME} are the most.")
    return name


def _content(file: Path) -> dict[str, Any] | None:
    """The content of a file; ``None`` if it holds no saved settings."""
    try:
        content = read_json(file, most=_LARGEST_FILE)
    except InputError:
        return None
    ours = isinstance(content, dict) and isinstance(content.get("name"), str)
    return content if ours and isinstance(content.get("values"), dict) else None


_OVERWRITE, _DELETE = "Overwrite", "Delete"


class SavedSettingsPanel:
    """The row to choose, save and delete settings in.

    Args:
        store: where settings are saved.
        controls: of the form; its files are left alone.
        defaults: of the model in use.
    """

    def __init__(self, store: SavedSettings, controls: Controls, defaults: Callable[[], ModelDefaults]):
        self.store, self.defaults = store, defaults
        self.controls = {name: controls[name] for name in form_settings(defaults())}
        self.pending = gr.State(None)  # (_OVERWRITE or _DELETE, name) while the visitor is asked
        gr.HTML(f'<h3 class="ma-heading">{tr("Saved settings")}</h3>', padding=False)
        with gr.Row(equal_height=True):
            self.saved = gr.Dropdown(
                store.names(),
                value=None,
                label=tr("Use"),
                info=tr("Fills the form"),
                elem_id="saved-settings",
                scale=3,
                min_width=220,
            )
            self.name = gr.Textbox(
                "",
                label=tr("Save as"),
                info=tr("Everything but photo and video"),
                max_length=LONGEST_NAME,
                elem_id="settings-name",
                scale=3,
                min_width=220,
            )
        with gr.Row():
            self.save = gr.Button(tr("Save"), size="sm", min_width=90, elem_id="save-settings")
            self.delete = gr.Button(tr("Delete"), size="sm", min_width=90, elem_id="delete-settings")
            self.reset = gr.Button(
                tr("Reset all settings"), size="sm", min_width=140, elem_id="reset-settings"
            )
        with gr.Row(visible=False) as self.question:
            self.yes = gr.Button(tr(_OVERWRITE), size="sm", variant="stop", elem_id="settings-yes")
            self.no = gr.Button(tr("Keep it"), size="sm", elem_id="settings-no")
        self.message = gr.HTML("", visible=False, padding=False, elem_id="settings-message")

    def connect(self) -> None:
        """Attach the handlers."""
        private = {**PRIVATE, "queue": False}
        asked = [self.saved, self.name, self.message, self.question, self.yes, self.pending]
        values = {self.name, self.saved, self.pending, *self.controls.values()}
        shown = [*self.controls.values(), self.message, self.question, self.pending]
        self.saved.input(self._load, self.saved, shown, **private)
        self.reset.click(self._reset, None, [*shown, self.saved], **private)
        for trigger in (self.save.click, self.name.submit):
            trigger(self._save, values, asked, **private)
        self.delete.click(self._ask_to_delete, self.saved, asked, **private)
        self.yes.click(self._confirmed, values, asked, **private)
        self.no.click(self._say, None, [self.message, self.question, self.pending], **private)

    def _load(self, name: str | None) -> Updates:
        if not name:
            return self._say()
        try:
            found = self.store.load(name, form_settings(self.defaults()))
        except InputError as error:
            return self._say(str(error), kind="error")
        text = " ".join([tr("The settings “{name}” are in the form.", name=name), *found.notes])
        return {self.controls[key]: value for key, value in found.values.items()} | self._say(text)

    def _reset(self) -> Updates:
        settings = form_settings(self.defaults())
        own = {self.controls[name]: setting.default for name, setting in settings.items()}
        return own | self._say(tr("Settings reset.")) | {self.saved: None}

    def _save(self, data: dict) -> Updates:
        return self._saved(data, data[self.name], overwrite=False)

    def _saved(self, data: dict, name: str, *, overwrite: bool) -> Updates:
        values = {key: data[widget] for key, widget in self.controls.items()}
        try:
            name = self.store.save(name, values, overwrite=overwrite)
        except InputError as error:
            taken = not overwrite and name and name.strip() in self.store.names()
            updates = self._say(said(str(error)), kind="info" if taken else "error")
            return updates | self._asked(_OVERWRITE, name.strip()) if taken else updates
        saved = {self.saved: gr.update(choices=self.store.names(), value=name), self.name: ""}
        return saved | self._say(tr("Saved as “{name}”.", name=name), kind="done")

    def _ask_to_delete(self, name: str | None) -> Updates:
        if not name:
            return self._say(tr("Choose the saved settings to delete."))
        return self._say(tr("Delete the settings “{name}”?", name=name)) | self._asked(_DELETE, name)

    def _confirmed(self, data: dict) -> Updates:
        """Do what the visitor was asked about."""
        what, name = data[self.pending] or (None, None)
        if what == _OVERWRITE:
            return self._saved(data, name, overwrite=True)
        if what != _DELETE:
            return self._say()
        try:
            self.store.delete(name)
        except InputError as error:
            return self._say(str(error), kind="error")
        gone = {self.saved: gr.update(choices=self.store.names(), value=None)}
        return gone | self._say(tr("Deleted “{name}”.", name=name))

    def _asked(self, what: str, name: str) -> Updates:
        return {
            self.question: gr.update(visible=True),
            self.yes: gr.update(value=f"{tr(what)} “{name}”"),
            self.pending: (what, name),
        }

    def _say(self, text: str = "", *, kind: str = "info") -> Updates:
        """Show a sentence, or nothing, and close the question."""
        return {
            self.message: gr.update(value=views.message(text, kind=kind), visible=bool(text)),
            self.question: gr.update(visible=False),
            self.pending: None,
        }
