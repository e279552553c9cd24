"""The settings of a result again: its photo, its clip and its settings, back in the form.

What is inside a result names photo and clip without their folders. Where they are says the JSON in the folder
of results, if that very result still lies there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.errors import InputError
from magicanimate.files import file_name
from magicanimate.webui import views
from magicanimate.webui.animate.form import Controls
from magicanimate.webui.animate.form_values import FILES, PHOTOS, form_settings, of_result
from magicanimate.webui.animate.motion_panel import MotionPanel
from magicanimate.webui.gallery.library import original
from magicanimate.webui.gallery.result_panel import ResultPanel
from magicanimate.webui.gallery.results import SUFFIXES, names_files_only, read_settings, result_of
from magicanimate.webui.jobs.running_panel import RunningPanel
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import tr
from magicanimate.webui.views import PRIVATE, Updates, refusal


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
        controls: of the form.
        notice: says what the form was filled with; it is in sight also when a result on another tab fills it.
    """

    def __init__(self, service: AnimationService, controls: Controls, notice: gr.HTML):
        self.service, self.controls, self.notice = service, controls, notice
        with gr.Accordion(tr("Use the settings of an earlier video"), open=False, elem_id="use-again"):
            gr.HTML(views.caption(tr(_EXPLAINED)), padding=False)
            self.dropped = gr.File(label=tr("Result"), file_types=list(SUFFIXES), height=130)

    @property
    def filled(self) -> list[gr.components.Component]:
        """What the handlers update."""
        return [self.notice, *self.controls.values()]

    def connect(
        self, running: RunningPanel, *panels: ResultPanel, tabs: gr.Tabs, motion_panel: MotionPanel
    ) -> None:
        """Attach the handlers, also those of the buttons under the results that ``panels`` show.

        Args:
            running: knows whose page it is.
            panels: show results.
            tabs: of the page; the first one is turned to.
            motion_panel: takes the dance that another one continues.
        """
        self.running, self.motion_panel = running, motion_panel
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
        values = {
            "mask": None,  # or that of the form before would stay
            **read.values,
            PHOTOS: [str(self.service.show_copy(photo)) for photo in other_photos],
        }
        for name, file in files.items():
            if name in self.controls and (name != "keypoints" or defaults.takes_keypoints):
                values[name] = str(self.service.show_copy(file))
        return {
            self.controls[name]: value for name, value in values.items() if name in self.controls
        }, read.notes
