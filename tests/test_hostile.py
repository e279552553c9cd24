"""What must not freeze, lose or fill anything: sizes, signals, numbers that are not finite, scratch files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from densepose_tools.archive import Archive
from densepose_tools.resume_log import ResumeLog
from magicanimate.animator import Animator, ModelDefaults
from magicanimate.checkpoints.disk import check_replaceable
from magicanimate.config import AnimationRequest, MediaLimits
from magicanimate.errors import Cancelled, InputError
from magicanimate.request_checks import check_request
from magicanimate.webui import scratch as scratch_module
from magicanimate.webui.gallery.library import Library
from magicanimate.webui.scratch import Scratch, remove_abandoned
from tests.conftest import PATIENCE, ROOT
from tests.inputs import write_motion, write_photo
from tests.result_files import write_result


@pytest.fixture
def wanted(tmp_path) -> AnimationRequest:
    photo, motion = write_photo(tmp_path / "me.png"), write_motion(tmp_path / "dance.mp4", 3)
    return AnimationRequest(photo, motion, tmp_path / "out" / "o.mp4", side_by_side=True)


# Sizes and settings


def test_the_area_is_bounded_by_the_checkpoint(wanted):
    mini = ModelDefaults("mini", 128, 128, 4, 1.0)
    for size in ((4096, 4096), (100_000, 128), (520, 512)):
        with pytest.raises(InputError, match=r"too many for this checkpoint.*at most 262144.*512x512"):
            mini.completed(replace(wanted, width=size[0], height=size[1]))
    for size in ((512, 512), (1024, 256), (8, 8)):
        assert mini.completed(replace(wanted, width=size[0], height=size[1])).width == size[0]


def test_the_size_is_bounded_by_the_memory(wanted, tiny_model, monkeypatch):
    animator = Animator(tiny_model, device="cpu")
    animator.check_size(wanted)
    with pytest.raises(InputError, match="knows 24 positions in time"):
        animator.check_size(replace(wanted, context_length=25))
    monkeypatch.setattr("magicanimate.animator.total_bytes", lambda device: 10**8)
    with pytest.raises(InputError, match=r"need about .* GB, and cpu has 0.1 GB in all"):
        animator.check_size(wanted)
    assert not animator.loaded


@pytest.mark.parametrize(
    "change",
    [
        {"guidance_scale": float("nan")},
        {"guidance_scale": float("inf")},
        {"controlnet_conditioning_scale": float("nan")},
        {"fps": float("nan")},
        {"start": float("-inf")},
        {"end": float("nan")},
        {"reference_strength": float("nan")},
        {"seed": 10**30},
        {"stride": 10**20},
        {"context_stride": 10**20},
        {"limits": MediaLimits(max_seconds=float("nan"))},
        {"limits": MediaLimits(max_frames=-1)},
    ],
)
def test_numbers_that_make_no_sense(wanted, change):
    with pytest.raises(InputError, match="give a number|choose") as error:
        check_request(replace(wanted, **change))
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("name", "steps"), [("PNDMScheduler", 2), ("RePaintScheduler", 4), ("SchedulerMixin", 2)]
)
def test_schedulers_are_tried_before_the_work(wanted, tiny_model, name, steps):
    animator = Animator(tiny_model, device="cpu")
    with pytest.raises(InputError, match=f"{name} does not work with this checkpoint and {steps} steps"):
        animator.animate(replace(wanted, scheduler=name, num_inference_steps=steps))
    assert not wanted.output.exists()


# Stopping


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_stop_is_asked_within_a_window(wanted, tiny_model, share):
    """One step of one window asks hundreds of times, and ends wherever the answer is yes."""
    animator = Animator(tiny_model, device="cpu")
    wanted = replace(wanted, num_inference_steps=1, guidance_scale=1.0)
    asked = 0

    def count() -> bool:
        nonlocal asked
        asked += 1
        return asked == last

    last = 0
    animator.animate(wanted, should_stop=count)
    everything, asked = asked, 0
    assert everything > 100
    last = int(share * everything)
    shutil.rmtree(wanted.output.parent)
    with pytest.raises(Cancelled):
        animator.animate(wanted, should_stop=count)
    assert asked == last and list(wanted.output.parent.iterdir()) == []
    last = 0
    assert animator.animate(wanted, should_stop=count).num_frames == 3  # nothing is left in the networks


@pytest.mark.skipif(os.name == "nt", reason="signals are Unix's")
@pytest.mark.parametrize("first", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_second_signal_ends_at_once(tmp_path, first):
    """The main thread is within one call, as in a network; a half-written file goes all the same."""
    code = (
        "import signal, sys, time; from pathlib import Path; from magicanimate import files, progress\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have it ignored,
        "getattr(signal, 'SIGHUP', None) and signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # nohup this one
        "with progress.stop_on_interrupt() as should_stop:\n"
        f"    files.partial_path(Path({str(tmp_path)!r}, 'a.mp4')).touch()\n"
        "    print('ready', flush=True)\n"
        "    while not should_stop(): time.sleep(0.01)\n"
        "    print('stopping', flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(getattr(signal, first))
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
        assert list(tmp_path.iterdir()) == []
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(os.name == "nt", reason="these are Unix's redirections")
@pytest.mark.parametrize(
    ("redirection", "status"), [(">&-", 0), ("2>&-", 0), (">/dev/full", 2), ("2>/dev/full", 0), ("| true", 0)]
)
def test_nobody_need_listen(redirection, status):
    code = (
        "import sys; from magicanimate.progress import exit_status, say\n"
        "def work():\n    say('working')\n    print('x' * 100_000)\n"
        "sys.exit(exit_status(work))"
    )
    line = f'set -o pipefail; {sys.executable} -c "$CODE" {redirection}'
    ran = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env=os.environ | {"CODE": code}, capture_output=True, text=True
    )
    assert ran.returncode == status and "Traceback" not in ran.stderr and "Exception" not in ran.stderr


# Numbers that are not finite, and damaged checkpoints


def broken(model: Path, folder: Path, part: str, change) -> Animator:
    """A copy of a checkpoint with the weights of one part changed."""
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(model, folder / "broken")
    (file,) = (copy / part).glob("*.safetensors")
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return Animator(copy, device="cpu")


def without_first(weights: dict) -> None:
    del weights[min(weights)]


def with_nan(weights: dict) -> None:
    weights[sorted(weights)[len(weights) // 2]].fill_(float("nan"))


@pytest.mark.parametrize("part", ["unet", "vae", "appearance_encoder", "controlnet", "empty_prompt"])
def test_missing_tensors_are_named(tmp_path, tiny_model, part):
    animator = broken(tiny_model, tmp_path, part, without_first)
    with pytest.raises(InputError, match=rf"The weights in .*broken.{part} lack \w+"):
        animator.load()


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ("unet", "the latents after step 1 of 2"),
        ("controlnet", "the latents after step 1 of 2"),
        ("appearance_encoder", "the latents after step 1 of 2"),
        ("vae", "the frames from number 0 on|the latents of the photo"),
    ],
)
def test_weights_that_are_not_finite_make_no_flat_video(tmp_path, tiny_model, wanted, part, where):
    animator = broken(tiny_model, tmp_path, part, with_nan)
    with pytest.raises(InputError, match=f"values that are not finite in {where}"):
        animator.animate(wanted)
    assert list(wanted.output.parent.iterdir()) == []


def test_guidance_that_is_too_strong_is_said_at_its_step(wanted, tiny_model):
    with pytest.raises(InputError, match="not finite in the latents after step"):
        Animator(tiny_model, device="cpu").animate(replace(wanted, guidance_scale=1e38))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"default_steps": None}, "default_steps is None"),
        ({"default_width": 36}, "default_width is 36, no multiple of 8"),
        ({"default_guidance_scale": "x"}, "default_guidance_scale is 'x'"),
        ({"unet": ["os", "system"]}, "its unet is"),
        ({"unet": 5}, "its unet is 5"),
        ({"_class_name": "StableDiffusionPipeline"}, "belongs to no MagicAnimatePipeline"),
        (None, "has the networks of a checkpoint but no model_index.json"),
    ],
)
def test_odd_indexes_of_checkpoints(tmp_path, tiny_model, change, reason):
    copy = shutil.copytree(tiny_model, tmp_path / "odd")
    if change is None:
        (copy / "model_index.json").unlink()
    else:
        index = json.loads((copy / "model_index.json").read_text())
        (copy / "model_index.json").write_text(json.dumps(index | change))
    with pytest.raises(InputError, match=reason):
        _ = Animator(copy).defaults


def test_a_folder_of_photos_is_no_place_for_a_checkpoint(tmp_path, tiny_model):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.png").touch()
    own = shutil.copytree(tiny_model, tmp_path / "own")
    check_replaceable(own, overwrite=None)
    (own / "me.png").touch()
    for folder, words in (
        (tmp_path / "photos", "is not a converted checkpoint"),
        (own, "me.png, which is no part"),
    ):
        with pytest.raises(InputError, match=words):
            check_replaceable(folder, overwrite=None)
    check_replaceable(own, overwrite=True)


# Two at one output


def test_two_extractions_do_not_share_a_resume_log(tmp_path):
    path = tmp_path / ".map.mp4.frames"
    with ResumeLog(path, {"clip": "a"}) as first:
        first.append([])
        with pytest.raises(InputError, match="Another run is at work on"):
            ResumeLog(path, {"clip": "a"})
        assert len(first) == 1
    with ResumeLog(path, {"clip": "a"}) as again:
        assert again.resumed == 1
        again.delete()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"my notes", b'{"clip": 1}\nmore', bytes(100)])
def test_a_foreign_file_of_the_resume_logs_name_stays(tmp_path, content):
    path = tmp_path / ".map.mp4.frames"
    path.write_bytes(content)
    with pytest.raises(InputError, match="was not made by this program"):
        ResumeLog(path, {"clip": "a"})
    assert path.read_bytes() == content and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_ends_an_extraction_in_a_sentence(tmp_path):
    resource = pytest.importorskip("resource", reason="limits on file sizes are Unix's")
    from densepose_tools.people import Person

    rng = np.random.default_rng(0)
    noise = Person((0.0, 0.0, 200.0, 200.0), 1.0, rng.integers(0, 25, (200, 200), np.uint8))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with (
            ResumeLog(tmp_path / "j", {"clip": "a"}) as resume_log,
            pytest.raises(InputError, match="free some"),
        ):
            for _ in range(20):
                resume_log.append([noise])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    with ResumeLog(tmp_path / "j", {"clip": "a"}) as resume_log:  # what was whole is still there
        assert 0 < resume_log.resumed < 20
        assert all(len(people) == 1 for people in resume_log)


# Scratch files


def upload(folder: Path, name: str, size: int, age: float) -> Path:
    path = folder / name / "file"
    path.parent.mkdir()
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_uploads_are_bounded_for_each_visitor_and_in_all(tmp_path, monkeypatch):
    # A file's change time cannot be set, so that the order is that of its making.
    with Scratch(tmp_path, per_visitor=250, in_all=450) as scratch:
        old = [upload(scratch.folder, f"a{i}", 100, 10) for i in range(3)]
        for path in old:
            scratch.uploaded("anna", [path])
            time.sleep(0.02)
        assert [path.exists() for path in old] == [False, True, True]
        new = []
        for i in range(3):
            new.append(upload(scratch.folder, f"b{i}", 100, 0))
            if i < 2:
                scratch.uploaded("ben", new[-1:])
                assert all(path.exists() for path in (*old[1:], *new))
            time.sleep(0.02)
        scratch.trim()
        assert [path.exists() for path in (*old[1:], *new)] == [False, True, True, True, True]
        with pytest.raises(InputError, match="250 B are the most"), scratch.upload("carl", 251):
            pass
        with scratch.upload("carl", 200), scratch.upload("dora", 200):
            for who in ("carl", "eve"):
                with pytest.raises(InputError, match="at the same time"), scratch.upload(who, 100):
                    pass
        with scratch.upload("carl", 200):
            pass
    assert list(tmp_path.iterdir()) == []


def test_the_next_start_removes_what_no_living_program_owns(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from magicanimate.webui.scratch import Scratch\n"
        "scratch = Scratch(Path(sys.argv[1])); (scratch.folder / 'me.png').touch(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    (abandoned,) = tmp_path.iterdir()
    foreign = tmp_path / "magicanimate-notes"
    foreign.mkdir()
    with Scratch(tmp_path) as living:
        assert not abandoned.exists() and foreign.exists()
        (tmp_path / "magicanimate-link").symlink_to(living.folder)
        remove_abandoned(tmp_path)
        assert living.folder.exists()


def test_temporary_folders_lie_in_the_scratch_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(scratch_module.FOLDER_VARIABLE, str(tmp_path))
    with scratch_module.temporary_folder() as folder:
        assert Path(folder).parent == tmp_path
    monkeypatch.setenv(scratch_module.FOLDER_VARIABLE, str(tmp_path / "gone"))
    with scratch_module.temporary_folder() as folder:
        assert Path(folder).parent != tmp_path


# A kill during a move


@pytest.mark.parametrize("moved", [0, 1, 2])
@pytest.mark.parametrize("back", [False, True])
def test_a_move_that_was_killed_is_finished(tmp_path, monkeypatch, moved, back):
    result = write_result(tmp_path / "20260102-090000_anna_waltz.mp4", strip=True)
    library = Library(tmp_path)
    (found,) = library.results()
    trashed = library.trash.put(found) if back else None
    rename, left = os.rename, moved

    def until_killed(source, target) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise SystemExit  # as good as a kill: nothing cleans up
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("magicanimate.webui.gallery.library.os.rename", until_killed)
        library.trash.restore(trashed.id) if back else library.trash.put(found)
    after = Library(tmp_path)
    after.trash.finish_moves()
    assert len(after.results()) == int(back) and len(after.trash.results()) == int(not back)
    if not back:
        after.trash.restore(after.trash.results()[0].id)
    (there,) = after.results()
    assert there.output.exists() and there.strip is not None and result is not None
    assert not list((tmp_path / ".bin").iterdir())


def test_archives_say_their_rate(tmp_path):
    """An exact fraction survives."""
    from densepose_tools.archive import ClipInfo, write_archive

    write_archive(tmp_path / "a.npz", [[]], ClipInfo(8, 8, Fraction(30000, 1001), 1, {}))
    with Archive(tmp_path / "a.npz") as archive:
        assert archive.info.rate == Fraction(30000, 1001) and archive[0] == []
