"""The loop: a run that is stopped, killed or spread over processes is the run that was not."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from magicanimate.errors import InputError
from tests.training_files import write_video
from tests.training_runs import command, finish, losses, rows, train, weights
from training.__main__ import main
from training.checkpoints import newest_checkpoint, read_checkpoint, write_checkpoint
from training.config import OptimizerConfig, StageConfig, fixed_settings
from training.loop import EMA, StepBatches, learning_rate
from training.presets import preset
from training.run_folder import Metrics, check_settings, run_lock


def with_earlier(folder: Path, trained: Path, stage: str) -> Path:
    """A folder of runs with the stages before ``stage`` in it."""
    folder.mkdir(exist_ok=True)
    for earlier in ("vae", "base", "stage2", "distill"):
        if earlier == stage:
            break
        (folder / earlier).symlink_to(trained / earlier)
    return folder


@pytest.mark.parametrize("stage", ["vae", "base", "stage2", "distill", "sharpen"])
def test_resumed_run_is_the_uninterrupted_run(stage, trained, data_folder, tmp_path):
    with_earlier(tmp_path, trained, stage)
    for _ in range(2):
        run = train(stage, data_folder, tmp_path, stop_after=2)
    assert losses(run) == losses(trained / stage)
    assert len(losses(run)) == 4
    ours, whole = weights(run), weights(trained / stage)
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_accumulated_parts_make_the_same_batch(trained, data_folder, tmp_path):
    run = train("base", data_folder, with_earlier(tmp_path, trained, "base"), accumulation=2)
    assert losses(run) == pytest.approx(losses(trained / "base"), rel=1e-5)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_killed_run_is_the_uninterrupted_run(data_folder, tmp_path):
    """SIGKILL in the middle of a step, then in the middle of writing a checkpoint."""
    whole = train("vae", data_folder, tmp_path / "whole", steps=9)
    run = tmp_path / "killed" / "vae"
    args = ("vae", "--data", data_folder, "--runs", run.parent, "--preset", "tiny", "--steps", "9")
    for moment, step, survives in (("step", "4", 2), ("checkpoint", "8", 6)):
        process = command(moment, step, *args, module="tests.training_killed")
        assert process.wait() == -signal.SIGKILL, process.stdout.read()
        assert read_checkpoint(newest_checkpoint(run))["step"] == survives
    assert list((run / "checkpoints").glob(".step_0000008.*.partial.pt"))
    train("vae", data_folder, run.parent, steps=9)
    assert losses(run) == losses(whole)
    assert [row["step"] for row in rows(run)] == list(range(1, 10))
    assert not list((run / "checkpoints").glob(".*"))
    ours, theirs = weights(run), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_asked_to_end_it_writes_a_checkpoint_first(trained, data_folder, tmp_path, capsys):
    """SIGTERM in the middle of step 3, where no checkpoint is due; then the same command goes on."""
    rows_written = logging.getLogger("training.run_folder")
    ask = logging.Handler()
    ask.emit = lambda record: (
        signal.raise_signal(signal.SIGTERM) if "'step': 3," in record.getMessage() else None
    )
    rows_written.addHandler(ask)
    rows_written.setLevel(logging.INFO)
    before = signal.getsignal(signal.SIGTERM)
    args = ["vae", "--data", str(data_folder), "--runs", str(tmp_path), "--preset", "tiny"]
    try:
        assert main(args) == 3
    finally:
        rows_written.removeHandler(ask)
    assert "stopped, checkpoint written" in capsys.readouterr().err
    assert read_checkpoint(newest_checkpoint(tmp_path / "vae"))["step"] == 3
    assert signal.getsignal(signal.SIGTERM) == before
    assert main(args) == 0
    assert losses(tmp_path / "vae") == losses(trained / "vae")


@pytest.mark.skipif(os.name == "nt", reason="torch's launcher is not the same on Windows")
def test_two_processes_take_the_same_steps_as_one(trained, data_folder, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    run = with_earlier(tmp_path, trained, "base") / "base"
    args = ("base", "--data", data_folder, "--runs", tmp_path, "--preset", "tiny")
    output = finish(command(*args, launcher=launcher))
    assert "2 processes" in output
    assert losses(run) == pytest.approx(losses(trained / "base"), rel=1e-4)
    # Adam divides by the gradient's own size: where it is hardly more than rounding, a step goes anywhere
    # within the rate. So few weights may differ, and by no more than the four steps.
    ours, theirs = weights(run), weights(trained / "base")
    apart = torch.cat([(ours[name] - theirs[name]).abs().flatten() for name in theirs])
    assert (apart > 1e-4).float().mean() < 1e-4
    assert apart.max() < 4 * OptimizerConfig().learning_rate


def test_changed_setting_is_refused_and_named(trained, data_folder, tmp_path):
    run = train("vae", data_folder, tmp_path, stop_after=1)
    with pytest.raises(InputError, match=r"begun with seed = 0, not 1"):
        train("vae", data_folder, tmp_path, seed=1)
    with pytest.raises(InputError, match=r"optimizer.learning_rate = 0.001, not 0.1"):
        train("vae", data_folder, tmp_path, optimizer=OptimizerConfig(learning_rate=0.1, warmup_steps=1))
    train("vae", data_folder, tmp_path, steps=6, log_every=2)
    assert [row["step"] for row in rows(run)] == [1, 2, 4, 6]


def test_a_second_training_of_the_same_run_is_refused(data_folder, tmp_path):
    (tmp_path / "vae").mkdir()
    with (
        run_lock(tmp_path / "vae"),
        pytest.raises(InputError, match="vae is being trained by another program"),
    ):
        train("vae", data_folder, tmp_path)
    assert not (tmp_path / "vae" / "config.json").exists()
    with run_lock(tmp_path / "vae"):  # it was let go of
        pass


def test_settings_that_an_older_run_did_not_write_are_not_compared(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"seed": 3, "optimizer": {"ema_decay": 0.5}}))
    check_settings(tmp_path, {"seed": 3, "driving": "both", "optimizer.ema_decay": 0.5, "loss.noisy_from": 1})
    with pytest.raises(InputError, match="ema_decay"):
        check_settings(tmp_path, {"optimizer.ema_decay": 0.6})


@pytest.mark.parametrize("stage", ["vae", "base"])
def test_runs_of_the_first_version_go_on(stage, tmp_path):
    """What ``config.json`` held when the settings were fewer; the mini's runs began with it."""
    optimizer = {
        "learning_rate": {"vae": 2e-3, "base": 1e-3}[stage],
        "warmup_steps": 200,
        "decay_steps": {"vae": 1500, "base": 2500}[stage],
        "final_ratio": 0.05,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "ema_decay": 0.999,
    }
    saved = {
        "stage": stage,
        "steps": 2800,
        "batch_size": 16,
        "crop": 64 if stage == "vae" else 0,
        "num_frames": 16,
        "targets": 1 if stage == "vae" else 2,
        "clip_share": 0.4,
        "noisy_share": 0.4,
        "noisy_from": 600,
        "image_probability": 0.2,
        "share_noise": 0.7,
        "drop_reference": 0.1 if stage == "vae" else 0.05,
        "latent_noise": 0.02,
        "gradient_weight": 0.1,
        "holdout": 16,
        "checkpoint_every": 200,
        "sample_every": 500,
        "log_every": 20,
        "seed": 0,
        "optimizer": optimizer,
    }
    (tmp_path / "config.json").write_text(json.dumps(saved))
    check_settings(tmp_path, fixed_settings(preset("mini", stage)[0]))


