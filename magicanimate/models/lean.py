"""Leaner modules and kernels for a CPU: the numbers of diffusers' own within rounding, with less copying.

On a CPU the time outside large products goes into changes of memory layout and into passes over tensors that
do not fit in a cache. Here feature maps stay in the order ``N H W C`` ("channels last"), in which a map is
its tokens without a copy, and the wide middle of a feed-forward layer is only ever there for a slice.

Letters in shape comments: ``B`` videos, ``F`` frames, ``C H W`` channels, height and width of a feature map,
``L D`` tokens and their width.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Of a feed-forward layer's middle or of attention's scores, per thread: they stay in a cache, and the
# allocator reuses their memory.
SLICE_BYTES = 2 * 1024**2
LONG_ATTENTION = 1024  # queries and keys from which on slices by oneDNN beat torch's own CPU kernel
FEWEST_ROWS = 64  # below, oneDNN's preparations take longer than the product


class LeanTransformer(nn.Module):
    """A ``Transformer2DModel`` over feature maps whose tokens are a view of them."""

    def __init__(self, original: Transformer2DModel):
        super().__init__()
        self.norm, self.proj_in, self.proj_out = original.norm, original.proj_in, original.proj_out
        self.transformer_blocks = original.transformer_blocks

    def forward(
        self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **_
    ) -> tuple[torch.Tensor]:
        """``N C H W`` and texts ``B L D`` -> a tuple of ``N C H W``."""
        size = hidden_states.shape[2:]
        tokens = self.proj_in(self.norm(hidden_states)).permute(0, 2, 3, 1).flatten(1, 2)  # N (H W) C
        for block in self.transformer_blocks:
            tokens = block(tokens, encoder_hidden_states=encoder_hidden_states)
        return (self.proj_out(tokens.unflatten(1, size).permute(0, 3, 1, 2)) + hidden_states,)


class LeanMotionModule(nn.Module):
    """An ``AnimateDiffTransformer3D`` that moves whole tokens, once in and once out."""

    def __init__(self, original: AnimateDiffTransformer3D):
        super().__init__()
        self.norm, self.proj_in, self.proj_out = original.norm, original.proj_in, original.proj_out
        self.transformer_blocks = original.transformer_blocks

    def forward(self, hidden_states: torch.Tensor, *, num_frames: int) -> torch.Tensor:
        """``(B F) C H W`` -> the same."""
        clip = self.norm(hidden_states).unflatten(0, (-1, num_frames))  # B F C H W
        size = clip.shape[0], *clip.shape[3:]
        tokens = self.proj_in(clip.permute(0, 3, 4, 1, 2).flatten(0, 2))  # (B H W) F C
        for block in self.transformer_blocks:
            tokens = block(tokens)
        moved = self.proj_out(tokens).unflatten(0, size).permute(0, 3, 4, 1, 2)  # B F C H W
        return (hidden_states.unflatten(0, (-1, num_frames)) + moved).flatten(0, 1)


class SlicedFeedForward(nn.Module):
    """A ``FeedForward`` that takes a few tokens at a time."""

    def __init__(self, original: FeedForward):
        super().__init__()
        self.net = original.net

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """``N L D`` -> ``N L D``."""
        # Compiled, the layer runs whole: how many slices there are follows from the sizes, so with slices
        # each size would be compiled for itself.
        if torch.compiler.is_compiling():
            for layer in self.net:
                hidden_states = layer(hidden_states)
            return hidden_states
        tokens = hidden_states.flatten(0, 1)
        width = (
            2 * self.net[-1].in_features * tokens.element_size()
        )  # of a token in the middle, with its gate
        rows = max(1, SLICE_BYTES * torch.get_num_threads() // width)
        out = torch.empty_like(tokens)
        for source, target in zip(tokens.split(rows), out.split(rows), strict=True):
            for layer in self.net:
                source = layer(source)
            target.copy_(source)
        return out.view(hidden_states.shape)


class OneDnnProducts(TorchFunctionMode):
    """Computes float32 linear layers, 1x1 convolutions and long attention by oneDNN's matrix product.

    Of bfloat16 the long attention only: for the rest torch takes oneDNN by itself.

    torch hands them to the BLAS it was built with, MKL as a rule, which has no 512-bit kernels for AMD's
    processors, and adds the bias in a pass of its own. oneDNN computes torch's other convolutions anyway.

    Args:
        before_each: called before each head of a long attention, which may take seconds; may raise to stop.
    """

    def __init__(self, before_each: Callable[[], None] = lambda: None):
        super().__init__()
        self._before_each = before_each

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Called by torch in place of ``func``."""
        if torch.compiler.is_compiling():  # inductor takes these products with constant weights only
            return func(*args, **(kwargs or {}))
        if not kwargs and func is functional.linear and _suits(*args[:2]):
            return _product(*args)
        if not kwargs and func is functional.conv2d and _is_product(*args):
            pixels = args[0].permute(0, 2, 3, 1)
            if pixels.is_contiguous() and _suits(pixels, args[1]):
                return _product(pixels, args[1].flatten(1), args[2]).permute(0, 3, 1, 2)
        if not kwargs and func is functional.scaled_dot_product_attention and _is_long(*args):
            return _attention(*args, before_each=self._before_each)
        return func(*args, **(kwargs or {}))


