"""DensePose for a folder of single pictures of any sizes: writes ``NAME.densepose.png`` for each.

The network is loaded once. The resume log ``densepose.jsonl`` has a line for each picture with the number of
people, or the reason why it has no map; a run that was stopped continues after the last line.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from densepose_tools.engines import Extractor
from densepose_tools.people import Person, part_map
from magicanimate.config import OnProgress, ShouldStop
from magicanimate.errors import Cancelled, InputError
from magicanimate.files import parse_json, whole_file, write_bytes
from magicanimate.media.outputs import PNG_KEY, PROGRAM, encode_settings
from magicanimate.media.photo import load_photo
from magicanimate.palette import colourise
from magicanimate.progress import ProgressMeter

log = logging.getLogger(__name__)

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAP_ENDING = ".densepose.png"
RESUME_LOG = "densepose.jsonl"
_READ_AHEAD = 32


@dataclass(frozen=True)
class PictureMaps:
    """The outcome for a folder.

    Attributes:
        made: number of maps, including those of earlier runs.
        resumed: number of pictures that earlier runs had processed.
        nobody: names of the pictures that show nobody, which have no map.
        unreadable: sentences on the pictures that cannot be used.
    """

    made: int
    resumed: int
    nobody: list[str]
    unreadable: list[str]


def chosen_people(people: Sequence[Person], who: str) -> list[Person]:
    """Who is drawn: "all", by falling score, or only the "largest"."""
    return list(people) if who == "all" else sorted(people, key=Person.area, reverse=True)[:1]


def write_map(path: Path, labels: np.ndarray, settings: dict[str, Any]) -> None:
    """Write a part map, uint8 (H, W), as a PNG in palette colours; its settings are stored in the file."""
    text = PngInfo()
    text.add_text(PNG_KEY, encode_settings({"program": PROGRAM, **settings}))
    with whole_file(path) as partial:
        Image.fromarray(colourise(labels)).save(partial, "PNG", pnginfo=text)


def extract_pictures(
    source: Path,
    target: Path,
    extractor: Extractor,
    *,
    settings: dict[str, Any],
    people: str = "largest",
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> PictureMaps:
    """Make the part map of every picture of a folder.

    Args:
        source: folder of the pictures; subfolders are ignored.
        target: output folder for the maps, which have the size of their pictures; may be ``source``.
        extractor: finds the people.
        settings: everything that decides which people are found, JSON-ready; stored in every map. Maps made
            with other settings are not mixed in.
        people: whom to draw, "largest" or "all".
        on_progress: called with the progress of "detect", in pictures.
        should_stop: polled before each batch.

    Raises:
        InputError: there are no pictures, ``target`` has maps made with other settings, or it cannot be
            written.
        Cancelled: ``should_stop()`` said so; the maps made so far stay.
    """
    pictures = pictures_of(source)
    # Whom to draw decides the maps as much as what the network found.
    settings = settings | {"people": people}
    try:
        target.mkdir(parents=True, exist_ok=True)
        done = _resume_log(target / RESUME_LOG, settings)
        meter = ProgressMeter(on_progress)
        meter.begin("detect", len(pictures))
        left = [path for path in pictures if path.name not in done]
        resumed = len(pictures) - len(left)
        with (target / RESUME_LOG).open("a", encoding="utf-8") as log_file:
            for path, result in _found(left, extractor, people, should_stop):
                line: dict[str, Any] = {"name": path.name}
                if isinstance(result, InputError):
                    line["problem"] = str(result)
                elif result is None:
                    line["people"] = 0
                else:
                    count, labels = result
                    line["people"] = count
                    write_map(target / f"{path.stem}{MAP_ENDING}", labels, settings)
                # After the map, so that every picture in the log is finished.
                log_file.write(json.dumps(line) + "\n")
                log_file.flush()
                done[path.name] = line
                meter.update(len(done), max(len(done), len(pictures)))
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}); choose another folder.") from error
    meter.finish()
    lines = [done[path.name] for path in pictures]
    return PictureMaps(
        made=sum(line.get("people", 0) > 0 for line in lines),
        resumed=resumed,
        nobody=[line["name"] for line in lines if line.get("people") == 0],
        unreadable=[line["problem"] for line in lines if "problem" in line],
    )


def pictures_of(folder: Path) -> list[Path]:
    """The pictures of a folder by name, without control images.

    Raises:
        InputError: it cannot be read, holds none, or two with the same stem, whose maps would be the same
            file.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error.strerror}); check the name.") from error
    pictures: dict[str, Path] = {}
    for path in found:
        # Our own maps and keypoints, which may lie in the same folder.
        if path.name.startswith(".") or path.stem.endswith((".densepose", ".keypoints")):
            continue
        # a.jpg and a.png would both get a.densepose.png.
        if path.stem in pictures:
            raise InputError(
                f"{pictures[path.stem]} and {path.name} would have one map; give one of them another name."
            )
        pictures[path.stem] = path
    if not pictures:
        raise InputError(f"The folder {folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)}).")
    return list(pictures.values())


