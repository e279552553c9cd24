"""Settings from before, back in the form: those saved under a name, and those of a result.

What is inside a result names photo and clip without their folders. Where they are says the JSON in the folder
of results, if that very result still lies there.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate import __version__
from magicanimate.animator import ModelDefaults
from magicanimate.errors import InputError
from magicanimate.files import file_name, read_json
from magicanimate.webui import views
from magicanimate.webui.animate.form import Controls
from magicanimate.webui.animate.form_values import (
    FILES,
    PHOTOS,
    ReadBack,
    Setting,
    form_settings,
    of_result,
    read_back,
)
from magicanimate.webui.animate.inspection import ANIMATED_PICTURES
from magicanimate.webui.animate.motion_panel import MotionPanel
from magicanimate.webui.gallery.library import original
from magicanimate.webui.gallery.result_panel import ResultPanel
from magicanimate.webui.gallery.results import SUFFIXES, names_files_only, read_settings, result_of
from magicanimate.webui.jobs.running_panel import RunningPanel
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import said, tr
from magicanimate.webui.views import PRIVATE, Updates, refusal

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


@dataclass(frozen=True)
class Reused:
    """What a result was made with.

    Attributes:
        settings: by the names of `AnimationRequest`, and what else was recorded.
        files: by the names of `FILES`: those that are still there and may be used.
        missing: a sentence on each of the others.
        other_photos: as ``files``.
    """

    settings: Mapping[str, Any]
    files: Mapping[str, Path]
    missing: tuple[str, ...]
    other_photos: tuple[Path, ...] = ()


def reuse(settings: Mapping[str, Any], folders: Sequence[Path] | None) -> Reused:
    """Look for the photo, the clip and the other files that settings name.

    Args:
        settings: of a result; they may come from anybody.
        folders: where the files may be: nowhere if empty, anywhere if ``None``.
    """
    found: dict[str, Path] = {}
    missing = []
    for name in FILES:
        named = settings.get(name)
        if name not in ("photo", "motion") and named is None:
            continue
        path = _within(Path(named), folders) if isinstance(named, str) and named else None
        called = {"what": tr(_CALLED[name]), "name": file_name(named) if named else ""}
        if path is None:
            missing.append(tr("{what} {name} is not there any more; choose it again.", **called))
        elif path.is_file():
            found[name] = path
        else:
            missing.append(tr("{what} {name} is a folder of frames; choose a video.", **called))
    others = []
    for named in settings.get(PHOTOS) or ():
        path = _within(Path(named), folders) if isinstance(named, str) and named else None
        if path is not None and path.is_file():
            others.append(path)
        else:
            text = "{what} {name} is not there any more; choose it again."
            missing.append(tr(text, what=tr(_CALLED[PHOTOS]), name=file_name(str(named))))
    if "driving_video" in found:  # the motion clip was made of it and will be again
        found["motion"] = found.pop("driving_video")
    return Reused(settings, found, tuple(missing), tuple(others))


_CALLED = {
    "photo": "The photo",
    "motion": "The dance video",
    "keypoints": "The keypoint clip",
    "driving_video": "The ordinary dance video",
    "mask": "The mask",
    "other_photos": "The photo of another dancer",
}


def _within(path: Path, folders: Sequence[Path] | None) -> Path | None:
    """The real path of a file, or folder of frames, that lies in one of the folders."""
    try:
        real = path.resolve(strict=True)
    except (OSError, ValueError):
        return None
    if folders is None or any(real.is_relative_to(folder.resolve()) for folder in folders):
        return real
    return None


_EXPLAINED = "Drop a video that was made here: its settings, photo and dance go back into the form."


class UseAgain:
    """A place to drop a result on, whose settings then fill the form.

    Args:
        service: knows where photos and clips are kept.
        motion_panel: has the form's controls, and takes the dance that another one continues.
        notice: says what the form was filled with; it is in sight also when a result on another tab fills it.
    """

    def __init__(self, service: AnimationService, motion_panel: MotionPanel, notice: gr.HTML):
        self.service, self.motion_panel, self.notice = service, motion_panel, notice
        self.controls = motion_panel.controls
        with gr.Accordion(tr("Use the settings of an earlier video"), open=False, elem_id="use-again"):
            gr.HTML(views.caption(tr(_EXPLAINED)), padding=False)
            self.dropped = gr.File(label=tr("Result"), file_types=list(SUFFIXES), height=130)

    @property
    def filled(self) -> list[gr.components.Component]:
        """What the handlers update."""
        return [self.notice, self.motion_panel.joined, self.motion_panel.point, *self.controls.values()]

    def connect(self, running: RunningPanel, *panels: ResultPanel, tabs: gr.Tabs) -> None:
        """Attach the handlers, also those of the buttons under the results that ``panels`` show.

        Args:
            running: knows whose page it is.
            panels: show results.
            tabs: of the page; the first one is turned to.
        """
        self.running, motion_panel = running, self.motion_panel
        self.dropped.upload(self._from_file, [self.dropped, running.visitor], self.filled, **PRIVATE)
        for panel in panels:
            work = partial(self._from_result, tabs)
            panel.again.click(work, panel.shown, [*self.filled, tabs], **PRIVATE)
            extend = partial(self._extend, tabs)
            panel.extend.click(extend, panel.shown, [*self.filled, motion_panel.after, tabs], **PRIVATE)
            for button, name in ((panel.as_photo, "photo"), (panel.as_motion, "motion")):
                send = partial(self._send, tabs, name)
                sent = [self.controls[name], self.notice, tabs, *motion_panel.edited]
                button.click(send, panel.shown, sent, **PRIVATE)

    def _from_file(self, file: str, visitor: str, request: gr.Request) -> Updates:
        owner = self.running.owner(visitor, request)
        try:
            return self._filled(self._reused(Path(file), owner), Path(file).name)
        except InputError as error:
            return {self.notice: refusal(error)}

    def _reused(self, file: Path, owner: str) -> Reused:
        """What a dropped file was made with.

        A visitor may have written any paths into the file, also those of other people's. So only the settings
        beside a result of his or her own are believed; on a machine of one's own any JSON is.

        Raises:
            InputError: it has no settings.
        """
        settings = read_settings(file)
        if not (self.service.shared or names_files_only(file, settings)):
            return reuse(settings, None)
        found = original(settings, self.service.library(owner).results())
        return reuse(settings, []) if found is None else reuse(found, self._folders)

    def _send(self, tabs: gr.Tabs, name: str, shown: str) -> Updates:
        """Put the shown result into the form: its last frame as the photo, or itself as the dance."""
        show = self.service.show_last_frame if name == "photo" else self.service.show_copy
        try:
            file = show(Path(shown))
        except InputError as error:
            return {self.notice: refusal(error)}
        edits = self.motion_panel.no_edits() if name == "motion" else {}
        return {self.controls[name]: str(file), **edits, tabs: gr.update(selected="animate")}

    def _from_result(self, tabs: gr.Tabs, shown: str) -> Updates:
        try:
            result = result_of(Path(shown))
            filled = self._filled(reuse(result.settings, self._folders), result.name)
        except InputError as error:
            filled = {self.notice: refusal(error)}
        return filled | {tabs: gr.update(selected="animate")}

    def _extend(self, tabs: gr.Tabs, shown: str) -> Updates:
        """Fill the form as for the shown result, with a dance that continues where that one ended."""
        updates = self._from_result(tabs, shown)
        start, end, motion = (self.controls[name] for name in ("start", "end", "motion"))
        if motion not in updates:  # its file is gone, as the notice says
            return updates
        stopped, dance = float(updates.get(end) or 0), updates[motion]
        updates |= {end: 0.0, start: 0.0}
        if stopped:  # the result used a stretch of its clip, and there is more of it
            text = tr("The dance goes on where this video ended, at {seconds} s.", seconds=f"{stopped:g}")
            updates |= {start: stopped}
        else:
            text = tr("Add the next dance video. It begins at the pose that is nearest to the last one.")
            updates |= {motion: None, self.motion_panel.after: dance}
        return updates | {self.notice: gr.update(value=views.message(text, kind="done"), visible=True)}

    @property
    def _folders(self) -> Sequence[Path] | None:
        """Where the files of visitors' results may be: in the output folder, where the queue keeps uploads.

        ``None`` for anywhere, on a machine of one's own.
        """
        return [self.service.output] if self.service.shared else None

    def _filled(self, found: Reused, source: str) -> Updates:
        """The form as it was for a result; a note says what is missing or was left out.

        Args:
            found: the result's settings and files.
            source: what the visitor calls it.
        """
        updates, notes = self.form_updates(found.settings, found.files, found.other_photos)
        notes = (*found.missing, *notes)
        text = " ".join([tr("These are the settings of {name}.", name=source), *notes])
        message = views.message(text, kind="info" if notes else "done")
        return updates | {self.notice: gr.update(value=message, visible=True)}

    def form_updates(
        self, settings: Mapping[str, Any], files: Mapping[str, Path], other_photos: Iterable[Path]
    ) -> tuple[Updates, tuple[str, ...]]:
        """The form filled with the settings of a job or result, and a sentence on each that does not suit it.

        Args:
            settings: as recorded.
            files: by the names of `FILES`.
            other_photos: photos of the other dancers.

        Raises:
            InputError: a file is not there any more.
        """
        defaults = self.service.defaults()
        read = of_result(settings, form_settings(defaults))
        values: dict[str, Any] = {
            "mask": None,  # or that of the form before would stay
            **read.values,
            PHOTOS: [str(self.service.show_copy(photo)) for photo in other_photos],
        }
        for name, file in files.items():
            if name in self.controls and (name != "keypoints" or defaults.takes_keypoints):
                copy = str(self.service.show_copy(file))
                played = name == "motion" and file.suffix.lower() in ANIMATED_PICTURES
                values[name] = str(self.service.show_as_video(copy)) if played else copy
        found = {self.controls[name]: value for name, value in values.items() if name in self.controls}
        return self.motion_panel.no_edits() | found, read.notes  # or those of the form before would stay
