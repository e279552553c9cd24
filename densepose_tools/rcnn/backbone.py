"""ResNet-50 with a feature pyramid, with the names of the released weights.

Source: He et al., "Deep residual learning" (CVPR 2016); Lin et al., "Feature pyramid networks" (CVPR 2017).
Unlike in torchvision's ResNet, the stride is in a block's first 1x1 convolution, as in the original Caffe
networks.

Letters in shape comments: ``N`` pictures, ``C`` channels, ``h w`` pixels; level pK has 1/2^K of them.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d

from densepose_tools.rcnn import Widths

LEVELS = ("p2", "p3", "p4", "p5", "p6")
STAGES = ("res2", "res3", "res4", "res5")


class NormedConv(nn.Conv2d):
    """A convolution without bias, followed by frozen batch norm, its child ``norm``."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1):
        super().__init__(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = FrozenBatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(super().forward(x))


class Stem(nn.Module):
    """A 7x7 convolution and max pooling: each side becomes a quarter."""

    def __init__(self, outputs: int):
        super().__init__()
        self.conv1 = NormedConv(3, outputs, 7, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.max_pool2d(functional.relu_(self.conv1(x)), 3, stride=2, padding=1)


class Bottleneck(nn.Module):
    """A residual block: 1x1, 3x3 and 1x1 convolution beside a shortcut."""

    def __init__(self, inputs: int, inner: int, outputs: int, *, stride: int):
        super().__init__()
        self.shortcut = NormedConv(inputs, outputs, 1, stride=stride) if inputs != outputs else nn.Identity()
        self.conv1 = NormedConv(inputs, inner, 1, stride=stride)
        self.conv2 = NormedConv(inner, inner, 3)
        self.conv3 = NormedConv(inner, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = functional.relu_(self.conv2(functional.relu_(self.conv1(x))))
        return functional.relu_(self.conv3(inner) + self.shortcut(x))


class ResNet(nn.Module):
    """The stem and four stages, ``res2`` to ``res5``."""

    def __init__(self, widths: Widths):
        super().__init__()
        self.stem = Stem(widths.stem)
        inputs = widths.stem
        for number, (name, depth) in enumerate(zip(STAGES, widths.blocks, strict=True)):
            # Every stage has twice the channels of the one before.
            inner, outputs = widths.stem << number, widths.stem << (number + 2)
            blocks = []
            for block in range(depth):
                # The stem has already shrunk the image for the first stage.
                stride = 2 if block == 0 and number > 0 else 1
                blocks.append(Bottleneck(inputs, inner, outputs, stride=stride))
                inputs = outputs
            self.add_module(name, nn.Sequential(*blocks))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.stem(x)
        stages = {}
        for name in STAGES:
            stages[name] = x = self.get_submodule(name)(x)
        return stages


class Backbone(nn.Module):
    """The feature pyramid: levels p2 to p5 from the stages, and p6, every second pixel of p5."""

    def __init__(self, widths: Widths):
        super().__init__()
        self.bottom_up = ResNet(widths)
        for level in (2, 3, 4, 5):
            self.add_module(f"fpn_lateral{level}", nn.Conv2d(widths.stem << level, widths.pyramid, 1))
            output = nn.Conv2d(widths.pyramid, widths.pyramid, 3, padding=1)
            self.add_module(f"fpn_output{level}", output)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """``N 3 h+ w+`` -> ``N C h w`` of each level, p2 to p6."""
        stages = self.bottom_up(x)
        levels: dict[str, torch.Tensor] = {}
        merged = None
        # Top down: every level gets the one above it at twice
        # the size, and its own stage by a 1x1 convolution.
        for level in (5, 4, 3, 2):
            lateral = self.get_submodule(f"fpn_lateral{level}")(stages[f"res{level}"])
            above = 0 if merged is None else functional.interpolate(merged, scale_factor=2.0, mode="nearest")
            merged = lateral + above
            levels[f"p{level}"] = self.get_submodule(f"fpn_output{level}")(merged)
        levels["p6"] = functional.max_pool2d(levels["p5"], 1, stride=2)
        return {name: levels[name] for name in LEVELS}
