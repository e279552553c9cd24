"""Reference numbers of DensePose R-CNN, and the made-up weights with which they were made.

The numbers come from detectron2 with weights drawn by name, so they prove arithmetic, not quality. What is
in ``tests/golden/densepose`` is a choice of them; ``../shared/golden/densepose`` has them all.
"""

from __future__ import annotations

import json
import re
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from densepose_tools.rcnn import network as rcnn
from densepose_tools.rcnn import regions
from densepose_tools.rcnn.boxes import rescaled
from densepose_tools.rcnn.network import DensePoseRCNN, as_bytes, box_corner_and_size, chart_result
from densepose_tools.rcnn.proposals import anchors

HERE = Path(__file__).parent / "golden" / "densepose"

_NAME = re.compile(r"(?P<name>[\w.]+)(\[(?P<slices>.*)\])?$")


def fill(key: str, rule: dict) -> np.ndarray:
    """The made-up value of a tensor of the released network."""
    if rule["kind"] == "list":
        return np.array(rule["values"], dtype=np.float32).reshape(rule["shape"])
    seed = zlib.crc32(f"densepose/{key}".encode())
    x = np.random.Generator(np.random.PCG64(seed)).standard_normal(rule["shape"], dtype=np.float32)
    x = np.abs(x) if rule["kind"] == "abs" else x
    return np.float32(rule["offset"]) + np.float32(rule["scale"]) * x


@lru_cache(maxsize=1)
def rules() -> dict[str, dict]:
    """Key -> shape and how it is filled."""
    return json.loads((HERE / "fill.json").read_text(encoding="utf-8"))


def filled_state() -> dict[str, torch.Tensor]:
    """The made-up weights of the whole network, 256 MB."""
    return {key: torch.from_numpy(fill(key, rule)) for key, rule in rules().items()}


def cases(folder: Path) -> dict[str, dict]:
    """Sizes and scores of each case of a folder."""
    return json.loads((folder / "cases.json").read_text(encoding="utf-8"))


def golden(folder: Path, case: str) -> dict[str, np.ndarray]:
    """Tensors of a case by key; a key is a name and the slice that was kept of it."""
    return load_file(folder / f"{case}.safetensors")


def sliced(key: str) -> tuple[str, tuple[slice | int, ...]]:
    """``"p2[0,::16]"`` -> ("p2", (0, slice(None, None, 16)))."""
    match = _NAME.match(key.replace(" ", ""))
    parts: list[slice | int] = []
    for part in (match["slices"] or "").split(",") if match["slices"] else ():
        numbers = [int(number) if number else None for number in part.split(":")]
        parts.append(numbers[0] if len(numbers) == 1 else slice(*numbers))
    return match["name"], tuple(parts)


def small_picture() -> np.ndarray:
    """A picture of coloured squares, RGB uint8 (96, 128, 3)."""
    colours = np.random.default_rng(7).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.repeat(np.repeat(colours, 16, axis=0), 16, axis=1)


def outputs(network: DensePoseRCNN, image: np.ndarray, fixed_boxes: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that is compared, by the names of the reference numbers.

    Args:
        network: with the made-up weights.
        image: RGB uint8 (H, W, 3).
        fixed_boxes: float32 (K, 4) in the network's pixels, for which charts are made whatever is detected.
    """
    size = rcnn.network_size(*image.shape[:2], short=network.short, long=network.long)
    heads, found = network.roi_heads, {}
    with torch.inference_mode():
        found["resized_bgr_u8"] = torch.from_numpy(rcnn.resized_bgr(image, size).copy())
        found["x"] = rcnn.network_input([image], size, torch.device("cpu"))
        found |= network.backbone.bottom_up(found["x"])
        levels = network.backbone(found["x"])
        found |= levels
        for name, level in levels.items():
            found[f"rpn_obj_{name}"], found[f"rpn_delta_{name}"] = network.proposal_generator.rpn_head(level)
            found[f"anchors_{name}"] = anchors(name, *level.shape[2:])
        ((boxes, logits),) = network.proposal_generator(levels, size)
        found |= {"proposals": boxes, "proposal_logits": logits, "num_proposals": torch.tensor([len(boxes)])}
        found["box_pooled"] = heads.pool_boxes(levels, [boxes])
        found["box_head_fc2"] = heads.box_head(found["box_pooled"])
        found["cls_logits"], found["bbox_deltas"] = heads.box_predictor(found["box_head_fc2"])
        people = regions.choose_people(boxes, found["cls_logits"], found["bbox_deltas"], size)
        found["det_boxes_network_xyxy"], found["det_scores"], found["det_proposal_index"] = people
        found["det_boxes_image_xyxy"], has_area = rescaled(people[0], size, image.shape[:2])
        found["det_scores_image"] = people[1][has_area]
        found["decoder"] = heads.decode(levels)
        fixed = torch.from_numpy(fixed_boxes)
        found["fixed_boxes_network_xyxy"] = fixed
        found["fixed_boxes_image_xyxy"], _ = rescaled(fixed, size, image.shape[:2])
        found |= _charts(heads, found["decoder"], fixed, found["fixed_boxes_image_xyxy"])
    return {name: value.numpy() for name, value in found.items()}


def _charts(heads, decoded: torch.Tensor, boxes: torch.Tensor, image_boxes: torch.Tensor) -> dict:
    found = {"dp_pooled": heads.pool_parts(decoded, [boxes])}
    found["dp_head"] = heads.densepose_head(found["dp_pooled"])
    found["fine_lowres_56"] = heads.densepose_predictor.index_uv_lowres(found["dp_head"])
    charts = heads.charts(decoded, [boxes])
    found |= dict(zip(("coarse_segm", "fine_segm", "u", "v"), charts, strict=True))
    for k, box in enumerate(image_boxes):
        _, _, width, height = box_corner_and_size(box)
        labels, coordinates = chart_result(*(chart[k] for chart in charts), size=(height, width))
        found[f"chart{k}.labels_u8"], found[f"chart{k}.uv_f32"] = labels, coordinates
        found[f"chart{k}.uv_u8"] = as_bytes(coordinates)
    return found


BOXES, SCORES, LABELS, FEATURES = 0.05, 1e-3, 0.9995, 1e-4
"""What is allowed: pixels, scores, share of equal labels, and share of the largest value."""


def disagreements(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> list[str]:
    """The keys in which two sets of outputs differ by more than is allowed, with the figures."""
    wrong = []
    for key, reference in expected.items():
        name, parts = sliced(key)
        mine = found[name][parts]
        if mine.shape != reference.shape:
            wrong.append(f"{key}: shape {mine.shape}, not {reference.shape}")
        elif name in ("det_proposal_index", "num_proposals", "resized_bgr_u8", "x"):
            if not np.array_equal(mine, reference):
                wrong.append(f"{key}: not equal")
        elif reference.dtype == np.uint8:
            same = np.isclose(mine, reference, rtol=0, atol=1 if "uv" in name else 0).mean()
            if same < LABELS:
                wrong.append(f"{key}: {same:.5f} are equal")
        else:
            apart = np.abs(mine - reference)
            allowed = FEATURES * np.abs(reference).max()
            # Where two parts score alike, rounding decides which one a pixel shows, and so whose coordinates.
            if name.endswith("uv_f32") and (apart <= allowed).mean() >= LABELS:
                continue
            difference = apart.max()
            if "boxes" in name or name == "proposals":
                allowed = BOXES
            elif "scores" in name:
                allowed = SCORES
            if difference > allowed:
                wrong.append(f"{key}: {difference:.3g}, allowed {allowed:.3g}")
    return wrong
