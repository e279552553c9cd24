"""A GPU that is not there: shapes, number formats, devices, host synchronisations and memory without numbers.

torch's ``FakeTensorMode`` follows tensors that hold no numbers, and takes ``device="cuda"`` on a computer
without one. What would break on a real GPU breaks here: a tensor that stayed on the CPU, a wrong number
format, a shape. Beside it, `PretendedGPU` records what no exception tells:

* places where the host waits for the device: reading a number, a mask whose shape depends on its numbers, a
  copy between the two that is not asynchronous;
* the memory that is alive at each moment, by the lifetimes of storages.

What cannot be seen: values (an overflow of float16), speed, fragmentation, the libraries' own workspaces.

    python -m benchmarks.pretended_gpu

prints the memory that an animation takes by profile, planned (`magicanimate.memory`) and followed,
the profile that cards of several sizes take, and what one step takes on the device in several arrangements.
"""

from __future__ import annotations

import argparse
import gc
import linecache
import traceback
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from unittest.mock import patch

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch._subclasses.fake_impls import op_implementations_dict
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    in_kernel_invocation_manager,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.flops import build_pipeline
from magicanimate.acceleration.options import OptimizationConfig
from magicanimate.memory import (
    DECODED_AT_ONCE,
    DENOISERS,
    TILE,
    Footprint,
    OutOfMemoryFallback,
    Work,
    choose_profile,
    needed_bytes,
    profiles_for,
)
from magicanimate.models.autoencoder import set_sliced

CARDS = (6, 8, 12, 16, 24)  # GB
TAKEN = 500 * 1024**2  # of a card by the driver, the context and a desktop
SIZES = ((512, 512), (768, 512))
FOUND = 3  # what is found where the answer's shape depends on numbers: so many boxes, rows of a mask
BLOCK = 512  # bytes; CUDA's allocator of torch gives memory out in multiples of it
MASKED = "masked attention"
aten = torch.ops.aten

_READS = {aten._local_scalar_dense, aten.item, aten.equal, aten.is_nonzero}
_FILLS = {aten.uniform_, aten.normal_, aten.fill_, aten.zero_}
_VIEWS = {aten.view, aten._unsafe_view, aten.slice, aten.select, aten.alias, aten.detach}
_CONVOLUTIONS = {aten.conv2d, aten.convolution}
_REORDER = {aten.reshape, aten.flatten, aten.contiguous, aten.clone}  # where they are no views
_OWN_CODE = ("magicanimate/", "training/", "densepose_tools/", "diffusers/")


@dataclass(frozen=True)
class Sync:
    """A place where the host waits for the device.

    Attributes:
        kind: "read" (a number or tensor to the host), "upload" (a copy to the device that is waited for) or
            "shape" (a shape that depends on numbers).
        place: file, line and source of the innermost line of this program or of diffusers.
    """

    kind: str
    place: str


