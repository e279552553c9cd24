"""The command line, as a user types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
import yaml

from magicanimate import __version__
from magicanimate.cli.batch import load_batch
from magicanimate.cli.main import build_parser, main, requests_of
from magicanimate.errors import InputError
from magicanimate.media.motion import open_motion
from magicanimate.progress import ProgressMeter, time_left
from magicanimate.windows import WindowPlan
from tests.conftest import PATIENCE, ROOT
from tests.inputs import write_motion, write_photo


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    return write_photo(tmp_path_factory.mktemp("photo") / "me.png")


@pytest.fixture(scope="module")
def motion(tmp_path_factory) -> Path:
    return write_motion(tmp_path_factory.mktemp("motion") / "dance.mp4", 5)


def requests(*words: object):
    return requests_of(build_parser().parse_args(["animate", *map(str, words)]))


def write_yaml(path: Path, **settings) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


def video(path: Path) -> tuple[int, int, int, float]:
    """Frames, width, height and rate of a video file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        return frames, stream.width, stream.height, float(stream.average_rate)


@pytest.mark.parametrize("which", ["photo", "motion"])
def test_files_that_are_not_there_are_named_before_anything_is_loaded(
    which, photo, motion, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("magicanimate.cli.main.Animator", lambda *_, **__: pytest.fail("loaded"))
    given = {"photo": photo, "motion": motion, which: tmp_path / "gone"}
    assert main(["animate", *map(str, given.values()), "-o", str(tmp_path / "o.mp4")]) == 2
    assert "gone does not exist; check the name" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys, magicanimate.cli.main as p; p.build_parser().format_help(); "
        "print({'torch', 'numpy', 'diffusers', 'gradio', 'av', 'yaml'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_help_names_the_options():
    command = [sys.executable, "-m", "magicanimate", "animate", "--help"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--guidance" in out.stdout


def test_version():
    command = [sys.executable, "-m", "magicanimate", "--version"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert __version__ in out.stdout


def test_options_become_the_request(photo, motion):
    words = (
        "--seed 7 --steps 3 --guidance 1.5 --size 384x512 --fit pad --start 1 --end 2.5 --stride 2 --fps 12"
    )
    words += " --fusion full --closed-loop --context-length 8 --context-overlap 2 --context-offset"
    words += " --scheduler DDIMScheduler --sound --side-by-side --no-check"
    words += " --control-scale 0.5 --limit max_frames=9 --prompt hi"
    (request,) = requests(photo, motion, "-o", "out/x.mp4", *words.split())
    assert (request.photo, request.motion, request.output) == (photo, motion, Path("out/x.mp4"))
    assert (request.seed, request.num_inference_steps, request.guidance_scale) == (7, 3, 1.5)
    assert (request.width, request.height, request.fit) == (384, 512, "pad")
    assert (request.start, request.end, request.stride, request.fps) == (1, 2.5, 2, 12)
    assert (request.fusion, request.context_length, request.context_overlap) == ("full", 8, 2)
    assert (
        request.closed_loop
        and request.context_offset
        and request.sound
        and request.side_by_side
        and not request.check_motion
    )
    assert (request.scheduler, request.controlnet_conditioning_scale, request.prompt) == (
        "DDIMScheduler",
        0.5,
        "hi",
    )
    assert request.limits.max_frames == 9 and request.limits.max_seconds == 1200


def test_what_is_not_given_keeps_its_default(photo, motion):
    (request,) = requests(photo, motion, "-o", "x.mp4")
    assert request.num_inference_steps is None and request.width is None
    assert request.check_motion and not request.closed_loop


def test_options_and_keys_of_earlier_versions_still_work(photo, motion, tmp_path):
    words = "--windows ring --window-size 8 --overlap 2 --window-stride 3 --window-offset"
    keys = "windows: ring\nwindow_size: 8\nwindow_overlap: 2\nwindow_stride: 3\nwindow_offset: true"
    (tmp_path / "old.yaml").write_text(f"photo: {photo}\nmotion: {motion}\n{keys}")
    by_words = requests(photo, motion, "-o", "x.mp4", *words.split())
    by_keys = requests("--config", tmp_path / "old.yaml", "-o", "x.mp4")
    assert by_words == by_keys
    assert WindowPlan.of(by_words[0].settings()) == WindowPlan(8, 2, True, 3, True)
    assert not requests(photo, motion, "-o", "x.mp4", "--windows", "open")[0].closed_loop
    with pytest.raises(SystemExit):
        requests(photo, motion, "-o", "x.mp4", "--windows", "square")


@pytest.mark.parametrize("size", ["", "x", "12y", "3x4x5"])
def test_bad_sizes_are_usage_errors(size, capsys):
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args(["animate", "a", "b", "-o", "c.mp4", "--size", size])
    assert stop.value.code == 2
    assert "write 512 or 384x512" in capsys.readouterr().err


def test_animate_writes_video_strip_and_settings(tiny_model, photo, motion, tmp_path, capsys):
    out = tmp_path / "new" / "me.mp4"
    words = ["animate", photo, motion, "-o", out, "--model", tiny_model, "--seed", 3, "--side-by-side"]
    assert main([str(word) for word in words]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert video(out) == (5, 32, 32, 25.0)
    assert video(tmp_path / "new" / "me_side_by_side.mp4")[0] == 5
    settings = json.loads((tmp_path / "new" / "me.json").read_text())
    assert settings["seed"] == 3 and settings["ai_generated"] is True

    again = tmp_path / "again.mp4"
    words = ["animate", "--config", tmp_path / "new" / "me.json", "-o", again, "--model", tiny_model]
    assert main([str(word) for word in words]) == 0
    assert "warning" not in capsys.readouterr().err
    assert [frame(out, i) for i in range(5)] == [frame(again, i) for i in range(5)]
    requests(*words[1:-2])  # with the bundled checkpoint
    assert f"is of a result of the checkpoint {tiny_model}, and this one is made" in capsys.readouterr().err


def frame(path: Path, index: int) -> bytes:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))[index].to_ndarray(format="rgb24").tobytes()


def test_errors_are_one_sentence(tiny_model, photo, motion, tmp_path, capsys):
    text = tmp_path / "note.png"
    text.write_text("not a picture")
    cases = [
        (["animate", text, motion, "-o", tmp_path / "x.mp4", "--model", tiny_model], "note.png"),
        (
            ["animate", photo, tmp_path / "gone.mp4", "-o", tmp_path / "x.mp4", "--model", tiny_model],
            "gone.mp4",
        ),
        (["animate", photo, motion, "-o", tmp_path / "x.mp4", "--size", 33, "--model", tiny_model], "33"),
        (["animate", photo, motion, "-o", tmp_path / "x.mp4", "--model", tmp_path / "nowhere"], "nowhere"),
        (["animate", photo, "-o", tmp_path / "x.mp4"], "motion"),
        (["convert", tmp_path / "gone", tmp_path / "dest"], "gone"),
    ]
    for words, named in cases:
        assert main([str(word) for word in words]) == 2, words
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and named in lines[0] and "Traceback" not in lines[0]
    assert not (tmp_path / "x.mp4").exists() and not (tmp_path / "dest").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
def test_interrupt_leaves_nothing(tiny_model, photo, tmp_path):
    clip = write_motion(tmp_path / "long.mp4", 60)
    folder = tmp_path / "out"
    words = ["animate", photo, clip, "-o", folder / "x.mp4", "--model", tiny_model, "--steps", "1000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "magicanimate", *map(str, words)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if line.startswith("loaded"):
            break
    time.sleep(1.5)  # now it reads or denoises; either ends the same way
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "cancelled" in err and "Traceback" not in err
    assert not folder.exists() or not list(folder.iterdir())


def test_published_yaml(photo, motion, tmp_path, capsys):
    config = write_yaml(
        tmp_path / "animation.yaml",
        pretrained_model_path="pretrained_models/stable-diffusion-v1-5",
        motion_module="temporal_attention.ckpt",
        savename=None,
        fusion_blocks="midup",
        seed=[1],
        steps=25,
        guidance_scale=7.5,
        source_image=[str(photo), str(photo)],
        video_path=[str(motion), str(motion)],
        size=512,
        L=16,
        S=1,
        offset=0,
        max_length=None,
        num_actual_inference_steps=25,
    )
    first, second = requests("--config", config, "-o", tmp_path / "out", "--steps", "3")
    assert (first.photo, first.motion, first.seed) == (photo, motion, 1)
    assert (first.num_inference_steps, first.guidance_scale, first.width, first.height) == (3, 7.5, 512, 512)
    assert first.fusion == "midup"
    assert first.output == tmp_path / "out" / "me_dance.mp4" and second.output.name == "me_dance_2.mp4"
    (note,) = capsys.readouterr().err.splitlines()
    assert "the model is mini" in note and "(pretrained_model_path, motion_module)" in note


def test_published_keys_with_an_effect_we_lack_are_named(photo, motion, tmp_path):
    config = write_yaml(
        tmp_path / "a.yaml", source_image=str(photo), video_path=str(motion), steps=25, S=2, L=24, offset=3,
        num_actual_inference_steps=10,
    )  # fmt: skip
    ignored = {"S", "offset (without max_length)", "num_actual_inference_steps"}
    assert set(load_batch(config).ignored) == ignored


def test_published_frame_range(photo, motion, tmp_path):
    config = write_yaml(
        tmp_path / "a.yaml", source_image=str(photo), video_path=str(motion), offset=2, max_length=3
    )
    (job,) = load_batch(config).jobs
    assert (job["start"], job["end"]) == (2 / 25, 5 / 25)
    clip = open_motion(motion, start=job["start"], end=job["end"])
    assert clip.num_frames_estimate == 3
    (job,) = load_batch(config, {"start": 0.04}).jobs  # what is written on the command line wins
    assert job["start"] == 0.04 and "end" not in job


def test_paths_of_published_files_are_those_of_their_repository(photo, motion, tmp_path):
    prompts = tmp_path / "repository" / "configs" / "prompts"
    prompts.mkdir(parents=True)
    write_photo(tmp_path / "repository" / "demo.png")
    config = write_yaml(prompts / "animation.yaml", source_image="demo.png", video_path=str(motion))
    assert load_batch(config).jobs[0]["photo"] == tmp_path / "repository" / "demo.png"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r'"C:\Users\me\new photo.png"', r"C:\Users\me\new photo.png"),
        (r'"C:\\Users\\me\\new.png"', r"C:\Users\me\new.png"),
        (r'"inputs\new\t.png"', r"inputs\new\t.png"),
        (r'''"\\server\share\it's.png"''', r"\\server\share\it's.png"),
    ],
)
def test_windows_paths_between_double_quotes(written, meant, motion, tmp_path):
    config = tmp_path / "w.yaml"
    config.write_text(f"photo: {written}  # mine\nmotion: '{motion}'\nprompt: \"one\\ntwo\"\n")
    (job,) = load_batch(config).jobs
    assert str(job["photo"]) == meant and job["prompt"] == "one\ntwo"


