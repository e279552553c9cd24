"""Stopping in the middle of a network: between its blocks rather than only when it is through."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from torch import nn

from magicanimate.errors import Cancelled


@contextlib.contextmanager
def stopping_between_blocks(
    networks: Iterable[nn.Module], should_stop: Callable[[], bool] | None
) -> Iterator[None]:
    """While it lasts, the networks ask ``should_stop`` before each of their blocks.

    Blocks are what diffusers keeps in lists: down and up blocks, their residual blocks, attentions and motion
    modules. What ``torch.compile`` has compiled is left alone, since a hook would have it compiled anew.

    Raises:
        Cancelled: out of the network's call, when ``should_stop()`` was true.
    """
    if should_stop is None:
        yield
        return
    ask = asking(should_stop)
    hooks = [block.register_forward_pre_hook(ask) for network in networks for block in _blocks(network)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def asking(should_stop: Callable[[], bool] | None) -> Callable[..., None]:
    """A function of any arguments that raises `Cancelled` when ``should_stop()`` is true."""

    def ask(*_: object) -> None:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped within a network")

    return ask


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    for child in network.children():
        if getattr(child, "_compiled_call_impl", None) is not None:
            continue
        if isinstance(network, (nn.ModuleList, nn.Sequential)):
            yield child
        yield from _blocks(child)