@dataclass
class PretendedGPU:
    """Records what happens on the pretended device while it is entered: ``with PretendedGPU() as gpu``.

    Attributes:
        mode: the fake tensors' mode; networks must be made inside it, under ``torch.device("cuda")``.
        syncs: in the order in which they happened.
        operations: how often each of torch's operations ran on the device, by its name.
        copied: bytes that were copied only to lie in another order in memory.
        allocated: bytes alive on the device now.
        peak: the most that were alive since the last `reset_peak`.
    """

    mode: FakeTensorMode = field(default_factory=lambda: FakeTensorMode(allow_non_fake_inputs=True))
    syncs: list[Sync] = field(default_factory=list)
    operations: Counter[str] = field(default_factory=Counter)
    copied: int = 0
    allocated: int = 0
    peak: int = 0
    _known: set[int] = field(default_factory=set)

    def __enter__(self) -> PretendedGPU:
        """From now on ``device="cuda"`` is there, without numbers; may be entered again after the exit.

        ``torch.cuda.is_available()`` stays false; autocast alone is told otherwise.
        """
        with ExitStack() as stack:
            stack.enter_context(patch("torch.cuda.amp.common.amp_definitely_not_available", bool))
            stack.enter_context(patch("torch.cuda.is_bf16_supported", return_value=True))
            stack.enter_context(patch("torch.cuda.Event"))
            stack.enter_context(self.mode)
            stack.enter_context(_Recorder(self))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    @contextmanager
    def building(self, dtype: torch.dtype) -> Iterator[None]:
        """Where networks are made: new tensors are on the device, fractions in ``dtype``."""
        torch.set_default_dtype(dtype)
        try:
            with torch.device("cuda"):
                yield
        finally:
            torch.set_default_dtype(torch.float32)

    def reset_peak(self) -> None:
        """Begin anew to look for the largest moment."""
        gc.collect()
        self.peak = self.allocated

    def add(self, tensor: torch.Tensor) -> bool:
        """Follow the storage of a tensor, if it is on the device and not known yet; whether it is new."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or not _on_gpu(tensor):
            return False
        self._known.add(key)
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self.allocated += size
        self.peak = max(self.peak, self.allocated)
        weakref.finalize(storage, self._forget, key, size)
        return True

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.allocated -= size

    def take(self, size: int) -> None:
        """Count memory that an operation takes while it runs."""
        self.peak = max(self.peak, self.allocated + size)


class _Recorder(TorchDispatchMode):
    """Sits above the fake tensors' mode and sees every operation first."""

    def __init__(self, gpu: PretendedGPU):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "torchvision" and func.overloadpacket is torch.ops.torchvision.nms:
            self._note("shape")
            return args[0].new_empty(min(FOUND, len(args[0])), dtype=torch.int64)
        if func is torch.ops.prim.device.default:
            return args[0].fake_device if isinstance(args[0], FakeTensor) else args[0].device
        if func.namespace != "aten":
            return func(*args, **kwargs)
        packet = func.overloadpacket
        if packet in _READS and _on_gpu(args[0]):
            self._note("read")
            return _made_up(args[0]) if packet in (aten._local_scalar_dense, aten.item) else True
        if packet in _SHAPED_BY_VALUES and _on_gpu(args[0]):
            self._note("shape")
            return _SHAPED_BY_VALUES[packet](args[0])
        if packet is aten.index and _on_gpu(args[0]) and any(map(_is_mask, args[1])):
            self._note("shape")
            args = (args[0], [_made_up_rows(x) if _is_mask(x) else x for x in args[1]])
        if packet in (aten.pin_memory, aten._pin_memory):
            return args[0].clone()
        if packet is aten.is_pinned:
            return False
        if packet in _FILLS and _on_gpu(args[0]):  # numbers that are not there
            return args[0]
        if packet is aten.to:
            with self:  # is nothing, or a copy
                return func.decompose(*args, **kwargs)
        if packet is aten.copy_ and not isinstance(args[0], FakeTensor) and _on_gpu(args[1]):
            self._look_at(func, args, kwargs)
            with unset_fake_temporarily():
                return args[0].fill_(args[0].dtype == torch.bool)  # zeros, and answers that are yes
        if not _is_gpu(kwargs.get("device")):
            kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
        tensors = list(_tensors((args, *kwargs.values())))
        if not (_is_gpu(kwargs.get("device")) or any(isinstance(x, FakeTensor) for x in tensors)):
            with unset_fake_temporarily():  # what the CPU does, it does with numbers
                return func(*args, **kwargs)
        self._look_at(func, args, kwargs)
        self.gpu.operations[packet.__name__] += 1
        result = self._compute(func, args, kwargs, tensors)
        if packet is aten._to_copy and _on_gpu(args[0]) and not _on_gpu(result) and _has_numbers(result):
            with unset_fake_temporarily():
                return torch.zeros(result.shape, dtype=result.dtype)
        for tensor in _tensors((result,)):
            if isinstance(tensor, FakeTensor) and self.gpu.add(tensor) and packet in _REORDER:
                self.gpu.copied += tensor.nbytes
        return result

    def _compute(self, func, args, kwargs, tensors: list[torch.Tensor]):
        """Shapes by torch's kernels for the "meta" device, directly where everything is on the GPU.

        The way through the fake tensors' mode, with its checks and its cache, takes four times as long.
        """
        packet = func.overloadpacket
        if packet is aten._to_copy and _is_gpu(kwargs.get("device")) and not isinstance(args[0], FakeTensor):
            with unset_fake_temporarily():
                copy = torch.empty_like(args[0], dtype=kwargs.get("dtype"), device="meta")
            return FakeTensor(self.gpu.mode, copy, torch.device(kwargs["device"]))
        direct = tensors and "device" not in kwargs
        direct = direct and (packet in _VIEWS or func in _SHORTCUTS or func not in op_implementations_dict)
        if not (direct and all(isinstance(x, FakeTensor) and _on_gpu(x) for x in tensors)):
            return func(*args, **kwargs)
        with in_kernel_invocation_manager(self.gpu.mode):
            result = _SHORTCUTS.get(func, func)(*args, **kwargs)

        def fake(x):
            made = isinstance(x, torch.Tensor) and not isinstance(x, FakeTensor)
            return FakeTensor(self.gpu.mode, x, tensors[0].fake_device) if made else x

        return type(result)(map(fake, result)) if isinstance(result, (tuple, list)) else fake(result)

    def _look_at(self, func, args, kwargs) -> None:
        packet = func.overloadpacket
        if packet in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
            indices = [index for index in args[1] if index is not None]
            if _on_gpu(args[0]) and any(map(_is_mask, indices)):
                self._note("shape")
            elif _on_gpu(args[0]) and not all(map(_on_gpu, indices)):
                self._note("upload")
        elif packet in (aten._to_copy, aten.copy_):
            source, target = (args[1], args[0]) if packet is aten.copy_ else (args[0], kwargs.get("device"))
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            to_gpu = _on_gpu(target) if isinstance(target, torch.Tensor) else _is_gpu(target)
            if target is not None and waits and to_gpu != _on_gpu(source):
                self._note("upload" if to_gpu else "read")
        elif packet in _CONVOLUTIONS and _on_gpu(args[0]):
            last = any(x.is_contiguous(memory_format=torch.channels_last) for x in args[:2])
            self._reorder(args[:2], torch.channels_last if last else torch.contiguous_format)
        elif packet is aten.group_norm and _on_gpu(args[0]):
            self._reorder(args[:1], torch.contiguous_format)
        elif (
            packet is aten.scaled_dot_product_attention
            and (args[3:4] or [kwargs.get("attn_mask")])[0] is not None
        ):
            self.gpu.operations[MASKED] += 1  # which the quickest kernels cannot do

    def _reorder(self, tensors, wanted: torch.memory_format) -> None:
        """Count the copies that a kernel makes of what lies otherwise."""
        size = sum(x.nbytes for x in tensors if not x.is_contiguous(memory_format=wanted))
        self.gpu.take(size)
        self.gpu.copied += size

    def _note(self, kind: str) -> None:
        self.gpu.syncs.append(Sync(kind, _place()))