def test_photos_of_other_dancers_are_repeated_and_come_back_from_a_result(photo, motion, tmp_path):
    words = ["animate", str(photo), str(motion), "-o", str(tmp_path / "o.mp4"), "--cast", "3,2,1"]
    others = [tmp_path / name for name in ("b.png", "c.png")]
    for other in others:
        words += ["--other-photo", str(other)]
    (request,) = requests_of(build_parser().parse_args(words))
    assert request.photos == (photo, *others) and request.cast == "3,2,1"
    settings = write_yaml(tmp_path / "o.json", **json.loads(json.dumps(request.settings())))
    again = build_parser().parse_args(["animate", "--config", str(settings), "-o", str(request.output)])
    assert requests_of(again) == [request]


def test_yaml_lists_and_paths(photo, motion, tmp_path):
    write_photo(tmp_path / "beside.png")
    config = write_yaml(
        tmp_path / "b.yaml", photo="beside.png", motion=str(motion), seed=[1, 2, -1], size="384x512",
        limits={"max_frames": 7}, sound=True, end=3,
    )  # fmt: skip
    jobs = load_batch(config).jobs
    assert [job["seed"] for job in jobs[:2]] == [1, 2] and jobs[2]["seed"] >= 0
    assert jobs[0]["photo"] == tmp_path / "beside.png"
    assert (jobs[0]["width"], jobs[0]["height"], jobs[0]["end"]) == (384, 512, 3.0)
    assert jobs[0]["limits"].max_frames == 7 and jobs[0]["sound"] is True


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"seed": "three"}, "seed"),
        ({"steps": 2.5}, "steps"),
        ({"sound": "yes please"}, "sound"),
        ({"fit": "squeeze"}, "auto, crop, pad, stretch"),
        ({"size": [1, 2, 3]}, "size"),
        ({"limits": {"most": 3}}, "max_frames"),
        ({"seed": [1, 2], "photo": ["a", "b", "c"]}, "do not match"),
        ({"motion": None}, "motion"),
        ({"guidance_scale": [1]}, "guidance_scale"),
    ],
)
def test_yaml_errors_name_the_key(settings, named, tmp_path):
    config = write_yaml(tmp_path / "c.yaml", **{"photo": "a.png", "motion": "b.mp4", **settings})
    with pytest.raises(InputError, match=named):
        load_batch(config)


