"""The animators of a program: that of the checkpoint in use, and one for jobs that were made for another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from magicanimate.animator import Animator
from magicanimate.checkpoints.locate import describe_models


def checkpoint_name(model: str | Path) -> str:
    """A checkpoint as jobs keep it: "mini", "full", or the whole path of its folder.

    The folders of "mini" and "full" are these two by whatever path they are named, so that the same weights
    are never loaded twice.
    """
    named = {model.name: model.path for model in describe_models()}
    if model in named:
        return str(model)
    folder = Path(model).expanduser().resolve()
    same = (name for name, path in named.items() if path is not None and path.resolve() == folder)
    return next(same, str(folder))


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
        """The folder in use in place of the program's own checkpoint, if there is one that has no name."""
        name = checkpoint_name(self.current.model)
        named = {model.name for model in describe_models()}
        return None if name in (checkpoint_name(self._own), *named) else Path(name)

    def use(self, model: str | Path | None) -> None:
        """Use another checkpoint from now on; one that works keeps its animator until it ends.

        Args:
            model: "mini", "full" or a pipeline folder; ``None`` for the program's own checkpoint.

        Raises:
            InputError: the folder holds no checkpoint; nothing has changed then.
        """
        own = model is None
        model = self._own if own else model
        name = checkpoint_name(model)
        if name == checkpoint_name(self.current.model):
            return
        before = self.current
        if self._other is not None and checkpoint_name(self._other.model) == name:
            self.current = self._other
        else:
            animator = self._make(model)
            if not own:
                _ = animator.defaults  # reads the folder
            self.current = animator
        self._other = before  # stays loaded until the next job, so that going back at once costs nothing

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
