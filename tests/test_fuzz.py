"""Made-up files for every reader of our own formats: what cannot be read is an `InputError`, nothing else.

What was found this way, and by hand, is in `CORPUS`; it runs in every test, the search in the slow ones.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densepose_tools.archive import Archive, ClipInfo, write_archive
from densepose_tools.keypoints import Keypoints, read_keypoints, write_keypoints
from densepose_tools.people import Person
from densepose_tools.resume_log import ResumeLog
from magicanimate.animator import Animator
from magicanimate.cli.batch import load_batch
from magicanimate.errors import InputError
from magicanimate.files import encode_json
from magicanimate.webui.animate.earlier_settings import SavedSettings, reuse
from magicanimate.webui.animate.forecast import is_known
from magicanimate.webui.animate.form_values import form_settings, of_result
from magicanimate.webui.gallery.library import Library
from magicanimate.webui.gallery.results import read_settings
from magicanimate.webui.jobs.queue import Job, JobFiles
from magicanimate.webui.training.detached import DetachedProcess
from magicanimate.webui.training.runs import TrainingManager, TrainingRun
from training.export import saved_config
from training.presets import tiny
from training.run_folder import Metrics, check_settings

DEFAULTS = {"width": 32, "height": 32, "steps": 2, "guidance_scale": 1.0}
INDEX = {"_class_name": "MagicAnimatePipeline", "kind": "mini", "controlnet_keypoints": [None, None]}
INDEX |= {f"default_{name}": value for name, value in DEFAULTS.items()}
RESULT = {
    "program": "MagicAnimate 0.1.0",
    "output": "a.mp4",
    "photo": "me.png",
    "motion": "dance.mp4",
    "seed": 1,
    "model": "mini",
    "device": "cpu",
    "dtype": "float32",
    "num_frames": 4,
    "output_fps": 25.0,
    "width": 32,
    "height": 32,
    "num_inference_steps": 2,
    "guidance_scale": 1.0,
    "prompt": "",
    "credentials": True,
    "seconds": {"denoise": 1.0, "decode": 0.5},
}
JOB = Job("a1b2", "animate", "me", {"photo": "me.png", "motion": "d.mp4"}, state="done", ended=1.0).to_json()
PERSON = Person((2.0, 3.0, 4.0, 5.0), 0.9, np.ones((5, 4), np.uint8))


def read_archive(folder: Path, file: Path) -> None:
    with Archive(file) as archive:
        list(archive)


def read_resume_log(folder: Path, file: Path) -> None:
    with ResumeLog(file, {"clip": "a"}) as resume_log:
        list(resume_log)


def read_result(folder: Path, file: Path) -> None:
    (folder / "a.mp4").touch()
    library = Library(folder)
    for result in library.results("me"):
        _ = (result.fps, result.size, result.num_frames, result.photo_name, result.companions())
        of_result(result.settings, form_settings(Animator("mini").defaults))
    is_known({"model": "mini", "device": "cpu", "dtype": "float32"}, folder)
    reuse(read_settings(file), [folder])


def read_presets(folder: Path, file: Path) -> None:
    presets = SavedSettings(folder)
    for name in presets.names():
        try:
            presets.load(name, form_settings(Animator("mini").defaults))
        except InputError:
            continue


def read_queue(folder: Path, file: Path) -> None:
    files = JobFiles(folder)
    try:
        files.sweep(files.load())
    finally:
        files.close()


def read_run(folder: Path, file: Path) -> None:
    run = TrainingRun(folder)
    _ = (run.status(), run.curve())
    Metrics(folder, step=5).close()
    try:
        check_settings(folder, {"steps": 4})
    finally:
        saved_config(folder.parent, tiny("stage2")[0])


def read_process(folder: Path, file: Path) -> None:
    _ = DetachedProcess(folder, "training").running


def archive_bytes(folder: Path) -> bytes:
    write_archive(folder / "x.npz", [[PERSON]], ClipInfo(16, 12, Fraction(25), 1, {"engine": "mini"}))
    return (folder / "x.npz").read_bytes()


def keypoints_bytes(folder: Path) -> bytes:
    write_keypoints(folder / "x.npz", Keypoints(np.zeros((1, 1, 18, 3), np.float32), 4, 4))
    return (folder / "x.npz").read_bytes()


def resume_log_bytes(folder: Path) -> bytes:
    with ResumeLog(folder / "x", {"clip": "a"}) as resume_log:
        resume_log.append([PERSON])
    return (folder / "x").read_bytes()


# Kind of file -> its place, the content of a good one (bytes made in a folder, or a JSON value), its reader.
KINDS: dict[str, tuple[str, object, Callable[[Path, Path], object]]] = {
    "archive": ("map.npz", archive_bytes, read_archive),
    "keypoints": ("a.npz", keypoints_bytes, lambda folder, file: read_keypoints(file)),
    "resume_log": (".map.mp4.frames", resume_log_bytes, read_resume_log),
    "result": ("a.json", RESULT, read_result),
    "yaml": ("a.yaml", RESULT, lambda folder, file: load_batch(file)),
    "presets": ("a.json", {"name": "a", "values": {"seed": 1}}, read_presets),
    "queue": (".jobs/a1b2.json", JOB, read_queue),
    "run": ("config.json", {"stage": "stage2", "steps": 4, "loss": {"prediction": "epsilon"}}, read_run),
    "metrics": ("metrics.jsonl", {"step": 1, "loss": 1.0}, read_run),
    "process": ("training.process.json", {"pid": 1, "began": 1.0}, read_process),
    "training form": ("training.json", {"preset": "tiny"}, lambda folder, file: TrainingManager(file).config),
    "index": ("model_index.json", INDEX, lambda folder, file: Animator(folder).defaults),
}


@cache
def good(kind: str) -> bytes:
    import tempfile

    content = KINDS[kind][1]
    if callable(content):
        with tempfile.TemporaryDirectory() as folder:
            return content(Path(folder))
    return encode_json(content, indent=None)


def read(kind: str, content: bytes, folder: Path) -> None:
    """Read a file of a kind; anything but success and an `InputError` is a fault."""
    place, _, reader = KINDS[kind]
    folder = folder / "stage2"
    file = folder / place
    file.parent.mkdir(parents=True, exist_ok=True)
    for left in [path for path in folder.rglob("*") if path.is_file()]:
        left.unlink()
    file.write_bytes(content)
    try:
        reader(folder, file)
    except InputError as error:
        assert len(str(error)) < 2000 and "Traceback" not in str(error)


ODD = [None, True, -1, 0, 5, 1e308, "x" * 50, [], {}, [[]], {"a": []}, "../../x", "\0", "~nobody/x", "\udce9"]
TEXTS = [
    b"",
    b"[",
    b"[]",
    b"5",
    b"null",
    b"\xff",
    b"NaN",
    b'"a"',
    b"[" * 5000,
    b"1" * 5000,
    b"PK\x03\x04",
    b"{",
]
FAILED = {
    "yaml": [
        b"start: 2026-02-31",
        b"seed: !!int x",
        b"seed: " + b"1" * 5000,
        b"a: &a [*a]",
        b"a: " + b"[" * 2000,
        b"photo: ~nosuchuser/me.png",
        b"photo: a\nmotion: b\nsavename: ../../x",
        b"? [a]\n: b",
    ],
    "queue": [b'{"results": 5}', b'{"id": "../../x", "kind": "a", "title": "", "request": {}}'],
    "metrics": [b'{"step": 1', b'{"step": 1e999}\n', b'{"loss": NaN}\n[]\n'],
    "index": [b'{"_class_name": "MagicAnimatePipeline", "unet": ["os", "system"]}'],
    "archive": [b"PK\x05\x06" + bytes(18)],  # a zip file without entries
    "keypoints": [b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\x00"],
}
"""What once ended in a traceback, or would have."""

CORPUS = [(kind, text) for kind in KINDS for text in (*TEXTS, *FAILED.get(kind, ()))]
CORPUS += [
    (kind, encode_json({**content, name: value}, indent=None))
    for kind, (_, content, _) in KINDS.items()
    if isinstance(content, dict)
    for name in content
    for value in ODD
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_file_is_read(kind, tmp_path):
    place, _, reader = KINDS[kind]
    file = tmp_path / "stage2" / place
    file.parent.mkdir(parents=True)
    file.write_bytes(good(kind))
    if kind == "metrics":
        with pytest.raises(InputError, match="belongs to no run"):
            reader(tmp_path / "stage2", file)
    else:
        reader(tmp_path / "stage2", file)


@pytest.mark.parametrize("kind", KINDS)
def test_corpus(kind, tmp_path, caplog):
    for one, content in CORPUS:
        if one == kind:
            read(kind, content, tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
CHANGES = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=8), st.integers(0, 8)), max_size=4)


def changed(content: bytes, changes: list[tuple[float, bytes, int]], kept: float) -> bytes:
    """A file with bytes replaced at some places, and cut off."""
    for where, new, removed in changes:
        at = int(where * len(content))
        content = content[:at] + new + content[at + removed :]
    return content[: int(kept * len(content))] if kept < 0.5 else content


SECONDS = 20.0
"""Of this process's time that a target may take; a slow computer tries fewer files."""

