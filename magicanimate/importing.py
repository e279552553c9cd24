"""Importing diffusers: one thread at a time, and without what this program does not need of it.

diffusers imports transformers and torchvision wherever they are installed, for pipelines that are not used
here. Together with Python's garbage collection among all the new objects that is a third of the time until
the mini is ready. Nothing heavy is imported here.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import sys
import threading
from collections.abc import Iterator

LOADING = threading.RLock()
"""Held by the one thread that imports diffusers, or reads networks with it.

diffusers fills its modules when they are first asked for, and a second thread that asks meanwhile finds them
half full ("cannot import name ..."). While it reads a network, torch's modules are changed to make no weights
(accelerate's ``init_empty_weights``), and one that another thread makes meanwhile would have none.
"""

_UNUSED = ("transformers", "torchvision")


def import_diffusers() -> None:
    """Import diffusers as if transformers and torchvision were not installed, which is faster.

    It stays so in this process, so only a program calls this, not a library: pipelines with a text encoder
    must be given one (`magicanimate.loading` does), as diffusers loads none. Both libraries can be imported
    afterwards as ever. Where peft is installed nothing is left out: diffusers imports it, and peft cannot do
    without transformers.
    """
    with LOADING:
        if "diffusers" in sys.modules:
            return
        import torch  # noqa: F401  (needs nothing of what is left out)

        unused = () if importlib.util.find_spec("peft") else _UNUSED
        absent = [name for name in unused if name not in sys.modules]
        for name in absent:
            sys.modules[name] = None  # type: ignore[assignment]  # for the import system: "not installed"
        try:
            with without_collection():
                from diffusers import (  # noqa: F401  (what loading needs, all of whose imports come along)
                    AutoencoderKL,
                    ControlNetModel,
                    DDIMScheduler,
                    DiffusionPipeline,
                    UNetMotionModel,
                )
        finally:
            for name in absent:
                del sys.modules[name]


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """A context without garbage collection: imports and new networks leave next to no garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def dtype_argument() -> str:
    """The name of ``from_pretrained``'s dtype argument, which diffusers 0.42 changed."""
    from diffusers import __version__

    major, minor = __version__.split(".")[:2]
    return "dtype" if (int(major), int(minor)) >= (0, 42) else "torch_dtype"
