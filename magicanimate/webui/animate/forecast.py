"""What to expect of an animation before it is made: the pictures and sentences of the check card.

How long it will take is estimated from the settings files of earlier ones in the output folder.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from densepose_tools.photo_people import PersonDetector, count_people, is_plausible, thinned
from magicanimate.acceleration.options import Approximations
from magicanimate.animator import ModelDefaults
from magicanimate.cast import cast_of, colour_of, find_dancers, outlined
from magicanimate.config import AnimationRequest
from magicanimate.detail import CHOICES, count_details, times_as_long
from magicanimate.device import Device
from magicanimate.errors import InputError
from magicanimate.files import read_json_object, without_folders
from magicanimate.lora import better_settings
from magicanimate.media.motion import open_motion
from magicanimate.media.photo import load_photo
from magicanimate.palette import nearest_labels
from magicanimate.progress import duration
from magicanimate.request_checks import check_request
from magicanimate.webui.animate.form_values import OWN, check_values, request_of, several_photos
from magicanimate.webui.animate.inspection import (
    Comparison,
    InspectedClip,
    compare,
    fitted_photo,
    inspect_clip,
    is_cut_off,
)
from magicanimate.webui.gallery.results import LARGEST_SETTINGS
from magicanimate.webui.texts import label_of, said, tr
from magicanimate.windows import WindowPlan

_NEWEST = 60
"""Settings files that are read."""

_GO_BY = 5
"""Earlier animations whose median is the estimate."""

_GUIDED = 1.5
"""Cost of a step with guidance relative to one without: 35 to 23 TFLOP at 512 x 512 with networks of Stable
Diffusion's size, since the two branches share the down path."""

_NETWORKS = ("model", "device", "dtype")
"""Settings that must agree for times to be comparable."""


class Variant(NamedTuple):
    """Settings that change how fast the same networks run, see `AnimationRequest`."""

    fusion: str
    deep_reuse: int
    encoder_reuse: int

    @property
    def reuses(self) -> bool:
        """Whether some steps reuse features of others instead of computing them."""
        return self.deep_reuse > 0 or self.encoder_reuse > 0


@dataclass(frozen=True)
class Work:
    """What an animation computes.

    Attributes:
        networks: which ones on which device.
        variant: settings that change how fast the same networks run.
        pixels: of a frame.
        denoised: frames through the networks, summed over windows and steps; guided steps count `_GUIDED`.
        frames: of the result.
    """

    networks: tuple[Any, ...]
    variant: Variant
    pixels: int
    denoised: float
    frames: int

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Work:
        """From what a settings file holds, see `AnimationRequest.settings`.

        Raises:
            KeyError, TypeError, ValueError: something is missing or makes no sense.
        """
        plan, approximations = WindowPlan.of(settings), Approximations.of(settings)
        frames, steps = settings["num_frames"], settings["num_inference_steps"]
        denoised = 0.0
        for step in range(steps):
            guided = settings["guidance_scale"] > 1 and approximations.guides(step, steps)
            seen = sum(len(window) for window in plan.windows(frames, step=step))
            denoised += seen * (_GUIDED if guided else 1.0)
        return cls(
            networks=tuple(settings[name] for name in _NETWORKS),
            variant=Variant(settings["fusion"], approximations.deep_reuse, approximations.encoder_reuse),
            pixels=settings["width"] * settings["height"],
            denoised=denoised,
            frames=frames,
        )


@dataclass(frozen=True)
class Run:
    """An earlier animation, and the seconds it took by stage."""

    work: Work
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Estimate:
    """How long some work takes.

    Attributes:
        seconds: without loading the networks.
        is_rough: from animations with other settings, which may reuse less and so take longer.
    """

    seconds: float
    is_rough: bool


def estimate(work: Work, folder: Path, *, benchmark: Mapping[str, Any] | None = None) -> Estimate | None:
    """Estimate from the newest animations of the same kind and the nearest size.

    Without any, it is rough: from animations of the same networks that reuse nothing, or from the benchmark;
    ``None`` if there is neither.

    Args:
        work: what is to be done.
        folder: of results.
        benchmark: see `magicanimate.animator.Animator.benchmark`.
    """
    same = [run for run in _runs(folder) if run.work.networks == work.networks]
    alike = [run for run in same if run.work.variant == work.variant]
    whole = [run for run in same if not run.work.variant.reuses]
    if benchmark is not None and not whole:
        tried = Work.of(benchmark)
        whole = [Run(tried, benchmark["seconds"])] if tried.networks == work.networks else []
    go_by = alike or whole
    if not go_by:
        return None
    distances = [abs(math.log(run.work.pixels / work.pixels)) for run in go_by]
    nearest = [run for run, far in zip(go_by, distances, strict=True) if far <= min(distances) + 0.01]
    seconds = statistics.median(_scaled(run, work) for run in nearest[:_GO_BY])
    return Estimate(seconds, is_rough=not alike)


