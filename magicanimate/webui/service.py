"""One animator for every visitor: loaded in the background, jobs in a queue, one at a time."""

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
from typing import Any, TypeVar

from densepose_tools.engine_choice import EngineChoice, Forecast
from densepose_tools.motion_steps import sweep, take_steps
from densepose_tools.one_click import MadeMotion, MotionConfig, MotionReport, examine, make_motion
from magicanimate.animator import Animator, ModelDefaults
from magicanimate.checkpoints.disk import human_bytes
from magicanimate.checkpoints.locate import describe_models
from magicanimate.config import AnimationRequest, AnimationResult, OnProgress, Progress, ShouldStop
from magicanimate.errors import Cancelled, InputError
from magicanimate.files import without_folders
from magicanimate.memory.profiles import AUTO
from magicanimate.request_checks import background_file, check_request
from magicanimate.webui.animate.eta import Work, is_known, seconds_after_denoising
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
from magicanimate.webui.jobs.animation_job import (
    ANIMATE,
    CHECKPOINT,
    JOINED,
    AnimationRunner,
    Animators,
    checkpoint_name,
    job_request,
    job_title,
)
from magicanimate.webui.jobs.job import Job, link_or_copy
from magicanimate.webui.jobs.queue import JobQueue, run_with_progress
from magicanimate.webui.scratch import PER_VISITOR, room_in_all, temporary_folder
from magicanimate.webui.texts import tr

log = logging.getLogger(__name__)

# Of the released weights, for the page before they are fetched.
FULL_DEFAULTS = ModelDefaults("full", 512, 512, 25, 7.5)
_UPDATES_EVERY = 0.2  # seconds between updates of the page
_MOST_MADE = 100  # motion clips that are remembered

Result = TypeVar("Result")


