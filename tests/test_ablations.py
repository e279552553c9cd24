"""One command from raw videos to the table and the pages: prepare, train, evaluate."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from magicanimate import ASSETS
from magicanimate.checkpoints.disk import read_model_index
from magicanimate.errors import InputError
from magicanimate.media.motion import open_motion
from tests.media_files import write_output
from training.__main__ import main
from training.ablations import configured, read_plan, write_table
from training.data.prepare import check_prepared


@pytest.fixture
def plan(tmp_path) -> Path:
    """Two short raw videos of somebody whom the bundled segmenter finds; two rows."""
    raw = tmp_path / "raw"
    raw.mkdir()
    frames = list(open_motion(ASSETS / "examples" / "sway_result.mp4", end=1.0).frames())
    for name in "ab":
        write_output(raw / f"{name}.mp4", frames, fps=25)
    protocol = tmp_path / "tiny.json"
    metrics = ["l1_published", "psnr", "ssim", "lpips", "fvd", "flicker"]
    saved = {"about": "tiny", "source": "here", "frames": 4, "size": 32, "metrics": metrics}
    protocol.write_text(json.dumps(saved))
    few = {"steps": 1, "checkpoint_every": 1, "sample_every": 10, "holdout": 1}
    few |= {"still_share": 0.0, "target_still_share": 0.0}
    path = tmp_path / "plan.json"
    path.write_text(
        json.dumps(
            {
                "raw": str(raw),
                "prepare": {"width": 32, "height": 32, "engine": "mini", "most_seconds": 0.5},
                "data": str(tmp_path / "data"),
                "test_data": str(tmp_path / "data"),
                "out": str(tmp_path / "out"),
                "preset": "tiny",
                "stages": ["vae", "base", "stage2"],
                "settings": few,
                "protocol": str(protocol),
                "rows": {"ours": {}, "FullCond": {"fusion": "full"}},
                "most": 1,
            }
        )
    )
    return path


def change(plan: Path, **changes) -> Path:
    plan.write_text(json.dumps(json.loads(plan.read_text()) | changes))
    return plan


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_from_raw_videos_to_the_page_by_one_command(plan, tmp_path, capsys, engine):
    saved = json.loads(plan.read_text())
    saved["prepare"]["least_seconds"] = 0.3
    if engine == "ray":
        pytest.importorskip("ray", reason="ray is not installed")
        saved["prepare"] |= {"with": "ray", "workers": 2}
        saved["rows"] = {"ours": {}}
    plan.write_text(json.dumps(saved))
    out = tmp_path / "out"
    assert main(["ablations", str(plan)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "table.md")
    assert list(check_prepared(tmp_path / "data")) == []
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [row["row"] for row in rows] == list(saved["rows"])
    for row in rows:
        folder = out / row["row"]
        assert float(row["psnr"]) > 0 and row["lpips"] == ""
        report = json.loads((folder / "evaluation" / "report.json").read_text())
        assert float(row["psnr"]) == report["figures"]["psnr"]["mean"]
        page = (folder / "evaluation" / "index.html").read_text()
        (video,) = report["videos"]
        assert f"videos/{video['name']}_truth.mp4" in page and "LPIPS: not computed" in page
        fusion = "full" if row["row"] == "FullCond" else "midup"
        index = read_model_index(folder / "stage2" / "pipeline")
        assert index["fusion"] == report["method"]["fusion"] == fusion
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")}
    assert main(["ablations", str(plan)]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")} == times, "nothing is done again"


def test_settings_of_a_row(plan):
    read = read_plan(change(plan, stage_settings={"base": {"learning_rate": 0.5}}))
    assert configured(read, "FullCond", "base").fusion == "full"
    assert configured(read, "ours", "base").optimizer.learning_rate == 0.5
    assert configured(read, "ours", "vae").optimizer.learning_rate != 0.5
    assert configured(read, "ours", "vae").holdout == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": {"a": {"fuson": "full"}}}, "There is no setting 'fuson'"),
        ({"rows": {"a": {"fusion": 3}}}, "The setting fusion is 3; it is of the kind of 'midup'"),
        ({"stages": ["first"]}, "stages of vae, base"),
        ({"stages": "vae"}, "stages in .* is 'vae'"),
        ({"strange": 1}, "wrong or missing keys: strange"),
        ({"preset": "huge"}, "a preset of paper_tiktok"),
    ],
)
def test_plans_of_no_sense(plan, changes, words):
    with pytest.raises(InputError, match=words):
        read_plan(change(plan, **changes))


def test_the_layout_of_the_table(tmp_path):
    def report(psnr: float) -> dict:
        figures = {"psnr": {"mean": psnr}, "fvd": {"not_computed": "no file"}}
        protocol = {"name": "p", "digest": "d", "about": "tiny", "metrics": ["psnr", "fvd"]}
        return {"protocol": protocol, "figures": figures}

    write_table(tmp_path, {"DWPose": report(17.187), "ours": report(18.22)})
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| | PSNR, dB | FVD |"
    assert lines[2:4] == ["| DWPose | 17.19 | not computed |", "| ours | 18.22 | not computed |"]
    assert (tmp_path / "table.csv").read_text() == "row,psnr,fvd\nDWPose,17.187,\nours,18.22,\n"