_began: dict[str, float] = {}


def spent(target: str) -> bool:
    """Whether a target has had its time."""
    return time.process_time() - _began.setdefault(target, time.process_time()) > SECONDS


BOUNDED = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@BOUNDED
@given(changes=CHANGES, kept=st.floats(0, 1))
def test_damaged_bytes(kind, tmp_path, changes, kept):
    if spent(f"bytes of {kind}"):
        return
    read(kind, changed(good(kind), changes, kept), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [kind for kind, (_, content, _) in KINDS.items() if isinstance(content, dict)]
)
@BOUNDED
@given(data=st.data())
def test_odd_values(kind, tmp_path, data):
    if spent(f"values of {kind}"):
        return
    content = KINDS[kind][1]
    names = st.sampled_from([*content, "other"])
    value = {**content, **data.draw(st.dictionaries(names, JSON, max_size=4))}
    try:
        written = encode_json(value, indent=None)
    except (ValueError, RecursionError):
        return
    read(kind, written, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["archive", "keypoints"])
@BOUNDED
@given(data=st.data())
def test_odd_arrays(kind, tmp_path, data):
    if spent(f"arrays of {kind}"):
        return
    with np.load(io.BytesIO(good(kind))) as kept:
        arrays = dict(kept)
    for name in data.draw(st.lists(st.sampled_from(sorted(arrays)), max_size=3)):
        dtype = data.draw(st.sampled_from([np.uint8, np.int64, np.float32, np.float64, bool, "U4"]))
        shape = tuple(data.draw(st.lists(st.integers(0, 6), max_size=4)))
        number = data.draw(st.sampled_from([0, 1, 2, 24, 25, 255, -1, 10**9]))
        arrays[name] = np.full(shape, number).astype(dtype)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    read(kind, content.getvalue(), tmp_path)
