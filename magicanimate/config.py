"""What goes into the animator and what comes out: plain dataclasses, no heavy imports.

Every field has the default that suits a first try; ``None`` means "as the checkpoint says".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

Fit = Literal["auto", "crop", "pad", "stretch"]
Fusion = Literal["midup", "full"]
WindowMode = Literal["open", "ring"]
Preset = Literal["exact", "balanced", "fast", "draft"]

FITS: tuple[Fit, ...] = ("auto", "crop", "pad", "stretch")
FUSIONS: tuple[Fusion, ...] = ("midup", "full")
WINDOW_MODES: tuple[WindowMode, ...] = ("open", "ring")
PRESETS: tuple[Preset, ...] = ("exact", "balanced", "fast", "draft")  # from slow to quick; see `presets`


@dataclass(frozen=True)
class MediaLimits:
    """Bounds on what is read, checked before pixels are decoded wherever the file says enough.

    Attributes:
        max_file_bytes: largest photo or clip file.
        max_pixels: largest width x height of a photo or of one frame; JPEG photos of up to four times as many
            are scaled down while they are decoded.
        max_seconds: longest stretch of a clip that is used.
        max_frames: most frames that are animated.
        max_total_pixels: of all frames that must be decoded, so that a small file does not unpack to days of
            work; the default is 24 000 frames of 4K.
    """

    max_file_bytes: int = 2 * 1024**3
    max_pixels: int = 64_000_000
    max_seconds: float = 1200.0
    max_frames: int = 20_000
    max_total_pixels: int = 200_000_000_000


@dataclass(frozen=True)
class AnimationRequest:
    """One animation: a photo, a motion clip, where to write, and how.

    Attributes:
        photo: image file that Pillow opens.
        motion: DensePose clip (mp4, mov, webm, mkv, gif) or a folder of frames.
        output: file to write (.mp4, .webm, .gif) or, without a suffix, a folder of png frames.
        seed: of the initial noise, drawn on the CPU; the same on every device.
        preset: how much likeness to give up for speed, see `magicanimate.presets`; it fills in what is
            ``None`` among steps, scheduler and the four settings after ``scheduler``.
        num_inference_steps: denoising steps, 1..1000.
        guidance_scale: strength of the reference; 1 or less runs one branch only.
        width, height: of the result in pixels, multiples of 8.
        fit: "crop" keeps both aspects and puts the window on the people, "pad" shows all of both, "auto"
            crops where the window holds the people and pads where it does not, "stretch" is as published.
        start, end: stretch of the clip in seconds; ``end=None`` is the clip's end.
        stride: use every n-th frame.
        fps: resample the clip to this rate before ``stride``; the result plays at ``fps / stride``, so that
            it keeps the clip's speed. For a folder of frames it is their rate (25 when ``None``).
        prompt, negative_prompt: optional text; needs a checkpoint with a text encoder.
        fusion: UNet blocks that read the reference (paper, supplement section 1).
        windows: "open" slides the last window back, "ring" joins end and start as published.
        window_size, window_overlap, window_stride: of the temporal windows, in frames.
        window_offset: shift the windows from step to step so that seams do not add up ("open").
        controlnet_conditioning_scale: weight of the pose residuals.
        reference_strength: of the photo in the attention, 0..2; 1 is as published, 0 leaves it out.
        scheduler: name of a diffusers scheduler class; the preset's or the checkpoint's own when ``None``.
        guidance_start, guidance_stop, deep_reuse, encoder_reuse: see `magicanimate.presets.Shortcuts`.
        preview_every: steps between preview frames; 0 for none.
        sound: copy the clip's sound into the result.
        side_by_side: also write ``<output>_side_by_side`` with photo, motion and result.
        keypoints: clip of the same frames' keypoints, drawn in DWPose's style, for a checkpoint that was
            trained with both.
        credentials: sign the result with content credentials that say what it is and what made it.
        check_motion: refuse a clip whose colours are not those of a DensePose map.
        overwrite: replace files at the output that this program did not make; an input never is.
        limits: bounds on the input files.
    """

    photo: Path
    motion: Path
    output: Path
    seed: int = 1
    preset: Preset = "exact"
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    width: int | None = None
    height: int | None = None
    fit: Fit = "auto"
    start: float = 0.0
    end: float | None = None
    stride: int = 1
    fps: float | None = None
    prompt: str = ""
    negative_prompt: str = ""
    fusion: Fusion = "midup"
    windows: WindowMode = "open"
    window_size: int = 16
    window_overlap: int = 4
    window_stride: int = 1
    window_offset: bool = False
    controlnet_conditioning_scale: float = 1.0
    reference_strength: float = 1.0
    scheduler: str | None = None
    guidance_start: float | None = None
    guidance_stop: float | None = None
    deep_reuse: int | None = None
    encoder_reuse: int | None = None
    preview_every: int = 0
    sound: bool = False
    side_by_side: bool = False
    keypoints: Path | None = None
    credentials: bool = True
    check_motion: bool = True
    overwrite: bool = False
    limits: MediaLimits = field(default_factory=MediaLimits)

    def settings(self) -> dict[str, Any]:
        """The fields as JSON-ready values, paths as strings; ``overwrite`` is of this one time only."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
            if name != "overwrite"
        }

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the fields, in order."""
        return tuple(f.name for f in fields(cls))


@dataclass(frozen=True)
class Progress:
    """A moment of a running animation.

    Attributes:
        stage: "load", "read", "encode", "denoise", "decode" or "write".
        step: units done, 0..total.
        total: units of this stage (windows of all steps while denoising, frames elsewhere).
        seconds_left: estimate for the whole job, ``None`` until there is something to go by.
        preview: cheap preview frames, uint8 (F, h, w, 3), or ``None``.
        denoising_step: while denoising, which step runs, from 1, and how many there are.
        note: a sentence for the user that stands until the end, for instance that memory ran out.
    """

    stage: str
    step: int
    total: int
    seconds_left: float | None = None
    preview: Any = field(default=None, compare=False)  # arrays have no one answer to `==`
    denoising_step: tuple[int, int] | None = None
    note: str = ""


@dataclass(frozen=True)
class AnimationResult:
    """What was written.

    Attributes:
        output: the video file or folder of frames.
        settings_file: JSON with every setting, beside the output.
        side_by_side: the strip, when asked for.
        num_frames, fps, width, height: of the result.
        seconds: time spent, by stage.
        settings: what the JSON holds.
        unsigned: why the result has no content credentials though it should, one sentence; else empty.
    """

    output: Path
    settings_file: Path
    side_by_side: Path | None
    num_frames: int
    fps: float
    width: int
    height: int
    seconds: dict[str, float]
    settings: dict[str, Any]
    unsigned: str = ""


OnProgress = Callable[[Progress], None]
ShouldStop = Callable[[], bool]
