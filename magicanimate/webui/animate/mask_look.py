"""The mask of an animation that is to be made, as the page shows it, and strokes of a brush on it."""

from __future__ import annotations

import secrets
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from magicanimate.errors import InputError
from magicanimate.mask import Stroke, painted, shown, write_masks
from magicanimate.media.motion import open_motion
from magicanimate.webui.gallery.thumbnails import encode_webp


@dataclass(frozen=True)
class MaskFiles:
    """What is looked at; the files go with the program.

    Attributes:
        scene: video of what is under the mask: the dance video, or its part map.
        mask: as it was drawn or given, without strokes.
        count: frames of both.
        photo: the photo's people before the new background, as the networks see them, a WebP.
    """

    scene: Path
    mask: Path
    count: int
    photo: bytes


def mask_files(scene: Path, mask: Path, preview: Path) -> MaskFiles:
    """What was written of a mask; the photo is at the left of the preview."""
    from magicanimate.media.photo import load_photo

    clip = open_motion(mask)
    photo = encode_webp(load_photo(preview)[None, :, : clip.width], side=128)
    return MaskFiles(scene, mask, clip.num_frames_estimate or 0, photo)


def picture(scene: Path, mask: Path, number: int, *, grow: int, feather: float) -> bytes:
    """A frame, from 0, with its mask over it as a WebP.

    Raises:
        InputError: one of the files is gone or shorter.
    """
    below, level = _frame(scene, number), _frame(mask, number)
    if below.shape != level.shape:
        raise InputError("The mask is of another size; show it again.")
    return encode_webp(shown(below, level[..., 1], grow, feather)[None])


def paint(mask: Path, stroke: Stroke) -> Path:
    """A copy of a mask, in a new folder beside it, with a stroke on the frames of its range.

    Raises:
        InputError: it cannot be read or written.
    """
    clip = open_motion(mask)
    new = mask.parent.parent / secrets.token_hex(8) / mask.name
    new.parent.mkdir()
    with closing(clip.frames()) as frames:
        levels = painted((frame[..., 1] for frame in frames), stroke)
        write_masks(new, levels, size=(clip.width, clip.height), rate=clip.rate)
    return new


def _frame(video: Path, number: int) -> np.ndarray:
    clip = open_motion(video)
    with closing(open_motion(video, start=number / clip.fps).frames()) as frames:
        for frame in frames:
            return frame
    raise InputError(f"{video.name} has no frame {number + 1}; show the mask again.")
