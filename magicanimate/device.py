"""torch and diffusers on this machine: how they are imported, on which device and in which number format.

The device is decided once, with the reason logged. Nothing heavy is imported before a function needs it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magicanimate.errors import InputError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
DEVICES = ("cuda", "mps", "cpu")
DTYPES = ("float32", "float16", "bfloat16")
# What torch says when an allocation fails: on a CPU (Linux and macOS; Windows) and on Apple's GPU. It raises
# `torch.OutOfMemoryError` for CUDA only.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "MPS backend out of memory")


@dataclass(frozen=True)
class Device:
    """A device, a number format, and why."""

    name: str  # "cuda", "cuda:1", "mps" or "cpu"
    dtype: str  # "float32", "float16" or "bfloat16"
    reason: str  # one sentence for the log


def pick_device(device: str | None = None, dtype: str | None = None) -> Device:
    """Choose the device and number format, or check what the user asks for.

    By default: CUDA with float16, else Apple's MPS with float16, else the CPU with float32.

    Raises:
        InputError: unknown or absent device, unknown number format.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device is None:
        name = next(candidate for candidate in DEVICES if present[candidate])
        reason = "the fastest device found" if name != "cpu" else "no GPU that torch can use was found"
    else:
        name, reason = device, "as requested"
        kind = name.partition(":")[0]
        if not present.get(kind, False):
            found = ", ".join(candidate for candidate in DEVICES if present[candidate])
            raise InputError(f"The device {device!r} is not available here; choose one of: {found}.")
    if dtype is None:
        # Without instructions for them CPUs compute 16-bit formats slower than float32.
        dtype = "float32" if name == "cpu" else "float16"
        if name == "cpu" and multiplies_bfloat16():
            reason += "; --dtype bfloat16 is faster on this processor and takes half the memory"
    elif dtype not in DTYPES:
        raise InputError(f"The number format {dtype!r} is unknown; choose one of: {', '.join(DTYPES)}.")
    picked = Device(name, dtype, reason)
    if picked not in _told:  # other networks of the program choose as well
        _told.add(picked)
        log.info("running on %s in %s: %s", picked.name, picked.dtype, picked.reason)
    return picked


_told: set[Device] = set()


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16, not only for its storage."""
    import torch

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not tell
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy a CPU tensor to a device without waiting for the copy.

    To a CUDA device it goes through page-locked memory: from any other the driver may wait for all the work
    that is queued before it copies.
    """
    import torch

    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def to_host(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Start copying a tensor to the CPU; the returned function waits for the copy and returns it."""
    import torch

    if tensor.device.type != "cuda":
        return tensor.cpu
    held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    held.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()
    done.record()

    def arrived() -> torch.Tensor:
        done.synchronize()
        return held

    return arrived


def empty_cache(name: str) -> None:
    """Release the memory that torch has reserved on a device but does not use."""
    import torch

    if name.startswith("cuda"):
        torch.cuda.empty_cache()
    elif name == "mps":
        torch.mps.empty_cache()


def describe_devices() -> list[str]:
    """A line about each usable device and its memory, for ``info``."""
    import torch

    lines = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(i)
        lines.append(f"cuda:{i}  {properties.name}, {properties.total_memory / 1024**3:.1f} GB")
    if torch.backends.mps.is_available():
        lines.append("mps  Apple GPU")
    lines.append(f"cpu  {torch.get_num_threads()} threads")
    return lines


def available_bytes(device: str) -> int:
    """Bytes that new tensors on the device may take, with those that torch holds in reserve."""
    import torch

    kind = device.partition(":")[0]
    if kind == "cuda":
        # What torch has reserved but not allocated is free to it, but not in the eyes of the driver.
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if kind == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    import psutil

    return psutil.virtual_memory().available


def total_bytes(device: str) -> int:
    """Bytes that the device has in all, whatever else uses them now."""
    import torch

    kind = device.partition(":")[0]
    if kind == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if kind == "mps":
        return torch.mps.recommended_max_memory()
    import psutil

    return psutil.virtual_memory().total


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception means that an allocation failed."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


LOADING = threading.RLock()
"""Held by the one thread that imports diffusers, or loads networks with it.

diffusers imports its modules lazily, and a second thread that asks for one meanwhile finds it half imported
("cannot import name ..."). While it loads a network, torch's modules are patched to allocate no weights
(accelerate's ``init_empty_weights``), and a network that another thread makes meanwhile would have none.
"""

_UNUSED = ("transformers", "torchvision")


def import_diffusers() -> None:
    """Import diffusers as if transformers and torchvision were not installed, which is faster.

    diffusers imports both wherever they are installed, for pipelines that are not used here. Together with
    Python's garbage collection among all the new objects that is a third of the time until the mini
    checkpoint is ready.

    The effect lasts as long as the process, so only a program calls this, not a library: pipelines with a
    text encoder must be given one (`magicanimate.loading` does), as diffusers loads none. Both libraries can
    still be imported afterwards. Where peft is installed nothing is left out: diffusers imports it, and peft
    needs transformers.
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
