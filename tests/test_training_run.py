"""Trainings that the page starts: processes of their own that are stopped, found again and resumed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from magicanimate.errors import InputError
from magicanimate.webui.training import runs as page_runs
from magicanimate.webui.training.detached import DetachedProcess
from magicanimate.webui.training.runs import (
    EXPORTED,
    TrainingConfig,
    TrainingManager,
    TrainingRun,
    dancers_command,
    export_folder,
    shown,
    stages_of,
    trials,
)
from tests.conftest import PATIENCE
from tests.training_runs import losses, train
from training.__main__ import STAGES, parser
from training.presets import PRESETS


def wait_until(true: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def python(process: DetachedProcess, code: str, cwd: Path) -> None:
    process.start([sys.executable, "-S", "-c", code], cwd=cwd)


@pytest.fixture
def process(tmp_path):
    process = DetachedProcess(tmp_path / "run", "training")
    yield process
    record = process.record
    if process.running:
        psutil.Process(record.pid).kill()


def test_videos_to_check_with_are_never_more_than_a_quarter():
    config = TrainingConfig(preset="mini", stage="vae")
    assert [config.with_holdout(videos).holdout for videos in (2, 4, 40, 400)] == [1, 1, 10, 16]
    assert replace(config, holdout=3).with_holdout(4).holdout == 3
    with pytest.raises(InputError, match="Too few videos: 4 found, 16 kept for checking. Keep 1"):
        replace(config, holdout=16).with_holdout(4)
    with pytest.raises(InputError, match="Add more videos"):
        config.with_holdout(1)
    assert "--holdout" not in config.command() and "--holdout" in config.with_holdout(4).command()


def test_a_training_that_cannot_work_is_refused_before_it_starts(data_folder, tmp_path):
    manager = TrainingManager(tmp_path / "training.json")
    config = TrainingConfig("tiny", "vae", str(data_folder), str(tmp_path / "runs"), holdout=1000)
    with pytest.raises(InputError, match="Too few videos"):
        manager.start(config)
    assert manager.run(config).process.record is None and not (tmp_path / "training.json").exists()


def test_stop_resume_finish_is_the_uninterrupted_training(data_folder, tmp_path, monkeypatch):
    """The real training, seen by a manager that comes later as by the one that started it."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    memory = tmp_path / "training.json"
    config = TrainingConfig("tiny", "vae", str(data_folder), str(tmp_path / "runs"), steps=100_000)
    manager = TrainingManager(memory)
    manager.start(config)
    run = manager.run(config)
    assert run.status().state == "running"
    with pytest.raises(InputError, match="already"):
        TrainingManager(memory).start(config)
    wait_until(lambda: run.status().step >= 3)
    assert run.status().seconds_left > 0

    later = TrainingManager(memory)
    assert (
        later.config == manager.config == replace(config, holdout=1)
    )  # how many are kept is settled at the start
    later.run(config).stop()
    wait_until(lambda: run.status().state == "stopped")
    assert run.process.record.exit_status == 3
    stopped = later.run(config).status()
    assert (stopped.state, stopped.steps) == ("stopped", 100_000)
    assert stopped.step == stopped.checkpoint >= 3

    further = replace(config, steps=stopped.step + 4)
    later.start(further)
    wait_until(lambda: later.run(config).status().state not in ("running", "stopping"))
    ended = run.status()
    assert (ended.state, ended.step, ended.steps) == ("finished", further.steps, further.steps)
    assert losses(run.folder) == losses(train("vae", data_folder, tmp_path / "whole", steps=further.steps))
    assert [(step, loss) for step, loss, name in run.curve(points=10_000) if name == "one step"] == list(
        enumerate(losses(run.folder), 1)
    )
    assert run.samples(".png")[0].name == f"{further.steps:06d}.png"


def test_a_process_is_found_by_another_program_and_asked_politely(process, tmp_path):
    code = "import signal, time\nprint('here')\nsignal.signal(signal.SIGTERM, lambda *_: print('asked'))\n"
    python(process, code + "time.sleep(60)", tmp_path)
    other = DetachedProcess(tmp_path / "run", "training")
    wait_until(lambda: process.output() == "here")
    assert other.running
    if os.name != "nt":
        time.sleep(0.3)  # until the handler is there
        other.stop(grace=60)
        wait_until(lambda: process.output() == "here\nasked")
        assert process.running and process.record.asked_to_stop
    other.stop(grace=60)  # the second time it is not asked
    wait_until(lambda: not process.running)
    assert process.record.exit_status not in (0, None)


def test_who_does_not_end_in_time_is_made_to(process, tmp_path):
    code = "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: 0)\ntime.sleep(60)"
    python(process, code, tmp_path)
    time.sleep(0.2)
    process.stop(grace=0.1)
    wait_until(lambda: not process.running)


def test_number_of_another_process_is_not_ours(process, tmp_path):
    python(process, "", tmp_path)
    wait_until(lambda: not process.running)
    file = tmp_path / "run" / "training.process.json"
    record = json.loads(file.read_text()) | {"pid": os.getpid(), "exit_status": None}
    file.write_text(json.dumps(record))
    later = DetachedProcess(tmp_path / "run", "training")
    assert not later.running  # this process began at another time
    later.stop(grace=0)
    file.write_text("{")
    assert later.record is None and not later.running