class AnimationService:
    """Runs requests of many visitors on one `Animator`, and makes motion clips of their videos.

    Animations are jobs of a queue that outlives pages and programs. For motion clips a visitor is named by
    any string; one who has two in work at a time needs two names.

    Args:
        model, device, dtype, offline, memory, compile: as `Animator` takes them.
        output: folder of the results, and of the queue.
        engine: finds people in ordinary videos; by default the best on the same device.
        most_waiting: animations that may wait; more are turned away.
        unload_after: minutes without work after which the networks are taken out of memory; 0 for never.
        shared: several people use the program, so that each sees only his or her own jobs.

    Attributes:
        was_ready: whether it was tried to load the networks and to find out how quick they are.
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
        self._lent = temporary_folder()
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
        self._device = threading.Lock()  # one piece of work at a time
        self._awaited = threading.Event()  # somebody waits for it
        self._idle = IdleTimer(60 * unload_after, self._unload)
        self._unloaded = self.was_ready = False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="animator")
        self._stops: dict[str, threading.Event] = {}
        self._made: dict[Path, MadeMotion] = {}  # the last motion clip of each video
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
        # Who is alone may fill the own disk.
        bounds = {"per_owner": PER_VISITOR, "in_all": room_in_all(self.output)} if self.shared else {}
        queue = JobQueue(self.output, {ANIMATE: runner}, most_waiting=self._most_waiting, **bounds)
        self._library.trash.finish_moves()  # the queue has the folder to itself from now on
        if all(job.is_over for job in queue.jobs()):
            self._sweep_motions()
        return queue

    def _sweep_motions(self, *, most: int | None = None) -> None:
        sweep(self.output, {str(each.settings.get("motion")) for each in self._library.results()}, most=most)

    @property
    def animator(self) -> Animator:
        """That of the checkpoint in use."""
        return self._animators.current

    def defaults(self) -> ModelDefaults:
        """The checkpoint's own settings, without fetching anything.

        Raises:
            InputError: there is no such checkpoint.
        """
        animator = self.animator
        return FULL_DEFAULTS if animator.model == "full" and "full" in _absent() else animator.defaults

    @property
    def trial(self) -> Path | None:
        """The folder that `use_model` put in place of the program's own checkpoint, if it did."""
        return self._animators.trial

    @property
    def model_name(self) -> str:
        """The checkpoint in use: "mini", "full", or its folder."""
        return checkpoint_name(self.animator.model)

    def use_model(self, model: str | Path | None) -> None:
        """Animate with another checkpoint from the next animation on; it is loaded in the background.

        Args:
            model: "mini", "full" or a pipeline folder; ``None`` for the program's own checkpoint again.

        Raises:
            InputError: the folder holds no checkpoint; nothing has changed then.
        """
        self._animators.use(model)
        self.start_loading()

    def start_loading(self, before: Callable[[], None] = lambda: None) -> None:
        """Load the checkpoint in the background, ``before`` first; its errors are logged."""

        def load() -> None:
            with self._turn(lambda _: None, self._closed.is_set):
                animator = self._animators.of(None)
                if animator.model == "full" and "full" in _absent():
                    note = tr("The full model is downloaded once, 11 GB, and then converted.")
                    self._loading = Progress("download", 0, 1, note=note)
                try:
                    before()
                    animator.load()
                    if not is_known(animator.ran_on(), self.output):
                        animator.run_benchmark(lambda: self._closed.is_set() or self._awaited.is_set())
                except Cancelled:
                    log.info("how quick the networks are was not measured: other work waits")
                except InputError as error:  # the first job is told the same
                    log.warning("%s", error)
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
            request: what to do; the queue names the output itself, when the job begins.
            owner: who may see the job.
            instead_of: id of a job that waits: it is changed into this one, in its place.
            steps, joined: what happens to the clip before it animates; see `take_steps`.

        Raises:
            InputError: a file or setting cannot be used, the queue is full, a file cannot be kept, or the
                job to change has begun. Files are named without their folders.
        """
        check_request(request)
        completed = self.defaults().completed(request)  # refuses what is too large for the checkpoint
        try:
            fitted_photo(completed)
            inspect_clip(completed)
        except InputError as error:
            raise InputError(without_folders(str(error), request.photo, request.motion)) from error
        if self.animator.device is not None:  # then its folder is there, too
            self.animator.check_size(request)
        files = {name: getattr(request, name) for name in FILES} | {"background": background_file(request)}
        uploads = [name for name, file in files.items() if file is not None and self._is_upload(file)]
        before = self.queue.get(instead_of) if instead_of else None
        checkpoint = before.request.get(CHECKPOINT) if before else checkpoint_name(self.animator.model)
        if joined is not None and self._is_upload(joined):
            uploads.append(JOINED)
        if any(map(self._is_upload, request.other_photos)):
            uploads.append(PHOTOS)
        wanted = job_request(request, checkpoint=checkpoint, steps=steps, joined=joined)
        kept = {"title": job_title(request), "uploads": uploads}
        if instead_of:
            return self.queue.edit(instead_of, wanted, **kept)
        return self.queue.submit(ANIMATE, wanted, owner=owner, **kept)

    def draw_mask(
        self, request: AnimationRequest, steps: Mapping[str, Any], joined: Path | None
    ) -> Iterator[Progress | MaskFiles]:
        """Yield progress, and at last how people will be cut out of an animation; nothing is animated.

        The clip is edited and converted as for a job, which then finds that done.

        Raises:
            InputError: see `Animator.draw_mask` and `take_steps`; files are named without their folders.
        """

        def work(on_progress: OnProgress, should_stop: ShouldStop) -> MaskFiles:
            place = Path(self._lent.name) / secrets.token_hex(8)
            place.mkdir()
            ready = self._prepare(request, steps, joined, on_progress, should_stop)
            scene, mask = place / "scene.mp4", place / f"{request.motion.stem[:60]}_mask.mp4"
            preview = place / "preview.png"
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
        """What somebody may see: everything on a machine of one's own, else what came of one's own jobs."""
        if not self.shared:
            return self._library
        names = {Path(result).stem for job in self.queue.jobs(owner) for result in job.results}
        return self._library.limited(lambda result: result.name in names)

    @property
    def unloaded(self) -> bool:
        """Whether the networks were taken out of memory after a time without work."""
        return self._unloaded and not self.animator.loaded

    def lend(self, file: Path) -> Path:
        """A kept upload under a name that the page may show; the folder of the jobs itself is not served.

        Raises:
            InputError: it is not there any more.
        """
        lent = Path(self._lent.name) / secrets.token_hex(8) / file.name
        try:
            lent.parent.mkdir()
            link_or_copy(file, lent)
        except OSError as error:
            raise InputError(f"The file {file.name} is not there any more ({error.strerror}).") from error
        return lent

    def lend_last_frame(self, video: Path) -> Path:
        """The last frame of a result as a picture that the page may show.

        Raises:
            InputError: the result cannot be read.
        """
        return last_frame(video, Path(self._lent.name) / secrets.token_hex(8))

    def admit(self, visitor: str) -> None:
        """A visitor wants a motion clip: from now on `cancel` concerns this work."""
        self._stops[visitor] = threading.Event()

    def cancel(self, visitor: str) -> None:
        """Stop the visitor's motion clip, waiting or in work."""
        if visitor in self._stops:
            self._stops[visitor].set()

    def examine(self, clip: Path) -> MotionReport:
        """What a clip is.

        Raises:
            InputError: it cannot be read.
        """
        return examine(clip)

    def forecast(self) -> Forecast:
        """What will find the people in an ordinary video.

        Raises:
            InputError: nothing can; the message says what to do.
        """
        return self._engine.forecast()

    def conversion(self, kind: str) -> str:
        """What happens to a clip of a kind that does not animate as it is, "ordinary" or "recolourable".

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

    def conversion_begins(self) -> str:
        """What is told until a conversion has told something itself."""
        try:
            size = self.forecast().bytes_to_fetch
        except InputError:  # which the work itself says
            size = 0
        return (
            tr("Downloading the detector, {size}, once…", size=human_bytes(size)) if size else tr("Starting…")
        )

    def played(self, picture: str) -> Path:
        """A video of an animated picture, which browsers play in no player; it goes with the program.

        Raises:
            InputError: the picture cannot be read, or does not move.
        """
        return as_video(Path(picture), Path(self._lent.name) / secrets.token_hex(8))

    def make_motion(
        self, visitor: str, clip: Path, config: MotionConfig, *, earlier: MadeMotion | None = None
    ) -> Iterator[Progress | MadeMotion]:
        """Yield progress, a few times a second, and at last the clip. Closing the iterator stops it.

        Copies that browsers play go with the program.

        Raises:
            InputError: as `densepose_tools.one_click.make_motion`.
            Cancelled: stopped by `cancel`; the same again goes on from there.
        """
        earlier = earlier if earlier is not None and earlier.clip == clip else self._made.get(clip)
        again = earlier is not None and earlier.config.same(config)
        if again and earlier.extraction.video.is_file():  # nothing would come of it but a file with a number
            yield earlier
            return
        work = partial(
            make_motion,
            clip,
            self.output,
            engine=self._engine,
            config=config,
            copies=Path(self._lent.name),
            earlier=earlier,
        )

        def in_turn(on_progress: OnProgress, should_stop: ShouldStop) -> MadeMotion:
            with self._turn(on_progress, should_stop):
                made = work(on_progress=on_progress, should_stop=should_stop)
            # A page that is opened again has forgotten it, and would make the same file under another number.
            self._made[clip] = made
            while len(self._made) > _MOST_MADE:
                del self._made[next(iter(self._made))]
            return made

        yield from self._run(visitor, in_turn)

    def _run(
        self, visitor: str, work: Callable[[OnProgress, ShouldStop], Result]
    ) -> Iterator[Progress | Result]:
        """Do something that `cancel` stops; see `make_motion`."""
        stop = self._stops.setdefault(visitor, threading.Event())
        try:
            yield from run_with_progress(lambda report, left: work(report, lambda: stop.is_set() or left()))
        finally:
            if self._stops.get(visitor) is stop:
                del self._stops[visitor]

    def close(self, *, wait: bool = True) -> None:
        """Stop everything; jobs that have not ended are offered next time.

        Args:
            wait: let the thread end that loads the networks. Reading them takes long on a busy machine and
                leaves nothing behind; a program that ends need not wait for it.
        """
        self._closed.set()
        self._idle.busy()
        for stop in list(self._stops.values()):
            stop.set()
        if "queue" in vars(self):
            self.queue.close()
        self._worker.shutdown(wait=wait, cancel_futures=True)
        self._lent.cleanup()

    def _is_upload(self, path: Path) -> bool:
        """Whether a file may vanish; what lies in the output folder stays."""
        return path.is_file() and self.output.resolve() not in path.resolve().parents

    def _prepare(
        self,
        request: AnimationRequest,
        steps: Mapping[str, Any],
        joined: Path | None,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> AnimationRequest:
        """Edit and convert the clip of a job."""
        with self._turn(on_progress, should_stop):
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
        """Animate with the checkpoint that was in use when the job was made."""
        with self._turn(on_progress, should_stop):
            animator = self._animators.of(checkpoint)
            after: list[float] = []

            def report(progress: Progress) -> None:
                """The time left is that of the whole job, not of its stage."""
                if progress.stage == "denoise" and progress.seconds_left is not None:
                    if not after:
                        after.append(self._after_denoising(animator, request))
                    progress = replace(progress, seconds_left=progress.seconds_left + after[0])
                on_progress(progress)

            return animator.animate(request, report, should_stop)

    def _after_denoising(self, animator: Animator, request: AnimationRequest) -> float:
        """Seconds that writing the frames will take."""
        completed = animator.defaults.completed(request)
        settings = completed.settings() | animator.ran_on()
        settings |= {"num_frames": inspect_clip(completed).frames}
        return seconds_after_denoising(Work.of(settings), self.output, benchmark=animator.benchmark)

    @contextmanager
    def _turn(self, on_progress: OnProgress, should_stop: ShouldStop) -> Iterator[None]:
        """Have the device to oneself; while waiting for it, what is waited for is told."""
        waiting = True
        while waiting:
            if should_stop():
                raise Cancelled("stopped before it began")
            waiting = not self._device.acquire(timeout=_UPDATES_EVERY)
            if waiting:
                self._awaited.set()
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


def _absent() -> set[str]:
    """Names of the models that are not on this machine."""
    return {model.name for model in describe_models() if not model.available}


class IdleTimer:
    """Calls ``action`` in a thread of its own, once for each stretch of idleness.

    Args:
        seconds: of idleness; 0 never calls it.
        action: what to do.
    """

    def __init__(self, seconds: float, action: Callable[[], None]):
        self._seconds, self._action = seconds, action
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def idle(self) -> None:
        """Idleness begins (again) now."""
        with self._lock:
            self._cancel()
            if self._seconds > 0:
                self._timer = threading.Timer(self._seconds, self._action)
                self._timer.daemon = True
                self._timer.start()

    def busy(self) -> None:
        """Something happens; wait for the next `idle`."""
        with self._lock:
            self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
