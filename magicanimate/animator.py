"""Loads a checkpoint once and animates photos with it; shared by the page and the command line.

It knows nothing of widgets or terminals. Heavy libraries are imported when the checkpoint is loaded.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicanimate import __version__
from magicanimate.acceleration.options import Approximations, OptimizationConfig, ProcessGroup, completed
from magicanimate.checkpoints.disk import folder_digest, local_model, read_model_index
from magicanimate.config import (
    PHOTO_BACKGROUND,
    STILL_BACKGROUND,
    AnimationRequest,
    AnimationResult,
    Driving,
    FirstLatents,
    Fusion,
    OnProgress,
    ShouldStop,
)
from magicanimate.device import (
    LOADING,
    Device,
    empty_cache,
    is_out_of_memory,
    pick_device,
    total_bytes,
    without_collection,
)
from magicanimate.errors import InputError
from magicanimate.memory import (
    AUTO,
    TOO_LITTLE,
    Footprint,
    OutOfMemoryFallback,
    PlacedNetworks,
    Work,
    needed_bytes,
    profiles_for,
)
from magicanimate.progress import ProgressMeter
from magicanimate.request_checks import (
    check_area,
    check_outputs,
    check_request,
    check_signals,
    wants_part_map,
)
from magicanimate.windows import WindowPlan

if TYPE_CHECKING:
    import numpy as np
    import torch

    from densepose_tools.photo_people import PersonDetector
    from magicanimate.background import Backdrop
    from magicanimate.detail import DetailPlan
    from magicanimate.media.prepare import PreparedMedia
    from magicanimate.models.autoencoder import LatentPreview
    from magicanimate.pipeline import MagicAnimatePipeline

log = logging.getLogger(__name__)

# Results get worse where they have this many times the checkpoint's own number of pixels, or as much less.
_UNUSUAL_AREA = 1.6


@dataclass(frozen=True)
class ModelDefaults:
    """A checkpoint's own defaults, from its ``model_index.json``."""

    kind: str  # "full" or "mini"
    width: int  # pixels it was trained at
    height: int
    num_inference_steps: int  # what suits it
    guidance_scale: float  # likewise
    takes_keypoints: bool = False  # whether drawn keypoints drive it, too
    fusion: Fusion | None = None  # the blocks that read the photo; ``None`` if the checkpoint does not say so
    driving: Driving = "densepose"  # the signals that it was trained with
    background: str = PHOTO_BACKGROUND  # or "still", where the networks blur what lies behind the people
    first_latents: FirstLatents = "noise"  # without noise, every seed gives the same result

    def size_warning(self, width: int | None, height: int | None) -> str | None:
        """A warning if the result's size is far from what the checkpoint was trained at, else ``None``."""
        ratio = (width or self.width) * (height or self.height) / (self.width * self.height)
        if max(ratio, 1 / ratio) < _UNUSUAL_AREA:
            return None
        return (
            f"The checkpoint learned from pictures of {self.width} x {self.height}; results that are much "
            f"{'larger' if ratio > 1 else 'smaller'} get worse."
        )

    def completed(self, request: AnimationRequest) -> AnimationRequest:
        """Fill in the preset's and the checkpoint's values where the request has none.

        Raises:
            InputError: it wants far more pixels than the checkpoint can do, or a fusion that it was not
                trained with.
        """
        if request.fusion and self.fusion and request.fusion != self.fusion:
            raise InputError(
                f"This checkpoint was trained with the fusion {self.fusion!r}, not {request.fusion!r}; leave "
                "the fusion out."
            )
        check_area(request.width or self.width, request.height or self.height, own=(self.width, self.height))
        guidance_scale = self.guidance_scale if request.guidance_scale is None else request.guidance_scale
        return replace(
            completed(request, steps=self.num_inference_steps),
            width=request.width or self.width,
            height=request.height or self.height,
            guidance_scale=guidance_scale,
            fusion=request.fusion or self.fusion or "midup",
            background=request.background or self.background,
        )