def _resume_log(path: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Read the log of earlier runs, by name of the picture, without a line that a killed run cut off."""
    if not path.exists():
        write_bytes(path, (json.dumps({"settings": settings}) + "\n").encode())
        return {}
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(parse_json(text))
        except ValueError:
            continue
    before = lines[0].get("settings") if lines and isinstance(lines[0], dict) else None
    # Maps of different settings in one folder would look like one data set.
    if before != settings:
        raise InputError(
            f"The maps in {path.parent} were made with other settings ({_difference(before, settings)}); "
            "give those again, or choose another folder."
        )
    # Rewritten without the incomplete line, after which nothing could be appended.
    write_bytes(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return {line["name"]: line for line in lines[1:] if isinstance(line, dict) and "name" in line}


def _difference(before: Any, now: dict[str, Any]) -> str:
    if not isinstance(before, dict):
        return "unknown ones"
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name)}, not {now.get(name)}" for name in changed)


def _found(
    paths: Sequence[Path], extractor: Extractor, who: str, should_stop: ShouldStop | None
) -> Iterator[tuple[Path, tuple[int, np.ndarray] | None | InputError]]:
    """For each picture yield the number of people and their map, ``None`` for nobody, or its error.

    Pictures are read ahead by threads, and those of one size go through the network together.
    """
    waiting: dict[tuple[int, ...], list[tuple[Path, np.ndarray]]] = {}
    with ThreadPoolExecutor(4) as pool:
        for first in range(0, len(paths), _READ_AHEAD):
            some = paths[first : first + _READ_AHEAD]
            for path, photo in zip(some, pool.map(_read, some), strict=True):
                if isinstance(photo, InputError):
                    yield path, photo
                    continue
                alike = waiting.setdefault(photo.shape, [])
                alike.append((path, photo))
                if len(alike) == extractor.batch:
                    yield from _found_in_batch(waiting.pop(photo.shape), extractor, who, should_stop)
            # Incomplete batches, too: with many different sizes none should wait long.
            for shape in list(waiting):
                yield from _found_in_batch(waiting.pop(shape), extractor, who, should_stop)


def _found_in_batch(
    alike: Sequence[tuple[Path, np.ndarray]],
    extractor: Extractor,
    who: str,
    should_stop: ShouldStop | None,
) -> Iterator[tuple[Path, tuple[int, np.ndarray] | None]]:
    if should_stop is not None and should_stop():
        raise Cancelled
    found = extractor.people([photo for _, photo in alike])
    for (path, photo), people in zip(alike, found, strict=True):
        height, width = photo.shape[:2]
        labels = part_map(chosen_people(people, who), width=width, height=height)
        # A person of less than a pixel draws nothing, and counts as nobody.
        yield path, (len(people), labels) if labels.any() else None


def _read(path: Path) -> np.ndarray | InputError:
    try:
        return load_photo(path, what="picture")
    except InputError as error:
        return error
