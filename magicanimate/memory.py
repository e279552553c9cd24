"""Memory profiles, roomy to tight: what each needs, placing networks for one, another when memory runs out.

A profile is a named set of switches. Weights are counted from the headers of the checkpoint's files. What the
networks hold while they run is proportional to their first feature maps; the factors were measured, those of
a GPU on a simulated one (`benchmarks.pretended_gpu`). torch and diffusers are imported where they are used.
"""

from __future__ import annotations

import gc
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError, safe_open

from magicanimate.acceleration.options import Approximations, OptimizationConfig, ProcessGroup
from magicanimate.config import AnimationRequest
from magicanimate.device import Device, available_bytes, empty_cache, is_out_of_memory
from magicanimate.errors import InputError
from magicanimate.files import read_json_object
from magicanimate.windows import WindowPlan

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline, ModelMixin

log = logging.getLogger(__name__)
OnFallback = Callable[[str], None]
T = TypeVar("T")
AUTO = "auto"
DECODED_AT_ONCE = 4  # frames, unless the autoencoder works in slices
CONTROL_CACHE_BYTES = 256 * 1024**2  # bytes of embedded driving frames: 50 of 512x512 in float32
DEEP_CACHE_BYTES = 2 * 1024**3  # bytes of deep features, see `magicanimate.acceleration.deep_cache`
TILE = 512  # pixels; smaller tiles would show, and pictures up to this size are decoded as they are
DENOISERS = ("unet", "controlnet", "appearance_encoder", "controlnet_keypoints")  # the last where it exists
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
SPARE = 0.9  # share of the free memory that is planned with; the rest is for gaps between tensors
_KEPT_SIZE = 2  # bytes of a number of kept features, whatever the format of the run
OVERHEAD = 200 * 1024**2  # what the libraries take when they first compute


@dataclass(frozen=True)
class MemoryProfile:
    """A named set of switches that trade speed for memory."""

    name: str  # what ``--memory`` takes
    summary: str  # a few words for people
    devices: tuple[str, ...]  # kinds of device that it is for
    window_batch: int = 1  # windows of a step that go through the UNet together
    cache_embeddings: bool = True  # keep the ControlNet's embeddings of the driving frames
    # The autoencoder takes frames one by one, and pictures above 512 pixels in overlapping tiles.
    sliced: bool = False
    # UNet, ControlNet and appearance encoder wait in the computer's memory; each of their blocks is on the
    # device only while it works.
    offload: bool = False
    # Their weights are stored as float8 (e4m3) and computed with in the number format of the run. The only
    # switch that changes the result visibly.
    eight_bit: bool = False

    @property
    def compilable(self) -> bool:
        """Whether blocks can be compiled: hooks that bring their weights cannot."""
        return not (self.offload or self.eight_bit)

    def arrange(self, optimization: OptimizationConfig) -> OptimizationConfig:
        """The optimizations with the profile's own switches filled in."""
        return replace(
            optimization,
            window_batch=self.window_batch,
            cache_embeddings=optimization.cache_embeddings and self.cache_embeddings,
            precompute_banks=optimization.precompute_banks or self.offload,  # moves the encoder once
        )

    def undoes(self, other: MemoryProfile) -> bool:
        """Whether networks prepared for ``other`` must be loaded again for this one."""
        return (other.offload and not self.offload) or (other.eight_bit and not self.eight_bit)


# A CPU gains nothing from several windows at once, and it has nowhere to move blocks from. Apple's GPU shares
# the computer's memory, so moving blocks gains nothing there either, and it knows no float8.
PROFILES = (
    MemoryProfile("roomy", "several windows at once", ("cuda",), window_batch=4),
    MemoryProfile("standard", "window by window", ("cuda", "mps", "cpu")),
    MemoryProfile(
        "frugal",
        "nothing kept that can be recomputed",
        ("cuda", "mps", "cpu"),
        cache_embeddings=False,
        sliced=True,
    ),
    MemoryProfile(
        "offload",
        "networks block by block from the computer's memory",
        ("cuda",),
        cache_embeddings=False,
        sliced=True,
        offload=True,
    ),
    MemoryProfile(
        "tight",
        "networks in 8 bits, block by block from the computer's memory",
        ("cuda",),
        cache_embeddings=False,
        sliced=True,
        offload=True,
        eight_bit=True,
    ),
    MemoryProfile(
        "tight", "networks in 8 bits", ("cpu",), cache_embeddings=False, sliced=True, eight_bit=True
    ),
)


