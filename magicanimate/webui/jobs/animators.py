"""The animators of a program: that of the checkpoint in use, and one for jobs that were made for another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from magicanimate.animator import Animator

_NAMES = ("mini", "full")


def checkpoint_name(model: str | Path) -> str:
    """A checkpoint as jobs keep it: "mini", "full", or the whole path of its folder."""
    return str(model) if model in _NAMES else str(Path(model).expanduser().resolve())


class Animators:
    """Keeps the networks of one checkpoint in memory at a time.

    Args:
        make: makes the animator of "mini", "full" or a pipeline folder.
        own: the program's checkpoint.

    Attributes:
        current: the animator of the checkpoint in use.
    """

    def __init__(self, make: Callable[[str | Path], Animator], own: str | Path):
        self._make, self._own = make, own
        self.current = make(own)
        self._other: Animator | None = None

    @property
    def trial(self) -> Path | None:
        """The folder in use in place of the program's own checkpoint, if there is one."""
        model = self.current.model
        return None if checkpoint_name(model) == checkpoint_name(self._own) else Path(model)

    def use(self, folder: Path | None) -> None:
        """Use another checkpoint from now on; one that works keeps its animator until it ends.

        Args:
            folder: a pipeline folder; ``None`` for the program's own checkpoint.

        Raises:
            InputError: the folder holds no checkpoint; nothing has changed then.
        """
        animator = self._make(self._own if folder is None else folder)
        if folder is not None:
            _ = animator.defaults  # reads the folder
        self.current = animator

    def of(self, checkpoint: str | None) -> Animator:
        """The animator for a job; only for who has the device, as the others' networks leave the memory.

        Args:
            checkpoint: as `checkpoint_name` has it; the one in use when ``None``.
        """
        current = self.current
        if checkpoint is None or checkpoint == checkpoint_name(current.model):
            self._other = None
            return current
        current.unload()
        if self._other is None or checkpoint_name(self._other.model) != checkpoint:
            self._other = None  # frees it first
            self._other = self._make(checkpoint)
        return self._other

    def unload(self) -> None:
        """Free the memory of all networks; they are loaded again when they are needed."""
        self._other = None
        self.current.unload()
