"""Results as the program writes them, without running a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from magicanimate.config import AnimationRequest
from magicanimate.media.writer import VideoWriter
from magicanimate.request_checks import side_by_side_path, write_settings
from magicanimate.results import side_by_side
from magicanimate.webui.gallery.results import StoredResult, result_of


def ground(frame: int) -> int:
    """Brightness of what is behind the bar, which tells the frames apart."""
    return 40 + 10 * frame


def write_result(
    output: Path,
    *,
    frames: int = 8,
    size: int = 32,
    strip: bool = False,
    sound_from: Path | None = None,
    **settings: Any,
) -> StoredResult:
    """A bar that moves to the right over a ground whose brightness counts the frames."""
    request = AnimationRequest(Path("in/me.png"), Path("in/dance.mp4"), output, width=size, height=size)
    settings = {**request.settings(), "ai_generated": True, "model": "mini", **settings}
    settings |= {"num_frames": frames, "output_fps": 25.0}
    targets = {output: size, side_by_side_path(output): 3 * size + 8} if strip else {output: size}
    for target, width in targets.items():
        with VideoWriter(
            target, width=width, height=size, fps=25, metadata=settings, sound_from=sound_from
        ) as writer:
            for i in range(frames):
                frame = np.full((size, size, 3), ground(i), np.uint8)
                frame[:, 2 * i : 2 * i + 6] = (200, 60, 60)
                green, blue = np.zeros_like(frame), np.zeros_like(frame)
                green[..., 1], blue[..., 2] = 200, 200
                writer.write(frame if target == output else side_by_side(green, blue, frame))
    write_settings(output, settings)
    return result_of(output)
