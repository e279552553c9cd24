"""Trainings with something wrong: damaged files, numbers that are not finite, settings of no sense."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from magicanimate.errors import InputError
from tests.conftest import PATIENCE
from tests.training_files import write_video
from tests.training_runs import losses, train
from training import runs
from training.__main__ import main
from training.build import Start
from training.checkpoints import checkpoints_of, read_newest
from training.config import OptimizerConfig, check_config, flat
from training.export import saved_config
from training.options import whole_number
from training.presets import NOT_IN_THE_PAPER, PRESETS, preset
from training.run_folder import Metrics, check_settings, read_config
from training.sets import DataFolders


@pytest.fixture(scope="module")
def run(data_folder, tmp_path_factory) -> Path:
    """A run of three steps with a checkpoint of each of the last two."""
    return train("vae", data_folder, tmp_path_factory.mktemp("runs"), steps=3, checkpoint_every=1)


def test_a_truncated_checkpoint_falls_back_to_the_one_before(run, data_folder, caplog):
    newest, before = checkpoints_of(run)
    content = newest.read_bytes()
    for kept in (len(content) // 2, 10, 0):
        newest.write_bytes(content[:kept])
        caplog.clear()
        path, state = read_newest(run)
        assert path == before and state["step"] == 2
        assert f"{newest} is damaged or cut off. The one before it is used" in caplog.text
    train("vae", data_folder, run.parent, steps=3, checkpoint_every=1)
    path, state = read_newest(run)
    assert path == newest and state["step"] == 3  # the step was taken again


def test_no_checkpoint_that_can_be_read_is_said(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for step, content in ((1, b""), (2, b"PK\x03\x04"), (3, b"{}")):
        (tmp_path / "checkpoints" / f"step_{step:07d}.pt").write_bytes(content)
    torch.save([1], tmp_path / "checkpoints" / "step_0000004.pt")
    with pytest.raises(InputError, match="None of the checkpoints in .* can be read"):
        read_newest(tmp_path)


def test_a_loss_that_is_not_finite_ends_the_training_at_its_step(run, data_folder, tmp_path):
    newest = checkpoints_of(run)[0]
    (tmp_path / "vae" / "checkpoints").mkdir(parents=True)
    state = torch.load(newest, weights_only=True)
    name = next(iter(state["parameters"]))
    state["parameters"][name].fill_(float("nan"))
    torch.save(state, tmp_path / "vae" / "checkpoints" / newest.name)
    with pytest.raises(InputError, match="The loss of step 4 is nan"):
        train("vae", data_folder, tmp_path, steps=6, checkpoint_every=1)
    assert [path.name for path in checkpoints_of(tmp_path / "vae")] == [newest.name]


def test_weights_that_are_not_finite_are_not_kept(data_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("training.loop.learning_rate", lambda config, step, steps: float("inf"))
    with pytest.raises(InputError, match="After step 1 there are values that are not finite in "):
        train("vae", data_folder, tmp_path, steps=2, checkpoint_every=1)
    assert checkpoints_of(tmp_path / "vae") == []


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name",
    [
        *("steps", "batch_size", "targets", "size", "num_frames", "interval", "accumulation"),
        *("checkpoint_every", "keep_checkpoints", "sample_every", "log_every"),
        *("learning_rate", "max_grad_norm"),
    ],
)
def test_options_of_no_sense_are_refused(name, value):
    config = preset("tiny", "vae")[0]
    if name in OptimizerConfig.__dataclass_fields__:
        config = replace(config, optimizer=replace(config.optimizer, **{name: value}))
    else:
        config = replace(config, **{name: value})
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is .*; choose "):
        check_config(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tau_0": 1.5}, "--tau-0 is 1.5; choose 0 to 1"),
        ({"holdout": -1}, "--holdout is -1"),
        ({"seed": 2**70}, "--seed is"),
        ({"batch_size": 3, "targets": 2}, "is no multiple of --targets 2"),
        ({"tau_1": 0.5, "tau_2": 0.2}, "less than --tau-1"),
    ],
)
def test_other_settings_of_no_sense(change, words):
    with pytest.raises(InputError, match=words):
        check_config(replace(preset("tiny", "vae")[0], **change))


def test_every_preset_makes_sense():
    for name in PRESETS:
        for stage in ("vae", "base", "controlnet", "stage1", "stage2"):
            check_config(preset(name, stage)[0])


def test_numbers_of_the_command_line():
    assert whole_number("3") == 3
    for text in ("0", "-1", "x", "1.5", "1" * 5000):
        with pytest.raises(argparse.ArgumentTypeError):
            whole_number(text)


@pytest.mark.parametrize("content", ["[]", "{", "5", '{"name": "mine"}', "[" * 5000])
def test_a_strange_config_is_neither_used_nor_replaced(tmp_path, data_folder, content):
    (tmp_path / "vae").mkdir()
    config = tmp_path / "vae" / "config.json"
    config.write_text(content)
    for use in (read_config, lambda path: check_settings(path.parent, {"seed": 1})):
        with pytest.raises(InputError, match="config.json (is damaged|belongs to no training)"):
            use(config)
    with pytest.raises(InputError, match="config.json"):
        train("vae", data_folder, tmp_path)
    assert config.read_text() == content


def test_values_of_another_kind_in_a_config_are_left_out(tmp_path):
    (tmp_path / "base").mkdir()
    saved = {"stage": "base", "steps": "many", "seed": 7, "optimizer": [], "loss": {"min_snr_gamma": 2}}
    (tmp_path / "base" / "config.json").write_text(json.dumps(saved))
    own = preset("tiny", "stage2")[0]
    config = saved_config(tmp_path, own)
    assert (config.steps, config.seed, config.optimizer) == (own.steps, 7, own.optimizer)
    assert config.loss.min_snr_gamma == 2


def test_somebodys_figures_are_not_cut(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("my figures\n")
    with pytest.raises(InputError, match="metrics.jsonl belongs to no run"):
        check_settings(tmp_path, {})
    (tmp_path / "config.json").write_text('{"seed": 1}')
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": "x"}\n\xff\n{"step": 9}\n{"st')
    Metrics(tmp_path, step=5).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_an_export_replaces_no_folder_of_somebodys_own(tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "me.png").touch()
    assert main(["export", "--runs", str(tmp_path), "--preset", "tiny", "--out", str(photos)]) == 2
    assert "photos already exists and is not a converted checkpoint" in capsys.readouterr().err
    assert (photos / "me.png").exists()


def test_resuming_with_other_inputs_is_refused_by_name(run, data_folder, tmp_path):
    other = tmp_path / "other"
    other.symlink_to(data_folder)
    train("vae", other, run.parent, steps=3, checkpoint_every=1)  # the same place under another name
    copied = tmp_path / "copied"
    shutil.copytree(data_folder, copied)
    with pytest.raises(InputError, match=f"was begun with --data {data_folder}, now it is {copied}; give"):
        train("vae", copied, run.parent, steps=3, checkpoint_every=1)
    for name in ("motion", "stable_diffusion", "vae", "pipeline"):
        start = Start(**{name: tmp_path})
        option = name.replace("_", "-")
        with pytest.raises(InputError, match=f"was begun with no --{option}, now it is {tmp_path}"):
            train("vae", data_folder, run.parent, start=start, steps=3, checkpoint_every=1)
    config, network = preset("tiny", "vae")
    folders = DataFolders(data_folder, images=copied)
    with pytest.raises(InputError, match="begun with no --images, now it is"):
        runs.train(replace(config, steps=3, checkpoint_every=1), network, data=folders, runs=run.parent)


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_networks_in_pieces_are_refused(name, data_folder, tmp_path, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(InputError, match="Run `accelerate config` again without it"):
        train("vae", data_folder, tmp_path)
    assert not (tmp_path / "vae" / "checkpoints").exists()


def test_a_dry_run_prints_every_setting_and_trains_nothing(tmp_path, capsys):
    words = ["stage1", "--preset", "paper_ted", "--data", "d", "--runs", str(tmp_path / "runs")]
    assert main([*words, "--dry-run", "--steps", "7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:32].strip(): line[33:] for line in lines}
    assert flat(preset("paper_ted", "stage1")[0]).keys() <= rows.keys()
    assert rows["steps"].split(None, 1) == ["7", "command line; the paper does not say"]
    assert rows["batch_size"].split(None, 1) == ["8", "preset paper_ted"]
    assert rows["fusion"].split(None, 1) == ["midup", "default"]
    assert rows["drop_reference"].split(None, 1) == ["0.1", "default; the paper does not say"]
    assert rows["--data"].split() == ["d", "not", "there"]
    assert not (tmp_path / "runs").exists()
    assert main([*words, "--dry-run", "--tau-0", "7"]) == 2
    assert "--tau-0 is 7.0; choose 0 to 1" in capsys.readouterr().err


def test_what_is_not_in_the_paper_are_settings():
    assert flat(preset("paper_ted", "stage1")[0]).keys() >= NOT_IN_THE_PAPER


def test_too_few_videos_name_the_option_and_the_preset(data_folder, tmp_path):
    with pytest.raises(InputError, match="--holdout 16 of 4 videos would leave nothing .* another --preset"):
        train("vae", data_folder, tmp_path, holdout=16)


def test_checkpoints_are_mapped_not_read(run):
    path, state = read_newest(run)
    before = psutil.Process().memory_info().rss
    again = [read_newest(run)[1] for _ in range(3)]
    assert all(torch.equal(again[0]["averages"][key], value) for key, value in state["averages"].items())
    if sys.platform == "linux":
        mapped = [entry.path for entry in psutil.Process().memory_maps()]
        assert str(path.resolve()) in mapped
    assert psutil.Process().memory_info().rss - before < 3 * path.stat().st_size


def test_others_wait_for_the_main_process_without_a_collective(tmp_path):
    """Nobody waits in a collective operation while the main process prepares files."""
    order, barrier = [], threading.Barrier(2)

    class Process:
        def __init__(self, main: bool):
            self.is_main_process = main

        def wait_for_everyone(self) -> None:
            barrier.wait(PATIENCE)

    def work(main: bool) -> None:
        with runs._main_process_first(Process(main), tmp_path):
            if main:
                time.sleep(0.3)
            order.append(main)

    threads = [threading.Thread(target=work, args=(main,)) for main in (False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert order == [True, False]


def test_the_autoencoder_of_stable_diffusions_folder_serves(published, tmp_path):
    folder = tmp_path / "sd"
    shutil.copytree(published / "stable-diffusion-v1-5", folder)
    with pytest.raises(InputError, match="vae is missing: give the folder of the autoencoder as --vae"):
        Start(stable_diffusion=folder).initial_networks(None)
    shutil.copytree(published / "sd-vae-ft-mse", folder / "vae")
    assert Start(stable_diffusion=folder).initial_networks(None).vae == folder / "vae"


def test_latents_of_real_videos_are_kept(data_folder, tmp_path):
    """The same training up to rounding to half precision; nothing is encoded twice."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in "abc":
        write_video(videos, name, 8)
    train("vae", data_folder, tmp_path / "plain")
    shutil.copytree(tmp_path / "plain" / "vae", tmp_path / "kept" / "vae")
    few = {"still_share": 0.0, "target_still_share": 0.0, "steps": 2, "holdout": 1}
    runs_of = {
        name: train("base", videos, tmp_path / name, cache_latents=name == "kept", **few)
        for name in ("plain", "kept")
    }
    assert losses(runs_of["kept"]) == pytest.approx(losses(runs_of["plain"]), rel=1e-2)
    files = sorted((tmp_path / "kept" / "latents").glob("*.npy"))
    assert [path.name.partition(".")[0] for path in files] == ["a", "b"], "not of those held out"
    assert np.load(files[0]).shape == (8, 4, 4, 4) and np.load(files[0]).dtype == np.float16
    manifest = json.loads((tmp_path / "kept" / "latents" / "manifest.json").read_text())
    assert len(manifest.pop("autoencoder")) == 16
    assert manifest == {"encoded_in": "float32", "size": 32, "framing": "person"}
    before = {path: path.stat().st_mtime_ns for path in files}
    train("base", videos, tmp_path / "kept", cache_latents=True, **(few | {"steps": 3}))
    write_video(videos, "a", 9)
    train("base", videos, tmp_path / "kept", cache_latents=True, **(few | {"steps": 4}))
    after = sorted((tmp_path / "kept" / "latents").glob("*.npy"))
    assert len(after) == 3 and all(path.stat().st_mtime_ns == before[path] for path in files)
    with pytest.raises(InputError, match="begun with cache_latents = True, not False"):
        train("base", videos, tmp_path / "kept", **(few | {"steps": 5}))
    (tmp_path / "dancers").mkdir()
    shutil.copytree(tmp_path / "plain" / "vae", tmp_path / "dancers" / "vae")
    with pytest.raises(InputError, match="--cache-latents is for real videos without --images"):
        train("base", data_folder, tmp_path / "dancers", cache_latents=True)
