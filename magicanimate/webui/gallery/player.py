"""The player of results as HTML; what it does is in ``player.js``, which every page loads once."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from magicanimate.files import file_name
from magicanimate.webui import STATIC
from magicanimate.webui.gallery.results import StoredResult
from magicanimate.webui.security.file_keys import key_of
from magicanimate.webui.texts import tr

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


def head(language: str) -> str:
    """What the page's head needs: the player, the page's language, and what Gradio must not fetch."""
    script, style, first = (
        (STATIC / name).read_text(encoding="utf-8") for name in ("player.js", "player.css", "head.js")
    )
    said = json.dumps({text: tr(text) for text in _TEXTS})
    given = f"globalThis.maPlayerStyle = {json.dumps(style)}; globalThis.maTexts = {said};"
    given += f" globalThis.maLanguage = {language!r};"
    return f"<script>{given}\n{first}\n{script}</script>"


def file_url(path: Path) -> str:
    """Where the browser gets a file of a served folder, seen from the page; with the key that it may need."""
    return f"gradio_api/file={quote(path.as_posix())}?key={key_of(path.as_posix())}"


def player(first: StoredResult, second: StoredResult | None = None) -> str:
    """A result to look at frame by frame, or two in step."""
    results = [first] if second is None else [first, second]
    for result in results:
        if result.output.suffix not in _PLAYED:
            return _still(result)
    clips = html.escape(json.dumps(list(map(_clip, results, _labels(results)))))
    return f'<ma-player data-clips="{clips}"></ma-player>'


def _labels(results: list[StoredResult]) -> list[str]:
    """What tells results apart, first what differs between them: labels are cut where they end."""
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
"""Settings by which results are told apart, and what they are called."""


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
    """What the browser has no player for: a gif moves by itself, a folder of frames is named."""
    name = html.escape(result.name)
    if result.output.suffix == ".gif":
        return f'<img class="ma-preview" alt="{name}" src="{html.escape(file_url(result.output))}">'
    return (
        f'<p class="ma-note">{name} is a folder of {result.num_frames} frames; download it as MP4 below.</p>'
    )
