"""The animator's input and output: requests, settings, progress and results, as plain dataclasses.

Every field has the default that suits a first try; ``None`` means "as the checkpoint says".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, get_origin, get_type_hints

from magicanimate.errors import Cancelled

if TYPE_CHECKING:
    import numpy as np

Fit = Literal["auto", "crop", "pad", "stretch"]
Fusion = Literal["midup", "full"]
Driving = Literal["densepose", "keypoints", "both"]
FirstLatents = Literal["noise", "warped_photo"]
Detail = Literal["off", "faces", "faces+hands"]
Preset = Literal["exact", "balanced", "fast", "draft"]  # from slow to quick; see `acceleration.options`

SIDE_MULTIPLE = 8
PHOTO_BACKGROUND, STILL_BACKGROUND, CLIP_BACKGROUND, TRANSPARENT = "photo", "still", "clip", "transparent"
IN_PHOTO = (None, PHOTO_BACKGROUND, STILL_BACKGROUND)
"""Backgrounds before which people stay in their photo; ``None`` is the checkpoint's own of the two."""
LARGEST_REFERENCE_STRENGTH = 2
_LONGEST_STRIDE = 1_000_000
FITS: tuple[Fit, ...] = get_args(Fit)
FUSIONS: tuple[Fusion, ...] = get_args(Fusion)
DRIVINGS: tuple[Driving, ...] = get_args(Driving)
DETAILS: tuple[Detail, ...] = get_args(Detail)
PRESETS: tuple[Preset, ...] = get_args(Preset)


class Frames(Protocol):
    """Frames of one size, uint8 ``H W 3`` each; a list of indices gives ``K H W 3``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> np.ndarray: ...


@dataclass(frozen=True)
class MediaLimits:
    """Bounds on what is read, checked before pixels are decoded wherever the file says enough."""

    max_file_bytes: int = 2 * 1024**3  # largest photo or clip file
    # Largest width x height of a photo or of one frame; JPEG photos of up to four times as many are scaled
    # down while they are decoded.
    max_pixels: int = 64_000_000
    max_seconds: float = 1200.0  # longest stretch of a clip that is used
    max_frames: int = 20_000  # most frames that are animated
    # Of all frames that must be decoded, so that a small file does not unpack to days of work; the default
    # is 24 000 frames of 4K.
    max_total_pixels: int = 200_000_000_000


@dataclass(frozen=True)
class Setting:
    """Help, option, choices and bounds of a setting, stored in its field's ``metadata[SETTING]``.

    Whatever handles settings reads it: the command line, the checks of a request, batch files, the page.
    """

    # Of the command line's help: "sampling", "media" or "background"; empty for what has no option.
    group: str = ""
    help: str = ""  # for the command line
    # The option, ``--`` and the name with hyphens unless given; it turns off what is on by default.
    flag: str = ""
    metavar: str | None = None  # what stands for the value in the help
    choices: tuple[str, ...] = ()  # all values there are
    low: float = -math.inf  # bounds of a number, both included
    high: float = math.inf
    multiple: int = 1  # the number is a multiple of this
    once: bool = False  # concerns a single run and is not recorded with the result
    page: str = ""  # where the page shows it: "main", "motion", "advanced" or "expert"; empty for nowhere
    # Bounds on the page, where a slider over all that is allowed would be of no use.
    span: tuple[float, float] | None = None

    def problem(self, value: Any) -> str | None:
        """Why a value of the right type cannot be used, as the end of a sentence; ``None`` if it can."""
        if self.choices and value not in self.choices:
            return f"choose one of: {', '.join(self.choices)}"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        # Comparisons with NaN are false, so it would pass as within bounds elsewhere.
        if not math.isfinite(value):
            return "give a number"
        if not self.low <= value <= self.high:
            if self.high == math.inf:
                return f"choose at least {self.low}"
            return f"choose {self.low} to {self.high}"
        if self.multiple > 1 and value % self.multiple:
            near = multiples_beside(value, self.multiple, low=self.low, high=self.high)
            return f"it must be a multiple of {self.multiple}; try {near}"
        return None


def multiples_beside(value: float, multiple: int, *, low: float, high: float) -> str:
    """ "24 or 32": the multiples below and above a value, those within the bounds."""
    below = int(value // multiple) * multiple
    return " or ".join(str(each) for each in (below, below + multiple) if low <= each <= high)


SETTING = "setting"

# What settings were called before, in files, scripts and programs of users.
OLD_NAMES = {
    "windows": "closed_loop",
    "window_size": "context_length",
    "overlap": "context_overlap",
    "window_overlap": "context_overlap",
    "window_stride": "context_stride",
    "window_offset": "context_offset",
}
_OLD_WINDOWS = {"open": False, "ring": True}


def with_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of any version by the names that they have now; what is no old name stays as it is."""
    found = {}
    for name, value in settings.items():
        # This one had words for values, too.
        if name == "windows" and isinstance(value, str):
            value = _OLD_WINDOWS.get(value, value)
        found[OLD_NAMES.get(name, name)] = value
    return found


