"""The networks whose features LPIPS, FID, FID-VID and FVD compare: found by name, named by hash, or absent.

None comes with the program. A figure is worth nothing without its network, so every one is reported with the
SHA-256 of its file; where a published file's hash is known, another file of that name is refused.

The networks themselves are those of libraries, which are optional: torchmetrics for LPIPS, torch-fidelity for
FID, cd-fvd for FVD. The libraries fetch and unpickle files of any content by themselves; here files are found
and read by the program, and the library gets the weights.

Letters in shape comments: ``N`` clips, ``F`` frames, ``H W`` pixels, ``D`` features.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from magicanimate.checkpoints.disk import home
from magicanimate.checkpoints.weight_files import open_weights
from magicanimate.errors import InputError
from magicanimate.files import sha256_of
from training.metrics.frechet import FeatureNetwork

if TYPE_CHECKING:
    import torch
    from torch import nn

log = logging.getLogger(__name__)

FOLDER_VARIABLE = "MAGICANIMATE_NETWORKS"
_LEAST_OF_I3D = 9
"""Frames: it halves them three times, and averages over two at the end."""


class NotComputed(Exception):
    """Why a figure is not there, for the reader of the report."""


@dataclass(frozen=True)
class NetworkFile:
    """A published file.

    Attributes:
        file: its name.
        source: where it is from, for people.
        url: where it is fetched from; empty where no address is known.
        sha256: its hash, or as much of it as its publisher puts into the name; empty if unknown.
    """

    file: str
    source: str
    url: str = ""
    sha256: str = ""


def _torchvision(file: str) -> NetworkFile:
    digest = Path(file).stem.rpartition("-")[2]
    return NetworkFile(file, "torchvision", f"https://download.pytorch.org/models/{file}", digest)


NETWORKS: dict[str, NetworkFile] = {
    "lpips_alex": _torchvision("alexnet-owt-7be5be79.pth"),
    "lpips_vgg": _torchvision("vgg16-397923af.pth"),
    "lpips_squeeze": _torchvision("squeezenet1_1-b8a52dc0.pth"),
    "fid": NetworkFile(
        "weights-inception-2015-12-05-6726825d.pth",
        "torch-fidelity",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d",
    ),
    # DisCo's evaluation takes this one, and ResNet-50 for FID-VID.
    "fvd": NetworkFile(
        "i3d_pretrained_400.pt",
        "cd-fvd",
        "https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt",
    ),
    # No package has this network, so that its classes would have to be written here without weights to
    # compare with; TorchScript holds both.
    "fid_vid": NetworkFile(
        "resnet-50-kinetics.pt", "DisCo's resnet-50-kinetics.pth, exported as TorchScript by yourself"
    ),
}
"""By what needs them."""


def networks_folder(given: Path | None) -> Path:
    """Where the files lie: as given, ``MAGICANIMATE_NETWORKS``, or "networks" in the program's own folder."""
    if given is not None:
        return given
    return Path(os.environ[FOLDER_VARIABLE]) if os.environ.get(FOLDER_VARIABLE) else home() / "networks"


def find_network(need: str, folder: Path, *, fetch: bool = False) -> tuple[Path, str]:
    """The file for a need and its SHA-256.

    Args:
        need: a key of `NETWORKS`.
        folder: where the files lie.
        fetch: fetch what is absent.

    Raises:
        NotComputed: it is not there, or cannot be fetched.
        InputError: it is not the published one.
    """
    wanted = NETWORKS[need]
    path = folder / wanted.file
    if not path.is_file():
        if not (fetch and wanted.url):
            raise NotComputed(f"{wanted.file} ({wanted.source}) is not in the folder of networks")
        _fetch(wanted, path)
    digest = _digest(path, path.stat().st_mtime_ns)
    if not digest.startswith(wanted.sha256):
        raise InputError(
            f"{path} is not the published file: its SHA-256 begins with {digest[:8]}, not "
            f"{wanted.sha256[:8]}; fetch it again."
        )
    return path, digest


def _fetch(wanted: NetworkFile, path: Path) -> None:
    """Fetch a file; nothing half-written stays."""
    from torch.hub import download_url_to_file  # checks the hash of the name, which is all that is published

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log.info("fetching %s", wanted.url)
        download_url_to_file(wanted.url, str(path), hash_prefix=wanted.sha256 or None, progress=False)
    except (OSError, RuntimeError) as error:  # no connection, no room; another hash
        raise NotComputed(f"{wanted.file} cannot be fetched from {wanted.url} ({error})") from error


@cache
def _digest(path: Path, changed: int) -> str:
    return sha256_of(path)