NAMES = tuple(dict.fromkeys(profile.name for profile in PROFILES))


def profiles_for(device: str) -> list[MemoryProfile]:
    """The profiles of a device ("cuda:1", "cpu", ...), the roomiest first."""
    kind = device.partition(":")[0]
    return [profile for profile in PROFILES if kind in profile.devices]


def profile_named(name: str, device: str) -> MemoryProfile:
    """The profile of that name for a device.

    Raises:
        InputError: it has none.
    """
    found = profiles_for(device)
    for profile in found:
        if profile.name == name:
            return profile
    names = ", ".join([AUTO, *(profile.name for profile in found)])
    raise InputError(f"There is no memory profile {name!r} for {device}; choose one of: {names}.")


@dataclass(frozen=True)
class Factors:
    """Peak memory of the networks' activations, as a multiple of their first feature maps."""

    denoising: float  # of a window's first feature maps
    decoding: float  # of the decoded frames' feature maps when the decoder first has the picture's full size


CPU = Factors(60, 6)  # 49 measured for one window, 53 for several, and 4.8 (`benchmarks.memory`)


# 42.5 to 44.5 and 3.0 to 3.1 by the lifetimes of tensors (`benchmarks.pretended_gpu`). There attention is a
# kernel that holds no scores, and no copies are made for oneDNN.
CUDA = Factors(44.5, 3.2)


@dataclass(frozen=True)
class Footprint:
    """Sizes of a checkpoint's networks, from the headers of its weight files."""

    # Component -> block -> number of its parameters; "" is what lies outside the down and up blocks.
    parameters: dict[str, dict[str, int]]
    channels: int  # of the UNet's first feature maps
    decoder_channels: int  # of the decoder's first feature maps at the picture's full size
    scale: int  # pixels of a side for one of the latents
    positions: int | None = None  # most frames of a window; ``None`` if the UNet's file does not say

    @classmethod
    def of(cls, folder: Path) -> Footprint:
        """Read the headers of a pipeline folder's weight files.

        Raises:
            InputError: the folder is not a complete pipeline.
        """
        try:
            vae = read_json_object(folder / "vae" / "config.json")
            unet = read_json_object(folder / "unet" / "config.json")
            # AutoencoderDC has a list for each half. AutoencoderKL has one for both, and its decoder reaches
            # the full size with the channels of the second level.
            levels = vae.get("decoder_block_out_channels") or vae["block_out_channels"][1:] + [0]
            return cls(
                parameters={
                    name: _blocks(folder / name) for name in (*DENOISERS, "vae") if (folder / name).is_dir()
                },
                channels=unet["block_out_channels"][0],
                decoder_channels=levels[0],
                scale=2 ** (len(levels) - 1),
                positions=int(unet["motion_max_seq_length"]) if "motion_max_seq_length" in unet else None,
            )
        except InputError:
            raise
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            raise InputError(
                f"The checkpoint {folder} cannot be loaded ({error}); convert or fetch it again."
            ) from error


def _blocks(folder: Path) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as weights:
            for key in weights.keys():  # noqa: SIM118  (it is not a mapping)
                parts = key.split(".")
                block = ".".join(parts[:2]) if parts[0] in ("down_blocks", "up_blocks") else ""
                found[block] += prod(weights.get_slice(key).get_shape())
    return dict(found)


@dataclass(frozen=True)
class Work:
    """The size of an animation, as far as memory depends on it."""

    width: int  # pixels
    height: int
    window: int = 16  # frames of a window
    frames: int = 64  # of the clip
    # Frames, over all windows and guidance branches, whose deep features serve again in later steps.
    kept: int = 0
    windows: int | None = None  # of a step; those of the usual overlap when ``None``

    @classmethod
    def of(cls, request: AnimationRequest, frames: int) -> Work:
        """The work of a request that `ModelDefaults.completed` has filled in."""
        settings, kept = request.settings(), 0
        windows = WindowPlan.of(settings).windows(frames)
        if Approximations.of(settings).deep_reuse:
            # The ControlNet's residual is kept beside the branches.
            guided = request.guidance_scale is not None and request.guidance_scale > 1
            kept = sum(map(len, windows)) * (3 if guided else 2)
        return cls(*request.size, request.context_length, frames, kept, len(windows))