def _tensors(values: Iterable) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def _is_mask(index) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _made_up_rows(mask: torch.Tensor) -> torch.Tensor:
    return mask.new_empty(min(FOUND, mask.numel()), dtype=torch.int64)


def _alike(*tensors: torch.Tensor | None) -> None:
    """As the kernels want it: one device, one number format.

    Raises:
        RuntimeError: they differ.
    """
    first, *others = [x for x in tensors if x is not None]
    for x in others:
        if x.device != first.device or x.dtype != first.dtype:
            raise RuntimeError(f"{x.dtype} on {x.device} does not go with {first.dtype} on {first.device}")


def _attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **kwargs):
    """By a kernel that holds no scores, as torch has them for a GPU; tokens lie together for all heads."""
    _alike(query, key, value)
    *batch, heads, length, _ = query.shape
    return query.new_empty(*batch, length, heads, value.shape[-1]).transpose(-2, -3)


def _linear(x, weight, bias=None):
    _alike(x, weight, bias)
    if x.shape[-1] != weight.shape[1]:
        raise RuntimeError(f"{tuple(x.shape)} cannot be multiplied with {tuple(weight.shape)}")
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _layer_norm(x, normalized_shape, weight=None, bias=None, *_):
    _alike(x, weight, bias)
    return x.new_empty(x.shape)


def _group_norm(x, groups, weight=None, bias=None, *_):
    _alike(x, weight, bias)
    if x.shape[1] % groups:
        raise RuntimeError(f"{x.shape[1]} channels are not {groups} groups")
    return x.new_empty(x.shape)  # its kernel for CUDA knows no channels last


def _native_layer_norm(x, normalized_shape, weight, bias, _):
    rest = (*x.shape[: -len(normalized_shape)], *[1] * len(normalized_shape))
    statistics = (x.new_empty(rest, dtype=torch.float32) for _ in ("mean", "1 / deviation"))
    return _layer_norm(x, normalized_shape, weight, bias), *statistics