def _setting(default: Any, group: str = "", help: str = "", **known: Any) -> Any:
    return field(default=default, metadata={SETTING: Setting(group, help, **known)})


@dataclass(frozen=True)
class AnimationRequest:
    """One animation: a photo, a motion clip, where to write, and how; all settings are declared here.

    What a setting does is said in its help. Beside that:

    Attributes:
        photo: image file that Pillow opens.
        motion: DensePose clip (mp4, mov, webm, mkv, gif) or a folder of frames.
        output: file to write (.mp4, .webm, .gif) or, without a suffix, a folder of png frames.
        preset: fills in what is ``None`` among steps, scheduler and the four settings after ``stream``; see
            `SpeedPreset` and `Approximations` in `magicanimate.acceleration.options`.
        width, height: of the result in pixels.
        fit: "crop" keeps both aspects and puts the window on the people.
        start, end: seconds; ``end=None`` is the clip's end.
        fps: resampling comes before ``stride``; the result plays at ``fps / stride``, so that it keeps the
            clip's speed. For a folder of frames it is their rate (25 when ``None``).
        fusion: UNet blocks that read the reference (paper, supplement section 1); one that is not what the
            checkpoint was trained with is refused.
        context_length: and what follows it, see `magicanimate.windows.WindowPlan`.
        reference_strength: 1 is as published.
        scheduler: name of a diffusers scheduler class; the preset's or the checkpoint's own when ``None``.
        lora: for the UNet and the text encoder, see `magicanimate.lora`.
        stream: see `magicanimate.acceleration.streaming`; not in a closed loop. A copy that plays while it
            grows is beside the output until that is done.
        detail: see `magicanimate.detail`.
        detail_strength: SDEdit strength of the refinement.
        detail_below: every part that would be enlarged when ``None``.
        preview_every: steps between preview frames; 0 for none.
        side_by_side: written as ``<output>_side_by_side``.
        driving_video: for the background "clip"; ``None`` if the motion clip is that video itself, of which a
            part map is made first.
        who: see `densepose_tools.tracking.people_named`.
        other_photos: they are numbered from 2, ``photo`` is 1.
        cast: see `magicanimate.cast`.
        mask: see `magicanimate.mask`; made of the motion when ``None``.
        mask_feather: standard deviation.
        overwrite: an input is never replaced.
        limits: bounds on the input files.
    """

    photo: Path
    motion: Path
    output: Path
    # torch takes no other seeds.
    seed: int = _setting(
        1,
        "sampling",
        "seed of the initial noise",
        low=-(2**63),
        high=2**64 - 1,
        page="main",
        span=(0, 2**31 - 1),
    )
    preset: Preset = _setting("exact", "sampling", "trade likeness for speed", choices=PRESETS, page="main")
    num_inference_steps: int | None = _setting(
        None,
        "sampling",
        "denoising steps (default: the checkpoint's)",
        flag="--steps",
        low=1,
        high=1000,
        page="advanced",
        span=(1, 100),
    )
    guidance_scale: float | None = _setting(
        None,
        "sampling",
        "guidance scale, 1 for no guidance (default: the checkpoint's)",
        flag="--guidance",
        page="advanced",
    )
    width: int | None = _setting(
        None, low=SIDE_MULTIPLE, multiple=SIDE_MULTIPLE, page="advanced", span=(SIDE_MULTIPLE, 4096)
    )
    height: int | None = _setting(
        None, low=SIDE_MULTIPLE, multiple=SIDE_MULTIPLE, page="advanced", span=(SIDE_MULTIPLE, 4096)
    )
    fit: Fit = _setting(
        "auto",
        "media",
        "crop fills the picture, pad shows everything, auto crops if that keeps the people in sight and pads "
        "otherwise, stretch distorts, as published",
        choices=FITS,
        page="advanced",
    )
    start: float = _setting(
        0.0,
        "media",
        "start of the part of the clip to use",
        metavar="SECONDS",
        page="motion",
        span=(0, 86400),
    )
    end: float | None = _setting(
        None, "media", "end of the part of the clip to use", metavar="SECONDS", page="motion", span=(0, 86400)
    )
    stride: int = _setting(
        1, "media", "use every n-th frame", low=1, high=_LONGEST_STRIDE, page="expert", span=(1, 1000)
    )
    fps: float | None = _setting(
        None, "media", "resample the clip to this frame rate", page="expert", span=(0, 1000)
    )
    prompt: str = _setting("", "sampling", "text; needs a checkpoint with a text encoder", page="expert")
    negative_prompt: str = _setting("", "sampling", "text to avoid", page="expert")
    fusion: Fusion | None = _setting(
        None,
        "sampling",
        "blocks that attend to the photo (default: the checkpoint's)",
        choices=FUSIONS,
        page="expert",
    )
    context_length: int = _setting(
        16, "sampling", "frames per context window", low=1, page="expert", span=(1, 24)
    )
    context_overlap: int = _setting(
        4, "sampling", "frames that neighbouring context windows share", low=0, page="expert", span=(0, 23)
    )
    closed_loop: bool = _setting(
        False,
        "sampling",
        "join the end of the clip to its start, as published: for clips that repeat",
        page="expert",
    )
    context_stride: int = _setting(
        1,
        "sampling",
        "kinds of windows in a closed loop: of every frame, every 2nd, every 4th, ...",
        low=1,
        high=_LONGEST_STRIDE,
    )
    context_offset: bool = _setting(
        False, "sampling", "shift the context windows from step to step", page="expert"
    )
    controlnet_conditioning_scale: float = _setting(
        1.0,
        "sampling",
        "strength of the motion (ControlNet)",
        flag="--control-scale",
        page="advanced",
        span=(0, 2),
    )
    reference_strength: float = _setting(
        1.0,
        "sampling",
        "how strongly the picture attends to the photo, 0 (not at all) to 2",
        metavar="S",
        low=0,
        high=LARGEST_REFERENCE_STRENGTH,
        page="advanced",
    )
    scheduler: str | None = _setting(
        None,
        "sampling",
        "a diffusers scheduler, e.g. UniPCMultistepScheduler (default: the checkpoint's)",
        page="expert",
    )
    lora: tuple[str, ...] = _setting(
        (),
        "sampling",
        "apply a LoRA for Stable Diffusion 1.5 (of kohya, diffusers or ComfyUI), with weight 1 unless given; "
        "may be repeated",
        metavar="FILE[:WEIGHT]",
        page="advanced",
    )
    stream: bool = _setting(
        False,
        "sampling",
        "finish the beginning first: frames appear in OUT_so_far.mp4 while the rest is computed",
        page="advanced",
    )
    guidance_start: float | None = _setting(
        None, "sampling", "apply guidance from this share of the steps on, 0 to 1", metavar="SHARE"
    )
    guidance_stop: float | None = _setting(
        None, "sampling", "apply guidance up to this share of the steps, 0 to 1", metavar="SHARE"
    )
    deep_reuse: int | None = _setting(
        None,
        "sampling",
        "DeepCache: reuse deep features for so many timesteps (of 1000); 0 for never",
        metavar="T",
    )
    encoder_reuse: int | None = _setting(
        None, "sampling", "reuse the appearance encoder's output for so many timesteps (of 1000)", metavar="T"
    )
    detail: Detail = _setting(
        "off",
        "sampling",
        "refine small faces (and hands): denoise them again, enlarged; takes as long again for each person",
        choices=DETAILS,
        page="advanced",
    )
    detail_strength: float = _setting(
        0.45, "sampling", "how far refined parts may depart from the first result", low=0.05, high=1
    )
    detail_who: str = _setting(
        "",
        "sampling",
        "people whose faces and hands are refined, numbers from the left such as 1 or 1,3 (default: all)",
        metavar="WHO",
        page="advanced",
    )
    detail_below: int | None = _setting(
        None, "sampling", "refine only faces and hands smaller than this", metavar="PIXELS", low=1
    )
    start_from_photo: int = _setting(
        0,
        "media",
        "lead from the photo's own pose to the clip's first one in so many frames more",
        metavar="FRAMES",
        low=0,
        high=1000,
        page="advanced",
        span=(0, 50),
    )
    preview_every: int = _setting(0, low=0)
    sound: bool = _setting(False, "media", "copy the clip's sound into the result", page="advanced")
    side_by_side: bool = _setting(
        False, "media", "also write a video of photo, motion and result side by side", page="advanced"
    )
    keypoints: Path | None = _setting(
        None,
        "media",
        "drawn keypoints (DWPose style) of the same frames, for a checkpoint trained with both",
        metavar="CLIP",
    )
    background: str | None = _setting(
        None,
        "background",
        "what the people are before: their photo's background, made by the networks (photo) or kept as it is "
        "in the photo (still), that of the clip (an ordinary video, or a part map with --driving-video), a "
        "picture or video, a colour such as white or #2060a0, or nothing (.webm, .mov or png frames); "
        "default: still for the mini, photo for the full model",
        metavar="photo|still|clip|transparent|COLOUR|FILE",
    )
    driving_video: Path | None = _setting(
        None,
        "background",
        "the ordinary video that the motion clip was made of; its dancers are replaced",
        metavar="VIDEO",
    )
    who: str = _setting(
        "largest",
        "background",
        "whom to replace where the clip is an ordinary video: largest, all, places in the order of size "
        "such as 2 or 1,3, or at=X,Y@SECOND, who is at that pixel then",
        metavar="WHO",
    )
    other_photos: tuple[Path, ...] = _setting(
        (),
        "background",
        "photo of another person, for a dance of several; repeat it for each",
        flag="--other-photo",
        metavar="PHOTO",
    )
    cast: str = _setting(
        "",
        "background",
        "which photo each dancer becomes, from left to right, 1 being PHOTO and 2 the first --other-photo, "
        "such as 2,1 (default: the photos in their order)",
        metavar="NUMBERS",
        page="advanced",
    )
    mask: Path | None = _setting(
        None,
        "background",
        "a mask of --save-mask, perhaps painted on: white is cut out, black is not, and in the grey between "
        "hair and clothes are looked for",
        metavar="FILE",
    )
    mask_grow: int = _setting(
        0,
        "background",
        "cut the people out wider, or narrower below 0",
        metavar="PIXELS",
        low=-64,
        high=64,
        page="advanced",
        span=(-16, 16),
    )
    mask_feather: float = _setting(
        0.0,
        "background",
        "soften the edge of the cut",
        metavar="PIXELS",
        low=0,
        high=64,
        page="advanced",
        span=(0, 16),
    )
    credentials: bool = _setting(
        True,
        "media",
        "do not sign the result with content credentials, which say that it is AI-generated",
        flag="--no-credentials",
        page="advanced",
    )
    check_motion: bool = _setting(
        True,
        "media",
        "accept a clip that does not look like a DensePose map",
        flag="--no-check",
        page="expert",
    )
    overwrite: bool = _setting(
        False,
        "media",
        "replace files of these names that this program did not make (its own results always are)",
        once=True,
    )
    # Without an entry in the table: they protect this machine, and are not how a result was made.
    limits: MediaLimits = field(default_factory=MediaLimits)

    @property
    def detail_people(self) -> tuple[int, ...]:
        """The numbers of `detail_who`.

        Raises:
            ValueError: it has no such form.
        """
        return _numbers(self.detail_who)

    @property
    def photos(self) -> tuple[Path, ...]:
        """`photo` and `other_photos`."""
        return (self.photo, *self.other_photos)

    @property
    def cast_numbers(self) -> tuple[int, ...]:
        """The numbers of `cast`.

        Raises:
            ValueError: it has no such form.
        """
        return _numbers(self.cast)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the result in pixels.

        Raises:
            ValueError: they are not known yet; `magicanimate.animator.ModelDefaults.completed` fills them in.
        """
        if self.width is None or self.height is None:
            raise ValueError("the request has no size yet")
        return self.width, self.height

    def settings(self) -> dict[str, Any]:
        """The settings as JSON-ready values, paths as strings, without those that concern one run only."""
        table = self.table()
        return {
            name: _json_ready(value)
            for name, value in asdict(self).items()
            if name not in table or not table[name].once
        }

    @classmethod
    def table(cls) -> dict[str, Setting]:
        """What is known of each setting, by name; files and limits have no entry."""
        return {f.name: f.metadata[SETTING] for f in fields(cls) if SETTING in f.metadata}

    @classmethod
    def types(cls) -> dict[str, type]:
        """Type of each setting of `table`, or of its items: bool, int, float, str or Path."""
        hints = get_type_hints(cls)
        return {name: _plain_type(hints[name]) for name in cls.table()}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the fields, in order."""
        return tuple(f.name for f in fields(cls))


