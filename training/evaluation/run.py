"""Animates a protocol's test videos with a checkpoint, or takes finished results, and computes the metrics.

Letters in shape comments: ``F`` frames, ``H W`` pixels.
"""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol as Structure

import numpy as np
from PIL import Image

from magicanimate import __version__
from magicanimate.config import MediaLimits
from magicanimate.errors import InputError
from magicanimate.files import write_bytes, write_json
from magicanimate.media.motion import open_motion
from magicanimate.media.writer import VideoWriter
from magicanimate.palette import nearest_labels
from training.config import SIGNALS
from training.data.opening import open_videos
from training.data.sources import VideoSet
from training.evaluation.networks import Lpips, NotComputed, frechet_network
from training.evaluation.page import write_page
from training.evaluation.protocol import METRICS, Protocol, published_rows
from training.evaluation.statistics import bootstrap
from training.metrics import frechet, parts, pixels

log = logging.getLogger(__name__)

REPORT, TABLE = "report.json", "report.csv"


@dataclass(frozen=True)
class Clip:
    """A test clip: inputs at the checkpoint's size ``H W``, the truth at the protocol's ``h w``.

    Attributes:
        name: unique name, for files.
        reference: the reference image, uint8 ``H W 3``.
        control: control images by signal, uint8 ``F H W 3``.
        truth: the true video, uint8 ``F h w 3``; ``None`` if there is none.
        labels: part ids of the motion, uint8 ``F h w``; ``None`` without part maps.
        reference_labels: part ids of the reference, uint8 ``1 h w``; ``None`` without part maps.
        shown_reference: the reference image, uint8 ``h w 3``.
    """

    name: str
    reference: np.ndarray
    control: Mapping[str, np.ndarray]
    truth: np.ndarray | None
    labels: np.ndarray | None
    reference_labels: np.ndarray | None
    shown_reference: np.ndarray


class Animate(Structure):
    """Anything that gives results for clips: a checkpoint, or a folder of finished results.

    Attributes:
        size: side of its inputs and results, pixels.
        driving: its control signals, a key of `training.config.SIGNALS`.
        about: its description in the report, JSON-ready.
    """

    size: int
    driving: str
    about: Mapping[str, Any]

    def __call__(self, clip: Clip) -> np.ndarray:
        """The result for a clip, uint8 ``F H W 3``."""


