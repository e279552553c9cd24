"""DWPose: keypoints of body, feet, face and hands, with rtmlib (an optional package) and two ONNX files.

Source: Yang et al., "Effective whole-body pose estimation with two-stages distillation" (2023). The files are
published by its authors: a YOLOX that detects people, and DWPose itself.

Letters in shape comments: ``T`` frames, ``P`` people, ``N`` points (134).
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from densepose_tools.keypoints import NUM_ALL, Keypoints, draw_keypoints, write_keypoints
from magicanimate.errors import InputError, first_line
from magicanimate.media.writer import VideoWriter

log = logging.getLogger(__name__)

REPOSITORY = "yzd-v/DWPose"
DETECTOR, ESTIMATOR = "yolox_l.onnx", "dw-ll_ucoco_384.onnx"
_PERSON = 0
"""Class number of people in COCO."""

_LEAST_SCORE = 0.3
"""Smallest score of a detected person, as in DWPose's own program."""

_DETECTOR_SIZE, _ESTIMATOR_SIZE = (640, 640), (288, 384)

Estimate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Image, uint8 (H, W, 3) -> points (P, 134, 2) in pixels and their confidences (P, 134)."""


class DWPose:
    """Finds keypoints in images.

    Args:
        estimate: detects people and estimates their poses.
    """

    def __init__(self, estimate: Estimate):
        self._estimate = estimate

    @classmethod
    def load(cls, folder: Path | None, *, device: str | None = None, offline: bool = False) -> DWPose:
        """Load the two ONNX files from a folder, or the published ones, which are downloaded once.

        Args:
            folder: folder of ``yolox_l.onnx`` and ``dw-ll_ucoco_384.onnx``; the published ones when ``None``.
            device: "cuda", "cuda:1" or "cpu"; when ``None``, a GPU if onnxruntime supports one.
            offline: do not download anything.

        Raises:
            InputError: rtmlib is not installed, or a file is missing or cannot be used.
        """
        # Before the packages are imported: a wrong folder is wrong with and without them.
        if folder is not None:
            files = [_given(folder, name) for name in (DETECTOR, ESTIMATOR)]
        try:
            import onnxruntime  # rtmlib asks for it late
            from rtmlib import YOLOX, RTMPose
        except ImportError as error:
            raise InputError(
                "Keypoints need the packages rtmlib and onnxruntime (onnxruntime-gpu): pip install rtmlib "
                f"onnxruntime ({error})."
            ) from error
        if folder is None:
            files = [_fetched(name, offline=offline) for name in (DETECTOR, ESTIMATOR)]
        detector, estimator = files
        best = "cuda" if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "cpu"
        how = {"backend": "onnxruntime", "device": device or best}
        seeking = {"det_mode": "multiclass", "score_thr": _LEAST_SCORE}
        try:
            # rtmlib prints while it loads; standard output is for the names of results.
            with contextlib.redirect_stdout(io.StringIO()):
                find = YOLOX(str(detector), model_input_size=_DETECTOR_SIZE, **seeking, **how)
                pose = RTMPose(str(estimator), model_input_size=_ESTIMATOR_SIZE, to_openpose=True, **how)
        except Exception as error:  # noqa: BLE001  (onnxruntime has an exception for every kind of damage)
            line = first_line(error)
            raise InputError(f"{detector} or {estimator} cannot be used ({line}).") from error

        def estimate(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            # This detector has 80 classes; in its mode for people, rtmlib would return boxes of all of them.
            # It was trained on BGR, the estimator on RGB; rtmlib leaves that to its caller (its issue 48).
            boxes, kinds = find(np.ascontiguousarray(picture[..., ::-1]))
            boxes = boxes[kinds == _PERSON]
            # Without any box, rtmlib would take the whole image for a person.
            if not len(boxes):
                return np.zeros((0, NUM_ALL, 2)), np.zeros((0, NUM_ALL))
            return pose(picture, bboxes=boxes)

        return cls(estimate)

    def points(self, frames: Iterable[np.ndarray]) -> Keypoints:
        """Find the keypoints of RGB frames, uint8 (H, W, 3), all of one size.

        Raises:
            InputError: there is no frame.
        """
        found, size = [], None
        for frame in frames:
            size = size or (frame.shape[1], frame.shape[0])
            points, confidence = self._estimate(frame)
            found.append(np.concatenate([points, np.asarray(confidence)[..., None]], axis=-1))
        if size is None:
            raise InputError("There is no frame to find keypoints in.")
        most = max(1, *(len(people) for people in found))
        # Frames with fewer people are filled up with people of confidence 0.
        recorded = np.zeros((len(found), most, NUM_ALL, 3), np.float32)
        for frame, people in zip(recorded, found, strict=True):
            frame[: len(people)] = people
        recorded[..., 2] = recorded[..., 2].clip(0, 1)  # some networks' confidences reach beyond
        return Keypoints(recorded, *size)

    def write(self, path: Path, frames: Iterable[np.ndarray]) -> Keypoints:
        """Find the keypoints of frames and write them to an npz file."""
        found = self.points(frames)
        write_keypoints(path, found)
        return found


def drawn(keypoints: Keypoints) -> Iterator[np.ndarray]:
    """Draw every frame, uint8 (H, W, 3)."""
    size = {"width": keypoints.width, "height": keypoints.height}
    return (draw_keypoints(people, **size) for people in keypoints.points)


def write_drawing(path: Path, keypoints: Keypoints, *, fps) -> None:
    """Write the drawings of keypoints as a motion clip."""
    size = {"width": keypoints.width, "height": keypoints.height}
    with VideoWriter(path, **size, fps=fps, quality=8) as writer:
        for frame in drawn(keypoints):
            writer.write(frame)


def _given(folder: Path, name: str) -> Path:
    """The path of one of the files in the user's folder.

    Raises:
        InputError: it is not there.
    """
    if not (folder / name).is_file():
        raise InputError(f"{folder / name} is missing; it is published in {REPOSITORY} on the Hub.")
    return folder / name


def _fetched(name: str, *, offline: bool) -> Path:
    """The path of one of the published files, downloaded if it is not in the Hub's cache.

    Raises:
        InputError: it cannot be fetched.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(REPOSITORY, name, local_files_only=offline))
    except Exception as error:  # noqa: BLE001  (the Hub's client has many ways to fail)
        line = first_line(error)
        raise InputError(
            f"{name} of {REPOSITORY} cannot be fetched ({line}); fetch it by hand and give its folder."
        ) from error
