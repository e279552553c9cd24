"""Other code for the same operations: attention by another library, blocks compiled by torch.

torch's own attention is the default. flash-attn and xformers compute the same within rounding; SageAttention
rounds queries and keys to 8 bits. What a library cannot do (masks, wide heads) torch goes on doing.

``torch.compile`` gets only blocks that know nothing of the photo: the transformer blocks of the motion
modules and the feed-forward layers of the others. Each change of what hybrid self-attention is shown would
compile its block anew, so diffusers' ``compile_repeated_blocks`` does not serve: it goes by the name of a
class, and the blocks that see the photo have the same as the motion modules'. A block is compiled at its
first call.

torch compiles a method 8 times at most, counted over all blocks that share it, and then runs it as it is
defined. So sizes are symbols in what is compiled. What still counts is the width of a block and whether a
size is 1, as in one frame or where the widest blocks see one pixel: 8 kinds in Stable Diffusion's networks,
which have three widths, and 6 if the picture is larger than 64 pixels a side.

Letters in shape comments: ``B`` rows, ``N`` heads, ``L`` tokens, ``d`` width of a head.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend, dispatch_attention_fn
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from magicanimate.errors import first_line

WIDEST_HEAD = {"flash": 256, "xformers": 256, "sage": 128}  # Stable Diffusion's are 40, 80 and 160


class AttentionBackend(TorchFunctionMode):
    """A context in which the library ``name``, see `ATTENTION` of `options`, computes torch's attention."""

    def __init__(self, name: str):
        super().__init__()
        self._backend, self._widest = AttentionBackendName(name), WIDEST_HEAD.get(name)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """torch calls this in place of ``func``."""
        # The libraries take none of these; what has them stays with torch.
        plain = not any((kwargs or {}).get(name) for name in ("dropout_p", "is_causal", "enable_gqa"))
        if func is functional.scaled_dot_product_attention and plain and len(args) == 3:
            unmasked = (kwargs or {}).get("attn_mask") is None and (kwargs or {}).get("scale") is None
            if unmasked and (self._widest is None or args[0].shape[-1] <= self._widest):
                # diffusers' dispatcher has tokens before heads, torch the reverse.
                query, key, value = (x.transpose(1, 2) for x in args)  # B N L d -> B L N d
                return dispatch_attention_fn(query, key, value, backend=self._backend).transpose(1, 2)
        return func(*args, **(kwargs or {}))


def attention_problem(name: str) -> str | None:
    """One sentence on why a library cannot be used on this machine; ``None`` if it can."""
    try:
        with attention_backend(name):
            return None
    except (RuntimeError, ValueError, ImportError) as error:
        reason = first_line(error)
        return f"--attention {name} cannot be used here ({reason}); install it, or leave the option out."


log = logging.getLogger(__name__)


def compiler_problem(device: str) -> str | None:
    """One sentence on why ``torch.compile`` does not work on this machine; ``None`` if it does."""
    try:
        # torch says only at the first call whether its compiler works on this machine.
        torch.compile(lambda x: (x * x).sum())(torch.ones(8, device=device))
    except (RuntimeError, ImportError, OSError) as error:  # no compiler, no triton, too new a Python
        reason = first_line(error)
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
