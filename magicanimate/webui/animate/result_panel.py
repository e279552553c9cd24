"""A finished result on the page: player, downloads, settings, and the way back into the form."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import gradio as gr

from magicanimate.config import AnimationResult, Progress
from magicanimate.errors import InputError
from magicanimate.files import file_name
from magicanimate.progress import duration
from magicanimate.webui import views
from magicanimate.webui.background import run_with_progress
from magicanimate.webui.events import PRIVATE, Updates, refusal
from magicanimate.webui.gallery.export import KINDS, export
from magicanimate.webui.gallery.player import file_url, player
from magicanimate.webui.gallery.results import StoredResult, result_of
from magicanimate.webui.texts import choice_name, labels, tr

_KIND_NAMES = {"mp4": "MP4", "webm": "WebM", "gif": "GIF", "frames": "Frames (zip)"}

# A chip that is no link asks for a file to be made first.
_ASK = """
element.addEventListener("click", (event) => {
  const chip = event.target.closest("button[data-kind]");
  if (chip) trigger("click", { kind: chip.dataset.kind });
});
"""


class ResultPanel:
    """Builds itself where it is made, with nothing to show yet.

    Args:
        name: prefix of the ids of its elements, since more than one may be on the page.
    """

    def __init__(self, name: str = "result"):
        self.viewer = gr.HTML("", visible=False, elem_id=name, padding=False, apply_default_css=False)
        self.downloads = gr.HTML(
            "",
            visible=False,
            elem_id=f"{name}-downloads",
            padding=False,
            apply_default_css=False,
            js_on_load=_ASK,
        )
        self.exporting = gr.HTML("", visible=False, elem_id=f"{name}-exporting", padding=False)
        with gr.Row(visible=False, elem_classes="ma-sending") as self.sending:
            self.again = gr.Button(
                tr("Use these settings again"), size="sm", min_width=130, elem_id=f"{name}-again"
            )
            self.extend = gr.Button(
                tr("Continue the dance"), size="sm", min_width=130, elem_id=f"{name}-extend"
            )
            self.as_photo = gr.Button(
                tr("Last frame as photo"), size="sm", min_width=130, elem_id=f"{name}-as-photo"
            )
            self.as_motion = gr.Button(
                tr("Use as dance video"), size="sm", min_width=130, elem_id=f"{name}-as-motion"
            )
        with gr.Accordion(
            tr("Settings of this result"), open=False, visible=False, elem_id=f"{name}-settings"
        ) as self.settings_box:
            self.settings = gr.HTML("", padding=False)
        self.shown = gr.State("")

    @property
    def widgets(self) -> list[gr.components.Component]:
        """What `show` and `hide` update."""
        files = [self.downloads, self.exporting]
        return [self.viewer, *files, self.sending, self.settings_box, self.settings, self.shown]

    def show(self, result: AnimationResult | StoredResult | Path | str) -> Updates:
        """Show a result; a path is that of its video.

        Raises:
            InputError: it is not there any more.
        """
        if isinstance(result, AnimationResult):
            result = result.output
        if not isinstance(result, StoredResult):
            result = result_of(Path(result))
        return {
            self.viewer: gr.update(value=player(result), visible=True),
            self.downloads: gr.update(value=_downloads(result), visible=True),
            self.exporting: gr.update(value="", visible=False),
            self.sending: gr.update(visible=True),
            self.settings_box: gr.update(visible=True),
            self.settings: settings_table(result),
            self.shown: str(result.output),
        }

    def compare(self, first: StoredResult, second: StoredResult) -> Updates:
        """Show two results in step."""
        return self.hide() | {self.viewer: gr.update(value=player(first, second), visible=True)}

    def hide(self) -> Updates:
        """Show nothing."""
        empty, hidden = gr.update(value="", visible=False), gr.update(visible=False)
        return {
            **dict.fromkeys((self.viewer, self.downloads, self.exporting), empty),
            **dict.fromkeys((self.sending, self.settings_box), hidden),
            self.settings: "",
            self.shown: "",
        }

    def connect(self) -> None:
        """Attach the handlers."""
        self.downloads.click(
            self._export,
            self.shown,
            [self.exporting, self.downloads],
            **PRIVATE,
        )

    def _export(self, shown: str, event: gr.EventData) -> Iterator[Updates]:
        """Make a file of the kind asked for, and have the browser fetch it."""
        kind = event.kind
        if kind not in KINDS or not shown:
            return
        try:
            result = result_of(Path(shown))
            work = partial(export, result, kind)
            for report in run_with_progress(work):
                if isinstance(report, Progress):
                    yield {self.exporting: gr.update(value=views.progress_bar(report), visible=True)}
                    continue
                yield {
                    self.exporting: gr.update(value=_ready(report), visible=True),
                    self.downloads: _downloads(result),
                }
        except InputError as error:
            yield {self.exporting: refusal(error)}


def settings_table(result: StoredResult) -> str:
    """What a result was made with, in the words of the page; the file beside it has everything."""
    rows = [(tr("Photo"), result.photo_name), (tr("Dance video"), result.motion_name)]
    model = result.settings.get("model")
    rows += [(tr("Model"), file_name(model) or model)]
    for name, label in labels().items():
        value = result.settings.get(name)
        if value is None or value == "" or name in _NOT_TOLD:
            continue
        text = {True: tr("yes"), False: tr("no")}[value] if isinstance(value, bool) else str(value)
        rows.append((label, choice_name(text) if isinstance(value, str) else text))
    frames = tr("{count} at {fps} fps", count=result.num_frames, fps=f"{result.fps:g}")
    rows.append((tr("Frames"), frames))
    seconds = result.settings.get("seconds")
    if isinstance(seconds, Mapping) and all(isinstance(each, (int, float)) for each in seconds.values()):
        rows.append((tr("Time taken"), duration(sum(seconds.values()))))
    cells = "".join(
        f"<tr><th scope='row'>{html.escape(name)}</th><td>{html.escape(str(value or '?'))}</td></tr>"
        for name, value in rows
    )
    return f'<div class="ma-figures"><table>{cells}</table></div>'


_NOT_TOLD = ("check_motion", "side_by_side", "sound", "credentials")
"""Settings that say nothing of how a result looks."""


def _downloads(result: StoredResult) -> str:
    """Links to what is there, buttons for what can be made."""
    chips = []
    for kind, name in _KIND_NAMES.items():
        if result.output.suffix == f".{kind}":
            chips.insert(0, _link(result.output, name))
        else:
            chips.append(f'<button type="button" class="ma-chip" data-kind="{kind}">{tr(name)}</button>')
    if result.strip:
        chips.append(_link(result.strip, tr("Side by side")))
    chips.append(_link(result.settings_file, tr("Settings")))
    return f'<div class="ma-chips"><span>{tr("Download")}</span>{"".join(chips)}</div>'


def _link(path: Path, text: str) -> str:
    url, name = html.escape(file_url(path)), html.escape(path.name)
    return f'<a class="ma-chip" href="{url}" download="{name}">{text}</a>'


def _ready(path: Path) -> str:
    url, name = html.escape(file_url(path)), html.escape(path.name)
    return (
        f'<ma-download data-name="{name}" data-src="{url}"></ma-download>'
        f'<div class="ma-message ma-done" role="status">{tr("Ready; if the download does not begin:")} '
        f"{_link(path, name)}</div>"
    )
