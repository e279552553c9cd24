"""The format of rendered data on disk: a few files per identity, with all images stacked vertically.

`NNNNNN.webp` has the images (RGB, lossy), `NNNNNN.png` the part ids 0..24 and `NNNNNN.points.png` the body
points (both lossless): first the stills, then the frames of the clip. `NNNNNN.keypoints.npz`
(`densepose_tools.keypoints`), which is optional, has their keypoints. `dataset.json` tells how many there are
of each.

Letters: S stills, T frames, H W pixels, M side of a map of body points.
"""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from magicanimate.errors import InputError
from magicanimate.files import write_bytes
from magicanimate.media.photo import open_picture
from training.dancers import GENERATOR_VERSION

_INFO = "dataset.json"
_WEBP_QUALITY = 92
POINTS_SIDE = 64
"""Side M of a map of body points for images of any size: 2 x 2 points for each of 32 x 32 tokens."""


@dataclass(frozen=True)
class Spec:
    """What to render of each identity, as square images of `size` pixels.

    `framing` is "varied" (as in the test sets) or "close" (half of the images show the upper body or less,
    and few show two people), see `training.dancers.scene`.
    """

    size: int = 128
    stills: int = 8
    frames: int = 16
    fps: float = 25.0
    framing: str = "varied"


@dataclass(frozen=True)
class Identity:
    """The images of one identity, all uint8.

    RGB is (S|T, H, W, 3), part ids 0..24 are (S|T, H, W), body points (S|T, M, M, 4), see
    `training.dancers.render.render_points`.
    """

    stills_rgb: np.ndarray
    stills_parts: np.ndarray
    stills_points: np.ndarray
    clip_rgb: np.ndarray
    clip_parts: np.ndarray
    clip_points: np.ndarray


@dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` holds; `count` is the number of identities asked for."""

    size: int
    stills: int
    frames: int
    fps: float
    seed: int
    count: int
    generator: int = GENERATOR_VERSION
    framing: str = "varied"

    @classmethod
    def of(cls, spec: Spec, *, seed: int, count: int) -> "DatasetInfo":
        """The description of `count` identities rendered to `spec`."""
        return cls(spec.size, spec.stills, spec.frames, spec.fps, seed, count, framing=spec.framing)

    @property
    def spec(self) -> Spec:
        """What is rendered of each identity."""
        return Spec(self.size, self.stills, self.frames, self.fps, self.framing)


def _encoded(kind: str, strip: np.ndarray, **options: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(strip).save(data, kind, **options)
    return data.getvalue()


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Write `dataset.json`, or raise the number of identities in the one that is there.

    Raises:
        InputError: the folder holds a data set with other settings.
    """
    path = folder / _INFO
    if path.exists():
        there = read_info(folder)
        # Everything but the count has to agree: more identities may be added at any time.
        if asdict(there) | {"count": info.count} != asdict(info):
            raise InputError(
                f"{path} belongs to a data set with other settings; choose another --out or delete it."
            )
        # Never fewer than there are already.
        info = DatasetInfo(**(asdict(info) | {"count": max(info.count, there.count)}))
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(asdict(info), indent=1) + "\n").encode())


def read_info(folder: Path) -> DatasetInfo:
    """Read `dataset.json`.

    Raises:
        InputError: it is missing or something else.
    """
    path = Path(folder) / _INFO
    try:
        return DatasetInfo(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing; render a data set with `python -m training.dancers --out {folder}`."
        ) from None
    except (json.JSONDecodeError, TypeError):
        raise InputError(f"{path} is not the description of a dancer data set; render it again.") from None


def is_written(folder: Path, index: int) -> bool:
    """Whether identity `index` is complete in the folder."""
    # All three, since a run may have been killed between two of them.
    return all((folder / f"{index:06d}.{suffix}").exists() for suffix in ("png", "webp", "points.png"))


def points_path(folder: Path, index: int) -> Path:
    """Where the body points of identity `index` are, or would be."""
    return folder / f"{index:06d}.points.png"


def keypoints_path(folder: Path, index: int) -> Path:
    """Where the keypoints of identity `index` are, or would be."""
    return folder / f"{index:06d}.keypoints.npz"


def write_identity(folder: Path, index: int, identity: Identity) -> None:
    """Write the files of one identity, the part ids last."""
    rgb = np.concatenate([*identity.stills_rgb, *identity.clip_rgb])
    ids = np.concatenate([*identity.stills_parts, *identity.clip_parts])
    points = np.concatenate([*identity.stills_points, *identity.clip_points])
    # Encoded before anything is written, so that the files appear at nearly the same time.
    webp = _encoded("WEBP", rgb, quality=_WEBP_QUALITY)
    png = _encoded("PNG", ids, compress_level=9)
    write_bytes(points_path(folder, index), _encoded("PNG", points))
    write_bytes(folder / f"{index:06d}.webp", webp)
    write_bytes(folder / f"{index:06d}.png", png)


class DancerFolder:
    """Reads the finished identities of a rendered folder, even while others are being rendered.

    `folder[i]` is a pair of RGB, uint8 (S+T, H, W, 3), and part ids 0..24, uint8 (S+T, H, W), stills first.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.info = read_info(self.path)
        self.indices = [i for i in range(self.info.count) if is_written(self.path, i)]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        name, size = f"{self.indices[i]:06d}", self.info.size
        rgb, parts = self.path / f"{name}.webp", self.path / f"{name}.png"
        return self._strip(rgb, "RGB", size), self._strip(parts, "L", size)

    def points(self, i: int) -> np.ndarray:
        """Body points (S+T, M, M, 4) uint8 of the same identity as `folder[i]`."""
        return self._strip(points_path(self.path, self.indices[i]), "RGBA", POINTS_SIDE)

    def _strip(self, path: Path, mode: str, size: int) -> np.ndarray:
        count = self.info.stills + self.info.frames
        try:
            with open_picture(path, what="strip") as image:
                strip = np.asarray(image.convert(mode))
        except (InputError, OSError):
            strip = np.empty(0)
        # A truncated file, or one of a data set with other settings.
        if strip.shape[:2] != (count * size, size):
            raise InputError(f"{path} is damaged or of another size; delete it and run the renderer again.")
        return strip.reshape(count, size, size, *strip.shape[2:])
