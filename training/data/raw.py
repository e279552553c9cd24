"""Finds the raw videos, frame folders, tracklets and images of a published data set, to prepare them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from magicanimate.errors import InputError
from training.data.folders import IMAGE_SUFFIXES, VIDEO_SUFFIXES

Source = Literal["auto", "videos", "pictures", "tiktok", "ted"]
SOURCES: tuple[Source, ...] = ("auto", "videos", "pictures", "tiktok", "ted")

LISTS = {".txt": "txt", ".csv": "csv", ".tsv": "tsv", ".json": "json", ".parquet": "parquet"}
"""Lists of addresses that can be fetched: suffix -> img2dataset's name of the format."""

TIKTOK_RATE = 30.0
"""Frames a second of the TikTok dataset's frame folders (Jafarian and Park, CVPR 2021)."""


@dataclass(frozen=True)
class RawItem:
    """A video or image to prepare, JSON-ready.

    Attributes:
        name: base name of the prepared files, unique in its set.
        kind: "video" (a file or a folder of frames) or "picture".
        path: absolute path.
        start, end: the part of the video to take, in seconds; ``end`` is ``None`` for the end of the video.
        box: the part of the image to take: left, top, right, bottom as shares of it; ``None`` for all of it.
        rate: frames per second of a folder of frames.
    """

    name: str
    kind: Literal["video", "picture"]
    path: str
    start: float = 0.0
    end: float | None = None
    box: tuple[float, float, float, float] | None = None
    rate: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields, as a dictionary."""
        return asdict(self)

    @classmethod
    def of(cls, saved: dict[str, Any]) -> RawItem:
        """The inverse of `as_json`."""
        # JSON has no tuples.
        return cls(**{**saved, "box": tuple(saved["box"]) if saved["box"] else None})

    def stamp(self) -> list[float]:
        """Size and time of change of the file or folder, by which a changed source is noticed."""
        status = Path(self.path).stat()
        return [status.st_size, status.st_mtime_ns]


def find_items(folder: Path, source: Source, *, tracklets: Path | None = None) -> list[RawItem]:
    """Find everything in a folder that can be prepared.

    - ``videos``, ``pictures``: all files of these kinds, in subfolders too; "auto" takes both.
    - ``tiktok``: the TikTok dataset as released, ``FOLDER/00001/images/0001.png`` and so on, each a clip.
    - ``ted``: videos named by their YouTube id, cut by the published list ``tracklets`` (columns video_id,
      start and end in frames, bbox as left-top-right-bottom, fps, width and height of the whole video).

    Raises:
        InputError: there is nothing, or the list cannot be used.
    """
    if not folder.is_dir():
        raise InputError(f"The folder {folder} does not exist; check the name.")
    # Otherwise thousands of frames would be taken for single pictures.
    if source == "auto" and _frame_folders(folder):
        source = "tiktok"
    if (source == "ted") != (tracklets is not None):
        raise InputError("--tracklets, the published list, goes with --source ted, and the other way round.")
    if source == "tiktok":
        items = [
            RawItem(images.parent.name, "video", str(images.resolve()), rate=TIKTOK_RATE)
            for images in _frame_folders(folder)
        ]
    elif source == "ted":
        items = list(_tracklets(folder, tracklets))
    else:
        kinds = {"videos": ("video",), "pictures": ("picture",)}.get(source, ("video", "picture"))
        items = list(_files(folder, kinds))
    if not items:
        raise InputError(f"{folder} holds nothing that can be prepared as {source!r}.")
    # Prepared files lie in one folder, so two items of the same name would overwrite each other.
    names: dict[str, RawItem] = {}
    for item in items:
        if item.name in names:
            raise InputError(
                f"{names[item.name].path} and {item.path} would both be called {item.name}; rename one."
            )
        names[item.name] = item
    return items


def _frame_folders(folder: Path) -> list[Path]:
    found = (path / "images" for path in sorted(folder.iterdir()) if path.is_dir())
    return [
        images
        for images in found
        if images.is_dir() and any(path.suffix.lower() in IMAGE_SUFFIXES for path in images.iterdir())
    ]


def _files(folder: Path, kinds: tuple[str, ...]) -> Iterator[RawItem]:
    suffixes = {"video": VIDEO_SUFFIXES, "picture": IMAGE_SUFFIXES}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts) or not path.is_file():
            continue
        for kind in kinds:
            if path.suffix.lower() in suffixes[kind]:
                # Dots would be taken for the name of a signal, and folders lie flat in what is made.
                name = "__".join(inside.with_suffix("").parts).replace(".", "_")
                yield RawItem(name, kind, str(path.resolve()))


def _tracklets(folder: Path, file: Path) -> Iterator[RawItem]:
    """The rows of the published list whose videos are in the folder; many others are no longer online."""
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The list {file} cannot be read ({error}).") from error
    videos = {path.stem: path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES}
    # Line numbers as an editor shows them: the first line has the names of the columns.
    for number, row in enumerate(rows, 2):
        try:
            # The list numbers the tracklets of a video behind a #.
            video = row["video_id"].split("#")[0]
            rate, width, height = float(row["fps"]), float(row["width"]), float(row["height"])
            start, end = int(row["start"]), int(row["end"])
            left, top, right, bottom = (int(side) for side in row["bbox"].split("-"))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"Line {number} of {file} is no tracklet ({error}); the columns are video_id, start, end, "
                "bbox, fps, width and height."
            ) from error
        if video in videos:
            yield RawItem(
                # Several tracklets of a video, also at the same time, get different names.
                f"{video}_{start:06d}_{end:06d}_{left}_{top}".replace(".", "_"),
                "video",
                str(videos[video].resolve()),
                start=start / rate,
                end=end / rate,
                box=(left / width, top / height, right / width, bottom / height),
            )


def fetch_list(file: Path, folder: Path, *, url_column: str = "URL", processes: int = 1) -> None:
    """Fetch the images of a list of addresses, such as LAION's parquet files, with img2dataset.

    Images keep their aspect ratio and are shrunk to at most 1024 pixels on the longer side. What an earlier
    call fetched is not fetched again. Sites that forbid such use are skipped, which is img2dataset's default.

    Args:
        file: the list, with a suffix of `LISTS`.
        folder: output folder for the images.
        url_column: name of the column with the addresses, in lists that have columns.
        processes: processes that fetch and resize.

    Raises:
        InputError: img2dataset is not installed, or cannot use the list.
    """
    try:
        from img2dataset import download
    except ImportError as error:
        raise InputError(
            "Lists of addresses are fetched by the package img2dataset: pip install img2dataset; or fetch "
            "the pictures otherwise and give their folder."
        ) from error
    if not file.is_file():
        raise InputError(f"The list {file} does not exist; check the name.")
    columns = {} if file.suffix == ".txt" else {"url_col": url_column}
    try:
        download(
            url_list=str(file),
            input_format=LISTS[file.suffix.lower()],
            output_folder=str(folder),
            output_format="files",
            image_size=1024,
            resize_mode="keep_ratio_largest",
            resize_only_if_bigger=True,
            processes_count=processes,
            # Threads mostly wait for servers.
            thread_count=32 * processes,
            **columns,
        )
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"img2dataset cannot use the list {file} ({error}).") from error