class Animator:
    """Animates photos with one checkpoint.

    Args:
        model: "mini", "full" or a pipeline folder.
        device, dtype: see `magicanimate.device.pick_device`.
        offline: never ask the network; "full" must have been fetched before.
        memory: "auto", or the name of a memory profile to begin with (`magicanimate.memory`).
        compile: compile blocks of the networks (`magicanimate.acceleration.backends`), where that works.
        attention: the library that computes attention, see `magicanimate.acceleration.options`.
        group: processes that share an animation; this one alone when ``None``.
        on_progress: called with the progress of downloads while loading.

    Attributes:
        device: what computes; ``None`` before `load`.
        benchmark: what a settings file would hold of the blank clip of `run_benchmark`; ``None`` before.
    """

    def __init__(
        self,
        model: str | Path = "mini",
        *,
        device: str | None = None,
        dtype: str | None = None,
        offline: bool = False,
        memory: str = AUTO,
        compile: bool = False,
        attention: str | None = None,
        group: ProcessGroup | None = None,
        on_progress: OnProgress | None = None,
    ):
        self.model, self.offline = model, offline
        self._requested = (device, dtype)
        self._on_load = on_progress
        self._folder: Path | None = None
        self._memory, self._compile, self._group = memory, compile, group
        self._attention = attention
        self._networks: PlacedNetworks | None = None
        self._preview: LatentPreview | None = None
        self._person_detector: PersonDetector | None = None
        self._seconds_per_decoded_frame: float | None = None
        self._digest: str | None = None
        self._told = {""}  # why results have no credentials: once each
        self._lock = threading.RLock()  # the networks hold state of the clip they run
        self.device: Device | None = None
        self.benchmark: dict[str, Any] | None = None

    @property
    def folder(self) -> Path:
        """The pipeline folder; "full" is downloaded and converted first if it is not here yet."""
        if self._folder is None:
            if str(self.model) == "full":
                from magicanimate.checkpoints.locate import fetch_full

                self._folder = fetch_full(offline=self.offline, on_progress=self._on_load)
            else:
                self._folder = local_model(self.model)
        return self._folder

    @property
    def defaults(self) -> ModelDefaults:
        """The checkpoint's own size, steps and guidance, without loading it."""
        index = read_model_index(self.folder)
        takes_both = any(index.get("controlnet_keypoints") or ())
        return ModelDefaults(
            kind=index["kind"],
            width=index["default_width"],
            height=index["default_height"],
            num_inference_steps=index["default_steps"],
            guidance_scale=index["default_guidance_scale"],
            takes_keypoints=takes_both,
            fusion=index.get("fusion"),
            driving=index.get("driving") or ("both" if takes_both else "densepose"),
            background=index.get("default_background", PHOTO_BACKGROUND),
            first_latents=index.get("first_latents", "noise"),
        )

    def load(self) -> None:
        """Load the networks, if they are not loaded yet.

        Raises:
            InputError: the checkpoint or the device cannot be used.
        """
        with self._lock:
            self._ready()

    @property
    def loaded(self) -> bool:
        """Whether the networks are in memory."""
        return self._networks is not None

    @property
    def pipe(self) -> MagicAnimatePipeline | None:
        """The pipeline in memory, ``None`` before `load` and after `unload`."""
        return None if self._networks is None else self._networks.pipe

    def unload(self) -> None:
        """Free the memory of the networks; the next animation loads them again. Waits for a running one."""
        with self._lock:
            if self._networks is None:
                return
            device = self._networks.device
            self._networks = self._preview = None
            # Modules and their hooks refer to each other; only the collector frees them.
            gc.collect()
            empty_cache(device.name)
            log.info("unloaded %s", self._folder)

    def _ready(self) -> PlacedNetworks:
        """The networks; loads them if they are not in memory."""
        # Loaded on first use, so that `info` of a checkpoint and refusals cost nothing.
        if self._networks is None:
            self._networks = self._load()
        return self._networks

    def _load(self) -> PlacedNetworks:
        folder = self.folder
        self.device = device = pick_device(*self._requested)
        # These modules import diffusers, which one thread at a time may do.
        with LOADING, without_collection():
            from magicanimate.acceleration.backends import attention_problem
            from magicanimate.loading import read_pipeline

        if self._attention and (problem := attention_problem(self._attention)):
            raise InputError(problem)
        networks = PlacedNetworks(
            partial(read_pipeline, folder, dtype=device.dtype),
            folder,
            device,
            requested=self._memory,
            group=self._group or ProcessGroup(),
            compile=self._compile,
        )
        # Placed for its own size, so that a checkpoint that does not fit is refused now.
        networks.prepare(Work(self.defaults.width, self.defaults.height))
        log.info("loaded %s (%s)", folder, networks.pipe.config.kind)
        return networks

    def run_benchmark(self, should_stop: ShouldStop | None = None) -> None:
        """Time one step of a blank clip, so that the first animation's duration can be estimated.

        `benchmark` has the figures afterwards, unless memory does not suffice for it.

        Raises:
            InputError: the checkpoint or the device cannot be used.
            Cancelled: ``should_stop()`` was true; it is called a few times.
        """
        with self._lock:
            networks, own = self._ready(), self.defaults
            from magicanimate.loading import WINDOW, benchmark

            fallback = networks.prepare(Work(own.width, own.height, frames=WINDOW))
            try:
                found = benchmark(networks.pipe, fallback, should_stop=should_stop)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("memory of %s does not suffice to time one window", networks.device.name)
                return
            # As the settings of a real result, so that the estimate of later ones reads both alike.
            blank = AnimationRequest(Path(), Path(), Path(), num_inference_steps=1, guidance_scale=1.0)
            blank = replace(blank, fusion=own.fusion or "midup")
            self.benchmark = {**blank.settings(), **self.ran_on(), **found}

    def checkpoint(self) -> dict[str, str]:
        """Which checkpoint makes the results, JSON-ready: its folder, and a digest of its files."""
        if self._digest is None:
            self._digest = folder_digest(self.folder)
        return {"checkpoint": str(self.folder), "checkpoint_digest": self._digest}

    def ran_on(self) -> dict[str, str]:
        """Checkpoint and device, as they are recorded in the settings of a result.

        Raises:
            RuntimeError: nothing was loaded yet, which is when the device is chosen.
        """
        if self.device is None:
            raise RuntimeError("the device is chosen when the networks are loaded")
        return {"model": self.defaults.kind, "device": self.device.name, "dtype": self.device.dtype}

    def memory_warning(self, request: AnimationRequest, num_frames: int) -> str | None:
        """A warning if memory may not suffice for a completed request, else ``None``.

        Nothing is known, so nothing is said, while no networks are loaded.
        """
        networks = self._networks
        if networks is None:
            return None
        _, reason = networks.expected_profile(Work.of(request, num_frames))
        # The choice itself never fails: the tightest profile is tried even if it may not suffice.
        if not reason.endswith(TOO_LITTLE):
            return None
        return f"Memory may be short: {reason}. Choose a smaller size, or close other programs."

    def animate(
        self,
        request: AnimationRequest,
        on_progress: OnProgress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> AnimationResult | None:
        """Animate one photo with one clip and write the result; one animation runs at a time.

        In a group the first process writes it, for the others the result is ``None``.

        Raises:
            InputError: an input, a setting or the output cannot be used.
            Cancelled: ``should_stop()`` was true; called at least once per window. Nothing is left behind.
        """
        # A second request waits here until the networks are free.
        with self._lock:
            meter = ProgressMeter(on_progress, seconds_per_decoded_frame=self._seconds_per_decoded_frame)
            check_request(request)
            check_outputs(request)
            self.check_size(request)
            # Sizes are checked before this, which may take minutes.
            request = self._with_part_map(request, on_progress, should_stop)
            meter.begin("load", 1)
            networks = self._ready()
            request = self.defaults.completed(request)
            check_signals(
                request,
                self.folder,
                driving=self.defaults.driving,
                takes_keypoints=self.defaults.takes_keypoints,
            )
            meter.begin("read", 1)
            with ExitStack() as stack:
                media, backdrop = self._prepared(request, meter, should_stop, stack)
                return self._run(networks, request, media, backdrop, meter, should_stop)

    def draw_mask(
        self,
        request: AnimationRequest,
        *,
        picture: Path | None = None,
        mask: Path | None = None,
        scene: Path | None = None,
        on_progress: OnProgress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> None:
        """Show or save how people will be cut out, without loading the networks that animate.

        Args:
            request: with another background than the photo's.
            picture, mask, scene: files to write, see `magicanimate.background.write_mask_files`.

        Raises:
            InputError: an input, a setting or an output cannot be used, or the people stay in their photo.
            Cancelled: ``should_stop()`` was true; called for each frame.
        """
        from magicanimate.background import check_mask_outputs, write_mask_files

        check_request(request)
        check_mask_outputs(request, picture=picture, mask=mask)
        request = self.defaults.completed(self._with_part_map(request, on_progress, should_stop))
        meter = ProgressMeter(on_progress)
        meter.begin("read", 1)
        with ExitStack() as stack:
            media, backdrop = self._prepared(request, meter, should_stop, stack)
            assert backdrop is not None  # it is not the photo's
            write_mask_files(backdrop, media, picture=picture, mask=mask, scene=scene)

    def _with_part_map(
        self, request: AnimationRequest, on_progress: OnProgress | None, should_stop: ShouldStop | None
    ) -> AnimationRequest:
        """The request with the part map of an ordinary video, where that is to be its own background."""
        if not wants_part_map(request):
            return request
        if self._group is not None and self._group.size > 1:
            raise InputError(
                f"Several processes cannot make the part map of {request.motion} together; make it "
                "first with `python -m densepose_tools`, and give both (--driving-video)."
            )
        from densepose_tools.engine_choice import EngineChoice
        from densepose_tools.motion_steps import with_part_map

        # Converted with the best engine that is at hand, as the page does.
        engine = EngineChoice(device=pick_device(*self._requested).name, offline=self.offline)
        return with_part_map(request, engine=engine, on_progress=on_progress, should_stop=should_stop)

    def _prepared(
        self,
        request: AnimationRequest,
        meter: ProgressMeter,
        should_stop: ShouldStop | None,
        stack: ExitStack,
    ) -> tuple[PreparedMedia, Backdrop | None]:
        """Photo and motion as the networks see them, and what the people are put before.

        ``stack`` closes the frames on disk.
        """
        from magicanimate.media.prepare import prepare_media

        width, height = request.size
        media = prepare_media(
            request,
            width=width,
            height=height,
            drawn_keypoints=self.defaults.driving == "keypoints",
            find_people=self._find_people,
            on_progress=meter.update,
            should_stop=should_stop,
        )
        # Frames are on disk, where they must not stay when something fails.
        stack.push(media)
        for note in media.notes:
            log.warning("%s", note)
            meter.note(note)
        if request.start_from_photo:
            from densepose_tools.transition import led_from_photo

            media = stack.enter_context(led_from_photo(request, media))
        if request.background == PHOTO_BACKGROUND:
            return media, None
        from densepose_tools.segmenter import parts_in_photo
        from magicanimate.background import make_backdrop, photo_backdrop
        from magicanimate.mask import masks_of

        masks = stack.enter_context(masks_of(request, media))
        if request.background == STILL_BACKGROUND:
            backdrop = photo_backdrop(request, media.photo, masks, parts_in_photo)
            if backdrop is None:
                note = "nobody is recognised in the photo, so its background is not kept as it is"
                log.warning("%s", note)
                meter.note(note)
            return media, backdrop
        backdrop = make_backdrop(request, media, masks, parts_in_photo, should_stop)
        # The networks see the people before the new background already, so that light and edges suit it.
        return replace(media, photo=backdrop.reference), backdrop

    def _find_people(self, photo: np.ndarray) -> tuple[int, int, int, int] | None:
        """Box x0, y0, x1, y1 around the people in a photo, uint8 (H, W, 3); ``None`` if there are none."""
        from densepose_tools.photo_people import PersonDetector

        self._person_detector = self._person_detector or PersonDetector.at_hand()
        try:
            return None if self._person_detector is None else self._person_detector.people(photo)
        except InputError as error:  # the detector cannot be used; the photo still can
            log.warning("the photo is cropped in its middle: %s", error)
            return None

    def check_size(self, request: AnimationRequest) -> None:
        """Refuse sizes and windows that the checkpoint or this machine's memory cannot handle.

        Raises:
            InputError: with what is possible, or the checkpoint cannot be read.
        """
        request = self.defaults.completed(request)
        device = self.device or pick_device(*self._requested)
        # What does not even fit into the tightest profile on an empty device can never run.
        tightest = profiles_for(device.name)[-1]
        work = Work.of(request, request.context_length)
        footprint = Footprint.of(self.folder)
        if footprint.positions is not None and request.context_length > footprint.positions:
            raise InputError(
                f"Windows of {request.context_length} frames are too long for the checkpoint {self.folder}, "
                f"which knows {footprint.positions} positions in time; choose a smaller window."
            )
        needed = needed_bytes(footprint, work, tightest, device=device.name, dtype=device.dtype)
        if needed > (total := total_bytes(device.name)):
            raise InputError(
                f"{request.width}x{request.height} pixels with windows of {request.context_length} frames "
                f"need about {needed / 1e9:.1f} GB, and {device.name} has {total / 1e9:.1f} GB in all; "
                "choose a smaller size or shorter windows."
            )

    def _run(
        self,
        networks: PlacedNetworks,
        request: AnimationRequest,
        media: PreparedMedia,
        backdrop: Backdrop | None,
        meter: ProgressMeter,
        should_stop: ShouldStop | None,
    ) -> AnimationResult | None:
        from magicanimate.loading import named_scheduler

        details = None if request.detail == "off" else self._details(request, media, meter)
        # The real number of frames, which was an estimate when the size was checked.
        work = Work.of(request, media.num_frames)
        fallback, pipe = networks.prepare(work, on_fallback=meter.note), networks.pipe
        # The embedding of the empty prompt is stored, so most animations need no text encoder.
        if request.prompt or request.negative_prompt:
            from magicanimate.loading import add_text_encoder

            add_text_encoder(pipe, self.folder, device=networks.device.name, dtype=pipe.unet.dtype)
        steps = request.num_inference_steps or self.defaults.num_inference_steps
        steps_done, windows_done = 0, (0, 1)

        def on_window(done: int, total: int) -> None:
            nonlocal windows_done
            windows_done = (done, total)
            step = None if request.stream else (steps_done + 1, steps)  # streamed, steps take turns
            meter.update(done, total, denoising_step=step)

        def on_step(step: int, _: torch.Tensor, expected: torch.Tensor) -> None:
            nonlocal steps_done
            steps_done = step + 1
            if request.preview_every and steps_done % request.preview_every == 0:
                preview = self._previewed(pipe, expected)
                meter.update(*windows_done, preview=preview, denoising_step=(steps_done, steps))

        if request.stream and networks.group.size > 1:
            raise InputError("Several processes cannot stream one clip; start one, or leave --stream out.")
        # Put back at the end: the pipeline stays loaded for requests with another scheduler.
        own_scheduler = pipe.scheduler
        pipe.scheduler = named_scheduler(pipe.scheduler, request.scheduler, steps=steps)
        meter.begin("denoise", 1, frames_to_decode=media.num_frames)
        # Holds what must live until the last frame is written, such as LoRAs and stores of frames.
        kept = ExitStack()
        try:
            if request.lora:
                self._adapt(pipe, request, meter, kept)
            denoise = partial(
                pipe,
                guidance_scale=request.guidance_scale,
                seed=request.seed,
                prompt=request.prompt,
                negative_prompt=request.negative_prompt,
                fusion=request.fusion,
                windows=WindowPlan.of(request.settings()),
                controlnet_conditioning_scale=request.controlnet_conditioning_scale,
                optimization=OptimizationConfig(attention=self._attention),
                fallback=fallback,
                group=networks.group,
                reference_strength=request.reference_strength,
                approximations=Approximations.of(request.settings()),
                output_type="stream",
                should_stop=should_stop,
            )
            output = denoise(
                media.photo,
                media.control,
                keypoints=media.keypoints,
                num_inference_steps=request.num_inference_steps,
                on_window=on_window,
                on_step=on_step,
                beginning_first=request.stream,
            )
            # All processes denoised; only the first one decodes and writes.
            if networks.group.rank:
                return None
            frames = output.frames
            if request.stream:
                from magicanimate.results import previewed

                kept.callback(frames.close)
                frames = previewed(request, frames, meter, lambda: windows_done, media.fps)
            if details is not None:
                from magicanimate.detail import refine_details

                frames = refine_details(
                    request, media, frames, details, denoise=denoise, steps=steps, meter=meter, kept=kept
                )
            if backdrop is not None:
                frames = backdrop.composited(frames)
            return self._write(request, media, frames, meter, fallback)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(
                f"The memory of {networks.device.name} does not hold {request.width}x{request.height} "
                f"pixels with windows of {request.context_length} frames; choose a smaller size."
            ) from error
        finally:
            kept.close()
            pipe.scheduler = own_scheduler

    def _details(
        self, request: AnimationRequest, media: PreparedMedia, meter: ProgressMeter
    ) -> DetailPlan | None:
        """The faces and hands to refine; tells the user beforehand how much longer that takes."""
        from densepose_tools.segmenter import parts_in_photo
        from magicanimate.detail import plan_details

        size = min(self.defaults.width, self.defaults.height)
        details = plan_details(request, media, parts_in_photo, size=size)
        if details is not None:
            log.info("%s", details.cost)
            meter.note(details.cost)
        return details

    def _adapt(
        self, pipe: MagicAnimatePipeline, request: AnimationRequest, meter: ProgressMeter, kept: ExitStack
    ) -> None:
        """Apply the request's LoRAs until ``kept`` closes; note what of them is left out or unsuitable."""
        from magicanimate.lora import advice, applied

        prompted = bool(request.prompt or request.negative_prompt)
        notes = kept.enter_context(applied(pipe, request.lora, prompted=prompted)) + advice(request)
        for note in notes:
            log.warning("%s", note)
            meter.note(note)

    def _write(
        self,
        request: AnimationRequest,
        media: PreparedMedia,
        frames: Iterator[np.ndarray],
        meter: ProgressMeter,
        fallback: OutOfMemoryFallback,
    ) -> AnimationResult:
        from magicanimate.results import write_result

        settings = {
            "program": f"MagicAnimate {__version__}",
            "ai_generated": True,
            **self.ran_on(),
            **self.checkpoint(),
            "num_frames": media.num_frames,
            "output_fps": media.fps,
            **request.settings(),
            # The profile at the end, which is a tighter one if memory ran out on the way.
            "memory": "" if fallback.profile is None else fallback.profile.name,
        }
        result = write_result(request, media, frames, settings=settings, meter=meter)
        if not request.stream:  # otherwise the frames were decoded while the rest was denoised
            # So that the next animation can tell how long decoding will take while it still denoises.
            self._seconds_per_decoded_frame = meter.seconds["decode"] / media.num_frames
        # A missing package would otherwise be reported with each animation of a batch.
        if result.unsigned not in self._told:
            log.warning(result.unsigned)
            self._told.add(result.unsigned)
        return result

    def _previewed(self, pipe: MagicAnimatePipeline, latents: torch.Tensor) -> np.ndarray:
        if self._preview is None:
            from magicanimate.models.autoencoder import LatentPreview

            self._preview = LatentPreview(pipe.vae)
        return self._preview(latents)
