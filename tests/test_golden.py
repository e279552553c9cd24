"""Our networks and loops compute the published program's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from magicanimate.windows import WindowPlan
from tests.golden_cases import compare, load_cases, tiny_pipeline
from tests.published_layout import fill_tensor, normals

COMPACT = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def check(folder: Path, name: str, pipe) -> None:
    rows = compare(load_cases(folder)[name], folder, pipe)
    assert rows
    for row in rows:
        print(f"{row.case:34} {row.output:44} {row.difference:9.2e} of {row.tolerance:8.2e}")
    worst = max(rows, key=lambda row: row.difference / row.tolerance)
    assert worst.difference <= worst.tolerance, worst


def test_fill_rule():
    """The rule that fills weights and inputs gives the recorded numbers."""
    recorded = json.loads((COMPACT / "cases.json").read_text())["self_test"]
    assert len(recorded) == 4
    for name, values in recorded.items():
        kind, _, key = name.partition("/")
        shape = (3,) if key.endswith((".bias", "norm_out.weight")) else (8, 4, 3, 3)
        tensor = normals(name, shape) if kind == "input" else fill_tensor(kind, key, shape)
        assert tensor.flatten()[:3].tolist() == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize("name", load_cases(COMPACT))
def test_compact(name, pipe):
    check(COMPACT, name, pipe)


def whole_set() -> list[str]:
    folder = Path(__file__).resolve().parents[2] / "shared" / "golden" / "magicanimate"
    return list(load_cases(folder)) if folder.is_dir() else ["absent"]


@pytest.mark.parametrize("name", whole_set())
def test_whole_set(name, pipe, shared):
    check(shared / "golden" / "magicanimate", name, pipe)


def test_windows():
    rows = json.loads((COMPACT / "context_windows.json").read_text())
    assert len(rows) > 50
    for row in rows:
        plan = WindowPlan(
            closed_loop=True,
            context_length=row["context_size"],
            context_overlap=row["context_overlap"],
            context_stride=row["context_stride"],
            context_offset=True,
        )
        assert plan.windows(row["num_frames"], step=row["step"]) == row["windows"]


def test_scheduler(pipe):
    recorded = json.loads((COMPACT / "scheduler.json").read_text())
    for steps, timesteps in recorded["timesteps"].items():
        pipe.scheduler.set_timesteps(int(steps))
        assert pipe.scheduler.timesteps.tolist() == timesteps
    for index, alpha in recorded["alphas_cumprod"].items():
        assert pipe.scheduler.alphas_cumprod[int(index)].item() == pytest.approx(alpha, rel=1e-6)
    assert float(pipe.scheduler.final_alpha_cumprod) == 1.0


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.12), (torch.float16, 0.02)])
def test_half_precision_is_near_float32(dtype, tolerance, pipe):
    """One denoised window in half precision is finite and near the float32 result."""
    import numpy as np

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    control = rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    settings = {"num_inference_steps": 1, "guidance_scale": 2.0, "output_type": "latent"}
    expected = pipe(image, control, **settings).latents
    half = tiny_pipeline(dtype)(image, control, **settings).latents
    assert torch.isfinite(half).all()
    relative = (half - expected).norm() / expected.norm()
    assert relative < tolerance