def _native_group_norm(x, weight, bias, samples, channels, pixels, groups, _):
    statistics = (x.new_empty(samples, groups) for _ in ("mean", "1 / deviation"))
    return _group_norm(x, groups, weight, bias), *statistics


def _norm_backward(weight_at: int):
    """Gradients of a norm's input, weight and bias, of which the last argument says which are asked for."""

    def shortcut(gradient, x, *others):
        weight, asked = others[weight_at], others[-1]
        made = (x.new_empty(x.shape), *(weight if weight is None else weight.new_empty(weight.shape),) * 2)
        return tuple(each if wanted else None for each, wanted in zip(made, asked, strict=True))

    return shortcut


def _addmm(bias, x, weight, **_):
    _alike(bias, x, weight)
    if x.shape[1] != weight.shape[0]:
        raise RuntimeError(f"{tuple(x.shape)} cannot be multiplied with {tuple(weight.shape)}")
    return x.new_empty(x.shape[0], weight.shape[1])


def _like(x: torch.Tensor, *_, **__) -> torch.Tensor:
    return x.new_empty(x.shape) if x.is_contiguous() else torch.empty_like(x)  # the first is the quicker


def _to_copy(x: torch.Tensor, *, dtype: torch.dtype | None = None, **kwargs) -> torch.Tensor:
    """In another number format, which autocast asks of every weight."""
    if x.is_contiguous():
        return x.new_empty(x.shape, dtype=dtype or x.dtype)
    return aten._to_copy.default(x, dtype=dtype, **kwargs)


def _elementwise(func):
    """Sums and the like of one shape and number format; what is broadcast the other way is left to torch."""

    def shortcut(x, other, **kwargs):
        if x.is_floating_point() and _keeps_shape(x, other):
            return _like(x)
        return func(x, other, **kwargs)

    return shortcut


def _keeps_shape(x: torch.Tensor, other) -> bool:
    if not isinstance(other, torch.Tensor):
        return not isinstance(other, complex)
    if other.ndim == 0:
        return other.is_floating_point()
    fits = zip(x.shape[-other.ndim :], other.shape, strict=False)
    return other.dtype == x.dtype and other.ndim <= x.ndim and all(b in (1, a) for a, b in fits)


_ELEMENTWISE = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor)
_SHAPED_BY_VALUES = {
    aten.nonzero: lambda x: x.new_empty(min(FOUND, x.numel()), x.ndim, dtype=torch.int64),
    aten.masked_select: lambda x: x.new_empty(min(FOUND, x.numel())),
}
# Left to the fake tensors, each of these is taken apart into a dozen steps, which makes a third of the time.
_SHORTCUTS = {
    aten.scaled_dot_product_attention.default: _attention,
    aten.linear.default: _linear,
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten._to_copy.default: _to_copy,
    aten.native_layer_norm.default: _native_layer_norm,
    aten.native_layer_norm_backward.default: _norm_backward(3),
    aten.native_group_norm.default: _native_group_norm,
    aten.native_group_norm_backward.default: _norm_backward(2),
    aten.addmm.default: _addmm,
    aten._safe_softmax.default: _like,
    aten._softmax_backward_data.default: _like,
    aten.silu.default: _like,
    aten.gelu.default: _like,
    aten.gelu_backward.default: _like,
    **{func: _elementwise(func) for func in _ELEMENTWISE},
}


def _is_gpu(device) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _on_gpu(tensor) -> bool:
    return isinstance(tensor, torch.Tensor) and tensor.device.type == "cuda"


def _has_numbers(result: torch.Tensor) -> bool:
    """Whether a copy on the CPU is read there: pictures and small tensors, not weights."""
    return result.dtype == torch.uint8 or result.numel() <= 1 << 20


def _made_up(tensor: torch.Tensor) -> bool | int | float:
    if tensor.dtype == torch.bool:
        return True
    return 1.0 if tensor.dtype.is_floating_point else 1


def _place() -> str:
    for frame, line in traceback.walk_stack(None):  # innermost first
        name = frame.f_code.co_filename.replace("\\", "/")
        for start in _OWN_CODE:
            if f"/{start}" in name and "benchmarks/" not in name:
                source = linecache.getline(frame.f_code.co_filename, line).strip()
                return f"{start}{name.rpartition('/' + start)[2]}:{line} {source}"
    return "?"