def needed_bytes(footprint: Footprint, work: Work, profile: MemoryProfile, *, device: str, dtype: str) -> int:
    """Estimate an animation's peak memory on the device, weights included, in bytes."""
    factors = CUDA if device.partition(":")[0] == "cuda" else CPU  # Apple's GPU was not measured: more
    size = BYTES[dtype]
    # Rounded up: an estimate may be too large, but not too small.
    latents = -(-work.width // footprint.scale) * -(-work.height // footprint.scale)  # pixels of one frame
    first_maps = latents * footprint.channels * size
    plan = WindowPlan(
        context_length=work.window, context_overlap=min(WindowPlan.context_overlap, work.window - 1)
    )
    # A short clip has fewer windows than would go through the UNet together.
    windows = min(profile.window_batch, work.windows or len(plan.windows(work.frames)))
    denoising = factors.denoising * windows * min(work.window, work.frames) * first_maps
    if profile.cache_embeddings:
        denoising += min(CONTROL_CACHE_BYTES, work.frames * first_maps)
    denoising += min(DEEP_CACHE_BYTES, work.kept * latents * footprint.channels * _KEPT_SIZE)
    pixels = work.width * work.height
    if profile.sliced:
        pixels = min(pixels, TILE**2)
    # Denoising and decoding come one after the other, so the larger of the two decides.
    frames = 1 if profile.sliced else min(DECODED_AT_ONCE, work.frames)
    decoding = factors.decoding * frames * pixels * footprint.decoder_channels * size
    return _weights(footprint, profile, size) + int(max(denoising, decoding)) + OVERHEAD


def _weights(footprint: Footprint, profile: MemoryProfile, size: int) -> int:
    stored = 1 if profile.eight_bit else size
    networks = [footprint.parameters.get(name, {}) for name in DENOISERS]
    if profile.offload:
        # What is outside the blocks stays for a network's whole turn, the blocks come one by one.
        largest = max(blocks.get("", 0) + max(blocks.values(), default=0) for blocks in networks)
    else:
        largest = sum(sum(blocks.values()) for blocks in networks)
    return largest * stored + sum(footprint.parameters["vae"].values()) * size


TOO_LITTLE = "perhaps too little"
"""How the sentence of `choose_profile` ends where nothing fits."""


def choose_profile(
    requested: str, footprint: Footprint, work: Work, *, device: str, dtype: str, free: int
) -> tuple[MemoryProfile, str]:
    """Choose the profile to start with; also returns one sentence on why.

    Args:
        requested: "auto" for the roomiest that fits, or a profile's name.
        free: bytes of the device's memory that the networks and their work may take.

    Raises:
        InputError: the device has no such profile.
    """
    if requested != AUTO:
        return profile_named(requested, device), "as requested"
    found = profiles_for(device)
    needs = {
        profile.name: needed_bytes(footprint, work, profile, device=device, dtype=dtype) for profile in found
    }
    # Profiles are sorted from roomy, which is quickest, to tight.
    fits = [profile for profile in found if needs[profile.name] <= SPARE * free]
    chosen = fits[0] if fits else found[-1]
    verdict = "enough" if fits else TOO_LITTLE
    return chosen, (
        f"about {needs[chosen.name] / 1e9:.1f} GB needed for {work.width}x{work.height} pixels, "
        f"{free / 1e9:.1f} GB free on {device}: {verdict}"
    )


def place(
    pipe: DiffusionPipeline, profile: MemoryProfile, *, device: str, before: MemoryProfile | None = None
) -> None:
    """Move the networks to their device, prepared as the profile wants; ``before`` is their profile so far.

    Raises:
        ValueError: ``profile`` undoes what was done for ``before``.
    """
    import torch

    from magicanimate.acceleration.backends import undo_compilation
    from magicanimate.models.autoencoder import set_sliced

    # Weights in 8 bits have lost what a roomier profile would need, and offloading hooks cannot be taken out.
    if before is not None and profile.undoes(before):
        raise ValueError(f"networks placed for {before.name!r} must be loaded again for {profile.name!r}")
    networks: dict[str, Any] = {
        name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)
    }
    for name in networks.keys() & set(DENOISERS):
        # Hooks that bring weights in and out would have every compiled block compiled again.
        if not profile.compilable:
            undo_compilation(networks[name])
        if profile.eight_bit:
            store_in_eight_bits(networks[name])
        if profile.offload and not (before and before.offload):
            # Without a stream: those that fetch the next block early learn the order in the first forward
            # and want every block in it once, but the up blocks run once for each guidance branch.
            networks[name].enable_group_offload(torch.device(device), num_blocks_per_group=1)
    # What runs once (the autoencoder, the text encoder) fits beside the blocks; only the large ones wait.
    for name, network in networks.items():
        if not (profile.offload and name in DENOISERS):
            network.to(device)
    set_sliced(networks["vae"], TILE if profile.sliced else None)