def _numbers(text: str) -> tuple[int, ...]:
    """ "1,3" -> (1, 3); a ``ValueError`` where it is not of this form or below 1."""
    numbers = tuple(int(part) for part in text.split(",") if text.strip())
    if any(number < 1 for number in numbers):
        raise ValueError("it is counted from 1")
    return numbers


def _json_ready(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_json_ready, value))
    return str(value) if isinstance(value, Path) else value


def _plain_type(hint: Any) -> type:
    """``int | None`` -> int; ``Literal["a", "b"]``, also with ``| None``, -> str."""
    if get_origin(hint) is Literal:
        return type(get_args(hint)[0])
    # Annotations are the one place where types are written.
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return _plain_type(kinds[0]) if kinds else hint


@dataclass(frozen=True)
class Progress:
    """How far a running animation is.

    Attributes:
        stage: "load", "read", "encode", "denoise", "detail", "decode" or "write".
        step: units done, 0..total.
        total: units of this stage (windows of all steps while denoising, frames elsewhere).
        seconds_left: estimate for the whole job, ``None`` until there is something to go by.
        preview: cheap preview frames, uint8 (F, h, w, 3), or ``None``.
        preview_fps: frames a second, if the preview is a finished stretch of a streamed video.
        denoising_step: while denoising, which step runs, from 1, and how many there are.
        note: sentences for the user that stand until the end, for instance that memory ran out; one a line.
    """

    stage: str
    step: int
    total: int
    seconds_left: float | None = None
    preview: Any = field(default=None, compare=False)  # arrays have no one answer to `==`
    denoising_step: tuple[int, int] | None = None
    note: str = ""
    preview_fps: float | None = None


@dataclass(frozen=True)
class AnimationResult:
    """What was written."""

    output: Path  # the video file or folder of frames
    settings_file: Path  # JSON with every setting, beside the output
    side_by_side: Path | None  # the video of photo, motion and result, if requested
    num_frames: int  # of the result, as are the next three
    fps: float
    width: int
    height: int
    seconds: dict[str, float]  # time spent, by stage
    settings: dict[str, Any]  # what the JSON holds
    unsigned: str = ""  # why the result has no content credentials though it should, one sentence; else empty


OnProgress = Callable[[Progress], None]
ShouldStop = Callable[[], bool]


def raise_if_stopped(should_stop: ShouldStop | None, where: str) -> None:
    """Raise `Cancelled` when ``should_stop()`` is true; ``where`` ends "stopped ..."."""
    if should_stop is not None and should_stop():
        raise Cancelled(f"stopped {where}")
