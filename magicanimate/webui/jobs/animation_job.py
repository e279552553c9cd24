"""Animations as jobs: requests from JSON and back, the checkpoint that each is for, and the runner."""

from __future__ import annotations

import glob
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from magicanimate.animator import Animator
from magicanimate.checkpoints.disk import describe_models
from magicanimate.config import (
    TRANSPARENT,
    AnimationRequest,
    AnimationResult,
    MediaLimits,
    OnProgress,
    Progress,
    ShouldStop,
    with_current_names,
)
from magicanimate.errors import Cancelled, InputError
from magicanimate.files import new_output, pair_name, without_folders, write_bytes
from magicanimate.lora import parse
from magicanimate.progress import duration
from magicanimate.webui.animate.form_values import FILES, PHOTOS
from magicanimate.webui.gallery.results import encode_webp
from magicanimate.webui.jobs.queue import JobResult
from magicanimate.webui.texts import tr


def checkpoint_name(model: str | Path) -> str:
    """A model as jobs record it: "mini", "full", or the absolute path of its folder.

    A path to the folder of "mini" or "full" counts as that name, so that the same weights are never loaded
    twice.
    """
    named = {model.name: model.path for model in describe_models()}
    if model in named:
        return str(model)
    folder = Path(model).expanduser().resolve()
    same = (name for name, path in named.items() if path is not None and path.resolve() == folder)
    return next(same, str(folder))


class Animators:
    """Keeps the networks of one model in memory at a time.

    Args:
        make: makes the animator of "mini", "full" or a pipeline folder.
        own: the model that the program was started with.

    Attributes:
        current: the animator of the model in use.
    """

    def __init__(self, make: Callable[[str | Path], Animator], own: str | Path):
        self._make, self._own = make, own
        self.current = make(own)
        self._other: Animator | None = None

    @property
    def trial(self) -> Path | None:
        """The folder in use in place of the program's own model; ``None`` for models that have a name."""
        name = checkpoint_name(self.current.model)
        named = {model.name for model in describe_models()}
        return None if name in (checkpoint_name(self._own), *named) else Path(name)

    def use(self, model: str | Path | None) -> None:
        """Use another model from now on; a job that runs keeps its animator.

        Args:
            model: "mini", "full" or a pipeline folder; ``None`` for the program's own model.

        Raises:
            InputError: the folder holds no model; nothing has changed then.
        """
        own = model is None
        model = self._own if own else model
        name = checkpoint_name(model)
        if name == checkpoint_name(self.current.model):
            return
        before = self.current
        if self._other is not None and checkpoint_name(self._other.model) == name:
            self.current = self._other
        else:
            animator = self._make(model)
            if not own:
                _ = animator.defaults  # reads the folder, and raises if it holds no model
            self.current = animator
        self._other = before  # stays loaded until the next job, so that going back at once costs nothing

    def of(self, checkpoint: str | None) -> Animator:
        """The animator for a job, to be called with the device held: it frees the networks of other models.

        Args:
            checkpoint: from `checkpoint_name`; the model in use when ``None``.
        """
        current = self.current
        if checkpoint is None or checkpoint == checkpoint_name(current.model):
            self._other = None
            return current
        current.unload()
        if self._other is None or checkpoint_name(self._other.model) != checkpoint:
            self._other = None  # first, so that two models are never in memory together
            self._other = self._make(checkpoint)
        return self._other

    def unload(self) -> None:
        """Free all networks; they are loaded again when they are needed."""
        self._other = None
        self.current.unload()


class IdleTimer:
    """Calls ``action``, in a thread of its own, after so many seconds without work; never for 0."""

    def __init__(self, seconds: float, action: Callable[[], None]):
        self._seconds, self._action = seconds, action
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def idle(self) -> None:
        """The work is over: count from now on."""
        with self._lock:
            self._cancel()
            if self._seconds > 0:
                self._timer = threading.Timer(self._seconds, self._action)
                self._timer.daemon = True
                self._timer.start()

    def busy(self) -> None:
        """Work begins: stop counting until the next `idle`."""
        with self._lock:
            self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


ANIMATE = "animate"
"""The kind of these jobs."""

CHECKPOINT, STEPS, JOINED = "checkpoint", "motion_steps", "joined"
"""What a job's request holds beside the settings of an `AnimationRequest`: the model that it is for, and what
happens to the clip before it animates, see `densepose_tools.motion_steps.take_steps`."""

Animate = Callable[[AnimationRequest, str | None, OnProgress, ShouldStop], AnimationResult]
"""`Animator.animate` with the model that the job names, if it names one."""

Prepare = Callable[
    [AnimationRequest, Mapping[str, Any], Path | None, OnProgress, ShouldStop], AnimationRequest
]
"""`take_steps` with the folder and the engine of the program."""


