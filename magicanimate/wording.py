"""Words that the command line and the app share: stages, time left, names of results."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

STAGES = {
    "wait": "waiting for other work",
    "load": "loading the network",
    "download": "downloading the weights",
    "convert": "converting the weights",
    "edit": "editing the video",
    "read": "reading photo and clip",
    "encode": "encoding the photo",
    "denoise": "denoising",
    "decode": "writing frames",
    "detect": "finding people",
    "write": "writing frames",
}
COMPILE = "compile parts of the networks with torch.compile; meant for CUDA, slower on a CPU"
MAKE_CLIP, CORRECT_COLOURS = "Make a DensePose clip", "Correct the colours"
REMEDIES = {"ordinary": f"“{MAKE_CLIP}”", "recolourable": f"“{CORRECT_COLOURS}”"}
"""Buttons of the page that make a clip that animates, by what the clip is."""

STAGES_IN_BYTES = ("download", "convert")


def time_left(seconds: float | None) -> str:
    """``75.2`` -> "1:15 left"; empty while unknown."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    return f"{clock} left"


def duration(seconds: float) -> str:
    """A rough time for people: "8 s", "3 min", "2.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def timestamp() -> str:
    """Now, as it stands in names of results: "20260131-174500"."""
    return f"{datetime.now():%Y%m%d-%H%M%S}"


def pair_name(photo: Path, motion: Path) -> str:
    """What names of results say of photo and clip."""
    return f"{photo.stem[:40]}_{motion.stem[:40]}"


def new_output(folder: Path, photo: Path, motion: Path, *, suffix: str = ".mp4") -> Path:
    """A name in ``folder`` made of date, photo and clip that nothing has yet."""
    base = f"{timestamp()}_{pair_name(photo, motion)}"
    path, number = folder / f"{base}{suffix}", 1
    while path.exists() or path.with_suffix(".json").exists():
        number += 1
        path = folder / f"{base}_{number}{suffix}"
    return path


def file_name(path: Any) -> str:
    """Last part of a path of any system, which may be text; empty for what is no path."""
    return re.split(r"[/\\]", str(path))[-1] if isinstance(path, (str, Path)) else ""


def without_folders(text: str, *files: Path | str | None) -> str:
    """``text`` with uploads named as the visitor knows them, not by where the program keeps them."""
    for file in filter(None, files):
        text = text.replace(str(file), Path(file).name)
    return text