def seconds_after_denoising(work: Work, folder: Path, *, benchmark: Mapping[str, Any] | None = None) -> float:
    """Seconds that follow the last denoising step, by the newest animation with the same networks."""
    same = [run for run in _runs(folder) if run.work.networks == work.networks]
    if not same and benchmark is not None and Work.of(benchmark).networks == work.networks:
        same = [Run(Work.of(benchmark), benchmark["seconds"])]
    if not same:
        return 0.0
    run = same[0]
    scale = work.frames / run.work.frames * work.pixels / run.work.pixels
    return run.seconds.get("decode", 0.0) * scale


def is_known(settings: Mapping[str, Any], folder: Path) -> bool:
    """Whether animations in a folder tell how fast networks run.

    Args:
        settings: "model", "device" and "dtype" of the networks.
        folder: of results.
    """
    networks = tuple(settings[name] for name in _NETWORKS)
    return any(run.work.networks == networks and not run.work.variant.reuses for run in _runs(folder))


def _scaled(run: Run, work: Work) -> float:
    """Seconds that a run would have taken for other work."""
    pixels = work.pixels / run.work.pixels
    denoising = run.seconds["denoise"] * work.denoised / run.work.denoised
    frames = sum(run.seconds.get(stage, 0.0) for stage in ("read", "decode")) * work.frames / run.work.frames
    return (denoising + frames) * pixels


def _runs(folder: Path) -> list[Run]:
    """The newest animations of a folder, newest first."""
    try:
        with os.scandir(folder) as entries:
            found = [
                (entry.stat().st_mtime_ns, entry.path)
                for entry in entries
                if entry.name.endswith(".json") and not entry.name.startswith(".")
            ]
    except OSError:  # no folder yet
        return []
    runs = [_read(path, changed) for changed, path in sorted(found, reverse=True)[:_NEWEST]]
    return [run for run in runs if run is not None]