def job_request(
    request: AnimationRequest,
    *,
    checkpoint: str | None,
    steps: Mapping[str, Any] | None = None,
    joined: Path | None = None,
) -> dict[str, Any]:
    """A request as JSON, all but the output, which is named when the job begins.

    Args:
        request: what is to be made.
        checkpoint: from `checkpoint_name`; ``None`` for whichever model is in use.
        steps, joined: what happens to the clip before it animates; see `take_steps`.
    """
    kept = {name: value for name, value in request.settings().items() if name != "output"}
    kept |= {CHECKPOINT: checkpoint}
    kept |= {STEPS: dict(steps)} if steps else {}
    return kept | ({JOINED: str(joined)} if joined else {})


def job_title(request: AnimationRequest) -> str:
    """What people call the job: "me · dance · seed 7", by the names of the files."""
    return f"{Path(request.photo).stem} · {Path(request.motion).stem} · seed {request.seed}"


def animation_request(job: Mapping[str, Any], output: Path) -> AnimationRequest:
    """The request that `job_request` wrote; settings that this version does not know are left out.

    Raises:
        InputError: photo or motion is missing.
    """
    job = with_current_names(job)
    given = {name: value for name, value in job.items() if name in AnimationRequest.names()}
    if not all(given.get(name) for name in ("photo", "motion")):
        raise InputError("The job names no photo or no motion clip; make a new one.")
    limits = {f.name for f in fields(MediaLimits)}
    known = {name: value for name, value in (given.get("limits") or {}).items() if name in limits}
    paths: dict[str, Any] = {name: Path(given[name]) for name in FILES if given.get(name)}
    paths[PHOTOS] = tuple(map(Path, given.get(PHOTOS) or ()))
    given["lora"] = tuple(given.get("lora") or ())
    return AnimationRequest(**{**given, **paths, "output": output, "limits": MediaLimits(**known)})


class AnimationRunner:
    """Does the work of animation jobs.

    Args:
        animate: see `Animate`.
        output: folder of the results, which are named by date, photo and clip.
        prepare: see `Prepare`.
    """

    def __init__(self, animate: Animate, output: Path, prepare: Prepare):
        self._animate, self._output, self._prepare = animate, output, prepare

    def __call__(self, job: Mapping[str, Any], on_progress: OnProgress, should_stop: ShouldStop) -> JobResult:
        """Animate; the job's files are the video, its settings and, if asked for, the side-by-side video.

        Raises:
            InputError: as `Animator.animate`, with files named without their folders.
            Cancelled: it was stopped; the last preview is kept, if there was one.
        """
        request = animation_request(job, self._output)
        self._sweep(request)
        suffix = ".webm" if request.background == TRANSPARENT else ".mp4"
        output = new_output(self._output, request.photo, request.motion, suffix=suffix)
        request = replace(request, output=output)
        joined = Path(job[JOINED]) if job.get(JOINED) else None
        shown: Progress | None = None  # with the last preview

        def on_update(progress: Progress) -> None:
            nonlocal shown
            shown = shown if progress.preview is None else progress
            on_progress(replace(progress, note=without_folders(progress.note, *_files(job, request, joined))))

        try:
            if job.get(STEPS):
                request = self._prepare(request, job[STEPS], joined, on_progress, should_stop)
            result = self._animate(request, job.get(CHECKPOINT), on_update, should_stop)
        except InputError as error:
            raise InputError(without_folders(str(error), *_files(job, request, joined))) from error
        except Cancelled as stopped:
            if shown is None:
                raise
            kept = output.with_name(output.stem + "_cancelled_preview.webp")
            write_bytes(kept, encode_webp(shown.preview, fps=shown.preview_fps))
            raise Cancelled(str(stopped), kept=[kept]) from stopped
        files = (result.output, result.settings_file, result.side_by_side)
        return JobResult(tuple(filter(None, files)), _summary(result))

    def _sweep(self, request: AnimationRequest) -> None:
        """Remove half-written files that a killed program left of this job; no other job runs meanwhile."""
        name = glob.escape(pair_name(request.photo, request.motion))
        for pattern in (f".*_{name}*.partial*", f"*_{name}*_so_far.mp4"):
            for partial in self._output.glob(pattern):
                partial.unlink(missing_ok=True)


def _files(job: Mapping[str, Any], request: AnimationRequest, joined: Path | None) -> list[Path | str | None]:
    """Every file of the visitor's that an error or a note may name."""
    names = (*FILES, "background")
    files = [*(job.get(name) for name in names), *(getattr(request, name) for name in names), joined]
    return [*files, *request.other_photos, *(parse(each).file for each in request.lora)]


def _summary(result: AnimationResult) -> str:
    """The sentence under a finished job."""
    text = tr(
        "Done in {time}: {seconds} s of video, {size}. Saved as {name}.",
        time=duration(sum(result.seconds.values())),
        seconds=f"{result.num_frames / result.fps:.1f}",
        size=f"{result.width} × {result.height}",
        name=result.output.name,
    )
    return f"{text} {result.unsigned}" if result.unsigned else text