class Checkpoint:
    """Animates clips with a pipeline; see `Animate`.

    Args:
        folder: the pipeline's folder.
        name: its name in the report; the folder when ``None``.
        device: the best one when ``None``.
        steps, guidance_scale: the pipeline's defaults when ``None``.
        seed: seed of the noise.

    Raises:
        InputError: the checkpoint cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str | None = None,
        device: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 1,
    ):
        from magicanimate.checkpoints.disk import folder_digest
        from magicanimate.device import pick_device
        from magicanimate.loading import read_pipeline
        from magicanimate.memory import profiles_for

        picked = pick_device(device, None)
        self._pipe = read_pipeline(folder, profiles_for(picked.name)[0], dtype=picked.dtype).to(picked.name)
        own = self._pipe.config
        self.size, self.driving = own.default_width, own.driving
        self._how = {
            "num_inference_steps": steps or own.default_steps,
            "guidance_scale": own.default_guidance_scale if guidance_scale is None else guidance_scale,
            "seed": seed,
        }
        self.about = {
            "checkpoint": name or str(folder),
            "checkpoint_digest": folder_digest(folder),
            "kind": own.kind,
            "fusion": own.fusion,
            "driving": own.driving,
            "dtype": picked.dtype,
            **self._how,
        }

    def __call__(self, clip: Clip) -> np.ndarray:
        signals = [clip.control[name] for name in SIGNALS[self.driving]]
        second = signals[1] if len(signals) > 1 else None
        return self._pipe(clip.reference, signals[0], keypoints=second, **self._how).frames


class Results:
    """Finished results, ``NAME.mp4`` (or a folder of frames ``NAME``) for each clip; see `Animate`."""

    def __init__(self, folder: Path, *, size: int):
        if not folder.is_dir():
            raise InputError(f"The folder of results {folder} does not exist.")
        self.folder, self.size, self.driving = folder, size, "densepose"
        self.about = {"results": str(folder)}

    def __call__(self, clip: Clip) -> np.ndarray:
        found = [path for path in sorted(self.folder.glob(f"{clip.name}*")) if path.stem == clip.name]
        if not found:
            raise InputError(f"There is no result for {clip.name} in {self.folder}.")
        frames = list(open_motion(found[0], limits=MediaLimits()).frames())
        wanted = len(next(iter(clip.control.values())))
        if len(frames) != wanted:
            raise InputError(f"The result {found[0]} has {len(frames)} frames, and the motion {wanted}.")
        return np.stack(frames)


def evaluate(
    protocol: Protocol,
    data: Path,
    animate: Animate,
    out: Path,
    *,
    networks: Path,
    fetch: bool = False,
    device: str = "cpu",
    most: int | None = None,
    on_video: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Run a protocol and write ``report.json``, ``report.csv``, and ``index.html`` with the videos.

    Args:
        protocol: the protocol.
        data: folder of prepared videos or rendered dancers, see `training.data.opening.open_videos`.
        animate: the checkpoint, or finished results.
        out: folder of the report.
        networks: folder of the feature networks, see `training.evaluation.networks`.
        fetch: download missing feature networks.
        device: where the feature networks compute.
        most: maximum number of videos.
        on_video: called with the name of a video, its number (from 1 on) and the number of videos.

    Returns:
        The content of ``report.json``.

    Raises:
        InputError: the data do not suit the protocol, or it cannot be written.
    """
    size = protocol.size or animate.size
    shared = {"signals": SIGNALS[animate.driving], "framing": protocol.framing}
    compared = open_videos(data, size=size, **shared)
    # Opened twice only if the checkpoint works at another size than the protocol compares at.
    shown = compared if size == animate.size else open_videos(data, size=animate.size, **shared)
    videos = _chosen(compared, protocol, data)[:most]
    try:
        (out / "videos").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); choose another folder.") from error
    metrics = _Metrics(protocol, networks, fetch, device)
    for key, why in metrics.absent.items():
        log.warning("%s will not be computed: %s", METRICS[key].title, why)
    rows = []
    for number, video in enumerate(videos):
        # The next video gives the reference for "other"; the last one takes the first's.
        clip = _clip(shown, compared, protocol, video, videos[(number + 1) % len(videos)])
        if on_video:
            on_video(clip.name, number + 1, len(videos))
        result = _through_codec(resized(animate(clip), size), protocol, out)
        rows.append({"name": clip.name, "frames": len(result), "figures": metrics.figures(clip, result)})
        _write_videos(out / "videos", clip, result, size)
    report = {
        "program": f"MagicAnimate {__version__}",
        "protocol": protocol.as_json(),
        "data": str(data),
        "videos_with_driving": len(rows),
        "method": dict(animate.about),
        "networks": metrics.networks,
        "figures": {key: metrics.summary(key, rows) for key in protocol.metrics},
        "published": published_rows(protocol.name),
        "videos": rows,
    }
    write_json(out / REPORT, report)
    write_bytes(out / TABLE, _as_csv(report).encode())
    write_page(out, report)
    return report


def _chosen(videos: VideoSet, protocol: Protocol, data: Path) -> list[int]:
    """The numbers of the protocol's videos in the set."""
    by_name = {_name(videos, video): video for video in range(len(videos))}
    if not protocol.videos:
        return list(by_name.values())
    missing = [name for name in protocol.videos if name not in by_name]
    if missing:
        log.warning("%s lacks %d videos of the protocol: %s", data, len(missing), ", ".join(missing[:5]))
    found = [by_name[name] for name in protocol.videos if name in by_name]
    if not found:
        raise InputError(
            f"{data} holds none of the videos that the protocol {protocol.name} names, such as {missing[0]}."
        )
    return found