def _suits(x: torch.Tensor, weight: torch.Tensor) -> bool:
    many = x.numel() >= FEWEST_ROWS * x.shape[-1]
    return many and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32


def _is_product(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> bool:
    return weight.shape[2:] == (1, 1) and tuple(stride) == (1, 1) and tuple(padding) == (0, 0) and groups == 1


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _is_long(query, key, value) -> bool:
    if min(query.shape[-2], key.shape[-2]) < LONG_ATTENTION or query.device.type != "cpu":
        return False
    if query.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return query.dtype == torch.float32


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, before_each: Callable[[], None]
) -> torch.Tensor:
    """Softmax attention of ``B N L d``, head by head and some queries at a time; scores are float32."""
    batch, heads, length, width = query.shape
    out = query.new_empty(batch, length, heads, width).transpose(1, 2)
    rows = max(1, SLICE_BYTES * torch.get_num_threads() // (key.shape[-2] * torch.float32.itemsize))
    scaled = query.float() * width**-0.5
    for i, j in itertools.product(range(batch), range(heads)):
        before_each()
        keys, values = key[i, j].float().contiguous(), value[i, j].t().contiguous()
        for some, target in zip(scaled[i, j].split(rows), out[i, j].split(rows), strict=True):
            weights = torch.softmax(_product(some.contiguous(), keys), dim=-1)
            target.copy_(_product(weights.to(values.dtype), values))
    return out


def _lean(module: nn.Module) -> nn.Module | None:
    """The lean stand-in of a module, if there is one."""
    if isinstance(module, Transformer2DModel) and isinstance(module.proj_in, nn.Conv2d):
        return LeanTransformer(module)
    if isinstance(module, AnimateDiffTransformer3D):
        return LeanMotionModule(module)
    return SlicedFeedForward(module) if isinstance(module, FeedForward) else None


@contextlib.contextmanager
def lean_modules(*networks: nn.Module, before_each: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While it lasts, the networks (on a CPU, for inference) have lean modules in place of diffusers' own.

    Children and their names stay, so hooks on them work. Convolution weights stay "channels last".
    """
    replaced = []
    with torch.inference_mode(False):  # the weights must remain ones that can learn
        for network in networks:
            network.to(memory_format=torch.channels_last)
    for network in networks:
        for parent in list(network.modules()):
            for name, child in parent.named_children():
                lean = _lean(child)
                if lean is not None:
                    replaced.append((parent, name, child))
                    setattr(parent, name, lean.train(child.training))
    try:
        with (
            OneDnnProducts(before_each)
            if hasattr(torch.ops.mkldnn, "_linear_pointwise")
            else contextlib.nullcontext()
        ):
            yield
    finally:
        for parent, name, child in replaced:
            setattr(parent, name, child)
