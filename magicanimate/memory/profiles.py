"""Memory profiles: named sets of switches, from roomy to tight. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from magicanimate.acceleration.options import OptimizationConfig
from magicanimate.errors import InputError

AUTO = "auto"
DECODED_AT_ONCE = 4  # frames, unless the autoencoder works in slices
KEPT_MAPS = 256 * 1024**2  # bytes of embedded driving frames: 50 of 512x512 in float32
KEPT_DEEP = 2 * 1024**3  # bytes of deep features, see `magicanimate.acceleration.deep_cache`
TILE = 512  # pixels; smaller tiles would show, and pictures up to this size are decoded as they are


@dataclass(frozen=True)
class MemoryProfile:
    """How to spend memory.

    Attributes:
        name: what ``--memory`` takes.
        summary: a few words for people.
        devices: kinds of device that it is for.
        window_batch: windows of a step that go through the UNet together.
        keep_maps: keep the ControlNet's embeddings of the driving frames.
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
    keep_maps: bool = True
    sliced: bool = False
    offload: bool = False
    eight_bit: bool = False

    @property
    def compilable(self) -> bool:
        """Whether blocks can be compiled: hooks that bring their weights cannot."""
        return not (self.offload or self.eight_bit)

    def arrange(self, optimization: OptimizationConfig) -> OptimizationConfig:
        """``optimization`` with what this profile decides."""
        return replace(
            optimization,
            window_batch=self.window_batch,
            keep_maps=optimization.keep_maps and self.keep_maps,
            banks_ahead=optimization.banks_ahead or self.offload,  # moves the encoder once
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
        "frugal", "nothing kept that can be had again", ("cuda", "mps", "cpu"), keep_maps=False, sliced=True
    ),
    MemoryProfile(
        "offload",
        "networks block by block from the computer's memory",
        ("cuda",),
        keep_maps=False,
        sliced=True,
        offload=True,
    ),
    MemoryProfile(
        "tight",
        "networks in 8 bits, block by block from the computer's memory",
        ("cuda",),
        keep_maps=False,
        sliced=True,
        offload=True,
        eight_bit=True,
    ),
    MemoryProfile("tight", "networks in 8 bits", ("cpu",), keep_maps=False, sliced=True, eight_bit=True),
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