def test_checkpoint_of_the_first_version_is_resumed(trained, data_folder, tmp_path):
    """Files of runs begun before averages, optimizer and parameters had company."""
    run = train("vae", data_folder, tmp_path, stop_after=2)
    path = newest_checkpoint(run)
    state = read_checkpoint(path)
    path.unlink()  # what was read is still mapped to it
    torch.save({key: state[key] for key in ("step", "parameters", "averages", "optimizer")}, path)
    train("vae", data_folder, tmp_path)
    assert losses(run) == losses(trained / "vae")


def test_full_disk_keeps_the_older_checkpoint(tmp_path):
    resource = pytest.importorskip("resource", reason="limits on file sizes are Unix's")
    state = {"step": 1, "parameters": {"a": torch.zeros(100_000)}, "averages": {}, "optimizer": {}}
    kept = write_checkpoint(tmp_path, state, keep=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # the system refuses the write, as if full
    try:
        with pytest.raises(
            InputError, match=r"step_0000002.pt cannot be written \(File too large\): it needs 400 kB"
        ):
            write_checkpoint(tmp_path, state | {"step": 2}, keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in kept.parent.iterdir()] == ["step_0000001.pt"]
    assert read_checkpoint(kept)["step"] == 1


def test_old_checkpoints_are_dropped(tmp_path):
    for step in range(5):
        write_checkpoint(tmp_path, {"step": step}, keep=2)
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step_0000003.pt",
        "step_0000004.pt",
    ]