def _name(videos: VideoSet, video: int) -> str:
    return Path(videos.name(video)).stem.replace(" ", "_")


def _clip(shown: VideoSet, compared: VideoSet, protocol: Protocol, video: int, other: int) -> Clip:
    """The clip that a protocol takes from a video, with its reference from this video or the next one."""
    first = compared.stills
    count = compared.num_frames(video) - first
    frames = list(range(first, first + count, protocol.interval))
    frames = frames[: protocol.frames or None]
    if not frames or (protocol.reference == "still" and not first):
        what = "no frames" if not frames else "no stills; choose another protocol"
        raise InputError(f"{compared.name(video)} has {what}.")
    source = other if protocol.reference == "other" else video
    # The frame number of the reference in its video.
    at = {
        "first": frames[0],
        "middle": frames[len(frames) // 2],
        "still": 0,
        "other": first,
    }[protocol.reference]
    # Compared at the protocol's size; the checkpoint gets the same frames at its own.
    truth, photo = compared.read(video, frames), compared.read(source, [at])
    motion, reference = truth, photo
    if shown is not compared:  # at another size
        motion, reference = shown.read(video, frames), shown.read(source, [at])
    has_parts = "densepose" in truth.control
    return Clip(
        name=_name(compared, video),
        reference=reference.pixels[0],
        control=motion.control,
        truth=None if protocol.reference == "other" else truth.pixels,
        labels=nearest_labels(truth.control["densepose"])[0] if has_parts else None,
        reference_labels=nearest_labels(photo.control["densepose"])[0] if has_parts else None,
        shown_reference=photo.pixels[0],
    )


def resized(video: np.ndarray, size: int) -> np.ndarray:
    """Resize frames, uint8 ``F H W 3``: box filter for smaller sizes, bicubic for larger ones."""
    if video.shape[1:3] == (size, size):
        return video
    how = Image.Resampling.BOX if video.shape[1] > size else Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(frame).resize((size, size), how)) for frame in video])


def _through_codec(video: np.ndarray, protocol: Protocol, out: Path) -> np.ndarray:
    """Compress and decompress a result as the protocol says."""
    if protocol.codec == "none":
        return video
    path = out / ".judged.mp4"
    try:
        _write_video(path, video, quality=protocol.crf)
        return np.stack(list(open_motion(path, limits=MediaLimits()).frames()))[: len(video)]
    finally:
        path.unlink(missing_ok=True)


def _write_video(path: Path, video: np.ndarray, *, quality: int = 14) -> None:
    height, width = video.shape[1:3]
    with VideoWriter(path, width=width, height=height, fps=25, quality=quality) as writer:
        for frame in video:
            writer.write(np.ascontiguousarray(frame))


def _write_videos(folder: Path, clip: Clip, result: np.ndarray, size: int) -> None:
    """Write the files that the report's page shows."""
    Image.fromarray(clip.shown_reference).save(folder / f"{clip.name}_reference.png")
    driving = next(iter(clip.control.values()))
    _write_video(folder / f"{clip.name}_driving.mp4", resized(np.asarray(driving), size))
    _write_video(folder / f"{clip.name}_result.mp4", result)
    if clip.truth is not None:
        _write_video(folder / f"{clip.name}_truth.mp4", clip.truth)