@lru_cache(maxsize=4 * _NEWEST)
def _read(path: str, changed: int) -> Run | None:
    """The run that a settings file records; ``None`` for any other file."""
    try:
        settings = read_json_object(Path(path), most=LARGEST_SETTINGS)
        run = Run(Work.of(settings), {name: float(spent) for name, spent in settings["seconds"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return run if run.work.frames > 0 and "denoise" in run.seconds else None


Level = Literal["good", "note", "warning", "error"]


@dataclass(frozen=True)
class Remark:
    """A sentence about an animation that is to be made.

    Attributes:
        level: how much it matters.
        text: the sentence.
        mends: settings of the form and the values that a button gives them; no button if empty.
        button: its label.
    """

    level: Level
    text: str
    mends: Mapping[str, Any] = field(default_factory=dict)
    button: str = ""


@dataclass(frozen=True)
class Member:
    """One of several dancers, and who he or she becomes.

    Attributes:
        colour: of the outline in the picture of the clip: red, green and blue.
        photo: number of the photo, from 1; 0 if none is chosen yet.
    """

    colour: tuple[int, int, int]
    photo: int


@dataclass(frozen=True)
class Forecast:
    """What the check card shows.

    Attributes:
        photo: as the networks will see it, uint8 (height, width, 3), if it can be read.
        motion: the first frame of the clip with somebody in it, likewise; with several photos the first one
            that shows all dancers apart, each with an outline.
        cast: who becomes whom, from left to right, if there are several photos.
        photos: these, small, uint8 (h, w, 3) each.
        remarks: in reading order.
        length: of the result in seconds, if the clip can be read.
        takes: how long making it takes, such as "about 11 s"; empty while that is not known.
        complete: whether everything has been checked.
        loading: whether the rest has to wait for the networks to load.
    """

    photo: np.ndarray | None = None
    motion: np.ndarray | None = None
    cast: tuple[Member, ...] = ()
    photos: tuple[np.ndarray, ...] = ()
    remarks: tuple[Remark, ...] = ()
    length: float | None = None
    takes: str = ""
    complete: bool = False
    loading: bool = False

    def and_then(self, *remarks: Remark) -> Forecast:
        return replace(self, remarks=(*self.remarks, *remarks))

    def headline(self) -> str:
        """The forecast in a line, "2.6 s of video · about 11 s · 1 warning"; or the first error."""
        errors = [remark.text for remark in self.remarks if remark.level == "error"]
        if errors:
            return errors[0]
        warnings = sum(remark.level == "warning" for remark in self.remarks)
        parts = [
            "" if self.length is None else tr("{seconds} s of video", seconds=f"{self.length:.1f}"),
            self.takes,
            tr("{count} warning|{count} warnings", count=warnings) if warnings else "",
        ]
        return " · ".join(filter(None, parts)) or tr("Looking at photo and video")


class Forecaster:
    """Checks photo, clip and settings.

    Args:
        defaults: of the model.
        output: folder of results, whose settings say how long they took.
        detector: finds people in photos; ``None`` if nothing can.
        device: the device that computes, ``None`` until it is chosen.
        benchmark: what is known before the first animation, see `Animator.benchmark`.
        memory: a sentence if memory may be short for a request with so many frames, else ``None``.
        ready: whether loading the networks and measuring their speed has been tried. Until then the person
            detector is not loaded either, which would delay them.
        conversion: a sentence on how a clip of the kind "ordinary" or "recolourable" is converted.
    """

    def __init__(
        self,
        defaults: ModelDefaults,
        output: Path,
        *,
        detector: PersonDetector | None,
        device: Callable[[], Device | None],
        benchmark: Callable[[], Mapping[str, Any] | None] = lambda: None,
        memory: Callable[[AnimationRequest, int], str | None] = lambda *_: None,
        ready: Callable[[], bool] = lambda: True,
        conversion: Callable[[str], str] = lambda kind: "It will be converted first.",
    ):
        self.defaults, self.output, self.detector = defaults, output, detector
        self.device, self.benchmark, self.memory, self.ready = device, benchmark, memory, ready
        self.conversion = conversion

    def forecasts(self, values: Mapping[str, Any], *, tried: bool = False) -> Iterator[Forecast]:
        """Yield forecasts, each with more in it than the one before; errors are remarks.

        Args:
            values: of the form, with photo and clip.
            tried: photo and clip are known to suit each other, so builds are not compared.
        """
        try:
            check_values(values, self.defaults)
            request = self.defaults.completed(request_of(values, self.output / "forecast.mp4"))
            check_request(request)
        except InputError as error:
            yield Forecast(remarks=(_error(error, values),), complete=True)
            return
        found, photo, clip = Forecast(), None, None
        try:
            photo = fitted_photo(request)
            found = replace(found, photo=photo)
        except InputError as error:
            found = found.and_then(_error(error, values))
        yield found
        try:
            clip = inspect_clip(request)
            maps = clip.fitted(width=request.width, height=request.height, fit=request.fit)
            length = edited_length(clip.frames / clip.fps, values) + request.start_from_photo / clip.fps
            found = replace(found, motion=maps[0], length=length).and_then(
                *self._on_clip(clip, request, values)
            )
        except InputError as error:
            found = found.and_then(_error(error, values))
        yield found
        if not self.ready():
            yield replace(found, takes=tr("loading the model"), loading=True)
            return
        if photo is not None and self.detector is not None:
            with suppress(InputError):  # the detector cannot be used, which `_on_people` says below
                photo = fitted_photo(request, self.detector.people)
                found = replace(found, photo=photo)
        if photo is not None:
            is_map = clip is not None and clip.report.is_densepose
            if clip is not None and request.other_photos:
                found = self._with_cast(found, request, maps, is_map=is_map)
            found = found.and_then(*self._on_people(photo, maps if is_map else [], values, tried=tried))
        if clip is not None and all(remark.level != "error" for remark in found.remarks):
            # Last, since by now the device is chosen even if the program has only just started.
            found = self._on_time(found, clip, request, values)
        yield replace(found.and_then(*self._on_checkpoint(request)), complete=True)

    def _on_clip(
        self, clip: InspectedClip, request: AnimationRequest, values: Mapping[str, Any]
    ) -> Iterator[Remark]:
        """What kind of clip it is, and the result's frames and size."""
        size = {"width": request.width, "height": request.height}
        kind = clip.report.kind
        if clip.report.is_densepose:
            if clip.plan(**size, fit=request.fit).loses_people:
                yield Remark(
                    "warning",
                    tr("The dancer leaves the cropped picture."),
                    {"fit": "pad"},
                    tr("Show everything"),
                )
        elif values.get("check_motion", True) and kind in ("ordinary", "recolourable"):
            try:
                yield Remark("note", self.conversion(kind))
            except InputError as error:
                yield _error(error, values)
        elif values.get("check_motion", True):
            yield Remark("error", f"{Path(request.motion).name} {said(clip.report.reason)}.")
        count = int(values.get("seeds") or 1)
        times = tr(", {count} times with different seeds", count=count) if count > 1 else ""
        frames = round(edited_length(clip.frames / clip.fps, values) * clip.fps) + request.start_from_photo
        numbers = {"count": frames, "size": f"{request.width} × {request.height}", "fps": f"{clip.fps:g}"}
        text = "{count} frame, {size}, {fps} fps{times}.|{count} frames, {size}, {fps} fps{times}."
        yield Remark("note", tr(text, times=times, **numbers))

    def _on_time(
        self, found: Forecast, clip: InspectedClip, request: AnimationRequest, values: Mapping[str, Any]
    ) -> Forecast:
        device = self.device()
        if device is not None and device.name == "cpu" and self.defaults.kind != "mini":
            found = found.and_then(
                Remark(
                    "warning",
                    tr("This model is very slow without a graphics card. Try one second as a draft."),
                )
            )
        if device is None:
            return found.and_then(Remark("note", tr("The time is known once the model is loaded.")))
        frames = max(1, round(found.length * clip.fps))
        settings = request.settings() | {
            "model": self.defaults.kind,
            "device": device.name,
            "dtype": device.dtype,
            "num_frames": frames,
        }
        if short := self.memory(request, frames):
            found = found.and_then(Remark("warning", said(short)))
        work = Work.of(settings)
        times = 1.0
        if request.detail != "off":
            count, times = self._refined(clip, request)
            text = (
                "Refining one face or hand takes about {times} times as long in all.|"
                "Refining {count} faces and hands takes about {times} times as long in all."
            )
            nothing = "No face or hand is small enough to be refined."
            sentence = tr(text, count=count, times=f"{times:.1f}") if count else tr(nothing)
            found = found.and_then(Remark("note", sentence))
        expected = estimate(work, self.output, benchmark=self.benchmark())
        if expected is None:
            return found.and_then(Remark("note", tr("The time is known after the first video.")))
        time_taken = duration(expected.seconds * times * int(values.get("seeds") or 1))
        converts = clip.report.kind == "ordinary"
        took = tr("about {time} after converting" if converts else "about {time}", time=time_taken)
        notes = []
        if expected.is_rough:
            first = "About {time} or less (first estimate)."
            first = first if work.variant.reuses else "About {time} (first estimate)."
            notes = [Remark("note", tr(first, time=time_taken))]
        return replace(found, takes=took).and_then(*notes)

    def _refined(self, clip: InspectedClip, request: AnimationRequest) -> tuple[int, float]:
        """How many faces and hands are refined, and by what factor that lengthens the work."""
        size = min(self.defaults.width, self.defaults.height)
        if not clip.report.is_densepose:  # people are found when the video is converted: assume one
            count = 1 if request.detail == "faces" else 3
        else:
            maps = clip.fitted(width=request.width, height=request.height, fit=request.fit)
            below = request.detail_below or math.inf
            count = count_details(maps, CHOICES[request.detail], below=below, crop_size=size)
        if people := len(request.detail_people):
            count = min(count, people * len(CHOICES[request.detail]))
        return count, times_as_long(count, size=size, width=request.width, height=request.height)

    def _on_people(
        self, photo: np.ndarray, maps: list[np.ndarray], values: Mapping[str, Any], *, tried: bool
    ) -> Iterator[Remark]:
        if self.detector is None:
            return
        try:
            person = self.detector.labels(photo)
        except InputError as error:
            yield Remark("note", tr("The photo was not searched for people: {error}", error=said(str(error))))
            return
        if not is_plausible(person):
            yield Remark(
                "warning",
                tr(
                    "No person was found in the photo. The check is easily mistaken: if somebody is clearly "
                    "there, go ahead."
                ),
            )
            return
        if several_photos(values):  # `_with_cast` says whether there are as many dancers
            return
        people = count_people(person)
        dancers = [thinned(nearest_labels(frame)[0]) for frame in maps]
        dancing = int(np.median([count_people(labels) for labels in dancers])) if dancers else people
        shown = tr("one person|{count} people", count=people)
        if dancing not in (0, people):
            text = "The photo seems to show {people} and the dance {dancers}; there should be as many."
            danced = tr("one dancer|{count} dancers", count=dancing)
            yield Remark("warning", tr(text, people=shown, dancers=danced))
            return
        yield Remark("good", tr("The photo shows {people}.", people=shown))
        if people == 1 and dancers and not tried and not values.get("fit_dancer"):
            yield from _on_builds(compare(person, dancers), cut_off=is_cut_off(dancers))

    def _with_cast(
        self, found: Forecast, request: AnimationRequest, frames: list[np.ndarray], *, is_map: bool
    ) -> Forecast:
        """Add who becomes whom, and the dancers' outlines to the picture of the clip.

        Args:
            found: so far.
            request: with several photos.
            frames: of the clip as the networks would see them, uint8 (height, width, 3) each.
            is_map: whether they are part maps; in an ordinary video a small segmenter guesses the dancers.
        """
        try:
            photos = tuple(_small_photo(photo) for photo in request.photos)
            looked = [nearest_labels(frame)[0] if is_map else self._guessed(frame) for frame in frames]
        except InputError as error:
            return found.and_then(Remark("error", said(str(error))))
        dancers = find_dancers(looked)
        count, remarks = len(dancers.parts), []
        try:
            cast = tuple(number + 1 for number in cast_of(request, count))
        except InputError as error:
            cast = tuple(number + 1 if number < len(photos) else 0 for number in range(count))
            text = said(str(error))
            guess = tr("The dancers of an ordinary video are only known once it is converted.")
            remarks = [Remark("error", text) if is_map else Remark("warning", f"{text} {guess}")]
        members = tuple(Member(colour_of(number), photo) for number, photo in enumerate(cast))
        motion = outlined(frames[dancers.frame], dancers.parts)
        return replace(found, motion=motion, cast=members, photos=photos).and_then(*remarks)

    def _guessed(self, frame: np.ndarray) -> np.ndarray:
        """A part map of an ordinary frame by the small segmenter; empty if there is no segmenter."""
        return np.zeros(frame.shape[:2], np.uint8) if self.detector is None else self.detector.labels(frame)

    def _on_checkpoint(self, request: AnimationRequest) -> Iterator[Remark]:
        own = self.defaults
        if own.size_warning(request.width, request.height):
            learned = f"{own.width} × {own.height}"
            yield Remark(
                "warning",
                tr("The model learned from pictures of {size}; this size looks worse.", size=learned),
                {"size": OWN, "width": own.width, "height": own.height},
                tr("Use {value}", value=learned),
            )
        if request.guidance_scale > max(_MOST_GUIDANCE * own.guidance_scale, 1):
            yield Remark(
                "warning",
                tr(
                    "Guidance above {most} burns the picture out with this model.",
                    most=f"{_MOST_GUIDANCE * own.guidance_scale:g}",
                ),
                {"guidance_scale": own.guidance_scale},
                tr("Use {value}", value=f"{own.guidance_scale:g}"),
            )
        for name, wanted in better_settings(request).items():
            text = "{name} was made for few steps; it works best with {settings}."
            settings = ", ".join(f"{label_of(setting)} {value}" for setting, value in wanted.items())
            sentence = tr(text, name=name, settings=settings)
            yield Remark("warning", sentence, wanted, tr("Use these settings"))


_MOST_GUIDANCE = 1.5
"""Times a model's own guidance scale; above that colours burn out."""


def _on_builds(found: Comparison, *, cut_off: bool) -> Iterator[Remark]:
    """How the dancer differs from the person in the photo, with a button that fits the one to the other."""
    if found.builds_differ:
        text, shrinks = found.sentence_on_builds(), (found.size or 1) < 1
        if cut_off and shrinks:
            cut = "The clip cuts the dancer off, so it cannot be fitted: choose a clip with the whole body."
            yield Remark("warning", f"{text} {tr(cut)}")
        else:
            yield Remark("warning", text, {"fit_dancer": True}, tr("Fit the dancer to the photo"))
    if found.unseen:
        yield Remark("warning", found.sentence_on_unseen())


def edited_length(seconds: float, values: Mapping[str, Any]) -> float:
    """Seconds of a clip of so many seconds after the edits in the form.

    Raises:
        InputError: the clip that is to be joined cannot be read.
    """
    if values.get("joined"):
        joined = open_motion(Path(values["joined"]))
        seconds += (joined.num_frames_estimate or 0) / joined.fps
    return seconds / float(values.get("speed") or 1) * (2 if values.get("boomerang") else 1)


def _small_photo(path: Path) -> np.ndarray:
    """A photo for the card, uint8 (h, w, 3), at most 96 pixels high; an ``InputError`` where it is none."""
    photo = Image.fromarray(load_photo(path))
    photo.thumbnail((96, 96))
    return np.asarray(photo)


def _error(error: InputError, values: Mapping[str, Any]) -> Remark:
    """An error as a remark, with files named without their folders."""
    return Remark("error", said(without_folders(str(error), values.get("photo"), values.get("motion"))))
