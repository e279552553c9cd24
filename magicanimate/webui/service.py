"""What the page and the API ask the program for: animations as jobs, motion clips at once, one model for all.

Networks are loaded in the background; one piece of work at a time has the device.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from densepose_tools.engine_choice import EngineChoice, Forecast
from densepose_tools.motion_steps import sweep, take_steps
from densepose_tools.one_click import MadeMotion, MotionConfig, make_motion
from magicanimate.animator import Animator, ModelDefaults
from magicanimate.checkpoints.disk import describe_models, human_bytes
from magicanimate.config import AnimationRequest, AnimationResult, OnProgress, Progress, ShouldStop
from magicanimate.errors import Cancelled, InputError
from magicanimate.files import without_folders
from magicanimate.memory import AUTO
from magicanimate.request_checks import background_file, check_request
from magicanimate.webui.animate.forecast import Work, is_known, seconds_after_denoising
from magicanimate.webui.animate.form_values import FILES, PHOTOS
from magicanimate.webui.animate.inspection import (
    MaskFiles,
    as_video,
    fitted_photo,
    inspect_clip,
    last_frame,
    mask_files,
)
from magicanimate.webui.gallery.library import Library
from magicanimate.webui.gallery.results import Thumbnails
from magicanimate.webui.jobs.animation_job import (
    ANIMATE,
    CHECKPOINT,
    JOINED,
    AnimationRunner,
    Animators,
    IdleTimer,
    checkpoint_name,
    job_request,
    job_title,
)
from magicanimate.webui.jobs.queue import Job, JobQueue, link_or_copy, run_with_progress
from magicanimate.webui.scratch import PER_VISITOR, room_in_all, temporary_folder
from magicanimate.webui.texts import tr

log = logging.getLogger(__name__)

# Of the released weights, for the page before they are downloaded.
FULL_DEFAULTS = ModelDefaults("full", 512, 512, 25, 7.5)
_UPDATES_EVERY = 0.2  # seconds between progress reports while waiting for the device
_MOST_MADE = 100  # motion clips that are remembered


class AnimationService:
    """Runs the requests of all visitors on one `Animator`, and converts their videos to motion clips.

    Animations are jobs of a queue that outlives pages and the program itself. A motion clip is made while its
    visitor's page waits; visitors are told apart by any string.

    Args:
        model, device, dtype, offline, memory, compile: as `Animator` takes them.
        output: folder of the results, and of the queue.
        engine: finds people in ordinary videos; by default the best one on the same device.
        most_waiting: animations that may wait; more are turned away.
        unload_after: minutes without work after which the networks are freed; 0 for never.
        shared: several people use the program, so that each sees only his or her own jobs.

    Attributes:
        was_ready: whether loading the networks and measuring their speed has been tried.
    """

    def __init__(
        self,
        model: str | Path,
        output: Path,
        *,
        device: str | None = None,
        dtype: str | None = None,
        offline: bool = False,
        memory: str = AUTO,
        compile: bool = False,
        engine: EngineChoice | None = None,
        most_waiting: int | None = None,
        unload_after: float = 0.0,
        shared: bool = False,
    ):
        self.output = output
        self.shared = shared
        self.unload_after = unload_after
        self._most_waiting = most_waiting
        self._engine = engine or EngineChoice(device=device, offline=offline)
        self._shown = temporary_folder()  # copies that the page may show; served, unlike the jobs' folder
        new_animator = partial(
            Animator,
            device=device,
            dtype=dtype,
            offline=offline,
            memory=memory,
            compile=compile,
            on_progress=self._while_loading,
        )
        self._animators = Animators(new_animator, model)
        self._device = threading.Lock()  # held by the one piece of work that computes
        self._awaited = threading.Event()  # somebody waits for the device
        self._idle = IdleTimer(60 * unload_after, self._unload)
        self._unloaded = self.was_ready = False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="animator")
        self._stops: dict[str, threading.Event] = {}  # of the visitors' motion clips
        self._made: dict[Path, MadeMotion] = {}  # the last motion clip of each video
        self._originals: dict[str, str] = {}  # by the video that the page plays in its place
        self._loading: Progress | None = None
        self._closed = threading.Event()
        self._library = Library(output)

    @cached_property
    def queue(self) -> JobQueue:
        """The jobs; made when first asked for.

        Raises:
            InputError: another program works on the output folder, or it cannot be written to.
        """
        runner = AnimationRunner(self._animate, self.output, self._prepare)
        # Who is alone on the machine may fill his or her own disk.
        bounds = {"per_owner": PER_VISITOR, "in_all": room_in_all(self.output)} if self.shared else {}
        queue = JobQueue(self.output, {ANIMATE: runner}, most_waiting=self._most_waiting, **bounds)
        self._library.trash.finish_moves()  # safe from now on: the queue has locked the folder for us
        if all(job.is_over for job in queue.jobs()):
            self._sweep_motions()
        trashed = [each.result for each in self._library.trash.results()]
        Thumbnails(self.output).sweep([*self._library.results(), *trashed])
        return queue

    def _sweep_motions(self, *, most: int | None = None) -> None:
        sweep(self.output, {str(each.settings.get("motion")) for each in self._library.results()}, most=most)

    @property
    def animator(self) -> Animator:
        """That of the model in use."""
        return self._animators.current

    def defaults(self) -> ModelDefaults:
        """The model's own settings, without downloading anything.

        Raises:
            InputError: there is no such model.
        """
        animator = self.animator
        return FULL_DEFAULTS if animator.model == "full" and _full_is_missing() else animator.defaults

    @property
    def trial(self) -> Path | None:
        """The folder that `use_model` put in place of the program's own model, if it did."""
        return self._animators.trial

    @property
    def model_name(self) -> str:
        """The model in use: "mini", "full", or its folder."""
        return checkpoint_name(self.animator.model)

    @property
    def unloaded(self) -> bool:
        """Whether the networks were freed after a time without work."""
        return self._unloaded and not self.animator.loaded

    def use_model(self, model: str | Path | None) -> None:
        """Animate with another model from the next job on; it is loaded in the background.

        Args:
            model: "mini", "full" or a pipeline folder; ``None`` for the program's own model again.

        Raises:
            InputError: the folder holds no model; nothing has changed then.
        """
        self._animators.use(model)
        self.start_loading()

    def start_loading(self, before: Callable[[], None] = lambda: None) -> None:
        """Load the model in the background, after ``before()``; its errors are logged."""

        def load() -> None:
            with self._with_device(lambda _: None, self._closed.is_set):
                animator = self._animators.of(None)
                if animator.model == "full" and _full_is_missing():
                    note = tr("The full model is downloaded once, 11 GB, and then converted.")
                    self._loading = Progress("download", 0, 1, note=note)
                try:
                    before()
                    animator.load()
                    if not is_known(animator.ran_on(), self.output):
                        animator.run_benchmark(lambda: self._closed.is_set() or self._awaited.is_set())
                except Cancelled:
                    log.info("the speed of the networks was not measured: other work waits")
                except InputError as error:  # the first job will fail with the same sentence
                    log.warning("%s", error)
                # Whatever it is: this only prepares, and the first job meets the fault again and shows it.
                except Exception:
                    log.exception("the model could not be loaded beforehand")
                finally:
                    self.was_ready = True

        self._worker.submit(load)

    def submit(
        self,
        request: AnimationRequest,
        *,
        owner: str = "",
        instead_of: str = "",
        steps: Mapping[str, Any] | None = None,
        joined: Path | None = None,
    ) -> Job:
        """Put an animation into the queue; copies of photo and clip are kept as long as they are needed.

        Args:
            request: what to make; the output is named when the job begins.
            owner: who may see the job.
            instead_of: id of a waiting job that is changed into this one and keeps its place.
            steps, joined: what happens to the clip before it animates; see `take_steps`.

        Raises:
            InputError: a file or setting cannot be used, the queue is full, a file cannot be kept, or the
                job to change has begun. Files are named without their folders.
        """
        check_request(request)
        completed = self.defaults().completed(request)  # refuses what is too large for the model
        try:
            fitted_photo(completed)
            inspect_clip(completed)
        except InputError as error:
            raise InputError(without_folders(str(error), request.photo, request.motion)) from error
        if self.animator.device is not None:  # the model was loaded once, so its sizes are known
            self.animator.check_size(request)
        files = {name: getattr(request, name) for name in FILES} | {"background": background_file(request)}
        uploads = [name for name, file in files.items() if file is not None and self._is_upload(file)]
        if joined is not None and self._is_upload(joined):
            uploads.append(JOINED)
        if any(map(self._is_upload, request.other_photos)):
            uploads.append(PHOTOS)
        # A job that is changed keeps its model, whichever is in use by now.
        before = self.queue.get(instead_of) if instead_of else None
        checkpoint = before.request.get(CHECKPOINT) if before else checkpoint_name(self.animator.model)
        wanted = job_request(request, checkpoint=checkpoint, steps=steps, joined=joined)
        kept: dict[str, Any] = {"title": job_title(request), "uploads": uploads}
        if instead_of:
            return self.queue.edit(instead_of, wanted, **kept)
        return self.queue.submit(ANIMATE, wanted, owner=owner, **kept)

    def _is_upload(self, path: Path) -> bool:
        """Whether a file may vanish; what lies in the output folder stays."""
        return path.is_file() and self.output.resolve() not in path.resolve().parents

    def draw_mask(
        self, request: AnimationRequest, steps: Mapping[str, Any], joined: Path | None
    ) -> Iterator[Progress | MaskFiles]:
        """Yield progress, and at last the mask that an animation would cut people out with.

        The clip is edited and converted as for a job, which then finds that done.

        Raises:
            InputError: see `Animator.draw_mask` and `take_steps`; files are named without their folders.
        """

        def work(on_progress: OnProgress, should_stop: ShouldStop) -> MaskFiles:
            folder = self._new_folder()
            folder.mkdir()
            ready = self._prepare(request, steps, joined, on_progress, should_stop)
            scene, mask = folder / "scene.mp4", folder / f"{request.motion.stem[:60]}_mask.mp4"
            preview = folder / "preview.png"
            self.animator.draw_mask(
                ready,
                picture=preview,
                mask=mask,
                scene=scene,
                on_progress=on_progress,
                should_stop=should_stop,
            )
            return mask_files(scene, mask, preview)

        files = [*(getattr(request, name) for name in FILES), *request.other_photos]
        try:
            yield from run_with_progress(work)
        except InputError as error:
            raise InputError(without_folders(str(error), *files, joined)) from error

    def library(self, owner: str) -> Library:
        """The results that somebody may see: all on a machine of one's own, else those of one's own jobs."""
        if not self.shared:
            return self._library
        names = {Path(result).stem for job in self.queue.jobs(owner) for result in job.results}
        return self._library.limited(lambda result: result.name in names)

    def show_copy(self, file: Path) -> Path:
        """A copy of a file that the page may show, since the folder of the jobs' uploads is not served.

        Raises:
            InputError: it is not there any more.
        """
        copy = self._new_folder() / file.name
        try:
            copy.parent.mkdir()
            link_or_copy(file, copy)
        except OSError as error:
            raise InputError(f"The file {file.name} is not there any more ({error.strerror}).") from error
        return copy

    def show_last_frame(self, video: Path) -> Path:
        """The last frame of a result as a picture that the page may show.

        Raises:
            InputError: the result cannot be read.
        """
        return last_frame(video, self._new_folder())

    def show_as_video(self, picture: str) -> Path:
        """A video of an animated picture, which browsers play in no player.

        Raises:
            InputError: the picture cannot be read, or does not move; it is named without its folder.
        """
        try:
            video = as_video(Path(picture), self._new_folder())
        except InputError as error:
            raise InputError(without_folders(str(error), picture)) from error
        self.play_instead(video, picture)
        return video

    def play_instead(self, played: Path, original: str | Path) -> None:
        """Let the page play one clip in place of the one that animates.

        Browsers play neither the exact colours of a motion clip nor animated pictures.

        Args:
            played: in a folder of this program, so that nobody else names it so.
            original: that animates.
        """
        self._originals[str(played)] = str(original)

    def original_of(self, played: str | None) -> str | None:
        """The clip that animates when one is played: itself, unless it is played in place of another."""
        return self._originals.get(played, played) if played else played

    def _new_folder(self) -> Path:
        """A name for a folder whose files the page may show; they go with the program."""
        return Path(self._shown.name) / secrets.token_hex(8)

    def forecast(self) -> Forecast:
        """What will find the people in an ordinary video.

        Raises:
            InputError: nothing can; the message says what to do.
        """
        return self._engine.forecast()

    def conversion(self, kind: str) -> str:
        """What happens to a clip that does not animate as it is, of the kind "ordinary" or "recolourable".

        Raises:
            InputError: nothing can convert it; the message says what to do.
        """
        if kind == "recolourable":
            return tr("The colours of this motion clip are off. They will be corrected first.")
        found = self.forecast()
        text = tr("This is an ordinary video. It will be converted first.")
        if found.bytes_to_fetch:
            size = human_bytes(found.bytes_to_fetch)
            text += " " + tr("One-time download, {size}. Offline, a simpler detector is used.", size=size)
        elif found.engine == "mini":
            text += " " + tr("A simple built-in detector is used.")
        return text

    def admit(self, visitor: str) -> None:
        """A visitor asks for a motion clip: from now on `cancel` stops this one."""
        self._stops[visitor] = threading.Event()

    def cancel(self, visitor: str) -> None:
        """Stop the visitor's motion clip, waiting or in work."""
        if visitor in self._stops:
            self._stops[visitor].set()

    def make_motion(
        self, visitor: str, clip: Path, config: MotionConfig, *, earlier: MadeMotion | None = None
    ) -> Iterator[Progress | MadeMotion]:
        """Yield progress, a few times a second, and at last the motion clip. Closing the iterator stops it.

        Raises:
            InputError: as `densepose_tools.one_click.make_motion`.
            Cancelled: stopped by `cancel`; the same call continues where it stopped.
        """
        # A page that was opened again has forgotten its clip, and would make the same file once more under
        # another number.
        earlier = earlier if earlier is not None and earlier.clip == clip else self._made.get(clip)
        if earlier and earlier.config.same(config) and earlier.extraction.video.is_file():
            yield earlier
            return
        stop = self._stops.setdefault(visitor, threading.Event())

        def work(on_progress: OnProgress, left: ShouldStop) -> MadeMotion:
            def should_stop() -> bool:
                return stop.is_set() or left()

            with self._with_device(on_progress, should_stop):
                made = make_motion(
                    clip,
                    self.output,
                    engine=self._engine,
                    config=config,
                    copies=Path(self._shown.name),
                    earlier=earlier,
                    on_progress=on_progress,
                    should_stop=should_stop,
                )
            self._made[clip] = made
            while len(self._made) > _MOST_MADE:
                del self._made[next(iter(self._made))]
            return made

        try:
            yield from run_with_progress(work)
        finally:
            if self._stops.get(visitor) is stop:
                del self._stops[visitor]

    def close(self, *, wait: bool = True) -> None:
        """Stop everything; jobs that have not ended are offered at the next start.

        Args:
            wait: for the thread that loads the networks. Reading them takes long on a busy machine and leaves
                nothing behind; a program that ends need not wait for it.
        """
        self._closed.set()
        self._idle.busy()
        for stop in list(self._stops.values()):
            stop.set()
        if "queue" in vars(self):  # or asking for it here would make it
            self.queue.close()
        self._worker.shutdown(wait=wait, cancel_futures=True)
        self._shown.cleanup()

    def _prepare(
        self,
        request: AnimationRequest,
        steps: Mapping[str, Any],
        joined: Path | None,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> AnimationRequest:
        """Edit and convert the clip of a job."""
        with self._with_device(on_progress, should_stop):
            if self.shared:
                self._sweep_motions(most=room_in_all(self.output))
            return take_steps(
                request,
                steps,
                joined,
                folder=self.output,
                engine=self._engine,
                on_progress=on_progress,
                should_stop=should_stop,
            )

    def _animate(
        self,
        request: AnimationRequest,
        checkpoint: str | None,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> AnimationResult:
        """Animate with the model that was in use when the job was made."""
        with self._with_device(on_progress, should_stop):
            animator = self._animators.of(checkpoint)
            after: float | None = None

            def report(progress: Progress) -> None:
                """The time left is that of the whole job, not of its stage."""
                nonlocal after
                if progress.stage == "denoise" and progress.seconds_left is not None:
                    if after is None:
                        after = self._seconds_after_denoising(animator, request)
                    progress = replace(progress, seconds_left=progress.seconds_left + after)
                on_progress(progress)

            return animator.animate(request, report, should_stop)

    def _seconds_after_denoising(self, animator: Animator, request: AnimationRequest) -> float:
        completed = animator.defaults.completed(request)
        settings = completed.settings() | animator.ran_on()
        settings |= {"num_frames": inspect_clip(completed).frames}
        return seconds_after_denoising(Work.of(settings), self.output, benchmark=animator.benchmark)

    @contextmanager
    def _with_device(self, on_progress: OnProgress, should_stop: ShouldStop) -> Iterator[None]:
        """Have the device to oneself; what is waited for is reported.

        Raises:
            Cancelled: ``should_stop()`` became true while waiting.
        """
        waiting = True
        while waiting:
            if should_stop():
                raise Cancelled("stopped before it began")
            waiting = not self._device.acquire(timeout=_UPDATES_EVERY)
            if waiting:
                self._awaited.set()  # ends a benchmark that runs
                loading = self._loading or Progress("load", 0, 1)
                on_progress(Progress("wait", 0, 1) if self.animator.loaded else loading)
        self._awaited.clear()
        self._idle.busy()
        try:
            yield
        finally:
            self._device.release()
            if not self._closed.is_set():
                self._idle.idle()

    def _unload(self) -> None:
        if self._device.acquire(blocking=False):
            try:
                self._unloaded = self._unloaded or self.animator.loaded
                self._animators.unload()
            finally:
                self._device.release()

    def _while_loading(self, progress: Progress) -> None:
        if self._closed.is_set():
            raise Cancelled("the program ends")
        self._loading = progress


def _full_is_missing() -> bool:
    """Whether the released weights are not on this machine yet."""
    return any(model.name == "full" and not model.available for model in describe_models())
