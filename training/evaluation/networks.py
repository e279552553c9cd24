"""The feature networks of LPIPS, FID, FID-VID and FVD: found by name and identified by hash.

None comes with the program. A metric means nothing without its network, so every network is reported with the
SHA-256 of its file; where the hash of the published file is known, any other file of that name is refused.

The architectures are those of optional libraries: torchmetrics for LPIPS, torch-fidelity for FID, cd-fvd for
FVD. Left alone, these would download files and unpickle whatever they contain. Here the program finds and
reads the files, and the libraries only get the weights.

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
"""Smallest number of frames that I3D takes: it halves them three times, and averages over two at the end."""


class NotComputed(Exception):
    """A metric cannot be computed; the message is the reason, for the report."""


@dataclass(frozen=True)
class NetworkFile:
    """A published weight file.

    Attributes:
        file: its name.
        source: who published it.
        url: address to download it from; empty if none is known.
        sha256: its hash, or the beginning of it that its name contains; empty if unknown.
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
"""The files, by the metric (and variant) that needs them."""


def networks_folder(given: Path | None) -> Path:
    """The folder of the files: given, or ``MAGICANIMATE_NETWORKS``, or "networks" in the program's home."""
    if given is not None:
        return given
    return Path(os.environ[FOLDER_VARIABLE]) if os.environ.get(FOLDER_VARIABLE) else home() / "networks"


def find_network(need: str, folder: Path, *, fetch: bool = False) -> tuple[Path, str]:
    """Find a network's file; returns its path and its SHA-256.

    Args:
        need: a key of `NETWORKS`.
        folder: the folder of the files.
        fetch: download a missing file.

    Raises:
        NotComputed: the file is missing, or cannot be downloaded.
        InputError: it is not the published file.
    """
    wanted = NETWORKS[need]
    path = folder / wanted.file
    if not path.is_file():
        if not (fetch and wanted.url):
            raise NotComputed(f"{wanted.file} ({wanted.source}) is not in the folder of networks")
        _fetch(wanted, path)
    digest = _digest(path, path.stat().st_mtime_ns)
    # An empty expectation is met by every hash.
    if not digest.startswith(wanted.sha256):
        raise InputError(
            f"{path} is not the published file: its SHA-256 begins with {digest[:8]}, not "
            f"{wanted.sha256[:8]}; fetch it again."
        )
    return path, digest


def _fetch(wanted: NetworkFile, path: Path) -> None:
    """Download a file; an incomplete one is not left behind."""
    # It checks the beginning of the hash, which for most files is all that is published.
    from torch.hub import download_url_to_file

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
    """The feature network of a Fréchet distance.

    Args:
        need: "fid", "fvd" or "fid_vid".
        folder, fetch: see `find_network`.
        clip_length: frames of a clip; ignored for "fid".
        device: where to compute.

    Raises:
        NotComputed: the file or the library is missing, or the clips are too short.
        InputError: the file is not the published one, or has the weights of another network.
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
    """A feature network with its preprocessing: clips, uint8 ``N F H W 3`` -> features, float32 ``N D``.

    Args:
        network: in evaluation mode, on the CPU.
        prepare: clips -> the network's input, on the CPU.
    """

    def __init__(self, network: nn.Module, prepare: Callable[[np.ndarray], torch.Tensor]):
        self.network, self.prepare, self.device = network, prepare, "cpu"

    def to(self, device: str) -> Features:
        """Move the network to a device."""
        self.network.to(device)
        self.device = device
        return self

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode(), _exactly():
            found = self.network(self.prepare(clips).to(self.device))
        # torch-fidelity returns a tuple of the requested features.
        return (found[0] if isinstance(found, tuple) else found).flatten(1).cpu().numpy()


def _exactly():
    """A context without TF32, since metrics are compared between machines, also between GPUs and CPUs."""
    from torch.backends import cudnn

    return cudnn.flags(enabled=cudnn.enabled, benchmark=False, allow_tf32=False)


NetworkAndPreprocessing = tuple["nn.Module", Callable[[np.ndarray], "torch.Tensor"]]


def _inception(path: Path) -> NetworkAndPreprocessing:
    """Inception v3 with its preprocessing: images ``N 1 H W 3`` -> pooled features ``N 2048``."""
    import torch

    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise NotComputed("the package torch-fidelity is not installed") from error
    # torch-fidelity would unpickle the file itself, whatever it holds; it gets a copy of the tensors instead.
    weights = io.BytesIO()
    torch.save(_tensors(path), weights)
    weights.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=weights)
    except RuntimeError as error:
        raise _other_network(path) from error
    return network, lambda clips: torch.from_numpy(np.array(clips[:, 0])).movedim(-1, 1)


def _i3d(path: Path) -> NetworkAndPreprocessing:
    """I3D with cd-fvd's preprocessing, which resizes clips to 224 x 224: logits ``N 400``."""
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
    """A TorchScript network that takes clips ``N 3 F H W`` in 0..255."""
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
    """LPIPS of frames with torchmetrics, whose package contains the learned weights of the linear layers.

    A private class of torchmetrics is used, since its public one downloads the backbone itself.

    Args:
        net: backbone: "alex", "vgg" or "squeeze".
        folder, fetch: of the backbone's weights, see `find_network`.
        device: where to compute.

    Raises:
        NotComputed: torchmetrics or the weights are missing.
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
        """Move the network to a device."""
        self._network.to(device)
        self._device = device
        return self

    def _fill(self, features: dict) -> None:
        """Load the backbone's weights. torchmetrics groups its layers into slices but keeps their numbers."""
        backbone = self._network.net
        named = {key: re.sub(r"^(slice\d+|slices\.\d+)\.", "", key) for key in backbone.state_dict()}
        found = {key: features[name] for key, name in named.items() if name in features}
        if found.keys() != named.keys():
            missing = min(named.keys() - found.keys())
            raise InputError(f"The weights for LPIPS lack {missing}; they are of another network.")
        backbone.load_state_dict(found)

    def __call__(self, truth: np.ndarray, result: np.ndarray) -> float:
        """Mean LPIPS over frames, uint8 ``F H W 3``; 0 is equal."""
        import torch

        values = []
        with torch.inference_mode(), _exactly():
            for pair in zip(truth, result, strict=True):
                inputs = [torch.from_numpy(np.array(x)).movedim(-1, 0)[None] for x in pair]
                values.append(float(self._network(*(x.to(self._device).float() / 127.5 - 1 for x in inputs))))
        return float(np.mean(values))
