"""What is to be expected of an animation before it is made: the check card's pictures and sentences."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from densepose_tools.photo_people import PhotoBodies, count_people, is_plausible, thinned
from magicanimate.animator import ModelDefaults
from magicanimate.config import AnimationRequest
from magicanimate.device import Device
from magicanimate.errors import InputError
from magicanimate.request_checks import check_request
from magicanimate.webui.animate.bodies import compare
from magicanimate.webui.animate.clip_look import ClipLook, look_at_clip, look_at_photo
from magicanimate.webui.animate.form_values import request_of
from magicanimate.webui.animate.pace import Work, estimate
from magicanimate.wording import REMEDIES, duration, without_folders

Level = Literal["good", "note", "warning", "error"]

_PATIENCE, _LOOK_AGAIN = 30.0, 0.2
"""Seconds: so long it is waited for networks that are being loaded, and how often it is looked."""


@dataclass(frozen=True)
class Remark:
    """A sentence about an animation that is to be made."""

    level: Level
    text: str


@dataclass(frozen=True)
class Forecast:
    """What the check card shows.

    Attributes:
        photo: as the networks will see it, uint8 (height, width, 3), if it can be read.
        motion: the first frame of the clip with somebody in it, likewise.
        remarks: in the order in which they are read.
        complete: whether everything was looked at.
    """

    photo: np.ndarray | None = None
    motion: np.ndarray | None = None
    remarks: tuple[Remark, ...] = ()
    complete: bool = False

    def and_then(self, *remarks: Remark) -> Forecast:
        return replace(self, remarks=(*self.remarks, *remarks))


class Forecaster:
    """Looks at photo, clip and settings.

    Args:
        defaults: of the checkpoint.
        output: folder of results, which know how long they took.
        bodies: finds people in photos; ``None`` if nothing can.
        device: the device that computes, ``None`` as long as that is not decided.
        time_trial: figures of a blank clip, to go by before the first animation; see `Animator.time_trial`.
        memory: what a request with so many frames takes, in a sentence, ``None`` while that is not known.
        ready: whether the networks have been loaded once and their pace is known. Before that nothing is
            loaded here: networks are read one after the other, and the animator's come first.
    """

    def __init__(
        self,
        defaults: ModelDefaults,
        output: Path,
        *,
        bodies: PhotoBodies | None,
        device: Callable[[], Device | None],
        time_trial: Callable[[], Mapping[str, Any] | None] = lambda: None,
        memory: Callable[[AnimationRequest, int], str | None] = lambda *_: None,
        ready: Callable[[], bool] = lambda: True,
    ):
        self.defaults, self.output, self.bodies = defaults, output, bodies
        self.device, self.time_trial, self.memory, self.ready = device, time_trial, memory, ready

    def looks(self, values: Mapping[str, Any]) -> Iterator[Forecast]:
        """Yield what is known, more and more of it; errors are remarks.

        Args:
            values: of the form, with photo and clip.
        """
        try:
            request = self.defaults.completed(request_of(values, self.output / "forecast.mp4"))
            check_request(request)
        except InputError as error:
            yield Forecast(remarks=(_sorry(error, values),), complete=True)
            return
        found, photo, clip = Forecast(), None, None
        try:
            photo = look_at_photo(request)
            found = replace(found, photo=photo)
        except InputError as error:
            found = found.and_then(_sorry(error, values))
        yield found
        try:
            clip = look_at_clip(request)
            maps = clip.fitted(width=request.width, height=request.height, fit=request.fit)
            found = replace(found, motion=maps[0]).and_then(*_on_clip(clip, request, values))
        except InputError as error:
            found = found.and_then(_sorry(error, values))
        yield found
        waited = 0.0
        while not self.ready() and waited < _PATIENCE:
            time.sleep(_LOOK_AGAIN)
            waited += _LOOK_AGAIN
        if photo is not None and self.bodies is not None and self.ready():
            with suppress(InputError):  # of the network that looks; what is wrong with it is said below
                photo = look_at_photo(request, self.bodies.people)
                found = replace(found, photo=photo)
        animates = clip is not None and clip.report.is_densepose
        if photo is not None:
            found = found.and_then(*self._on_people(photo, maps if animates else []))
        if animates:  # last, as by now the device is chosen, also when the program just began
            found = found.and_then(*self._on_time(clip, request, values))
            memory = self.memory(request, clip.frames)
            found = found.and_then(*([Remark("note", memory)] if memory else []))
        yield replace(found.and_then(*self._on_checkpoint(request)), complete=True)

    def _on_time(
        self, clip: ClipLook, request: AnimationRequest, values: Mapping[str, Any]
    ) -> Iterator[Remark]:
        device = self.device()
        if device is not None and device.name == "cpu" and self.defaults.kind != "mini":
            yield Remark(
                "warning",
                "A checkpoint of this size is very slow on a CPU; try a short stretch and a few steps first.",
            )
        if device is None:
            yield Remark("note", "How long it takes is told when the networks are loaded.")
            return
        settings = request.settings() | {
            "model": self.defaults.kind,
            "device": device.name,
            "dtype": device.dtype,
            "num_frames": clip.frames,
        }
        work = Work.of(settings)
        expected = estimate(work, self.output, time_trial=self.time_trial())
        if expected is None:
            text = f"How long it takes on {device.name} is known after the first animation."
            yield Remark("note", text)
            return
        took = duration(expected.seconds * int(values.get("seeds") or 1))
        if not expected.is_rough:
            text = f"About {took} on {device.name}, by the pace of earlier animations here."
        elif work.way.leaves_out:
            text = f"Roughly {took} on {device.name} or less; the first time shows what these settings save."
        else:
            text = f"Roughly {took} on {device.name}; the first animation with such settings tells it better."
        yield Remark("note", text)

    def _on_people(self, photo: np.ndarray, maps: list[np.ndarray]) -> Iterator[Remark]:
        if self.bodies is None:
            yield Remark("note", "Nothing here can tell whether the photo shows a person.")
            return
        if not self.ready():
            yield Remark("note", "Whether the photo shows a person is told when the networks are loaded.")
            return
        from magicanimate.palette import nearest_labels

        try:
            person = self.bodies.labels(photo)
        except InputError as error:
            yield Remark("note", f"The photo was not searched for people: {error}")
            return
        if not is_plausible(person):
            yield Remark(
                "warning",
                "No person was recognised in this part of the photo. The small network that looks is easily "
                "mistaken; if one is clearly there, go ahead.",
            )
            return
        people = count_people(person)
        dancers = [thinned(nearest_labels(frame)[0]) for frame in maps]
        dancing = int(np.median([count_people(labels) for labels in dancers])) if dancers else people
        shown = "one person" if people == 1 else f"{people} people"
        if dancing not in (0, people):
            dance = "one dancer" if dancing == 1 else f"{dancing} dancers"
            text = f"The photo probably shows {shown} and the clip {dance}; they should be as many."
            yield Remark("warning", text)
            return
        yield Remark("good", f"The photo probably shows {shown}.")
        if people == 1 and dancers:
            for text in compare(person, dancers).sentences():
                yield Remark("warning", text)

    def _on_checkpoint(self, request: AnimationRequest) -> Iterator[Remark]:
        own = self.defaults
        warning = own.size_warning(request.width, request.height)
        if warning:
            yield Remark("warning", warning)
        if own.kind == "mini":
            yield Remark(
                "note",
                "The mini checkpoint keeps colours and poses; faces, hands and fine patterns are beyond it.",
            )


def _on_clip(clip: ClipLook, request: AnimationRequest, values: Mapping[str, Any]) -> Iterator[Remark]:
    """What the clip is, and how long the result will be."""
    name = Path(request.motion).name
    size = {"width": request.width, "height": request.height}
    if clip.report.is_densepose:
        yield Remark("good", f"{name} is a DensePose clip.")
        if clip.plan(**size, fit=request.fit).loses_people:
            yield Remark(
                "warning", f"The crop cannot hold the people in {name} all the time; choose pad or auto."
            )
    else:
        yield Remark("error", f"{name} {clip.report.advice(REMEDIES.get(clip.report.kind, ''))}.")
    count = int(values.get("seeds") or 1)
    times = f", {count} times with different seeds" if count > 1 else ""
    yield Remark(
        "note",
        f"{clip.frames} frames of {request.width} x {request.height} pixels, "
        f"{clip.frames / clip.fps:.1f} s at {clip.fps:g} fps{times}.",
    )


def _sorry(error: InputError, values: Mapping[str, Any]) -> Remark:
    """An error as a remark, the files named as the visitor knows them."""
    return Remark("error", without_folders(str(error), values.get("photo"), values.get("motion")))