class _Metrics:
    """Computes the metrics of each video, and collects what those of the whole set need.

    Attributes:
        networks: metric -> name of the network that it is computed with.
        absent: metric -> why it is not computed.
    """

    def __init__(self, protocol: Protocol, folder: Path, fetch: bool, device: str):
        self.protocol = protocol
        self.networks: dict[str, str] = {}
        self.absent: dict[str, str] = {}
        self._lpips: Lpips | None = None
        self._sets: dict[str, frechet.Frechet] = {}
        where = {"fetch": fetch, "device": device}
        if protocol.reference == "other":
            for key in protocol.metrics:
                if METRICS[key].needs_truth:
                    self.absent[key] = "there is no truth"
        if "lpips" in protocol.metrics and "lpips" not in self.absent:
            try:
                self._lpips = Lpips(protocol.lpips, folder, **where)
                self.networks["lpips"] = self._lpips.name
            except NotComputed as reason:
                self.absent["lpips"] = str(reason)
        how = f"{protocol.size} pixels, {protocol.codec}"
        for key in protocol.metrics:
            if not METRICS[key].of_the_set or key in self.absent:
                continue
            try:
                network = frechet_network(key, folder, clip_length=protocol.fvd_frames, **where)
            except NotComputed as reason:
                self.absent[key] = str(reason)
            else:
                self._sets[key], self.networks[key] = frechet.Frechet(network, format=how), network.name

    def figures(self, clip: Clip, result: np.ndarray) -> dict[str, float | None]:
        """The figures of one video by metric; ``None`` for those that are undefined for it."""
        for gathered in self._sets.values():
            length = gathered.network.clip_length
            # Single images (FID) always use all frames.
            first = length if length > 1 and self.protocol.fvd_clips == "first" else None
            gathered.add(clip.truth[:first], result[:first])
        own = {
            "l1": lambda: 100 * pixels.l1(clip.truth, result),
            "l1_published": lambda: pixels.l1_published(clip.truth, result),
            "psnr": lambda: pixels.psnr(clip.truth, result),
            "psnr_first_reported": lambda: pixels.psnr_overflowing(clip.truth, result),
            "ssim": lambda: pixels.ssim(clip.truth, result),
            "lpips": lambda: self._lpips(clip.truth, result),
            "temporal": lambda: pixels.temporal_error(clip.truth, result),
            "identity": lambda: _identity(clip, result),
            "flicker": lambda: pixels.flicker(result),
        }
        found = {}
        for key in self.protocol.metrics:
            if METRICS[key].of_the_set or key in self.absent:
                continue
            value = own[key]()
            # JSON has neither NaN nor infinity.
            found[key] = value if math.isfinite(value) else None
        return found

    def summary(self, key: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A metric over all videos: "mean", "low", "high" and "videos", or "not_computed" with the reason."""
        if key in self.absent:
            return {"not_computed": self.absent[key]}
        if METRICS[key].of_the_set:
            try:
                found = self._sets[key].result()
            except InputError as reason:  # too few clips
                return {"not_computed": str(reason)}
            return {"mean": found.distance, "samples": found.samples, "clip_length": found.clip_length}
        values = [row["figures"].get(key) for row in rows]
        mean = bootstrap([value for value in values if value is not None])
        return {"not_computed": "no video has this figure"} if mean is None else mean.as_json()


def _identity(clip: Clip, result: np.ndarray) -> float:
    """Colour differences of the body parts between result and reference."""
    if clip.labels is None:
        return math.nan
    shown = parts.part_colours(result, clip.labels)
    photo = parts.part_colours(clip.shown_reference[None], clip.reference_labels)
    return parts.identity_difference(photo, shown)


def _as_csv(report: Mapping[str, Any]) -> str:
    """The figures as CSV: a row for every video and for the means, each naming the protocol."""
    text = io.StringIO()
    keys = list(report["protocol"]["metrics"])
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["protocol", "video", *keys])
    label = f"{report['protocol']['name']} {report['protocol']['digest']}"
    for row in report["videos"]:
        writer.writerow([label, row["name"], *(_cell(row["figures"].get(key)) for key in keys)])
    figures = report["figures"]
    for end in ("mean", "low", "high"):
        writer.writerow([label, end, *(_cell(figures[key].get(end)) for key in keys)])
    return text.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None else repr(round(value, 8))