def compile_denoisers(pipe: DiffusionPipeline) -> None:
    """Compile the blocks of the networks that run in every step."""
    from magicanimate.acceleration.backends import compile_blocks

    blocks = sum(compile_blocks(pipe.components[name]) for name in DENOISERS if pipe.components.get(name))
    log.info("torch.compile: %d blocks, compiled when they first run", blocks)


def bytes_on(pipe: DiffusionPipeline, device: str) -> int:
    """Bytes of the pipeline's weights that are on a device."""
    import torch

    # "cuda" means any GPU here, "cuda:1" that one.
    wanted = torch.device(device)
    return sum(
        parameter.nbytes
        for part in pipe.components.values()
        if isinstance(part, torch.nn.Module)
        for parameter in part.parameters()
        if parameter.device.type == wanted.type and wanted.index in (None, parameter.device.index)
    )


def store_in_eight_bits(network: ModelMixin) -> None:
    """Store the weights of linear layers and convolutions as float8; computing uses the format of before."""
    import torch

    eight_bits = torch.float8_e4m3fn
    # Loading has done it already where memory would not hold the whole weights.
    if not any(parameter.dtype == eight_bits for parameter in network.parameters()):
        network.enable_layerwise_casting(eight_bits, compute_dtype=network.dtype)


class OutOfMemoryFallback:
    """Runs work again with a tighter memory profile when memory runs out.

    Args:
        pipe: the pipeline whose networks are placed; without one, or without a profile, running out of
            memory is an error.
        profile: where to begin.
        device: "cuda:1", "cpu", ...
        placed: the profile that the networks are placed for; they must be placed for one before they run.
        steps: the profiles from roomy to tight, by default those of the device.
        group: processes that step down together; their networks are alike.
        on_fallback: called with a sentence that memory ran out and how the work goes on.

    Attributes:
        profile: the present one, ``None`` if there is none.
        placed: the profile that the networks are placed for.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline | None = None,
        profile: MemoryProfile | None = None,
        *,
        device: str = "cpu",
        placed: MemoryProfile | None = None,
        steps: list[MemoryProfile] | None = None,
        group: ProcessGroup | None = None,
        on_fallback: OnFallback | None = None,
    ):
        self._group = group or ProcessGroup()
        self.profile, self.placed = profile, placed
        self._pipe, self._device = pipe, device
        self._on_descent = on_fallback or (lambda _: None)
        steps = profiles_for(device) if steps is None else steps
        self._below = steps[steps.index(profile) + 1 :] if pipe is not None and profile is not None else []

    def arrange(self, optimization: OptimizationConfig) -> OptimizationConfig:
        """Adapt the optimizations to the current profile."""
        return optimization if self.profile is None else self.profile.arrange(optimization)

    def leave_group(self) -> None:
        """Leave the process group: from now on this process changes profiles by itself."""
        self._group = ProcessGroup()

    def place(self) -> None:
        """Place the networks for the current profile, or for the first tighter one that fits.

        Raises:
            torch.OutOfMemoryError, MemoryError, RuntimeError: they fit in none.
        """

        def attempt() -> None:
            with self._group.fail_together():
                if self.profile is None:
                    raise ValueError("there is no profile to place the networks for")
                place(self._pipe, self.profile, device=self._device, before=self.placed)
                self.placed = self.profile

        # Placing may itself run out of memory, and then goes one profile further down.
        self.run(attempt)

    def run(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns; when it runs out of memory, call it again with the next profile.

        Raises:
            Exception: whatever ``work`` raises for another reason, or with the last profile.
        """
        while True:
            try:
                return work()
            except (MemoryError, RuntimeError) as error:
                # Below the last profile there is nothing to try, so there the error is the caller's.
                if not self._below or not is_out_of_memory(error):
                    raise
            # Outside of `except`: the error's traceback holds the tensors of the failed attempt.
            self._descend()

    def _descend(self) -> None:
        """Free what the failed attempt held, and place the networks for the next profile."""
        # Before anything is moved: placing needs the memory that the failed attempt still holds.
        self._release()
        before, self.profile = self.profile, self._below.pop(0)
        sentence = (
            f"Out of memory on {self._device} with the profile {before.name if before else 'none'!r}; "
            f"going on with {self.profile.name!r} ({self.profile.summary})."
        )
        log.warning(sentence)
        self._on_descent(sentence)
        if self.placed is not None:
            self.place()
            self._release()

    def _release(self) -> None:
        # Tracebacks hold tensors in circles, which only the collector finds; then torch's cache lets go.
        gc.collect()
        empty_cache(self._device)