def footprint(pipe: DiffusionPipeline) -> Footprint:
    """What `Footprint.of` would read from the files of a pipeline's networks."""
    parameters = {}
    for name in (*DENOISERS, "vae"):
        found: Counter[str] = Counter()
        for key, weight in getattr(pipe, name).named_parameters() if getattr(pipe, name) else ():
            parts = key.split(".")
            found[".".join(parts[:2]) if parts[0] in ("down_blocks", "up_blocks") else ""] += weight.numel()
        parameters[name] = dict(found)
    return Footprint(
        parameters,
        channels=pipe.unet.config.block_out_channels[0],
        decoder_channels=pipe.vae.config.block_out_channels[1],
        scale=pipe.vae_scale_factor,
    )


def animate(
    gpu: PretendedGPU, pipe: DiffusionPipeline, *, width: int, height: int, frames: int, **settings
) -> None:
    """One guided step at a size in pixels; ``settings`` as the pipeline takes them."""
    photo, control = np.zeros((height, width, 3), np.uint8), np.zeros((frames, height, width, 3), np.uint8)
    settings = {"output_type": "stream"} | settings
    with gpu:
        gpu.reset_peak()
        output = pipe(photo, control, num_inference_steps=1, guidance_scale=7.5, **settings)
        for _ in islice(output.frames or (), 2 * DECODED_AT_ONCE):  # the others are decoded alike
            pass


def _count_step(gpu: PretendedGPU, pipe: DiffusionPipeline, name: str, **settings) -> None:
    """Print what a step of one window takes on the device, without decoding."""
    gpu.reset_peak()
    gpu.operations.clear()
    gpu.copied, before = 0, gpu.allocated
    animate(gpu, pipe, width=512, height=512, frames=16, output_type="latent", **settings)
    figures = f"{gpu.operations.total()} | {gpu.copied / 1e9:.2f} | {gpu.operations[MASKED]}"
    print(f"| {name} | {figures} | {(gpu.peak - before) / 1e9:.2f} |", flush=True)


def main() -> None:
    """Print the tables."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.pretended_gpu",
        description="Memory of an animation on CUDA, planned and followed on a GPU that is not there.",
    )
    top.add_argument("--frames", type=int, default=64, help="of the clip (%(default)s)")
    frames = top.parse_args().frames
    gpu = PretendedGPU()
    with gpu, gpu.building(torch.float16):
        pipe = build_pipeline()
    sizes, found = footprint(pipe), profiles_for("cuda")
    print(f"{frames} frames, float16, guidance; GB\n\n| size | profile | planned | followed |")
    for width, height in SIZES:
        for profile in found:
            planned = needed_bytes(
                sizes, Work(width, height, frames=frames), profile, device="cuda", dtype="float16"
            )
            seen = "-"  # the hooks that bring blocks do not take such tensors
            if not profile.offload:
                set_sliced(pipe.vae, TILE if profile.sliced else None)
                fallback = OutOfMemoryFallback(pipe, profile, device="cuda")
                animate(gpu, pipe, width=width, height=height, frames=frames, fallback=fallback)
                seen = f"{gpu.peak / 1e9:.2f}"
            print(f"| {width}x{height} | {profile.name} | {planned / 1e9:.2f} | {seen} |", flush=True)
    print(f"\n| card, GB | free of it | {' | '.join(f'{w}x{h}' for w, h in SIZES)} |\n|---|---|---|---|")
    for card in CARDS:
        free, cells = card * 1024**3 - TAKEN, []
        for width, height in SIZES:
            work = Work(width, height, frames=frames)
            profile, _ = choose_profile("auto", sizes, work, device="cuda", dtype="float16", free=free)
            needed = needed_bytes(sizes, work, profile, device="cuda", dtype="float16")
            cells.append(f"{profile.name}, {needed / 1e9:.1f}")
        print(f"| {card} | {free / 1e9:.1f} | {' | '.join(cells)} |")
    print("\n| a step of 16 frames | operations | copied, GB | masked attention | peak above weights, GB |")
    print("|---|---|---|---|---|")
    _count_step(gpu, pipe, "default")
    _count_step(gpu, pipe, "branches together", optimization=OptimizationConfig(sequential_guidance=False))
    _count_step(gpu, pipe, "plain", optimization=OptimizationConfig.plain())
    with gpu:
        for network in (pipe.unet, pipe.appearance_encoder, pipe.controlnet):
            network.to(memory_format=torch.channels_last)
    _count_step(gpu, pipe, "channels last")


if __name__ == "__main__":
    main()
