"""The pipeline: check, encode, prepare, denoise, decode.

Letters in shape comments: ``B`` guidance branches (1 or 2), ``F`` frames of the clip, ``K`` frames of a
window, ``C h w`` latent channels, height and width, ``L D`` text tokens and width, ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import ControlNetModel, DiffusionPipeline
from diffusers.utils import BaseOutput

from magicanimate.acceleration.backends import AttentionBackend
from magicanimate.acceleration.cpu_kernels import cpu_kernels
from magicanimate.acceleration.layers import (
    CachedEmbeddings,
    WindowProgress,
    accelerated,
    stopping_between_blocks,
)
from magicanimate.acceleration.options import Approximations, OptimizationConfig, ProcessGroup
from magicanimate.acceleration.streaming import stream
from magicanimate.config import FUSIONS, Frames, Fusion, ShouldStop, raise_if_stopped
from magicanimate.device import to_device, to_host
from magicanimate.errors import InputError
from magicanimate.memory import DECODED_AT_ONCE, OutOfMemoryFallback, save_state
from magicanimate.models.appearance_encoder import AppearanceEncoder, with_photo_map
from magicanimate.models.autoencoder import Autoencoder, decode_scaled, encode_scaled, spatial_factor
from magicanimate.models.hybrid_attention import hybrid_attention
from magicanimate.models.prompt import EmptyPrompt
from magicanimate.models.unet import VideoUNet
from magicanimate.photo_warp import WarpedPhoto, with_photo_detail
from magicanimate.sampling import Networks, denoise, paper_networks
from magicanimate.windows import WindowPlan

if TYPE_CHECKING:
    from densepose_tools.segmenter import PartSegmenter

NOISE_PERIOD = 16  # the published program repeats the noise of 16 frames along the clip


@dataclass
class MagicAnimateOutput(BaseOutput):
    """What the pipeline returns."""

    frames: Any  # uint8 ``F H W 3`` ("np"), an iterator of uint8 ``H W 3`` ("stream") or ``None`` ("latent")
    latents: Any  # final latents, float32 ``1 C F h w``; ``None`` where they come with the frames


OnWindow = Callable[[int, int], None]
OnStep = Callable[[int, torch.Tensor, torch.Tensor], None]


class MagicAnimatePipeline(DiffusionPipeline):
    """Animates a reference image with a DensePose clip.

    Components:
        vae: image autoencoder; unet: video UNet; appearance_encoder; controlnet: pose ControlNet;
        scheduler: any diffusers scheduler; empty_prompt: the stored embedding of ""; text_encoder and
        tokenizer: CLIP's, only needed for a prompt; controlnet_keypoints: a second ControlNet, for keypoints.

    Args:
        kind: "full" or "mini".
        default_width, default_height: pixels the checkpoint was trained at.
        default_steps, default_guidance_scale: what suits the checkpoint.
        default_background: whether an animation keeps the photo's background ("still") or leaves it to the
            networks ("photo"), see `magicanimate.background`; this class itself always does the latter.
        noise_period: frames after which the initial noise repeats; 1 gives every frame the same noise.
        photo_map: whether the appearance encoder takes the photo's part map beside its latents.
        first_latents: what sampling begins with, as the checkpoint was trained: "noise", or the latents of
            the "warped_photo", see `magicanimate.photo_warp`.
        photo_detail: whether such a checkpoint's frames get the photo's own pixels where both agree.
        fusion: the blocks that read the reference, as the checkpoint was trained.
        driving: the control signals it was trained with; inferred from the ControlNets when ``None``.

    Raises:
        ValueError: ``photo_map`` or ``driving`` is not what the networks take.
    """

    model_cpu_offload_seq = "text_encoder->appearance_encoder->controlnet->controlnet_keypoints->unet->vae"
    _optional_components = ["text_encoder", "tokenizer", "controlnet_keypoints"]

    def __init__(
        self,
        vae: Autoencoder,
        unet: VideoUNet,
        appearance_encoder: AppearanceEncoder,
        controlnet: ControlNetModel,
        scheduler: Any,
        empty_prompt: EmptyPrompt,
        text_encoder: Any = None,
        tokenizer: Any = None,
        controlnet_keypoints: ControlNetModel | None = None,
        kind: str = "full",
        default_width: int = 512,
        default_height: int = 512,
        default_steps: int = 25,
        default_guidance_scale: float = 7.5,
        default_background: str = "photo",
        noise_period: int = NOISE_PERIOD,
        photo_map: bool = False,
        first_latents: str = "noise",
        photo_detail: bool = True,
        fusion: str = "midup",  # diffusers compares values with annotations, and knows no Literal
        driving: str | None = None,
    ) -> None:
        super().__init__()
        driving = driving or ("densepose" if controlnet_keypoints is None else "both")
        if (driving == "both") != (controlnet_keypoints is not None):
            raise ValueError(f"driving is {driving!r}; controlnet_keypoints belongs to 'both' only")
        if photo_map != appearance_encoder.takes_photo_map:
            raise ValueError(
                f"photo_map is {photo_map} and the appearance encoder takes "
                f"{'a' if appearance_encoder.takes_photo_map else 'no'} part map"
            )
        self.register_modules(
            vae=vae,
            unet=unet,
            appearance_encoder=appearance_encoder,
            controlnet=controlnet,
            scheduler=scheduler,
            empty_prompt=empty_prompt,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            controlnet_keypoints=controlnet_keypoints,
        )
        self.register_to_config(
            kind=kind,
            default_width=default_width,
            default_height=default_height,
            default_steps=default_steps,
            default_guidance_scale=default_guidance_scale,
            default_background=default_background,
            noise_period=noise_period,
            photo_map=photo_map,
            first_latents=first_latents,
            photo_detail=photo_detail,
            fusion=fusion,
            driving=driving,
        )
        self._segmenter: PartSegmenter | None = None
        self.vae_scale_factor = spatial_factor(vae)

    @torch.inference_mode()
    def __call__(
        self,
        image: np.ndarray,
        control: Frames,
        *,
        keypoints: Frames | None = None,
        photo_labels: np.ndarray | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        video: Frames | None = None,
        strength: float = 1.0,
        seed: int = 1,
        latents: torch.Tensor | None = None,
        prompt: str | torch.Tensor = "",
        negative_prompt: str | torch.Tensor = "",
        fusion: Fusion | None = None,
        windows: WindowPlan | None = None,
        controlnet_conditioning_scale: float = 1.0,
        reference_strength: float = 1.0,
        optimization: OptimizationConfig | None = None,
        fallback: OutOfMemoryFallback | None = None,
        group: ProcessGroup | None = None,
        approximations: Approximations | None = None,
        output_type: str = "np",
        beginning_first: bool = False,
        on_window: OnWindow | None = None,
        on_step: OnStep | None = None,
        should_stop: ShouldStop | None = None,
    ) -> MagicAnimateOutput:
        """Animate ``image`` with the poses of ``control``.

        Args:
            image: reference, uint8 ``H W 3``.
            control: DensePose frames of the same size; need not be in memory, see `Frames`.
            keypoints: control images of the same frames' keypoints, likewise, for a checkpoint that has a
                ControlNet for them.
            photo_labels: part ids of ``image``, uint8 ``H W``, for a checkpoint that needs them; the bundled
                part segmenter's when ``None``.
            num_inference_steps, guidance_scale: the checkpoint's defaults when ``None``; guidance of 1 or
                less runs the conditional branch only.
            video: frames to begin with, as many and as large as those of ``control``, uint8 ``H W 3`` each;
                they get the noise of the first of the steps that run (SDEdit, Meng et al. 2021).
            strength: share of the steps that run, the last ones, above 0 and up to 1. A checkpoint that
                begins with the warped photo takes the video in its place, without noise, and has no last
                steps: for it a schedule of so many steps.
            seed: of the initial noise and of what a scheduler adds, drawn on the CPU: the same on every
                device.
            latents: initial latents ``1 C F h w`` instead of noise from ``seed`` or of the warped photo.
            prompt, negative_prompt: text, or its embedding ``1 L D``; the empty prompt and embeddings need no
                text encoder.
            fusion: "midup" or "full"; what the checkpoint was trained with when ``None``.
            windows: context windows; 16 frames, overlap 4, no closed loop when ``None``.
            controlnet_conditioning_scale: weight of the pose residuals.
            reference_strength: of the photo in the attention, 0 or more; 1 as published.
            optimization: how the work is arranged, which changes the result by rounding only.
            fallback: what to do when memory runs out; an error when ``None``.
            group: processes that share the windows; each has the same arguments and gets the same result.
            approximations: what may be left out, which changes the result; nothing when ``None``.
            output_type: "np", "stream" (frames are decoded as they are taken) or "latent".
            beginning_first: with "stream", finish the beginning of the clip first, and compute no more than
                the frames that are taken need; see `magicanimate.acceleration.streaming`. ``on_step`` is not
                called then.
            on_window: called after each window with windows done and windows in all.
            on_step: called after each step with its index, the latents and what the scheduler expects of them
                when they are clean, ``1 C F h w`` each; schedulers that do not say so give the latents again.
            should_stop: called before each window, each decoded chunk and each block of a network.

        Raises:
            ValueError: an argument that does not fit the others.
            InputError: what the networks compute is not finite.
            Cancelled: ``should_stop()`` was true.
        """
        steps = num_inference_steps or self.config.default_steps
        guidance = self.config.default_guidance_scale if guidance_scale is None else guidance_scale
        fusion = fusion or self.config.fusion
        plan = windows or WindowPlan()
        self.check_inputs(
            image,
            control,
            keypoints=keypoints,
            video=video,
            steps=steps,
            strength=strength,
            fusion=fusion,
            output_type=output_type,
        )
        if beginning_first and (output_type != "stream" or plan.closed_loop or (group and group.size > 1)):
            raise ValueError(
                "the beginning comes first with output_type 'stream', no closed loop, one process"
            )

        # Encode the text, the photo and, for SDEdit, the video to begin with. With a guidance scale of 1 the
        # unconditional branch would cancel out, so it is not computed.
        text = self.encode_text(prompt, negative_prompt, guided=guidance > 1)
        warps = self.config.first_latents == "warped_photo"
        if photo_labels is None and (warps or self.config.photo_map):
            photo_labels = self._seen_labels(image)
        warped = WarpedPhoto(image, photo_labels, control) if warps and photo_labels is not None else None
        # Absent helpers are replaced by ones that do nothing, which saves a case at each use.
        fallback, group = fallback or OutOfMemoryFallback(), group or ProcessGroup()

        def encode() -> torch.Tensor:
            with group.fail_together(), stopping_between_blocks([self.vae], should_stop):
                return self.encode_image(image, photo_labels)

        reference = fallback.run(encode)
        clean = None if video is None else self.encode_video(video, fallback, group, should_stop)

        def detailed(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
            if warped is None or not self.config.photo_detail:
                return frames
            return with_photo_detail(frames, warped)

        # Checked here, where the cause is still known; later everything would be NaN.
        self._require_finite(torch.isfinite(reference).all(), "the latents of the photo")

        # Prepare the first latents: noise, or the video's latents with the noise of the first step that runs.
        if warps:
            steps, strength = max(1, int(steps * strength)), 1.0
        timesteps = self.get_timesteps(steps, strength)
        # One generator for the first noise and for what schedulers add, on the CPU: the same on every device.
        generator = torch.Generator("cpu").manual_seed(seed)
        begins_warped = warped is not None and latents is None
        if begins_warped and clean is not None:
            # A given video is nearer to the result than the photo, and takes its place.
            latents, clean, begins_warped = clean, None, False
        elif warped is not None and begins_warped and not beginning_first:
            latents = self.encode_video(warped, fallback, group, should_stop)
        latents = self.prepare_latents(len(control), image.shape[:2], generator=generator, latents=latents)
        if clean is not None:
            # Schedulers disagree on the scale of their first latents; `add_noise` wants plain noise.
            noise = latents / float(self.scheduler.init_noise_sigma)
            latents = self.scheduler.add_noise(clean, noise, timesteps[:1])

        # Denoise: the loop is in `sampling`, and here what is around it.
        optimization = optimization or OptimizationConfig()
        approximations = approximations or Approximations()
        if beginning_first:  # windows of different steps alternate, and each needs the bank of its own step
            optimization = replace(optimization, precompute_banks=True)
        # Known beforehand, so that progress and time left are right from the first window on.
        counts = [len(plan.windows(len(control), step=i)) for i in range(len(timesteps))]
        if beginning_first:  # progress counts each window as a step, since a window is what is run again
            counts = [1] * sum(counts)
        progress = WindowProgress(counts, on_window, should_stop, processes=group.size)
        with ExitStack() as stack:
            # What changes the networks is entered here, and undone in reverse order when the stack ends.
            if optimization.cpu_kernels and self._execution_device.type == "cpu":
                stack.enter_context(cpu_kernels(*self._denoisers()))
            if optimization.attention:
                stack.enter_context(AttentionBackend(optimization.attention))
            readers = stack.enter_context(hybrid_attention(self.unet, fusion=fusion))
            stack.enter_context(stopping_between_blocks(self._denoisers(), should_stop))
            # Several ControlNets add up; the paper names only that of the part maps.
            images = [control] if keypoints is None else [control, keypoints]
            controls = list(zip(self.controlnets(), images, strict=True))

            @lru_cache(maxsize=1)  # the caches of one arrangement are of no use to the next
            def networks(arranged: OptimizationConfig) -> Networks:
                """The paper's networks in their speed-ups, as the present memory profile arranges these."""
                conditioning: list[tuple[Any, Any]] = list(controls)
                if arranged.cache_embeddings:
                    # Each stands in for the ControlNet as well as for its images.
                    cached = [CachedEmbeddings(network, frames) for network, frames in controls]
                    conditioning = list(zip(cached, cached, strict=True))
                paper = partial(
                    paper_networks,
                    self.unet,
                    self.appearance_encoder,
                    conditioning,
                    readers,
                    photo=reference,
                    control_scale=controlnet_conditioning_scale,
                    reference_strength=reference_strength,
                )
                return accelerated(
                    paper,
                    self.unet,
                    readers,
                    text,
                    timesteps,
                    optimization=arranged,
                    approximations=approximations,
                    group=group,
                    progress=progress,
                )

            def retried(step: Callable[[], Any]) -> Any:
                """Run a step; when memory runs out, again from its beginning, one memory profile down."""
                # Schedulers and generator have moved on when a step fails, so their state is taken before it.
                restore = save_state(self.scheduler, generator)

                def attempt() -> Any:
                    restore()
                    progress.begin_step()
                    return step()

                return fallback.run(attempt)

            inputs = (latents, self.scheduler, timesteps, lambda: networks(fallback.arrange(optimization)))
            options: dict[str, Any] = {"plan": plan, "guidance_scale": guidance, "generator": generator}
            if beginning_first:

                def counted(window: Callable[[], Any]) -> Any:
                    result = retried(window)
                    progress.end_step()
                    return result

                begun, first = 0, latents

                def begin(window: range) -> None:
                    # A frame is warped and encoded when it is needed, or the beginning would wait for all.
                    nonlocal begun
                    if warped is not None and begins_warped and window.stop > begun:
                        new = [warped[i] for i in range(begun, window.stop)]
                        first[:, :, begun : window.stop] = self.encode_video(
                            new, fallback, group, should_stop
                        )
                        begun = window.stop

                frames = self._finished(
                    stream(*inputs, **options, attempt=counted, begin=begin),
                    stack.pop_all(),
                    fallback,
                    should_stop,
                )
                # Started, since a generator that never ran would not close its stack when it is dropped.
                next(frames)
                return MagicAnimateOutput(detailed(frames), None)
            for i, (latents, expected) in enumerate(denoise(*inputs, **options, attempt=retried)):
                progress.end_step()
                after = f"the latents after step {i + 1} of {len(timesteps)}"
                self._require_finite(torch.isfinite(latents).all(), after)
                if on_step is not None:
                    on_step(i, latents, expected)

        # Decode. The other processes are done now; the first one works alone and must not wait for them.
        fallback.leave_group()
        if output_type == "latent":
            return MagicAnimateOutput(frames=None, latents=latents)
        frames = detailed(self.decode(latents, fallback=fallback, should_stop=should_stop))
        return MagicAnimateOutput(np.stack(list(frames)) if output_type == "np" else frames, latents)

    @torch.inference_mode()
    def _finished(
        self,
        parts: Iterator[torch.Tensor],
        entered: ExitStack,
        fallback: OutOfMemoryFallback,
        should_stop: ShouldStop | None,
    ) -> Iterator[Any]:
        """Yield ``None``, then the frames, uint8 ``H W 3``, of final latents ``1 C F h w`` as these come.

        What was ``entered`` must stay until the last of them, and is undone then.
        """
        with entered:
            yield None
            number = 0
            for part in parts:
                after = f"the latents of frame {number} and those after it"
                self._require_finite(torch.isfinite(part).all(), after)
                number += part.shape[2]
                yield from self.decode(part, fallback=fallback, should_stop=should_stop)

    def _denoisers(self) -> tuple[torch.nn.Module, ...]:
        return (self.unet, self.appearance_encoder, *self.controlnets())

    def controlnets(self) -> list[ControlNetModel]:
        """The ControlNet for part maps and, if there is one, that for keypoints."""
        return [network for network in (self.controlnet, self.controlnet_keypoints) if network is not None]

    def check_inputs(
        self,
        image: np.ndarray,
        control: Frames,
        *,
        keypoints: Frames | None,
        video: Frames | None,
        steps: int,
        strength: float,
        fusion: str,
        output_type: str,
    ) -> None:
        """Refuse arguments that do not fit each other or the checkpoint.

        Raises:
            ValueError: the message names the argument, its value and what is allowed.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image must be uint8 (H, W, 3), not {image.dtype} {tuple(image.shape)}")
        if len(control) == 0:
            raise ValueError("control has no frames")
        if tuple(control[0].shape) != tuple(image.shape):
            raise ValueError(
                f"image {tuple(image.shape)} and control frames {tuple(control[0].shape)} differ in size"
            )
        # A ControlNet that is left out would silently give another video than the checkpoint was trained for.
        if (keypoints is None) != (self.controlnet_keypoints is None):
            raise ValueError(
                "keypoints and a ControlNet for them go together; this checkpoint has "
                f"{'none' if self.controlnet_keypoints is None else 'one'}"
            )
        for what, frames in (("of keypoints", keypoints), ("frames of video", video)):
            if frames is not None and (len(frames), *frames[0].shape) != (len(control), *image.shape):
                raise ValueError(
                    f"{len(control)} control frames {tuple(image.shape)} and {len(frames)} {what} "
                    f"{tuple(frames[0].shape)} differ"
                )
        if not 0 < strength <= 1:
            raise ValueError(f"strength is {strength}; choose more than 0 and up to 1")
        if any(side % self.vae_scale_factor for side in image.shape[:2]):
            raise ValueError(
                f"width and height must be multiples of {self.vae_scale_factor}, not "
                f"{image.shape[1]} x {image.shape[0]}"
            )
        # The schedule has no more timesteps at which steps could be taken.
        if not 1 <= steps <= self.scheduler.config.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps is {steps}; choose 1 to {self.scheduler.config.num_train_timesteps}"
            )
        if fusion not in FUSIONS:
            raise ValueError(f"unknown fusion {fusion!r}; choose from {FUSIONS}")
        if output_type not in ("np", "stream", "latent"):
            raise ValueError(f"unknown output_type {output_type!r}; choose from 'np', 'stream', 'latent'")

    def encode_text(
        self, prompt: str | torch.Tensor, negative_prompt: str | torch.Tensor, *, guided: bool
    ) -> torch.Tensor:
        """Text embeddings ``B L D``: [negative, prompt] with guidance, else the prompt alone."""
        embeds = [self._embed(text) for text in ([negative_prompt, prompt] if guided else [prompt])]
        return torch.cat(embeds).to(self._execution_device, self.unet.dtype)

    def _embed(self, text: str | torch.Tensor) -> torch.Tensor:
        if isinstance(text, torch.Tensor):
            return text
        # The stored embedding is that of the original text encoder: one with a LoRA must run itself.
        if not text and not hasattr(self.text_encoder, "peft_config"):
            return self.empty_prompt.embedding
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError(
                f"this checkpoint ({self.config.kind}) has no text encoder: leave prompt and negative "
                "prompt empty"
            )
        tokens = self.tokenizer(
            text,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return self.text_encoder(tokens.input_ids.to(self.text_encoder.device))[0]

    def encode_image(self, image: np.ndarray, photo_labels: np.ndarray | None = None) -> torch.Tensor:
        """Encode the photo to the appearance encoder's input; the reference carries no noise.

        Args:
            image: uint8 ``H W 3``.
            photo_labels: its part ids, uint8 ``H W``, if the checkpoint takes them; the segmenter's when
                ``None``.

        Returns:
            Scaled latents ``1 C h w``, and the part map if the checkpoint takes it.
        """
        pixels = to_device(torch.from_numpy(np.array(image)), self._execution_device)
        # The published program normalizes to [-1, 1], as the autoencoder was trained.
        pixels = pixels.movedim(-1, 0)[None].to(torch.float32) / 127.5 - 1
        latents = encode_scaled(self.vae, pixels).to(self.unet.dtype)
        if not self.config.photo_map:
            return latents
        labels = self._seen_labels(image) if photo_labels is None else photo_labels
        return with_photo_map(latents, to_device(torch.from_numpy(labels)[None], latents.device))

    def _seen_labels(self, image: np.ndarray) -> np.ndarray:
        """Part ids of a picture, uint8 ``H W``, as the bundled segmenter sees them."""
        if self._segmenter is None:
            from densepose_tools.segmenter import PartSegmenter

            self._segmenter = PartSegmenter.load()
        return self._segmenter.labels(image[None])[0]

    def encode_video(
        self,
        video: Frames,
        fallback: OutOfMemoryFallback,
        group: ProcessGroup,
        should_stop: ShouldStop | None,
    ) -> torch.Tensor:
        """Latents of frames, uint8 ``F H W 3`` -> float32 ``1 C F h w``, a few frames at a time."""

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            with group.fail_together(), stopping_between_blocks([self.vae], should_stop):
                return encode_scaled(self.vae, pixels.float() / 127.5 - 1).float()

        chunks = []
        # In the same portions as decoding, for which memory is planned.
        for first in range(0, len(video), DECODED_AT_ONCE):
            raise_if_stopped(should_stop, "while encoding")
            frames = np.stack([video[i] for i in range(first, min(first + DECODED_AT_ONCE, len(video)))])
            pixels = to_device(torch.from_numpy(frames), self._execution_device).movedim(-1, 1)
            chunks.append(fallback.run(partial(encode, pixels)))
        return torch.cat(chunks).transpose(0, 1)[None]  # F C h w -> 1 C F h w

    def get_timesteps(self, num_inference_steps: int, strength: float) -> torch.Tensor:
        """Timesteps from noise to image, on the CPU; the last ``strength`` of them, at least one.

        There the scheduler finds its place in its tables without asking the device where it is, which would
        wait for all the work that is queued.
        """
        self.scheduler.set_timesteps(num_inference_steps, device="cpu")
        # Some solvers (Heun's) have several entries for a step.
        timesteps, order = self.scheduler.timesteps, getattr(self.scheduler, "order", 1)
        begin = (num_inference_steps - max(1, int(num_inference_steps * strength))) * order
        if begin and hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(begin)
        return timesteps[begin:]

    def prepare_latents(
        self,
        num_frames: int,
        size: tuple[int, int],
        *,
        generator: torch.Generator,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Initial latents ``1 C F h w``, float32, in the scheduler's scale.

        The noise of ``noise_period`` frames (published: 16) is repeated along the clip, which steadies it.
        """
        # Drawn on the CPU: the generators of GPUs give other numbers for the same seed.
        height, width = (side // self.vae_scale_factor for side in size)
        channels = self.unet.config.in_channels
        if latents is None:
            period = self.config.noise_period
            noise = torch.randn((1, channels, period, height, width), generator=generator)
            # Noise is drawn for a period only, as published: the whole clip repeats it.
            repeats = -(-num_frames // period)
            latents = noise.repeat(1, 1, repeats, 1, 1)[:, :, :num_frames]
            latents = latents * float(self.scheduler.init_noise_sigma)
        expected = (1, channels, num_frames, height, width)
        if tuple(latents.shape) != expected:
            raise ValueError(f"latents are {tuple(latents.shape)} but {expected} is needed")
        return to_device(latents.float(), self._execution_device)

    def _require_finite(self, finite: torch.Tensor, what: str) -> None:
        """Stop at NaN or infinity, which would end in a flat video."""
        if not finite:
            dtype = str(self.unet.dtype).removeprefix("torch.")
            raise InputError(
                f"There are values that are not finite in {what}: the checkpoint's weights are damaged, the "
                f"guidance is far too strong, or {dtype} is too narrow for this checkpoint (--dtype float32)."
            )

    @torch.inference_mode()  # of each step of the generator, not of who takes the frames
    def decode(
        self,
        latents: torch.Tensor,
        *,
        fallback: OutOfMemoryFallback | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Iterator[np.ndarray]:
        """Yield the frames, uint8 ``H W 3``, decoded a few at a time so that memory does not grow.

        On a GPU the next few are decoded while those before them are written.

        Raises:
            InputError: a frame is not finite.
            Cancelled: ``should_stop()`` was true.
        """
        fallback = fallback or OutOfMemoryFallback()

        def decode_chunk(first: int) -> Callable[[], np.ndarray]:
            chunk = latents[0, :, first : first + DECODED_AT_ONCE].transpose(0, 1)  # C F h w -> F C h w
            with stopping_between_blocks([self.vae], should_stop):
                decoded = decode_scaled(self.vae, chunk)
                pixels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
                # Copied without waiting; the returned function waits when the frames are wanted.
                frames = to_host(pixels.movedim(1, -1).contiguous())
                finite = to_host(torch.isfinite(decoded).all())

            def arrived() -> np.ndarray:
                self._require_finite(finite(), f"the frames from number {first} on")
                return frames().numpy()

            return arrived

        coming: Callable[[], np.ndarray] | None = None
        for first in range(0, latents.shape[2], DECODED_AT_ONCE):
            raise_if_stopped(should_stop, "while decoding")
            fetched = fallback.run(partial(decode_chunk, first))
            if coming is not None:
                yield from coming()
            coming = fetched
            # Yielded one chunk late on a GPU: meanwhile the caller encodes the video.
            if latents.device.type != "cuda":  # there is nothing to wait for
                yield from coming()
                coming = None
        if coming is not None:
            yield from coming()
