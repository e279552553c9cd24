"""Presets, and the command line made of the settings."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest

from magicanimate.errors import InputError
from tests.conftest import ROOT
from training.__main__ import STAGES as COMMANDS
from training.__main__ import main, parser
from training.config import STAGES, check_config, fixed_settings, flat
from training.options import with_settings
from training.presets import PRESETS, preset


def chosen(*args: str):
    return parser().parse_args(["stage2", "--data", "d", *args])


def test_papers_numbers():
    """Supplement, section 3; the thresholds of section 3.5."""
    stage1, network = preset("paper_tiktok", "stage1")
    assert network is None
    assert (stage1.batch_size, stage1.optimizer.learning_rate, stage1.tau_0) == (8, 1e-5, 0.2)
    stage2, _ = preset("paper_tiktok", "stage2")
    assert (stage2.batch_size, stage2.optimizer.learning_rate) == (8, 1e-4)
    assert (stage2.num_frames, stage2.interval) == (16, 4)
    thresholds = {name: preset(name, "stage2")[0] for name in PRESETS if name.startswith("paper")}
    assert {name: (c.tau_1, c.tau_2) for name, c in thresholds.items()} == {
        "paper_tiktok": (0.2, 0.2),
        "paper_ted": (0.2, 0.36),
        "paper_applications": (0.0, 0.0),
    }


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_frozen_and_name_their_stage(name):
    for stage in ("controlnet", "stage1", "stage2"):
        config, _ = preset(name, stage)
        assert config.stage == stage
        with pytest.raises(FrozenInstanceError):
            config.seed = 3


def test_unknown_preset():
    with pytest.raises(ValueError, match="unknown preset"):
        preset("huge", "stage1")


def test_every_setting_is_an_option():
    config, _ = preset("mini", "stage2")
    options = set(vars(chosen()))
    assert {name.rpartition(".")[2] for name in flat(config)} - {"stage"} <= options
    names = [name.rpartition(".")[2] for name in flat(config)]
    assert len(names) == len(set(names))


def test_options_change_settings_and_leave_the_others():
    config, _ = preset("mini", "stage2")
    args = chosen("--steps", "7", "--learning-rate", "0.5", "--fusion", "full", "--no-soften-control")
    changed = with_settings(config, args)
    difference = {name for name, value in flat(changed).items() if flat(config)[name] != value}
    assert difference == {"steps", "optimizer.learning_rate", "fusion", "soften_control"}
    assert with_settings(config, chosen()) == config


def test_what_a_run_must_keep():
    fixed = fixed_settings(preset("mini", "base")[0])
    assert "seed" in fixed and "loss.prediction" in fixed and "optimizer.learning_rate" in fixed
    assert not {"steps", "workers", "checkpoint_every", "optimizer.decay_steps"} & fixed.keys()


def test_commands_are_the_stages():
    assert tuple(COMMANDS) == STAGES


def test_help_needs_nothing_heavy():
    code = (
        "import sys\nfrom training.__main__ import parser\nparser().parse_args(['stage1', '--data', 'x'])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_wrong_folder_is_one_sentence(tmp_path, capsys):
    runs = ["--runs", str(tmp_path / "runs"), "--preset", "tiny"]
    assert main(["vae", "--data", str(tmp_path / "none"), *runs]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["base", "--data", str(tmp_path), "--preset", "paper_ted"]) == 2
    assert "error:" in capsys.readouterr().err


def test_the_warped_photo_needs_part_maps_and_pictures():
    config, _ = preset("mini", "stage2")
    for change, words in (
        ({"driving": "keypoints"}, "needs part maps"),
        ({"cache_latents": True}, "no pictures"),
    ):
        with pytest.raises(InputError, match=words):
            check_config(replace(config, **change))
        check_config(replace(config, first_latents="noise", **change))
