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

HERE = Path(__file__).parent / "golden" / "densepose"

_NAME = re.compile(r"(?P<name>\w+)(\[(?P<slices>.*)\])?$")


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
