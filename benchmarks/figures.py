"""The figures of one result, and tables of many."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.synthdance_data import Task
from densepose_tools.segmenter import PartSegmenter
from training.metrics import parts, pixels

# Key, heading with unit and direction, digits.
TRUTH_COLUMNS = (
    ("l1", "L1, % ↓", 2),
    ("psnr", "PSNR, dB ↑", 2),
    ("psnr_person", "PSNR person ↑", 2),
    ("ssim", "SSIM ↑", 3),
    ("ssim_person", "SSIM person ↑", 3),
    ("feature_distance", "features ↓", 3),
    ("temporal", "temporal ↓", 2),
    ("temporal_person", "temporal person ↓", 2),
    ("identity", "identity, ΔE ↓", 2),
    ("pose", "pose IoU ↑", 3),
    ("sharpness_person", "sharpness person → 1", 2),
    ("ssim_head", "SSIM head ↑", 3),
)
BLIND_COLUMNS = (
    ("identity_photo", "identity, ΔE ↓", 2),
    ("pose", "pose IoU ↑", 3),
    ("flicker", "flicker ↓", 2),
)


class Judge:
    """Measures results with one part segmenter."""

    def __init__(self, segmenter: PartSegmenter):
        self.segmenter = segmenter
        self._truth: tuple[Task, list[np.ndarray]] | None = None  # of the task before, and its features

    def figures(self, task: Task, result: np.ndarray) -> dict[str, float]:
        """Every figure that the task allows; ``result`` is uint8 ``F H W 3``.

        With a truth the identity is compared with the same parts of the same frame, else with the photo.
        """
        shown = parts.part_colours(result, task.parts)
        photo = parts.part_colours(task.photo[None], task.photo_parts[None])
        found = {
            "identity_photo": parts.identity_difference(photo, shown),
            "pose": parts.pose_agreement(task.parts, self.segmenter.labels(result)),
            "flicker": pixels.flicker(result),
        }
        if task.truth is None:
            return found
        truth, person = task.truth, task.parts > 0
        if self._truth is None or self._truth[0] is not task:
            self._truth = task, self.segmenter.features(truth)
        return found | {
            "l1": 100 * pixels.l1(truth, result),
            "l1_person": 100 * pixels.l1(truth, result, person),
            "l1_published": pixels.l1_published(truth, result),
            "psnr": pixels.psnr(truth, result),
            "psnr_person": pixels.psnr(truth, result, person),
            "psnr_overflowing": pixels.psnr_overflowing(truth, result),
            "ssim": pixels.ssim(truth, result),
            "ssim_person": pixels.ssim(truth, result, person),
            "feature_distance": pixels.feature_distance(self._truth[1], self.segmenter.features(result)),
            "temporal": pixels.temporal_error(truth, result),
            "temporal_person": pixels.temporal_error(truth, result, person),
            "sharpness_person": pixels.gradient_energy(truth, result, person),
            "ssim_head": pixels.head_ssim(truth, result, task.parts),
            "identity": parts.identity_difference(parts.part_colours(truth, task.parts), shown),
        }


def mean_figures(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each figure over people; NaN (nobody to judge) is left out."""
    return {key: _mean([row[key] for row in rows]) for key in rows[0]}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def table(rows: Mapping[str, Mapping[str, float]], columns: Sequence[tuple[str, str, int]]) -> str:
    """Markdown: one line per method."""
    lines = ["| what | " + " | ".join(title for _, title, _ in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, figures in rows.items():
        cells = [f"{figures[key]:.{digits}f}" for key, _, digits in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_report(folder: Path, rows: Mapping[str, Mapping[str, float]], *, digits: int, **kept: Any) -> str:
    """Write ``results.md``, a line a row, and ``results.json`` with what is kept; returns the table."""
    columns = [(name, name, digits) for name in next(iter(rows.values()))]
    text = table(rows, columns) + "\n"
    (folder / "results.md").write_text(text, encoding="utf-8")
    write_json(folder / "results.json", kept)
    return text


def write_json(path: Path, content: Mapping) -> None:
    """Write under a temporary name first; numbers that JSON does not know become ``null``."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(_finite(content), indent=1) + "\n")
    os.replace(temporary, path)


def _finite(value):
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
