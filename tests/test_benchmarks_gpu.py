"""`benchmarks.gpu` in small on a CPU, and the mini's recipe where little is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile

import pytest

from benchmarks import gpu, gpu_parts, train_mini
from tests.conftest import ROOT


def test_training_steps_and_what_no_time_is_left_for(tmp_path):
    """Part c in small; the tables are there after each row."""
    assert gpu.main(["--out", str(tmp_path), "--small", "--device", "cpu", "--parts", "c"]) == 0
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["about"]["small"] and written["about"]["device"] == "cpu"
    (rows,) = written["parts"].values()
    assert [row["what"] for row in rows] == ["stage1", "stage2"]
    assert all(row["seconds a step"] > 0 and row["loss"] > 0 for row in rows)
    table = (tmp_path / "gpu.md").read_text()
    assert "| stage1 | 1 |" in table and "## c. a training step" in table
    assert (
        gpu.main(["--out", str(tmp_path), "--small", "--device", "cpu", "--parts", "d", "--minutes", "0"])
        == 0
    )
    assert "no time left" in (tmp_path / "gpu.md").read_text()


def test_a_row_that_fails_is_a_row(tmp_path):
    report = gpu_parts.Report(tmp_path, {})
    bench = gpu_parts.Bench("cpu", gpu_parts.SMALL, report, deadline=float("inf"))
    assert bench.row("b", "broken", lambda: 1 / 0) is None
    assert report.parts["b"] == [{"what": "broken", "note": "failed: ZeroDivisionError: division by zero"}]


@pytest.mark.slow
def test_every_part_in_small(tmp_path):
    assert gpu.main(["--out", str(tmp_path), "--small", "--device", "cpu", "--minutes", "60"]) == 0
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    numbers = parts["a. reference numbers, float32"]
    assert len(numbers) >= 10 and all(row["within"] for row in numbers)
    steps = {row["what"]: row for row in parts["b. networks of full size, a step"]}
    assert steps["published order"]["of ours"] > 0 and steps["standard, achieved"]["TFLOP"] > 0
    assert {row["what"] for row in parts["b. presets, a whole animation"]} == {
        *("exact", "balanced", "fast", "draft")
    }
    (mini,) = parts["d. the mini's frames beside the CPU's"]
    assert mini["largest difference, levels"] == 0


def test_recipe_is_that_of_make():
    stages = [train_mini._stage(command) for command in train_mini.recipe()]
    assert stages == ["data", "vae", "base", "large", "clips", "stage2", "sharpen", "export"]
    assert set(stages) - set(train_mini.SHARES) == {"export"}


LITTLE = """
import importlib.metadata, re, sys
from importlib.machinery import PathFinder

GIVEN = ("torch torchvision transformers accelerate numpy pillow numba opencv-python opencv-python-headless "
    "opencv-contrib-python safetensors")

def canonical(name):
    return re.sub("[-_.]+", "-", name).lower()

def with_requirements(names):
    found, waiting = set(), [canonical(name) for name in names]
    while waiting:
        if (name := waiting.pop()) in found:
            continue
        try:
            requirements = importlib.metadata.distribution(name).requires or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [canonical(re.match("[A-Za-z0-9._-]+", x)[0]) for x in requirements if "extra ==" not in x]
    return found

given = with_requirements(GIVEN.split())
hidden = {
    module
    for module, owners in importlib.metadata.packages_distributions().items()
    if not given & set(map(canonical, owners))
}
installed = tuple(path for path in sys.path if "-packages" in path)

class Given(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = super().find_spec(name, path, target)
        places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
        is_installed = any(place.startswith(installed) for place in places)
        return None if is_installed and name.partition(".")[0] in hidden else spec

sys.meta_path = [Given if finder is PathFinder else finder for finder in sys.meta_path]
assert {"diffusers", "anny"} <= hidden and not {"torch", "cv2", "numpy"} & hidden
from benchmarks.gpu import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_mini_is_trained_where_little_is_installed(tmp_path):
    """The whole recipe at the tests' sizes, in a process that finds nothing installed but `GIVEN`."""
    pytest.importorskip("anny")
    packed, out = tmp_path / "packed", tmp_path / "out"
    assert gpu.main(["--pack", "--out", str(packed)]) == 0
    assert sum(file.stat().st_size for file in packed.iterdir()) + tree_size() < 64 * 2**20
    command = [sys.executable, "-c", LITTLE, "--train-mini", "--tiny", "--packed", str(packed)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    ran = subprocess.run(
        [*command, "--out", str(out)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    stages = json.loads((out / "train_mini.json").read_text())["stages"]
    assert [stage["stage"] for stage in stages] == [
        *("data", "clips", "vae", "base", "large", "stage2", "sharpen", "export")
    ]
    pieces = sorted(out.glob("mini.tar.*"))
    assert pieces and all(piece.stat().st_size <= train_mini.PIECE for piece in pieces)
    whole = tmp_path / "mini.tar"
    whole.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    with tarfile.open(whole) as tar:
        assert "mini/unet/diffusion_pytorch_model.safetensors" in tar.getnames()


def tree_size() -> int:
    """Bytes of the files of this repository, 0 where it is no checkout."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    return sum((ROOT / name).stat().st_size for name in os.fsdecode(listed).split("\0") if name)


@pytest.mark.parametrize("size", [0, 14_999_999, 15_000_000, 15_000_001])
def test_weights_come_in_pieces_of_15_mb(size):
    """And put together they are what they were."""
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    pieces = list(train_mini._pieces(data))
    assert b"".join(pieces) == data and all(len(piece) <= 15_000_000 for piece in pieces)
    assert len(pieces) == -(-size // 15_000_000)


def test_training_imports_nothing_that_reads_videos():
    """On rendered people it runs where av is not installed."""
    modules = ("training.runs", "training.export", "training.segmenter.stage")
    code = f"import sys; sys.modules['av'] = None; import {', '.join(modules)}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=600)
