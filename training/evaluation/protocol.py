"""Evaluation protocols, which are JSON files, and published figures.

The figures of one method differ severalfold between protocols. So a report contains its whole protocol, and
published figures are only shown beside it if they belong to the same one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from magicanimate.errors import InputError
from magicanimate.files import Unreadable, parse_json, read_json_object

FOLDER = Path(__file__).parent / "protocols"
PUBLISHED = FOLDER / "published.json"

Reference = Literal["first", "middle", "still", "other"]
REFERENCES: tuple[Reference, ...] = ("first", "middle", "still", "other")


@dataclass(frozen=True)
class Metric:
    """How a metric is shown in a report.

    Attributes:
        title: heading, with the unit.
        better: "lower" or "higher".
        digits: decimal places.
        about: explanation for readers of the page.
        needs_truth: whether it compares with the ground truth.
        of_the_set: whether it is computed for all videos together, not for each.
        scale: factor with which it is shown in tables.
    """

    title: str
    better: str
    digits: int
    about: str
    needs_truth: bool = True
    of_the_set: bool = False
    scale: float = 1.0

    def shown(self, value: float) -> str:
        """A value as shown in tables."""
        return f"{value * self.scale:.{self.digits}f}"


METRICS: dict[str, Metric] = {
    "l1": Metric("L1, %", "lower", 2, "mean absolute difference, of full scale"),
    "l1_published": Metric(
        *("L1 E-04", "lower", 2, "as published: mean difference in grey levels by the pixels of a frame"),
        scale=1e4,
    ),
    "psnr": Metric("PSNR, dB", "higher", 2, "of the squared error over the whole clip"),
    "psnr_first_reported": Metric(
        "PSNR*", "higher", 2, "as this line of work first reported it: it overflows, for comparison only"
    ),
    "ssim": Metric("SSIM", "higher", 3, "mean structural similarity, Gaussian window of 11"),
    "lpips": Metric("LPIPS", "lower", 3, "distance of deep features, mean over frames"),
    "fid": Metric("FID", "lower", 2, "Frechet distance, all frames of all videos together", of_the_set=True),
    "fid_vid": Metric("FID-VID", "lower", 2, "Frechet distance of clips, 3D ResNet-50", of_the_set=True),
    "fvd": Metric("FVD", "lower", 2, "Frechet distance of clips, I3D", of_the_set=True),
    "temporal": Metric("changes", "lower", 2, "error of the changes from frame to frame, grey levels"),
    "identity": Metric(
        *("identity, ΔE", "lower", 2, "colours of the body parts against those in the reference"),
        needs_truth=False,
    ),
    "flicker": Metric(
        "flicker", "lower", 2, "mean second difference over time, grey levels", needs_truth=False
    ),
}


@dataclass(frozen=True)
class Protocol:
    """What is compared, and how.

    Attributes:
        name: name of the file, without suffix.
        about: one sentence for readers.
        source: where the protocol is defined.
        videos: names (without suffix) of the test videos, in order; empty for all videos of the folder.
        reference: "first" or "middle" frame of the clip; "still", a still of a rendered dancer; or "other",
            the first frame of the next video, for which there is no ground truth.
        frames: length of the clip, from the video's first frame on; 0 for all frames.
        interval: every n-th frame is taken.
        size: side in pixels at which result and truth are compared; 0 for the checkpoint's own size.
        framing: which square is cut out of the videos, see `StageConfig`.
        codec: compression of the results before they are evaluated: "none", or "h264" with ``crf``.
        crf: constant rate factor of H.264.
        fvd_frames: frames of a clip for FVD and FID-VID.
        fvd_clips: "disjoint" consecutive clips of every video, or its "first" clip only.
        lpips: backbone of LPIPS, "alex", "vgg" or "squeeze".
        metrics: the metrics to report, keys of `METRICS`.
    """

    name: str
    about: str
    source: str
    videos: tuple[str, ...] = ()
    reference: Reference = "first"
    frames: int = 0
    interval: int = 1
    size: int = 256
    framing: Literal["centre", "person"] = "centre"
    codec: Literal["none", "h264"] = "none"
    crf: int = 0
    fvd_frames: int = 16
    fvd_clips: Literal["disjoint", "first"] = "disjoint"
    lpips: Literal["alex", "vgg", "squeeze"] = "alex"
    metrics: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The fields, JSON-ready, and a ``digest`` of those that affect the figures."""
        own = parse_json(json.dumps(asdict(self)))
        # Descriptions may be reworded without making it another protocol.
        text = json.dumps({k: v for k, v in own.items() if k not in ("about", "source")}, sort_keys=True)
        return own | {"digest": hashlib.sha256(text.encode()).hexdigest()[:16]}


def protocol_names() -> list[str]:
    """Names of the protocols that come with the program."""
    return sorted(path.stem for path in FOLDER.glob("*.json") if path != PUBLISHED)


def load_protocol(name: str) -> Protocol:
    """Load a protocol by its name, or from a JSON file of your own.

    Raises:
        InputError: there is none of that name, or its keys or values are wrong.
    """
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        raise InputError(
            f"There is no protocol {name!r}; choose from {', '.join(protocol_names())}, or give a JSON file."
        )
    try:
        saved = read_json_object(path)
    except Unreadable as error:
        raise InputError(f"The protocol {path} cannot be read ({error.reason}).") from error
    known = {f.name for f in fields(Protocol)}
    if strange := sorted(saved.keys() - known | {"about", "source"} - saved.keys()):
        raise InputError(f"The protocol {path} has wrong or missing keys: {', '.join(strange)}.")
    lists = {key: tuple(saved.get(key, ())) for key in ("videos", "metrics")}
    protocol = Protocol(**{**saved, "name": path.stem, **lists})
    _check(protocol, path)
    return protocol


def _check(protocol: Protocol, path: Path) -> None:
    choices = {
        "reference": REFERENCES,
        "framing": ("centre", "person"),
        "codec": ("none", "h264"),
        "fvd_clips": ("disjoint", "first"),
        "lpips": ("alex", "vgg", "squeeze"),
    }
    for key, allowed in choices.items():
        if getattr(protocol, key) not in allowed:
            raise InputError(
                f"{key} in {path} is {getattr(protocol, key)!r}; choose one of {', '.join(allowed)}."
            )
    least = {"frames": 0, "interval": 1, "size": 0, "crf": 0, "fvd_frames": 2}
    for key, low in least.items():
        value = getattr(protocol, key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= 10**6:
            raise InputError(f"{key} in {path} is {value!r}; choose a whole number from {low} on.")
    for metric in protocol.metrics:
        if metric not in METRICS:
            raise InputError(f"metrics in {path} name {metric!r}; choose from {', '.join(METRICS)}.")


def published_rows(protocol: str) -> list[dict[str, Any]]:
    """Published figures of a protocol: rows of "method", "source" and "figures" by metric."""
    return [row for row in read_json_object(PUBLISHED)["rows"] if row["protocol"] == protocol]


def rows_of(report: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The rows of a report's table: method, source, and figures by metric."""
    yield "this checkpoint" if "checkpoint" in report["method"] else "these results", "", report["figures"]
    for row in report["published"]:
        yield row["method"], row["source"], {key: {"mean": value} for key, value in row["figures"].items()}