def test_metrics_drop_what_will_be_written_again(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1}\n{"step": 3, "loss": 1}\n{"step": 4, "lo')
    metrics = Metrics(tmp_path, step=2)
    metrics.write(3, {"loss": 5.0})
    metrics.close()
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(2, 1), (3, 5.0)]


def test_processes_share_the_batch():
    config = StageConfig("base", steps=3, batch_size=8, accumulation=2)
    parts = [list(StepBatches(config, first_step=1, process=p, processes=2)) for p in (0, 1)]
    assert parts[0] == [[8, 9], [12, 13], [16, 17], [20, 21]]
    assert parts[1] == [[10, 11], [14, 15], [18, 19], [22, 23]]
    with pytest.raises(InputError, match="8 cannot be cut into 6 equal parts"):
        StepBatches(config, first_step=0, process=0, processes=3)


def test_learning_rate_warms_up_holds_and_decays():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, decay_steps=20, final_ratio=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:80] == [1.0] * 71
    assert rates[90] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.1)


def test_averages_follow_and_change_places():
    parameters = {"a": torch.nn.Parameter(torch.zeros(1))}
    averages = EMA(parameters, decay=0.9)
    with torch.no_grad():
        parameters["a"].fill_(1.0)
    averages.update(parameters, step=1000)
    assert averages.values["a"].item() == pytest.approx(0.1)
    with averages.in_place(parameters):
        assert parameters["a"].item() == pytest.approx(0.1)
    assert parameters["a"].item() == 1.0


def test_without_averaging_there_is_no_second_copy():
    parameters = {"a": torch.nn.Parameter(torch.zeros(1))}
    averages = EMA(parameters, decay=0.0)
    with torch.no_grad():
        parameters["a"].fill_(1.0)
    averages.update(parameters, step=5)
    with averages.in_place(parameters):
        assert parameters["a"].item() == 1.0
    assert averages.values["a"].data_ptr() == parameters["a"].data_ptr()


def test_eight_bit_without_the_package(data_folder, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("may be installed here")
    with pytest.raises(InputError, match="bitsandbytes"):
        train("vae", data_folder, tmp_path, optimizer=OptimizerConfig(eight_bit=True))


def test_curves_are_written_for_tensorboard(data_folder, tmp_path):
    pytest.importorskip("tensorboard", reason="only trainings want it")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        run = train("vae", data_folder, tmp_path, stop_after=2)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    drawn = events.Scalars("loss")
    assert [event.step for event in drawn] == [1, 2, 3, 4]
    assert [event.value for event in drawn] == pytest.approx(losses(run))


def test_without_tensorboard_the_run_says_so_and_goes_on(data_folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    caplog.set_level("INFO")
    run = train("vae", data_folder, tmp_path)
    assert len(losses(run)) == 4
    assert caplog.text.count("tensorboard is not installed") == 1


@pytest.fixture
def other_precision():
    """Accelerate keeps one number format for a process; tests want several."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_half_precision_learns_nearly_the_same(trained, data_folder, tmp_path, other_precision):
    run = train("base", data_folder, with_earlier(tmp_path, trained, "base"), mixed_precision="bf16")
    assert losses(run) == pytest.approx(losses(trained / "base"), rel=0.05)
    assert losses(run) != losses(trained / "base")
    assert all(p.dtype == torch.float32 for p in weights(run).values())


def test_channels_last_is_only_a_memory_layout(trained, data_folder, tmp_path):
    run = train("base", data_folder, with_earlier(tmp_path, trained, "base"), channels_last=True)
    assert losses(run) == pytest.approx(losses(trained / "base"), rel=1e-3)


def test_broken_video_is_named_and_training_goes_on(tmp_path, caplog):
    """A file that breaks after the folder was opened, as on a failing disk."""
    data = tmp_path / "videos"
    data.mkdir()
    for name in "abcd":
        write_video(data, name, 8)
    train("vae", data, tmp_path, steps=2, still_share=0.0, target_still_share=0.0)
    broken = data / "b.mp4"
    stamp, size = broken.stat().st_mtime_ns, broken.stat().st_size
    broken.write_bytes(bytes(size))
    os.utime(broken, ns=(stamp, stamp))
    run = train("vae", data, tmp_path, steps=20, still_share=0.0, target_still_share=0.0)
    assert [row["step"] for row in rows(run)] == list(range(1, 21))
    assert "skipped" in caplog.text and "b.mp4" in caplog.text
