"""Faster modules for a CPU: the same numbers as diffusers' own within rounding, with less copying.

On a CPU the time outside large products goes into changes of memory layout and into passes over tensors that
do not fit in a cache. Here feature maps stay in the order ``N H W C`` ("channels last"), in which a map is
its tokens without a copy, and the wide middle of a feed-forward layer is only ever there for a slice.

Letters in shape comments: ``B`` videos, ``F`` frames, ``C H W`` channels, height and width of a feature map,
``L D`` tokens and their width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import nn

# Of a feed-forward layer's middle, per thread: it stays in a cache, and the allocator reuses its memory.
SLICE_BYTES = 2 * 1024**2


class TokenTransformer(nn.Module):
    """A ``Transformer2DModel`` whose tokens are a view of the feature map, not a copy."""

    def __init__(self, original: Transformer2DModel):
        super().__init__()
        self.norm, self.proj_in, self.proj_out = original.norm, original.proj_in, original.proj_out
        self.transformer_blocks = original.transformer_blocks

    def forward(
        self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor]:
        """``N C H W`` and texts ``B L D`` -> a tuple of ``N C H W``."""
        # In "channels last" memory this permutation is a view, and a 1x1 convolution a product of tokens.
        size = hidden_states.shape[2:]
        tokens = self.proj_in(self.norm(hidden_states)).permute(0, 2, 3, 1).flatten(1, 2)  # N (H W) C
        for block in self.transformer_blocks:
            tokens = block(tokens, encoder_hidden_states=encoder_hidden_states)
        return (self.proj_out(tokens.unflatten(1, size).permute(0, 3, 1, 2)) + hidden_states,)


class TokenMotionModule(nn.Module):
    """An ``AnimateDiffTransformer3D`` that rearranges the clip once on the way in and once on the way out."""

    def __init__(self, original: AnimateDiffTransformer3D):
        super().__init__()
        self.norm, self.proj_in, self.proj_out = original.norm, original.proj_in, original.proj_out
        self.transformer_blocks = original.transformer_blocks

    def forward(self, hidden_states: torch.Tensor, *, num_frames: int) -> torch.Tensor:
        """``(B F) C H W`` -> the same."""
        # Attention over time has one row for each place of the picture: one copy in, one out.
        clip = self.norm(hidden_states).unflatten(0, (-1, num_frames))  # B F C H W
        size = clip.shape[0], *clip.shape[3:]
        tokens = self.proj_in(clip.permute(0, 3, 4, 1, 2).flatten(0, 2))  # (B H W) F C
        for block in self.transformer_blocks:
            tokens = block(tokens)
        moved = self.proj_out(tokens).unflatten(0, size).permute(0, 3, 4, 1, 2)  # B F C H W
        return (hidden_states.unflatten(0, (-1, num_frames)) + moved).flatten(0, 1)


class SlicedFeedForward(nn.Module):
    """A ``FeedForward`` that processes a slice of the tokens at a time, which fits into the cache."""

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
        # As many tokens as keep the middle within each thread's share of the cache.
        rows = max(1, SLICE_BYTES * torch.get_num_threads() // width)
        out = torch.empty_like(tokens)
        for source, target in zip(tokens.split(rows), out.split(rows), strict=True):
            for layer in self.net:
                source = layer(source)
            target.copy_(source)
        return out.view(hidden_states.shape)


def _stand_in(module: nn.Module) -> nn.Module | None:
    """The faster module for one of diffusers', ``None`` if there is none."""
    if isinstance(module, Transformer2DModel) and isinstance(module.proj_in, nn.Conv2d):
        return TokenTransformer(module)
    if isinstance(module, AnimateDiffTransformer3D):
        return TokenMotionModule(module)
    return SlicedFeedForward(module) if isinstance(module, FeedForward) else None


@contextlib.contextmanager
def cpu_kernels(*networks: nn.Module) -> Iterator[None]:
    """A context in which the networks, on a CPU and for inference, use this file's modules.

    Children and their names stay, so hooks on them work. Convolution weights stay "channels last".
    """
    # Modules are exchanged, never patched: taking a module out again leaves no trace.
    replaced = []
    with torch.inference_mode(False):  # the weights must remain ones that can learn
        for network in networks:
            network.to(memory_format=torch.channels_last)
    for network in networks:
        for parent in list(network.modules()):
            for name, child in parent.named_children():
                stand_in = _stand_in(child)
                if stand_in is not None:
                    replaced.append((parent, name, child))
                    setattr(parent, name, stand_in.train(child.training))
    try:
        yield
    # However the animation ended, training and saving must find diffusers' own modules.
    finally:
        for parent, name, child in replaced:
            setattr(parent, name, child)
