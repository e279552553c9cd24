"""The networks of a checkpoint in memory, placed anew when a request needs another profile."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from diffusers import DiffusionPipeline

from magicanimate.acceleration.compiled import compiler_problem
from magicanimate.acceleration.process_group import Team
from magicanimate.device import Device
from magicanimate.errors import InputError
from magicanimate.memory.available import available_bytes, is_out_of_memory
from magicanimate.memory.ladder import MemoryLadder, OnDescent
from magicanimate.memory.need import Footprint, Work, choose_profile
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
        team: the processes of the animation.
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
        team: Team,
        compile: bool = False,
    ):
        if wish != AUTO:
            profile_named(wish, device.name)
        self._read, self._device, self._wish, self._team = read, device, wish, team
        self._compile, self._compiled = compile, False
        self._footprint = Footprint.of(folder)
        self._ladder: MemoryLadder | None = None
        self.pipe: DiffusionPipeline | None = None

    def prepare(self, work: Work, *, on_descent: OnDescent | None = None) -> MemoryLadder:
        """Place the networks for some work.

        Args:
            work: how much will be animated.
            on_descent: see `MemoryLadder`.

        Raises:
            InputError: the networks do not fit.
        """
        profile = self._choose(work)
        before = self._ladder.placed if self._ladder is not None else None
        if before is None or profile.undoes(before):
            self._ladder = self.pipe = before = None  # frees them first
            self.pipe, self._compiled = self._read(profile), False
        self._ladder = MemoryLadder(
            self.pipe,
            profile,
            device=self._device.name,
            placed=before,
            team=self._team,
            on_descent=on_descent,
        )
        try:
            self._ladder.place()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(f"The memory of {self._device.name} does not hold the networks.") from error
        if self._compile and not self._compiled:
            self._compile_blocks(self._ladder.placed)
        return self._ladder

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
        profile = found[self._team.largest(found.index(profile))]  # the tightest that one of them needs
        if self._ladder is None or profile is not self._ladder.profile:
            log.info("memory profile %s (%s): %s", profile.name, profile.summary, reason)
        return profile