def save_state(scheduler: Any, generator: torch.Generator) -> Callable[[], None]:
    """Save the state of scheduler and generator; the returned function restores it.

    Multistep solvers keep predictions of earlier steps in lists that they change in place; the tensors
    themselves are not changed.
    """
    # A step that is done again must start from the same solver state and draw the same noise.
    kept = {
        name: list(value) if isinstance(value, list) else value for name, value in vars(scheduler).items()
    }
    random = generator.get_state()

    def restore() -> None:
        vars(scheduler).clear()
        vars(scheduler).update(
            {name: list(value) if isinstance(value, list) else value for name, value in kept.items()}
        )
        generator.set_state(random)

    return restore


class PlacedNetworks:
    """A pipeline and the memory profile that it is placed for.

    Args:
        read: reads the pipeline into the computer's memory for a profile; again when one cannot be taken
            back.
        folder: of the checkpoint.
        device: where the networks compute.
        requested: "auto" or a profile's name.
        group: the processes of the animation.
        compile: compile blocks of the networks, where the profile and the machine allow it.

    Attributes:
        pipe: the pipeline, ``None`` before `prepare`.
        device, group: as given.

    Raises:
        InputError: the device has no such profile.
    """

    def __init__(
        self,
        read: Callable[[MemoryProfile], DiffusionPipeline],
        folder: Path,
        device: Device,
        *,
        requested: str,
        group: ProcessGroup,
        compile: bool = False,
    ):
        if requested != AUTO:
            profile_named(requested, device.name)
        self._read, self.device, self._requested, self.group = read, device, requested, group
        self._compile, self._compiled = compile, False
        self._footprint = Footprint.of(folder)
        self._fallback: OutOfMemoryFallback | None = None
        self.pipe: Any = None

    def prepare(self, work: Work, *, on_fallback: OnFallback | None = None) -> OutOfMemoryFallback:
        """Place the networks for some work.

        Raises:
            InputError: the networks do not fit.
        """
        # Chosen anew for each animation: a larger one, or another program, may have left less room.
        profile = self._choose(work)
        before = self._fallback.placed if self._fallback is not None else None
        # Reading 5 GB again is slow, so networks are only placed anew where that is possible.
        if before is None or profile.undoes(before):
            self._fallback = self.pipe = before = None  # frees them first
            self.pipe, self._compiled = self._read(profile), False
        self._fallback = OutOfMemoryFallback(
            self.pipe,
            profile,
            device=self.device.name,
            placed=before,
            group=self.group,
            on_fallback=on_fallback,
        )
        try:
            self._fallback.place()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(f"The memory of {self.device.name} does not hold the networks.") from error
        if self._compile and not self._compiled:
            self._compile_blocks(profile if self._fallback.placed is None else self._fallback.placed)
        return self._fallback

    def _compile_blocks(self, profile: MemoryProfile) -> None:
        """Compile the networks once, or log why that is not possible."""
        from magicanimate.acceleration.backends import compiler_problem

        if not profile.compilable:
            log.warning(
                "--compile has no effect with the memory profile %s, whose weights come and go; "
                "going on without it.",
                profile.name,
            )
        elif problem := compiler_problem(self.device.name):
            log.warning(problem)
            self._compile = False  # slower without it, but no reason to refuse
        else:
            compile_denoisers(self.pipe)
        self._compiled = True

    def expected_profile(self, work: Work) -> tuple[MemoryProfile, str]:
        """The profile that this work would start with, and one sentence on why."""
        # Memory that these networks occupy now will be theirs again, whatever the profile.
        name = self.device.name
        own = bytes_on(self.pipe, name) if self.pipe is not None else 0
        return choose_profile(
            self._requested,
            self._footprint,
            work,
            device=name,
            dtype=self.device.dtype,
            free=available_bytes(name) + own,
        )

    def _choose(self, work: Work) -> MemoryProfile:
        profile, reason = self.expected_profile(work)
        found = profiles_for(self.device.name)
        # All processes take the tightest profile that one of them needs.
        profile = found[self.group.all_reduce_max(found.index(profile))]
        if self._fallback is None or profile is not self._fallback.profile:
            log.info("memory profile %s (%s): %s", profile.name, profile.summary, reason)
        return profile