@pytest.mark.parametrize(
    ("code", "state", "words"),
    [
        ("print('08:00 loading'); print('error: No videos.'); raise SystemExit(2)", "failed", "No videos."),
        ("raise MemoryError('no room')", "failed", "MemoryError: no room"),
        ("raise SystemExit(3)", "stopped", ""),
    ],
)
def test_how_a_training_ended(tmp_path, code, state, words):
    run = TrainingRun(tmp_path / "vae")
    python(run.process, code, tmp_path)
    wait_until(lambda: not run.process.running)
    assert (run.status().state, run.status().words) == (state, words)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_killed_while_nobody_watched(tmp_path):
    run = TrainingRun(tmp_path / "vae")
    python(run.process, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    run.process._child.wait()
    assert TrainingRun(tmp_path / "vae").status().state == "stopped"


def test_curve_follows_a_run_that_takes_steps_again(tmp_path):
    run = TrainingRun(tmp_path)
    assert run.curve() == [] and run.status().state == "none"
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "loss": 3.0, "mean_loss": 3.5}\nnonsense\n{"step": 2, "lo')
    assert run.curve() == [(1, 3.0, "one step"), (1, 3.5, "mean")]
    with metrics.open("a") as file:
        file.write('ss": 2.0}\n{"step": 3, "loss": 1.0}\n')
    assert [row[:2] for row in run.curve()] == [(1, 3.0), (2, 2.0), (3, 1.0), (1, 3.5)]
    replaced = tmp_path / "new"
    replaced.write_text("".join(f'{{"step": {step}, "loss": {step}}}\n' for step in range(1, 1002)))
    replaced.replace(metrics)
    thinned = run.curve(points=100)
    assert len(thinned) <= 100 and thinned[-1] == (1001, 1001, "one step")


def test_what_can_be_tried(tmp_path):
    defaults = {"width": 32, "height": 32, "steps": 2, "guidance_scale": 1.0}
    index = {"_class_name": "MagicAnimatePipeline", "kind": "mini"}
    index = json.dumps(index | {f"default_{name}": value for name, value in defaults.items()})
    for age, folder in enumerate((f"{EXPORTED}/stage2_000100", "base/pipeline", f"{EXPORTED}/old")):
        (tmp_path / folder).mkdir(parents=True)
        file = tmp_path / folder / "model_index.json"
        file.write_text(index)
        os.utime(file, (1_000_000 - age, 1_000_000 - age))
    (tmp_path / "vae" / "pipeline").mkdir(parents=True)  # not a checkpoint
    assert [trial.name for trial in trials(tmp_path)] == [
        "stage2, step 100",
        "base, finished",
        "old",
    ]
    with pytest.raises(InputError, match="no checkpoint yet"):
        export_folder(TrainingRun(tmp_path / "stage2"))


def test_presets_and_stages_are_the_trainings():
    assert set(page_runs.PRESETS) == set(PRESETS)
    assert set(page_runs.STAGES) == set(STAGES)
    from_nothing = {name for name, make in PRESETS.items() if make("stage2")[1] is not None}
    assert set(page_runs.FROM_NOTHING) == from_nothing


def test_the_command_line_is_the_trainings(tmp_path):
    config = TrainingConfig(
        "paper_ted",
        "stage2",
        data="d",
        runs=f' "{tmp_path}" ',
        steps=7,
        batch_size=2,
        learning_rate=1e-5,
        images="i",
        stable_diffusion="sd",
        vae="v",
        motion="m.ckpt",
    )
    args = parser().parse_args(config.command()[3:])
    assert (args.command, args.preset, args.steps, args.batch_size) == ("stage2", "paper_ted", 7, 2)
    assert (args.learning_rate, args.runs, args.data) == (1e-5, tmp_path, Path("d").absolute())
    assert (args.images, args.motion) == (Path("i").absolute(), Path("m.ckpt").absolute())
    args = parser().parse_args(config.export_command(Path("out"))[3:])
    assert (args.command, args.out, args.stable_diffusion) == ("export", Path("out"), Path("sd").absolute())
    assert "training stage2" in shown(config.command())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data": " "}, "Give the folder of the data"),
        ({"runs": ""}, "Give the folder of the runs"),
        ({"preset": "huge"}, "no preset 'huge'"),
        ({"stage": "--help"}, "no stage '--help'"),
        ({"preset": "paper_ted", "stage": "vae"}, "paper_ted has no stage vae"),
        ({"steps": 0}, "The number of steps must be more than 0"),
        ({"learning_rate": float("nan")}, "The learning rate must be"),
    ],
)
def test_mistakes_are_sentences(change, sentence):
    with pytest.raises(InputError, match=sentence):
        replace(TrainingConfig(), **change).command()


def test_stages_of_presets():
    assert stages_of("mini")[:2] == ("vae", "base")
    assert stages_of("paper_tiktok") == ("controlnet", "stage1", "stage2")


def test_renderer_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(page_runs, "find_spec", lambda name: None if name == "anny" else object())
    with pytest.raises(InputError, match=r"needs anny, .* -m pip install -r requirements-train.txt"):
        dancers_command("data", count=3, preset="mini")
    monkeypatch.setattr(page_runs, "find_spec", lambda name: object())
    command = dancers_command("data", count=3, preset="tiny")
    assert command[command.index("--identities") + 1] == "3" and "32" in command
    with pytest.raises(InputError, match="number of people"):
        dancers_command("data", count=0, preset="mini")


def test_data_are_checked_by_the_command(data_folder, tmp_path):
    manager = TrainingManager(tmp_path / "training.json")
    (line, *_) = manager.check(str(data_folder))
    assert line.startswith("4 rendered people")
    with pytest.raises(InputError, match="does not exist"):
        list(manager.check(str(tmp_path / "none")))
