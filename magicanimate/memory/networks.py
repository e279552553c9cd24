"""The networks of a checkpoint in memory, placed anew when a request needs another profile."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from diffusers import DiffusionPipeline

from magicanimate.acceleration.compiled import compiler_problem
from magicanimate.acceleration.process_group import ProcessGroup
from magicanimate.device import Device
from magicanimate.errors import InputError
from magicanimate.memory.available import available_bytes, is_out_of_memory
from magicanimate.memory.need import Footprint, Work, choose_profile
from magicanimate.memory.out_of_memory import OnFallback, OutOfMemoryFallback
from magicanimate.memory.placing import bytes_on, compile_denoisers
from magicanimate.memory.profiles import AUTO, MemoryProfile, profile_named, profiles_for

log = logging.getLogger(__name__)


class PlacedNetworks:
    """A pipeline and the memory profile that it is placed for.

    Args:
        read: reads the pipeline into the computer's memory for a profile; again when one cannot be taken
            back.
        folder: of the checkpoint.
        device: where the networks compute.
        wish: "auto" or a profile's name.
        group: the processes of the animation.
        compile: compile blocks of the networks, where the profile and the machine allow it.

    Attributes:
        pipe: the pipeline, ``None`` before `prepare`.

    Raises:
        InputError: the device has no such profile.
    """

    def __init__(
        self,
        read: Callable[[MemoryProfile], DiffusionPipeline],
        folder: Path,
        device: Device,
        *,
        wish: str,
        group: ProcessGroup,
        compile: bool = False,
    ):
        if wish != AUTO:
            profile_named(wish, device.name)
        self._read, self._device, self._wish, self._group = read, device, wish, group
        self._compile, self._compiled = compile, False
        self._footprint = Footprint.of(folder)
        self._fallback: OutOfMemoryFallback | None = None
        self.pipe: DiffusionPipeline | None = None

    def prepare(self, work: Work, *, on_fallback: OnFallback | None = None) -> OutOfMemoryFallback:
        """Place the networks for some work.

        Args:
            work: how much will be animated.
            on_fallback: see `OutOfMemoryFallback`.

        Raises:
            InputError: the networks do not fit.
        """
        profile = self._choose(work)
        before = self._fallback.placed if self._fallback is not None else None
        if before is None or profile.undoes(before):
            self._fallback = self.pipe = before = None  # frees them first
            self.pipe, self._compiled = self._read(profile), False
        self._fallback = OutOfMemoryFallback(
            self.pipe,
            profile,
            device=self._device.name,
            placed=before,
            group=self._group,
            on_fallback=on_fallback,
        )
        try:
            self._fallback.place()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(f"The memory of {self._device.name} does not hold the networks.") from error
        if self._compile and not self._compiled:
            self._compile_blocks(self._fallback.placed)
        return self._fallback

    def _compile_blocks(self, profile: MemoryProfile) -> None:
        """Compile once, or say why not."""
        if not profile.compilable:
            log.warning(
                "--compile has no effect with the memory profile %s, whose weights come and go; "
                "going on without it.",
                profile.name,
            )
        elif problem := compiler_problem(self._device.name):
            log.warning(problem)
            self._compile = False
        else:
            compile_denoisers(self.pipe)
        self._compiled = True

    def outlook(self, work: Work) -> tuple[MemoryProfile, str]:
        """The profile that some work would begin with, and one sentence about why."""
        name = self._device.name
        own = bytes_on(self.pipe, name) if self.pipe is not None else 0  # would be free without them
        return choose_profile(
            self._wish,
            self._footprint,
            work,
            device=name,
            dtype=self._device.dtype,
            free=available_bytes(name) + own,
        )

    def _choose(self, work: Work) -> MemoryProfile:
        profile, reason = self.outlook(work)
        found = profiles_for(self._device.name)
        profile = found[self._group.largest(found.index(profile))]  # the tightest that one of them needs
        if self._fallback is None or profile is not self._fallback.profile:
            log.info("memory profile %s (%s): %s", profile.name, profile.summary, reason)
        return profile
