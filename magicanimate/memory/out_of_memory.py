"""Running out of memory: one profile down, and the work that failed is done again."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator

import torch
from diffusers import DiffusionPipeline

from magicanimate.acceleration.options import OptimizationConfig
from magicanimate.acceleration.process_group import ProcessGroup
from magicanimate.device import empty_cache
from magicanimate.memory.available import is_out_of_memory
from magicanimate.memory.placing import place
from magicanimate.memory.profiles import MemoryProfile, profiles_for

log = logging.getLogger(__name__)

OnFallback = Callable[[str], None]


class OutOfMemoryFallback:
    """The profile an animation runs with and those below it.

    Args:
        pipe: the pipeline whose networks are placed; without one, or without a profile, running out of
            memory is an error.
        profile: where to begin.
        device: "cuda:1", "cpu", ...
        placed: the profile that the networks are placed for; they must be placed for one before they run.
        steps: the profiles from roomy to tight, by default those of the device.
        group: processes that step down together; their networks are alike.
        on_fallback: told in a sentence that memory ran out and how it goes on.

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
        """``optimization`` as the present profile wants it."""
        return optimization if self.profile is None else self.profile.arrange(optimization)

    def leave_group(self) -> None:
        """From now on this process works, and steps down, by itself."""
        self._group = ProcessGroup()

    def place(self) -> None:
        """Place the networks for the present profile, or for the first one below that they fit in.

        Raises:
            torch.OutOfMemoryError, MemoryError, RuntimeError: they fit in none.
        """
        for attempt in self.attempts():
            with attempt, self._group.in_round():
                place(self._pipe, self.profile, device=self._device, before=self.placed)
                self.placed = self.profile

    def attempts(self) -> Iterator[Attempt]:
        """Attempts at a piece of work, as many as are needed: ``for a in attempts(): with a: work()``.

        An attempt that runs out of memory ends silently, and another one follows with the next profile. On
        the last profile, and for every other reason, the error leaves the ``with``.
        """
        while True:
            attempt = Attempt(may_fail=bool(self._below))
            yield attempt
            if not attempt.failed:
                return
            self._descend()

    def _descend(self) -> None:
        """Free what the failed attempt held, which its traceback kept alive until now; next profile."""
        self._release()
        before, self.profile = self.profile, self._below.pop(0)
        sentence = (
            f"Out of memory on {self._device} with the profile {before.name!r}; "
            f"going on with {self.profile.name!r} ({self.profile.summary})."
        )
        log.warning(sentence)
        self._on_descent(sentence)
        if self.placed is not None:
            self.place()
            self._release()

    def _release(self) -> None:
        gc.collect()
        empty_cache(self._device)


class Attempt:
    """One try of `OutOfMemoryFallback.attempts`.

    Attributes:
        failed: whether it ran out of memory.
    """

    def __init__(self, *, may_fail: bool):
        self._may_fail, self.failed = may_fail, False

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error: BaseException | None, traceback) -> bool:
        self.failed = self._may_fail and is_out_of_memory(error)
        return self.failed


def remember(scheduler, generator: torch.Generator) -> Callable[[], None]:
    """A function that puts scheduler and generator back to where they are now.

    Multistep solvers keep predictions of earlier steps in lists that they change in place; the tensors
    themselves are not changed.
    """
    kept = {
        name: list(value) if isinstance(value, list) else value for name, value in vars(scheduler).items()
    }
    random = generator.get_state()

    def put_back() -> None:
        vars(scheduler).clear()
        vars(scheduler).update(
            {name: list(value) if isinstance(value, list) else value for name, value in kept.items()}
        )
        generator.set_state(random)

    return put_back
