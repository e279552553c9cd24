"""Memory profiles: named sets of switches, from roomy to tight, and an estimate of what each needs.

Weights are counted from the headers of the checkpoint's files. What the networks hold while they run is
proportional to their first feature maps; the factors were measured, those of a GPU on a simulated one
(`benchmarks.pretended_gpu`). Nothing heavy is imported here.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from magicanimate.acceleration.options import Approximations, OptimizationConfig
from magicanimate.config import AnimationRequest
from magicanimate.errors import InputError
from magicanimate.files import read_json_object
from magicanimate.windows import WindowPlan

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
    """A named set of switches that trade speed for memory.

    Attributes:
        name: what ``--memory`` takes.
        summary: a few words for people.
        devices: kinds of device that it is for.
        window_batch: windows of a step that go through the UNet together.
        cache_embeddings: keep the ControlNet's embeddings of the driving frames.
        sliced: the autoencoder takes frames one by one, and pictures above 512 pixels in overlapping tiles.
        offload: UNet, ControlNet and appearance encoder wait in the computer's memory; each of their blocks
            is on the device only while it works.
        eight_bit: their weights are stored as float8 (e4m3) and computed with in the number format of the
            run. The only switch that changes the result visibly.
    """

    name: str
    summary: str
    devices: tuple[str, ...]
    window_batch: int = 1
    cache_embeddings: bool = True
    sliced: bool = False
    offload: bool = False
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
    """Peak memory of the networks' activations, as a multiple of their first feature maps.

    Attributes:
        denoising: of a window's first feature maps.
        decoding: of the decoded frames' feature maps when the decoder first has the picture's full size.
    """

    denoising: float
    decoding: float


CPU = Factors(60, 6)  # 49 measured for one window, 53 for several, and 4.8 (`benchmarks.memory`)


# 42.5 to 44.5 and 3.0 to 3.1 by the lifetimes of tensors (`benchmarks.pretended_gpu`). There attention is a
# kernel that holds no scores, and no copies are made for oneDNN.
CUDA = Factors(44.5, 3.2)


@dataclass(frozen=True)
class Footprint:
    """Sizes of a checkpoint's networks, from the headers of its weight files.

    Attributes:
        parameters: component -> block -> number of its parameters; "" is what lies outside the down and up
            blocks.
        channels: of the UNet's first feature maps.
        decoder_channels: of the decoder's first feature maps at the picture's full size.
        scale: pixels of a side for one of the latents.
        positions: most frames of a window; ``None`` if the UNet's file does not say.
    """

    parameters: dict[str, dict[str, int]]
    channels: int
    decoder_channels: int
    scale: int
    positions: int | None = None

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
    """The size of an animation, as far as memory depends on it.

    Attributes:
        width, height: pixels.
        window: frames of a window.
        frames: of the clip.
        kept: frames, over all windows and guidance branches, whose deep features serve again in later steps.
        windows: of a step; those of the usual overlap when ``None``.
    """

    width: int
    height: int
    window: int = 16
    frames: int = 64
    kept: int = 0
    windows: int | None = None

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
        footprint, work: what is animated by what.
        device, dtype: where and in which number format.
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
