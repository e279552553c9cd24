"""A finished result on the page: player, downloads, settings, and the way back into the form."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from magicanimate.config import Progress
from magicanimate.errors import InputError
from magicanimate.files import file_name
from magicanimate.progress import duration
from magicanimate.webui import STATIC, views
from magicanimate.webui.gallery.results import KINDS, StoredResult, export, result_of
from magicanimate.webui.jobs.queue import run_with_progress
from magicanimate.webui.security import key_of
from magicanimate.webui.texts import choice_name, labels, tr
from magicanimate.webui.views import PRIVATE, Updates, refusal

_PLAYED = (".mp4", ".webm")


_TEXTS = (
    "Against motion",
    "Against photo",
    "Beside each other",
    "Divider",
    "File upload",
    "Frame",
    "Full screen",
    "One frame back (,)",
    "One frame on (.)",
    "Play or pause (space)",
    "Remove Image",
    "Remove this file",
    "Repeat",
    "Reset to default value",
    "Result",
    "Side by side",
    "Sound",
    "Speed",
    "Your video is ready.",
    "Video; space plays, comma and full stop step",
    "What is shown",
    "motion",
    "photo",
    "result",
)
"""What the player and ``keys.js`` say."""


ALL_STYLES = "all_styles.css"
"""Beside Gradio's own style sheets, for a browser: all of them in one file, see ``head.js``."""


def style_sheets() -> list[Path]:
    """Gradio's style sheets but that of its first page, of which it fetches some forty, one by one."""
    import gradio

    frontend = Path(gradio.__file__).parent / "templates" / "frontend"
    first = (frontend / "index.html").read_text(encoding="utf-8")
    return [sheet for sheet in sorted(frontend.glob("assets/*.css")) if sheet.name not in first]


def head(language: str) -> str:
    """What the page's head needs: the player, the page's language, and what Gradio must not fetch."""
    script, style, first = (
        (STATIC / name).read_text(encoding="utf-8") for name in ("player.js", "player.css", "head.js")
    )
    said = json.dumps({text: tr(text) for text in _TEXTS})
    given = f"globalThis.maPlayerStyle = {json.dumps(style)}; globalThis.maTexts = {said};"
    given += f" globalThis.maLanguage = {language!r};"
    given += f" globalThis.maStyleSheets = {json.dumps([ALL_STYLES, *(s.name for s in style_sheets())])};"
    return f"<script>{given}\n{first}\n{script}</script>"


def file_url(path: Path) -> str:
    """The address of a served file, relative to the page, with its key; it needs no escaping in HTML."""
    return f"gradio_api/file={quote(path.as_posix())}?key={key_of(path.as_posix())}"


def player(first: StoredResult, second: StoredResult | None = None) -> str:
    """A player that steps through a result frame by frame, or through two of them together."""
    results = [first] if second is None else [first, second]
    for result in results:
        if result.output.suffix not in _PLAYED:
            return _still(result)
    clips = html.escape(json.dumps(list(map(_clip, results, _labels(results)))))
    return f'<ma-player data-clips="{clips}"></ma-player>'


def _labels(results: list[StoredResult]) -> list[str]:
    """Labels that tell two results apart. What differs stands first, since long labels are cut off."""
    if len(results) < 2:
        return [each.name for each in results]
    said: list[list[str]] = [[] for _ in results]
    for name, word in _TELLING.items():
        values = [each.settings.get(name) for each in results]
        if values[0] != values[1]:
            for texts, value in zip(said, values, strict=True):
                texts.append(f"{tr(word)} {file_name(value) or value}")
    days = "%H:%M" if results[0].made.date() == results[1].made.date() else "%d %b, %H:%M"
    for texts, each in zip(said, results, strict=True):
        texts.append(f"{each.made:{days}}")
    return [" · ".join(texts) for texts in said]


_TELLING = {
    "seed": "seed",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "preset": "quality",
    "photo": "photo",
    "motion": "dance",
    "model": "model",
}
"""Settings that tell results apart, and what they are called."""


def _clip(result: StoredResult, label: str) -> dict[str, Any]:
    width, height = result.size
    return {
        "src": file_url(result.output),
        "strip": file_url(result.strip) if result.strip else None,
        "label": label,
        "width": width or 512,
        "height": height or 512,
        "frames": result.num_frames or 1,
        "fps": result.fps,
        "sound": bool(result.settings.get("sound")),
    }


def _still(result: StoredResult) -> str:
    """A result that is no video: a GIF moves by itself, a folder of frames is only named."""
    name = html.escape(result.name)
    if result.output.suffix == ".gif":
        return f'<img class="ma-preview" alt="{name}" src="{file_url(result.output)}">'
    return (
        f'<p class="ma-note">{name} is a folder of {result.num_frames} frames; download it as MP4 below.</p>'
    )


_KIND_NAMES = {"mp4": "MP4", "webm": "WebM", "gif": "GIF", "frames": "Frames (zip)"}


class ResultPanel:
    """One finished result; hidden until there is one.

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
            js_on_load=views.BUTTONS_ON_LOAD,
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
        self.shown = gr.State("")  # path of the result on show

    @property
    def widgets(self) -> list[gr.components.Component]:
        """What `show` and `hide` update."""
        files = [self.downloads, self.exporting]
        return [self.viewer, *files, self.sending, self.settings_box, self.settings, self.shown]

    def show(self, result: StoredResult) -> Updates:
        """Show a result."""
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
        """Show two results that play in step."""
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
    """What a result was made with, in the words of the page; the JSON beside it has everything."""
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
"""Settings that do not change how a result looks."""


def _downloads(result: StoredResult) -> str:
    """Links to what is there, buttons for what can be made."""
    chips: list[str] = []
    for kind, name in _KIND_NAMES.items():
        if result.output.suffix == f".{kind}":
            chips.insert(0, _link(result.output, name))
        else:
            chips.append(views.button(tr(name), css="ma-chip", kind=kind))
    if result.strip:
        chips.append(_link(result.strip, tr("Side by side")))
    chips.append(_link(result.settings_file, tr("Settings")))
    return f'<div class="ma-chips"><span>{tr("Download")}</span>{"".join(chips)}</div>'


def _link(path: Path, text: str) -> str:
    url, name = file_url(path), html.escape(path.name)
    return f'<a class="ma-chip" href="{url}" download="{name}">{text}</a>'


def _ready(path: Path) -> str:
    url, name = file_url(path), html.escape(path.name)
    return (
        f'<ma-download data-name="{name}" data-src="{url}"></ma-download>'
        f'<div class="ma-message ma-done" role="status">{tr("Ready; if the download does not begin:")} '
        f"{_link(path, name)}</div>"
    )
