"""The HTML page of a report: a table and a gallery of videos, which works offline."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magicanimate.files import write_bytes
from training.evaluation.protocol import METRICS, Metric, rows_of

PAGE = "index.html"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #8886; padding: .3rem .7rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
small { opacity: .75; }
figure { margin: 0 0 2rem; } figcaption { font-weight: 600; }
.clip { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .5rem; }
.clip > div { text-align: center; } .clip video, .clip img { width: 100%; background: #8883; }
button { font: inherit; padding: .3rem 1rem; } input[type=range] { width: 60%; }
@media (prefers-color-scheme: dark) { body { background: #151515; color: #eee; } }
"""

_SCRIPT = """
// All videos of a clip follow its first one, so that they show the same frame.
for (const clip of document.querySelectorAll("figure")) {
  const videos = [...clip.querySelectorAll("video")], [lead, ...rest] = videos;
  const button = clip.querySelector("button"), place = clip.querySelector("input");
  const show = () => rest.forEach((video) => {
    if (Math.abs(video.currentTime - lead.currentTime) > 0.03) video.currentTime = lead.currentTime;
  });
  const follow = () => {
    if (lead.paused) return;
    show();
    place.value = lead.duration ? lead.currentTime / lead.duration : 0;
    requestAnimationFrame(follow);
  };
  const pause = () => { videos.forEach((video) => video.pause()); button.textContent = "Play"; };
  button.onclick = () => {
    if (!lead.paused) return pause();
    videos.forEach((video) => video.play());
    button.textContent = "Pause";
    requestAnimationFrame(follow);
  };
  lead.onended = () => { lead.currentTime = 0; videos.forEach((video) => video.play()); };
  place.oninput = () => { pause(); lead.currentTime = place.value * (lead.duration || 0); show(); };
}
"""


def write_page(out: Path, report: Mapping[str, Any]) -> Path:
    """Write ``index.html`` beside a report's folder ``videos``; returns its path.

    Args:
        out: folder of the report.
        report: made by `training.evaluation.run.evaluate`.
    """
    protocol = report["protocol"]
    parts = [
        f"<h1>{_text(protocol['name'])}</h1><p>{_text(protocol['about'])}<br>"
        f"<small>{_text(protocol['source'])}</small></p>",
        _table(report),
        _facts(report),
        "<h2>Videos</h2>",
        *(_clip(out, video) for video in report["videos"]),
    ]
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(protocol['name'])}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}<script>{_SCRIPT}</script></body></html>\n"
    )
    write_bytes(out / PAGE, text.encode())
    return out / PAGE


def _text(value: Any) -> str:
    return html.escape(str(value))


def _table(report: Mapping[str, Any]) -> str:
    """The table of our and the published figures of the protocol, and why metrics were not computed."""
    keys = report["protocol"]["metrics"]
    arrows = {"lower": "↓", "higher": "↑"}
    heads = "".join(
        f'<th scope="col">{_text(METRICS[key].title)} {arrows[METRICS[key].better]}</th>' for key in keys
    )
    rows = []
    for method, source, figures in rows_of(report):
        cells = "".join(f"<td>{_figure(figures.get(key), METRICS[key])}</td>" for key in keys)
        small = f"<br><small>{_text(source)}</small>" if source else ""
        rows.append(f'<tr><th scope="row">{_text(method)}{small}</th>{cells}</tr>')
    reasons = "".join(
        f"<li>{_text(METRICS[key].title)}: not computed: {_text(figure['not_computed'])}</li>"
        for key, figure in report["figures"].items()
        if "not_computed" in figure
    )
    meanings = "; ".join(f"{METRICS[key].title}: {METRICS[key].about}" for key in keys)
    note = (
        f"<p><small>{_text(meanings)}.</small></p><p><small>In brackets: 95 % bootstrap interval over the "
        "videos. Published figures are of the same protocol, made by their authors on their own machines."
        "</small></p>"
    )
    return (
        f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        + (f"<ul>{reasons}</ul>" if reasons else "")
        + note
    )


def _figure(figure: Mapping[str, Any] | None, metric: Metric) -> str:
    if figure is None:
        return ""
    if "not_computed" in figure:
        return "not computed"
    text = metric.shown(figure["mean"])
    if "low" in figure:
        text += f"<br><small>({metric.shown(figure['low'])} to {metric.shown(figure['high'])})</small>"
    return text


def _facts(report: Mapping[str, Any]) -> str:
    """A table of everything that the figures depend on."""
    protocol = {k: v for k, v in report["protocol"].items() if k not in ("name", "about", "source")}
    facts = {**report["method"], "data": report["data"], **protocol, **report["networks"]}
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>' for name, value in facts.items()
    )
    return f"<details><summary>What these figures depend on</summary><table>{rows}</table></details>"


def _clip(out: Path, video: Mapping[str, Any]) -> str:
    """The gallery's entry of a video: reference, driving signal, result and any ground truth."""
    name = video["name"]
    photo = f"videos/{_text(name)}_reference.png"
    cells = [f'<div><img src="{photo}" alt="reference of {_text(name)}">reference</div>']
    for what in ("driving", "result", "truth"):
        if (out / "videos" / f"{name}_{what}.mp4").is_file():
            cells.append(
                f'<div><video src="videos/{_text(name)}_{what}.mp4" muted playsinline preload="auto" '
                f'aria-label="{what} of {_text(name)}"></video>{what}</div>'
            )
    return (
        f'<figure><figcaption>{_text(name)}</figcaption><div class="clip">{"".join(cells)}</div>'
        f'<button type="button">Play</button> <input type="range" min="0" max="1" step="0.001" value="0" '
        f'aria-label="place in {_text(name)}"></figure>'
    )
