"""Large sets of images in tar files, in WebDataset's layout, with random access.

A shard is a plain tar file in which the files of an image lie together: ``KEY.jpg``, ``KEY.densepose.png``,
``KEY.keypoints.png``; what follows the first dot of the base name tells what a file is. An index of where
each file begins makes every image accessible by its number, so a resumed run sees exactly the images it would
have seen. The shuffled streams of the ``webdataset`` package cannot guarantee that.
"""

from __future__ import annotations

import hashlib
import io
import logging
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from densepose_tools.arrays import ArrayFile
from magicanimate.errors import InputError
from magicanimate.files import Unreadable, partial_path, put_in_place, remove, sweep
from training.config import Framing
from training.data.folders import IMAGE_SUFFIXES, POINTS_SUFFIX, existing_index, find_entries, keep_index
from training.data.images import decode_picture, square_image
from training.data.sources import SIGNALS, Frames

log = logging.getLogger(__name__)

INDEX_NAME = "shards.index.npz"
_PARTS = ("pixels", *SIGNALS)


class ImageShards:
    """An `ImageSet` of the images in a folder's tar files.

    Images that lack a signal are left out. Of a truncated shard the complete images are used.

    Attributes:
        left_out: number of images that lack a signal.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        size: int,
        signals: Sequence[str] = ("densepose",),
        index_folder: Path | None = None,
        framing: Framing = "person",
    ):
        """Open all shards of a folder.

        Args:
            folder: folder with the tar files.
            size: side of the square images, pixels.
            signals: control signals to read: "densepose", "keypoints" or both.
            index_folder: where the index is kept if ``folder`` is read-only.
            framing: which square is cut out of an image: around the person, or the centre.

        Raises:
            InputError: there is no shard, or no picture with its signals.
        """
        self.folder, self.size, self.signals = Path(folder), size, tuple(signals)
        self.framing = framing
        self._shards = sorted(path for path in self.folder.glob("*.tar") if not path.name.startswith("."))
        if not self._shards:
            raise InputError(
                f"{self.folder} holds no tar files; make some with `python -m training.data shards`."
            )
        index = _index(self.folder, self._shards, index_folder)
        needed = [_PARTS.index(part) for part in ("pixels", *self.signals)]
        # Checked in the index, without opening the shards.
        complete = (index["sizes"][:, needed] > 0).all(axis=1)
        self._keys, self._shard = index["keys"][complete], index["shards"][complete]
        self._offsets, self._sizes = index["offsets"][complete], index["sizes"][complete]
        self.left_out = int((~complete).sum())
        if self.left_out:
            log.warning("%s: %d pictures lack a driving signal and are left out", self.folder, self.left_out)
        if not len(self._keys):
            raise InputError(
                f"The shards of {self.folder} hold no picture with {' and '.join(self.signals)}."
            )

    def __len__(self) -> int:
        return len(self._keys)

    def read(self, image: int) -> Frames:
        shard = self._shards[self._shard[image]]
        # For messages, as there is no file of that name.
        name = f"{self._keys[image]} of {shard}"
        pixels = decode_picture(self._bytes(image, "pixels"), name=name, what="picture")
        drawn = {
            signal: decode_picture(self._bytes(image, signal), name=name, what=f"{signal} picture")
            for signal in self.signals
        }
        return square_image(pixels, drawn, size=self.size, framing=self.framing, name=name)

    def _bytes(self, image: int, part: str) -> bytes:
        shard, column = self._shards[self._shard[image]], _PARTS.index(part)
        size = int(self._sizes[image, column])
        try:
            # Opened anew for every read: an open file could not be shared with data loader workers.
            with shard.open("rb") as file:
                file.seek(int(self._offsets[image, column]))
                data = file.read(size)
        except OSError as error:
            raise InputError(f"The shard {shard} cannot be read ({error.strerror}).") from error
        if len(data) < size:
            raise InputError(f"The shard {shard} is shorter than it was; restore it or remove its index.")
        return data


def _index(folder: Path, shards: list[Path], index_folder: Path | None) -> dict[str, np.ndarray]:
    """The index: keys (N,), shard numbers (N,), offsets and sizes (N, parts), 0 for a missing part."""
    # A shard that was replaced has another size or time; then the whole index is made again.
    stamps = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in shards]
    stamp = hashlib.sha256("\n".join(stamps).encode()).hexdigest()
    path = existing_index(INDEX_NAME, folder, index_folder)
    if path is not None:
        try:
            with ArrayFile(path) as kept:
                if str(kept.read("stamp", kind="U", shape=())) == stamp:
                    return _kept_index(kept, shards)
        except InputError as error:
            log.warning("The index %s cannot be used (%s) and is made again.", path, error)
    log.info("%s: making the index of %d shards", folder, len(shards))
    rows = [(number, key, parts) for number, shard in enumerate(shards) for key, parts in _samples(shard)]
    places = np.array([[parts.get(part, (0, 0)) for part in _PARTS] for _, _, parts in rows], dtype=np.int64)
    # For a folder without any image, of which numpy cannot guess the shape.
    places = places.reshape(-1, len(_PARTS), 2)
    index = {
        "keys": np.array([key for _, key, _ in rows], dtype=np.str_),
        "shards": np.array([number for number, _, _ in rows], dtype=np.int32),
        "offsets": places[..., 0],
        "sizes": places[..., 1],
    }
    data = io.BytesIO()
    np.savez(data, stamp=np.array(stamp), **index)
    keep_index(INDEX_NAME, data.getvalue(), folder, index_folder)
    return index


def _kept_index(kept: ArrayFile, shards: list[Path]) -> dict[str, np.ndarray]:
    """Read an index that `_index` wrote.

    Raises:
        InputError: it is damaged.
    """
    most, parts = 2**32, len(_PARTS)
    keys = kept.read("keys", kind="U", shape=(None,), most=most)
    index = {
        "keys": keys,
        "shards": kept.read("shards", kind="iu", shape=(len(keys),), most=most),
        "offsets": kept.read("offsets", kind="iu", shape=(len(keys), parts), most=most),
        "sizes": kept.read("sizes", kind="iu", shape=(len(keys), parts), most=most),
    }
    # Every number is checked before it is used as an index or an offset.
    numbers = index["shards"]
    if len(keys) and not (numbers.min() >= 0 and numbers.max() < len(shards) and index["offsets"].min() >= 0):
        raise Unreadable(kept.path, "it names shards that are not there")
    return index


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """The keys of a shard in their order, with offset and size of each of their parts."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    length = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                stem, _, kind = base.partition(".")
                part = _part_of(kind)
                # A member that reaches beyond the end of the file was cut off.
                if part and member.isfile() and 0 < member.offset_data + member.size <= length:
                    # Folders inside a tar belong to the key, as in WebDataset.
                    key = f"{folder}/{stem}" if folder else stem
                    samples.setdefault(key, {})[part] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        if not samples:
            raise InputError(
                f"The shard {shard} is not a plain tar file ({error}); make it again."
            ) from error
        log.warning("%s is damaged behind %d pictures (%s); the rest is left out", shard, len(samples), error)
    yield from samples.items()


