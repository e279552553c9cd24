"""Compile blocks of the networks with ``torch.compile``, where that is asked for and works.

Only blocks that know nothing of the photo: the transformer blocks of the motion modules and the feed-forward
layers of the others. Each change of what hybrid self-attention is shown would compile its block anew, so
diffusers' ``compile_repeated_blocks`` does not serve: it goes by the name of a class, and the blocks that see
the photo have the same as the motion modules'. A block is compiled at its first call.

torch compiles a method 8 times at most, counted over all blocks that share it, and then runs it as it is
defined. So sizes are symbols in what is compiled. What still counts is the width of a block and whether a
size is 1, as in one frame or where the widest blocks see one pixel: 8 kinds in Stable Diffusion's networks,
which have three widths, and 6 if the picture is larger than 64 pixels a side.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from torch import nn

log = logging.getLogger(__name__)


def compiler_problem(device: str) -> str | None:
    """One sentence on why ``torch.compile`` does not work on this machine; ``None`` if it does."""
    try:
        # torch says only at the first call whether its compiler works on this machine.
        torch.compile(lambda x: (x * x).sum())(torch.ones(8, device=device))
    except (RuntimeError, ImportError, OSError) as error:  # no compiler, no triton, too new a Python
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        return f"torch.compile does not work here ({reason}); going on without it."
    return None


def compile_blocks(network: nn.Module) -> int:
    """Compile, in place, the blocks of a network that can be compiled; returns how many there are."""
    blocks = list(_blocks(network))
    for block in blocks:
        # In place, so that names, hooks and the state dict stay; sizes as symbols, see the top of this file.
        block.compile(dynamic=True)
    vars(network)["compiled_blocks"] = blocks  # CPU kernels may stand in their places later
    return len(blocks)


def undo_compilation(network: nn.Module) -> None:
    """Undo `compile_blocks`: the blocks run uncompiled again."""
    for block in vars(network).pop("compiled_blocks", ()):
        block._compiled_call_impl = None  # there is no public way back


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    inside = ""
    for name, module in network.named_modules():
        if inside and name.startswith(inside):
            continue  # is compiled with the block around it
        in_time = isinstance(module, BasicTransformerBlock) and ".motion_modules." in name
        if in_time or isinstance(module, FeedForward):
            inside = f"{name}."
            yield module
