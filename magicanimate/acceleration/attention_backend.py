"""Attention by flash-attn, xformers or SageAttention instead of torch, through diffusers' dispatcher.

torch's own attention is the default. flash-attn and xformers compute the same within rounding; SageAttention
rounds queries and keys to 8 bits. What a library cannot do (masks, wide heads) torch goes on doing.

Letters in shape comments: ``B`` rows, ``N`` heads, ``L`` tokens, ``d`` width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend, dispatch_attention_fn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

WIDEST_HEAD = {"flash": 256, "xformers": 256, "sage": 128}  # Stable Diffusion's are 40, 80 and 160


class InstalledAttention(TorchFunctionMode):
    """A context in which every call of ``scaled_dot_product_attention`` uses the chosen library.

    Args:
        name: one of `magicanimate.acceleration.options.ATTENTION`.
    """

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
        reason = str(error).strip().partition("\n")[0]
        return f"--attention {name} cannot be used here ({reason}); install it, or leave the option out."
