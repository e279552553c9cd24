"""The networks whose features LPIPS, FID, FID-VID and FVD compare: found by name, named by hash, or absent.

None comes with the program. A figure is worth nothing without its network, so every one is reported with the
SHA-256 of its file; where a published file's hash is known, another file of that name is refused.

Letters in shape comments: ``F`` frames, ``H W`` pixels.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from magicanimate.checkpoints.disk import home
from magicanimate.checkpoints.reading import open_weights
from magicanimate.errors import InputError
from magicanimate.files import sha256_of

if TYPE_CHECKING:
    from torch import nn

FOLDER_VARIABLE = "MAGICANIMATE_NETWORKS"


class NotComputed(Exception):
    """Why a figure is not there, for the reader of the report."""


@dataclass(frozen=True)
class NetworkFile:
    """A published file.

    Attributes:
        file: its name.
        source: where it is from.
        sha256: its hash, or as much of it as its publisher puts into the name; empty if unknown.
    """

    file: str
    source: str
    sha256: str = ""


NETWORKS: dict[str, NetworkFile] = {
    "lpips_alex": NetworkFile(
        "alexnet-owt-7be5be79.pth", "torchvision, https://download.pytorch.org/models/", "7be5be79"
    ),
    "lpips_vgg": NetworkFile("vgg16-397923af.pth", "torchvision", "397923af"),
    "lpips_squeeze": NetworkFile("squeezenet1_1-b8a52dc0.pth", "torchvision", "b8a52dc0"),
    "fid": NetworkFile("inception-2015-12-05.pt", "StyleGAN's TorchScript of Inception v3 (NVIDIA)"),
    "fvd": NetworkFile("i3d_torchscript.pt", "StyleGAN-V's TorchScript of I3D, which cd-fvd uses, too"),
    "fid_vid": NetworkFile(
        "resnet-50-kinetics.pt", "DisCo's 3D ResNet-50 (Kinetics), exported as TorchScript by yourself"
    ),
}
"""By what needs them."""


def networks_folder(given: Path | None) -> Path:
    """Where the files lie: as given, ``MAGICANIMATE_NETWORKS``, or "networks" in the program's own folder."""
    if given is not None:
        return given
    return Path(os.environ[FOLDER_VARIABLE]) if os.environ.get(FOLDER_VARIABLE) else home() / "networks"


def find_network(need: str, folder: Path) -> tuple[Path, str]:
    """The file for a need and its SHA-256.

    Raises:
        NotComputed: it is not there.
        InputError: it is not the published one.
    """
    wanted = NETWORKS[need]
    path = folder / wanted.file
    if not path.is_file():
        raise NotComputed(f"{wanted.file} ({wanted.source}) is not in the folder of networks")
    digest = _digest(path, path.stat().st_mtime_ns)
    if not digest.startswith(wanted.sha256):
        raise InputError(
            f"{path} is not the published file: its SHA-256 begins with {digest[:8]}, not "
            f"{wanted.sha256[:8]}; fetch it again."
        )
    return path, digest


@cache
def _digest(path: Path, changed: int) -> str:
    return sha256_of(path)


class Lpips:
    """LPIPS of frames, by torchmetrics, whose package has the learned weights of its linear layers.

    Args:
        net: "alex", "vgg" or "squeeze".
        folder: of the backbone's weights.

    Raises:
        NotComputed: torchmetrics or the weights are absent.
        InputError: the file is not the published one.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features" (CVPR 2018).
    """

    def __init__(self, net: str, folder: Path):

        path, self.digest = find_network(f"lpips_{net}", folder)
        self.name = f"LPIPS {net}, {path.name}, sha256 {self.digest}"
        try:
            from torchmetrics.functional.image.lpips import _LPIPS
        except ImportError as error:
            raise NotComputed("the package torchmetrics is not installed") from error
        self._network: nn.Module = _LPIPS(pretrained=True, net=net, pnet_rand=True).eval()
        weights = open_weights(path)
        features = {k.removeprefix("features."): weights[k] for k in weights if k.startswith("features.")}
        self._fill(features)

    def _fill(self, features: dict) -> None:
        """Put the backbone's weights in: torchmetrics cuts its layers into slices, in their order."""
        backbone = self._network.net
        named = {key: re.sub(r"^(slice\d+|slices\.\d+)\.", "", key) for key in backbone.state_dict()}
        found = {key: features[name] for key, name in named.items() if name in features}
        if found.keys() != named.keys():
            missing = min(named.keys() - found.keys())
            raise InputError(f"The weights for LPIPS lack {missing}; they are of another network.")
        backbone.load_state_dict(found)

    def __call__(self, truth: np.ndarray, result: np.ndarray) -> float:
        """Mean over the frames, uint8 ``F H W 3``; smaller is nearer."""
        import torch

        values = []
        with torch.inference_mode():
            for a, b in zip(truth, result, strict=True):
                pair = [
                    torch.from_numpy(np.array(x)).movedim(-1, 0)[None].float() / 127.5 - 1 for x in (a, b)
                ]
                values.append(float(self._network(*pair)))
        return float(np.mean(values))
