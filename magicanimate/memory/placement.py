"""Place a checkpoint's networks on a device by a memory profile; go to a tighter one when memory runs out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import DiffusionPipeline, ModelMixin

from magicanimate.acceleration.backends import compile_blocks, compiler_problem, undo_compilation
from magicanimate.acceleration.options import OptimizationConfig, ProcessGroup
from magicanimate.device import Device, available_bytes, empty_cache, is_out_of_memory
from magicanimate.errors import InputError
from magicanimate.memory.profiles import (
    AUTO,
    DENOISERS,
    TILE,
    Footprint,
    MemoryProfile,
    Work,
    choose_profile,
    profile_named,
    profiles_for,
)
from magicanimate.models.autoencoder import set_sliced

EIGHT_BIT = torch.float8_e4m3fn
log = logging.getLogger(__name__)
OnFallback = Callable[[str], None]
T = TypeVar("T")


def place(
    pipe: DiffusionPipeline, profile: MemoryProfile, *, device: str, before: MemoryProfile | None = None
) -> None:
    """Move the networks to their device, prepared as the profile wants them.

    Args:
        pipe: has `DENOISERS` and "vae" among its components.
        profile: how.
        device: where they compute.
        before: the profile that they are prepared for already; not one that ``profile`` undoes.

    Raises:
        ValueError: ``profile`` undoes what was done for ``before``.
    """
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
    blocks = sum(compile_blocks(pipe.components[name]) for name in DENOISERS if pipe.components.get(name))
    log.info("torch.compile: %d blocks, compiled when they first run", blocks)


def bytes_on(pipe: DiffusionPipeline, device: str) -> int:
    """Bytes of the pipeline's weights that are on a device."""
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
    # Loading has done it already where memory would not hold the whole weights.
    if not any(parameter.dtype == EIGHT_BIT for parameter in network.parameters()):
        network.enable_layerwise_casting(EIGHT_BIT, compute_dtype=network.dtype)


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