def frechet_network(
    need: str, folder: Path, *, clip_length: int, fetch: bool = False, device: str = "cpu"
) -> FeatureNetwork:
    """The network of a Frechet distance.

    Args:
        need: "fid", "fvd" or "fid_vid".
        folder, fetch: see `find_network`.
        clip_length: frames of a clip, not for "fid".
        device: where it computes.

    Raises:
        NotComputed: its file or the library that knows it is absent, or it does not take such clips.
        InputError: the file is not the published one, or holds another network.
    """
    if need == "fvd" and clip_length < _LEAST_OF_I3D:
        raise NotComputed(f"I3D takes clips of {_LEAST_OF_I3D} frames or more, and these have {clip_length}")
    path, digest = find_network(need, folder, fetch=fetch)
    what, make = {
        "fid": ("Inception v3 (2015-12-05), pooled features, torch-fidelity", _inception),
        "fvd": ("I3D (Kinetics-400), logits, cd-fvd", _i3d),
        "fid_vid": ("3D ResNet-50 (Kinetics)", _torchscript),
    }[need]
    length = 1 if need == "fid" else clip_length
    features = Features(*make(path)).to(device)
    return FeatureNetwork(f"{what}, {path.name}, sha256 {digest}", length, features)


class Features:
    """What a network sees in clips: uint8 ``N F H W 3`` -> float32 ``N D``.

    Args:
        network: in evaluation mode, on the CPU.
        prepare: clips -> what the network takes, on the CPU.
    """

    def __init__(self, network: nn.Module, prepare: Callable[[np.ndarray], torch.Tensor]):
        self.network, self.prepare, self.device = network, prepare, "cpu"

    def to(self, device: str) -> Features:
        """Compute there from now on."""
        self.network.to(device)
        self.device = device
        return self

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode(), _exactly():
            found = self.network(self.prepare(clips).to(self.device))
        return (found[0] if isinstance(found, tuple) else found).flatten(1).cpu().numpy()


def _exactly():
    """A context in which a GPU rounds as a CPU does: figures are compared with those of other machines."""
    from torch.backends import cudnn

    return cudnn.flags(enabled=cudnn.enabled, benchmark=False, allow_tf32=False)


NetworkAndPreprocessing = tuple["nn.Module", Callable[[np.ndarray], "torch.Tensor"]]


def _inception(path: Path) -> NetworkAndPreprocessing:
    """Takes pictures, ``N 1 H W 3``, and gives the features of the last pooling, ``N 2048``."""
    import torch

    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise NotComputed("the package torch-fidelity is not installed") from error
    weights = io.BytesIO()  # torch-fidelity would unpickle the file itself, whatever it holds
    torch.save(_tensors(path), weights)
    weights.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=weights)
    except RuntimeError as error:
        raise _other_network(path) from error
    return network, lambda clips: torch.from_numpy(np.array(clips[:, 0])).movedim(-1, 1)


def _i3d(path: Path) -> NetworkAndPreprocessing:
    """Gives I3D's logits, ``N 400``; cd-fvd brings clips to 224 x 224."""
    try:
        from cdfvd.third_party.i3d.pytorch_i3d import InceptionI3d
        from cdfvd.third_party.i3d.utils import preprocess_i3d
    except ImportError as error:
        raise NotComputed("the package cd-fvd is not installed") from error
    network = InceptionI3d(400, in_channels=3).eval()
    try:
        network.load_state_dict(_tensors(path))
    except RuntimeError as error:
        raise _other_network(path) from error
    return network, preprocess_i3d


def _torchscript(path: Path) -> NetworkAndPreprocessing:
    """Gives what a file of TorchScript makes of ``N 3 F H W``, 0..255."""
    import torch

    try:
        network = torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise InputError(f"The feature network {path} is not a TorchScript file.") from error
    return network, lambda clips: torch.from_numpy(np.array(clips)).movedim(-1, 1).float()


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    weights: Mapping[str, torch.Tensor] = open_weights(path)
    return {key: weights[key] for key in weights}


def _other_network(path: Path) -> InputError:
    return InputError(f"{path} holds the weights of another network; fetch the published file again.")


class Lpips:
    """LPIPS of frames, by torchmetrics, whose package has the learned weights of its linear layers.

    Its class that is not public, since the public one fetches the backbone by itself.

    Args:
        net: "alex", "vgg" or "squeeze".
        folder, fetch: of the backbone's weights, see `find_network`.
        device: where it computes.

    Raises:
        NotComputed: torchmetrics or the weights are absent.
        InputError: the file is not the published one.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features" (CVPR 2018).
    """

    def __init__(self, net: str, folder: Path, *, fetch: bool = False, device: str = "cpu"):
        path, self.digest = find_network(f"lpips_{net}", folder, fetch=fetch)
        self.name = f"LPIPS {net}, {path.name}, sha256 {self.digest}"
        try:
            from torchmetrics.functional.image.lpips import _LPIPS
        except ImportError as error:
            raise NotComputed("the package torchmetrics is not installed") from error
        self._network: nn.Module = _LPIPS(pretrained=True, net=net, pnet_rand=True).eval()
        weights = open_weights(path)
        features = {k.removeprefix("features."): weights[k] for k in weights if k.startswith("features.")}
        self._fill(features)
        self.to(device)

    def to(self, device: str) -> Lpips:
        """Compute there from now on."""
        self._network.to(device)
        self._device = device
        return self

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
        with torch.inference_mode(), _exactly():
            for pair in zip(truth, result, strict=True):
                inputs = [torch.from_numpy(np.array(x)).movedim(-1, 0)[None] for x in pair]
                values.append(float(self._network(*(x.to(self._device).float() / 127.5 - 1 for x in inputs))))
        return float(np.mean(values))