@pytest.mark.parametrize("text", ["a: [1", "just words", "- 1\n- 2", "1: 2", "\x00"])
def test_what_is_no_settings_file(text, tmp_path):
    config = tmp_path / "d.yaml"
    config.write_text(text)
    with pytest.raises(InputError, match="d.yaml"):
        load_batch(config)


def test_a_batch_goes_on_after_an_error(tiny_model, photo, motion, tmp_path, capsys):
    config = write_yaml(
        tmp_path / "e.yaml", photo=["gone.png", str(photo)], motion=str(motion), num_inference_steps=1
    )
    words = ["animate", "--config", config, "-o", tmp_path / "out", "--model", tiny_model, "--quiet"]
    assert main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert "gone.png" in captured.err and "1 of 2" in captured.err
    (missing,) = load_batch(config).missing
    assert missing.startswith(f"'gone.png' is in none of {Path.cwd()}, {tmp_path}, ")
    assert video(tmp_path / "out" / "me_dance.mp4")[0] == 5
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["me_dance.json", "me_dance.mp4"]


def test_info(capsys):
    assert main(["info", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["version"] == __version__ and info["device"]["reason"]
    assert info["memory"]["total"] > info["memory"]["available"] > 0
    assert all(free > 0 for free in info["free_disk"].values())
    assert {model["name"] for model in info["checkpoints"]} == {"mini", "full"}
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert "checkpoint" in printed and "memory profile" in printed
    assert main(["info", "--device", "abacus"]) == 2
    assert "abacus" in capsys.readouterr().err


def test_what_is_to_be_said_of_a_run_stays_when_more_is_said():
    seen = []
    meter = ProgressMeter(seen.append)
    for sentence in ("The photo is cropped.", "The LoRA is for few steps.", "The photo is cropped."):
        meter.note(sentence)
    meter.begin("read", 3)
    meter.update(1, 3)
    assert [each.note for each in seen] == ["The photo is cropped.\nThe LoRA is for few steps."] * 2


def test_time_left():
    assert [time_left(seconds) for seconds in (None, 4.4, 75.2, 3725)] == [
        "",
        "0:04 left",
        "1:15 left",
        "1:02:05 left",
    ]
