"""Where a denoising step spends its time, and how fast each kind of operation is on this machine.

    python -m benchmarks.kinds [--frames 24] [--side 32] [--channels 64 128 256 256]

The workload of `benchmarks.speed` in the default arrangement on one thread. Every operation that torch hands
to a kernel is timed in CPU seconds of the thread, which other work on the machine changes little; GFLOP/s
stand beside those of a large float32 matrix product on the same core. Kinds without multiply-adds of their
own (norms, copies) have their share of the time only.
"""

from __future__ import annotations

import time
from collections import defaultdict

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from benchmarks.speed import Arrangement, animate, build, parser

KINDS = {
    "convolution": ("convolution",),
    "linear": ("_linear_pointwise", "addmm", "mm", "bmm", "baddbmm"),
    "attention": ("_scaled_dot_product_flash_attention_for_cpu", "_softmax"),
    "norm": ("native_group_norm", "native_layer_norm"),
    "activation": ("silu", "gelu", "silu_", "gelu_"),
    "copy": ("cat", "clone", "copy_", "_to_copy", "stack", "index", "index_add_", "constant_pad_nd"),
}


class Timer(TorchDispatchMode):
    """Adds up CPU seconds and floating-point operations by kind.

    Attributes:
        seconds, flops: by kind; a multiply-add is two operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        self.flops: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Called by torch for each operation."""
        kwargs = kwargs or {}
        with self:  # an operation made of others counts as these
            if (out := func.decompose(*args, **kwargs)) is not NotImplemented:
                return out
        began = time.thread_time()
        out = func(*args, **kwargs)
        spent = time.thread_time() - began
        name = func.overloadpacket.__name__
        kind = next((kind for kind, names in KINDS.items() if name in names), "other")
        if kind == "convolution" and args[1].shape[2:].numel() == 1:
            kind = "linear"
        self.seconds[kind] += spent
        self.flops[kind] += _flops(func, name, args, kwargs, out)
        return out


def _flops(func, name: str, args: tuple, kwargs: dict, out) -> int:
    if name == "_linear_pointwise":
        return 2 * args[0].numel() * args[1].shape[0]
    if name == "_scaled_dot_product_flash_attention_for_cpu":
        return sdpa_flop_count(*(x.shape for x in args[:3]))
    formula = flop_registry.get(func.overloadpacket)
    return 0 if formula is None else formula(*args, **kwargs, out_val=out)


def product_rate(side: int = 1536) -> float:
    """FLOP a second of a square float32 matrix product, the better of torch's two libraries."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    rates = []
    for product in (torch.mm, lambda x, y: torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "")):
        for _ in range(3):
            began = time.thread_time()
            product(a, b)
            rates.append(2 * side**3 / (time.thread_time() - began))
    return max(rates)


def main() -> None:
    """Print the table."""
    args = parser().parse_args()
    args.steps = 1
    torch.set_num_threads(1)
    pipe = build(args)
    animate(pipe, args, Arrangement(), num_inference_steps=1)  # loads the libraries' code
    with Timer() as timer:
        animate(pipe, args, Arrangement())
    rate, total = product_rate(), sum(timer.seconds.values())
    print("| kind | CPU s | share | GFLOP | GFLOP/s | of a product's rate |\n" + "|---" * 6 + "|")
    for kind, seconds in sorted(timer.seconds.items(), key=lambda item: -item[1]):
        line = f"| {kind} | {seconds:.2f} | {seconds / total:.0%} |"
        if flops := timer.flops[kind]:
            line += f" {flops / 1e9:.1f} | {flops / seconds / 1e9:.1f} | {flops / seconds / rate:.0%} |"
        print(line if flops else f"{line} | | |")
    flops = sum(timer.flops.values())
    whole = f"{flops / 1e9:.1f} | {flops / total / 1e9:.1f} | {flops / total / rate:.0%}"
    print(f"| all | {total:.2f} | | {whole} |\n\na product: {rate / 1e9:.1f} GFLOP/s")


if __name__ == "__main__":
    main()
