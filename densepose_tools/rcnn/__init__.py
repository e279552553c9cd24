"""DensePose R-CNN (R_50_FPN_s1x) for inference on torch and torchvision, with no compiled extension.

Only its sizes are here, so that weights can be fetched and described without importing torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Widths:
    """Channels and depths; the defaults are those of the released R_50_FPN_s1x (63.9 million parameters).

    Attributes:
        stem: channels behind the first convolution, and inside the first stage's blocks.
        blocks: residual blocks of the four stages; each stage doubles the channels.
        pyramid: channels of the feature pyramid, of the proposal head and of the decoder.
        boxes: features of the box head.
        parts: channels of the part head.
        part_convs: its convolutions.
    """

    stem: int = 64
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    pyramid: int = 256
    boxes: int = 1024
    parts: int = 512
    part_convs: int = 8


def tiny() -> Widths:
    """The same architecture at a size that runs in a moment."""
    return Widths(stem=4, blocks=(1, 1, 1, 1), pyramid=8, boxes=8, parts=8, part_convs=2)