def _part_of(kind: str) -> str | None:
    """The part that a file is, by everything behind the first dot of its name; ``None`` for other files."""
    name, _, suffix = kind.lower().rpartition(".")
    if f".{suffix}" not in IMAGE_SUFFIXES:
        return None
    return "pixels" if not name else name if name in SIGNALS else None


def write_shards(folder: Path, out: Path, *, pictures_per_shard: int = 1000) -> list[Path]:
    """Pack a folder of images, as `ImageFolder` reads it, into ``00000.tar``, ``00001.tar``, ...

    Keys are numbers in the order of the names, since names may contain dots. Recorded keypoints are drawn.

    Raises:
        InputError: the folder holds no pictures, or ``out`` holds shards already.
    """
    entries = find_entries(folder, suffixes=IMAGE_SUFFIXES, main="images")
    if not entries:
        raise InputError(f"{folder} holds no pictures.")
    if any(out.glob("*.tar")):
        raise InputError(f"{out} holds shards already; choose a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    sweep(out)
    pairs: list[tuple[Path, Path]] = []
    try:
        for number, start in enumerate(range(0, len(entries), pictures_per_shard)):
            path = out / f"{number:05d}.tar"
            pairs.append((partial_path(path), path))
            with tarfile.open(pairs[-1][0], "w") as tar:
                for k, entry in enumerate(entries[start : start + pictures_per_shard], start):
                    _add(tar, f"{k:09d}{entry.pixels.suffix.lower()}", entry.pixels.read_bytes())
                    for name, data in _signal_files(entry.pixels, entry.signals.items()):
                        _add(tar, f"{k:09d}.{name}", data)
        put_in_place(pairs)  # all of them or none: a part of a set would be taken for the whole
    finally:
        for partial, _ in pairs:
            remove(partial)
    return [path for _, path in pairs]


def _signal_files(pixels: Path, signals: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, bytes]]:
    """The control images of an image: their names in a shard, and their content."""
    for signal, path in signals:
        if path.suffix.lower() != POINTS_SUFFIX:
            yield f"{signal}{path.suffix.lower()}", path.read_bytes()
            continue
        from PIL import Image

        from densepose_tools.keypoints import draw_keypoints, read_keypoints

        recorded, data = read_keypoints(path), io.BytesIO()
        drawing = draw_keypoints(recorded.points[0], width=recorded.width, height=recorded.height)
        Image.fromarray(drawing).save(data, "PNG")
        yield f"{signal}.png", data.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
