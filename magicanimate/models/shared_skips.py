"""The skip connections' share of the up blocks' convolutions, computed once for both guidance halves.

While the halves share the down path, their skip connections are equal. A residual block of the up path
begins with ``conv1(silu(norm1(cat[hidden, skip])))``: a convolution is linear in its input channels, so that
the skip's part can be added to the hidden state's, and group norm mixes channels within a group only, so that
the groups that hold nothing of the hidden state are equal too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from magicanimate.models.unet import ClipGroupNorm, SkipSharing, VideoUNet


class _OwnNorm(nn.Module):
    """``norm1`` of a residual block; in the second turn of the channels that are not shared alone."""

    def __init__(self, original: ClipGroupNorm, own_groups: int, sharing: SkipSharing):
        super().__init__()
        self.original, self.own_groups, self.sharing = original, own_groups, sharing

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """``(B F) C H W`` -> the same, or its first channels."""
        if self.sharing.turn != 1:
            return self.original(hidden_states)
        return self.original(hidden_states, groups=self.own_groups)


class _SharedConv(nn.Module):
    """``conv1`` of a residual block, in two parts: the first channels, and the rest for both turns."""

    def __init__(self, original: nn.Conv2d, own: int, sharing: SkipSharing):
        super().__init__()
        self.original, self.own, self.sharing = original, own, sharing

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """``(B F) C H W``, in the second turn its first channels -> ``(B F) D H W``."""
        if self.sharing.turn is None:
            return self.original(hidden_states)
        if self.sharing.turn == 0:
            shared = self._part(hidden_states, slice(self.own, None), bias=None)
            self.sharing.kept[self] = shared
        else:
            shared = self.sharing.kept.pop(self)
        return self._part(hidden_states, slice(self.own), bias=self.original.bias).add_(shared)

    def _part(
        self, hidden_states: torch.Tensor, channels: slice, *, bias: torch.Tensor | None
    ) -> torch.Tensor:
        conv = self.original
        weight = conv.weight[:, channels]
        return functional.conv2d(hidden_states[:, channels], weight, bias, conv.stride, conv.padding)


@contextlib.contextmanager
def shared_skips(unet: VideoUNet) -> Iterator[SkipSharing]:
    """While it lasts, the up blocks of ``unet`` share what they make of equal skip connections.

    Blocks whose weights a hook brings when their layers are called (offloading, storage in fewer bits) stay
    as they are: parts of such weights cannot be taken.
    """
    sharing, replaced = SkipSharing(), []
    widths = _skip_widths(unet)
    for block in unet.up_blocks:
        for resnet in block.resnets:
            norm, conv = resnet.norm1, resnet.conv1
            groups = widths.pop() * norm.num_groups // norm.num_channels  # wholly the skip's
            if groups and not any(_is_hooked(layer) for layer in (norm, conv)):
                own_groups = norm.num_groups - groups
                own = own_groups * norm.num_channels // norm.num_groups
                replaced.append((resnet, norm, conv))
                resnet.norm1 = _OwnNorm(norm, own_groups, sharing)
                resnet.conv1 = _SharedConv(conv, own, sharing)
    try:
        yield sharing
    finally:
        for resnet, norm, conv in replaced:
            resnet.norm1, resnet.conv1 = norm, conv


def _skip_widths(unet: VideoUNet) -> list[int]:
    """Channels of the skip connections in the order in which the down path makes them."""
    widths = [unet.conv_in.out_channels]
    for block in unet.down_blocks:
        widths += [resnet.out_channels for resnet in block.resnets]
        if block.downsamplers is not None:
            widths.append(block.resnets[-1].out_channels)
    return widths


def _is_hooked(layer: nn.Module) -> bool:
    return any(hasattr(layer, name) for name in ("_hf_hook", "_diffusers_hook"))
