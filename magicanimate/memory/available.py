"""How much memory a device has left, and what it looks like when there is none."""

from __future__ import annotations

# What torch says when an allocation fails: on a CPU (Linux and macOS; Windows) and on Apple's GPU. It raises
# `torch.OutOfMemoryError` for CUDA only.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "MPS backend out of memory")


def available_bytes(device: str) -> int:
    """Bytes that new tensors on the device may take, with those that torch holds in reserve."""
    import torch

    kind = device.partition(":")[0]
    if kind == "cuda":
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
