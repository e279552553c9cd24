"""What cannot be converted: one sentence that names file and key, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from magicanimate.checkpoints.convert import convert_checkpoint, convert_files
from magicanimate.checkpoints.layout import find_published
from magicanimate.errors import Cancelled, InputError
from tests.published_layout import (
    CONTROLNET,
    ENCODER,
    MOTION,
)


def _replace(path: Path, change) -> None:
    """Rewrite a safetensors file after ``change(state)``."""
    state = load_file(path)
    change(state)
    path.unlink()
    save_file(state, path)


def test_stopping_leaves_nothing(published, tmp_path):
    calls = iter(range(1000))
    with pytest.raises(Cancelled):
        convert_checkpoint(published, tmp_path / "full", should_stop=lambda: next(calls) == 300)
    assert next(calls) == 301
    assert list(tmp_path.iterdir()) == []


def test_existing_folders_are_safe(published, converted, tmp_path):
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "me.png").write_bytes(b"x")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="already exists and is not a converted checkpoint"):
            convert_checkpoint(published, foreign, overwrite=overwrite)
    earlier = shutil.copytree(converted, tmp_path / "full")
    (earlier / "left-over").touch()
    with pytest.raises(InputError, match="already holds a checkpoint"):
        convert_checkpoint(published, earlier)
    with pytest.raises(InputError, match="lacks the weights in"):
        convert_checkpoint(foreign, earlier, overwrite=True)
    assert (earlier / "left-over").exists()  # a failed conversion keeps what was there
    convert_checkpoint(published, earlier, overwrite=True)
    assert not (earlier / "left-over").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "photos"]


def test_destination_that_cannot_be_made(published, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file cannot be written .*choose another folder"):
        convert_checkpoint(published, tmp_path / "file" / "full")


def test_full_disk_is_noticed_before_writing(published, tmp_path, monkeypatch):
    monkeypatch.setattr("magicanimate.checkpoints.disk.free_bytes", lambda path: 5_000_000)
    with pytest.raises(InputError, match=r"needs 10\d MB of free disk and .*full has 5 MB"):
        convert_files(lambda: find_published(published), tmp_path / "full")
    assert list(tmp_path.iterdir()) == []


def test_missing_parts_are_all_named(layout, tmp_path):
    (layout / MOTION).unlink()
    shutil.rmtree(layout / "sd-vae-ft-mse")
    (layout / "stable-diffusion-v1-5/tokenizer/merges.txt").unlink()
    with pytest.raises(InputError) as caught:
        convert_checkpoint(layout, tmp_path / "full")
    for name in ("temporal_attention.ckpt", "sd-vae-ft-mse", "tokenizer"):
        assert name in str(caught.value)
    assert "looked for in sd-vae-ft-mse, stabilityai/sd-vae-ft-mse, models--stab" in str(caught.value)
    with pytest.raises(InputError, match="is not a folder"):
        convert_checkpoint(layout / "absent", tmp_path / "full")


def _pop(key):
    return lambda state: state.pop(key)


def _set(key, value):
    return lambda state: state.update({key: value})


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (
            ENCODER,
            _pop("mid_block.resnets.0.conv1.bias"),
            "lacks mid_block.resnets.0.conv1.bias, wh",
        ),
        (
            ENCODER,
            _set("conv_out.bias", torch.ones(4)),
            "holds conv_out.bias, for which the appear",
        ),
        (ENCODER, _set("conv_in.bias", torch.ones(7)), r"conv_in.bias has shape \(7,\), .* needs \(32,\)"),
        (CONTROLNET, _set("conv_in.bias", torch.full((32,), torch.nan)), "conv_in.bias holds NaN or inf"),
        (
            CONTROLNET,
            _set("conv_in.bias", torch.ones(32, dtype=torch.int8)),
            "conv_in.bias is not a plain",
        ),
        (
            CONTROLNET,
            _set("module.conv_in.bias", torch.ones(32)),
            "holds both .*conv_in.bias and .*conv_in",
        ),
    ],
)
def test_wrong_weights_are_named(layout, tmp_path, file, change, words):
    _replace(layout / file, change)
    with pytest.raises(InputError, match=words) as caught:
        convert_checkpoint(layout, tmp_path / "full")
    assert file.split("/")[-1] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_overflow_of_half_precision_is_named(layout, tmp_path):
    _replace(layout / CONTROLNET, _set("conv_in.bias", torch.full((32,), 1e6)))
    with pytest.raises(InputError, match="conv_in.bias does not fit torch.float16; convert to float32"):
        convert_checkpoint(layout, tmp_path / "full", dtype="float16")
    with pytest.raises(InputError, match="'int4' is not a weight format"):
        convert_checkpoint(layout, tmp_path / "full", dtype="int4")


def test_motion_file_that_is_no_motion_file(layout, tmp_path):
    (layout / MOTION).unlink()
    torch.save(load_file(layout / CONTROLNET), layout / MOTION)
    with pytest.raises(InputError, match=r"temporal_attention\.ckpt holds \S+, for which the unet"):
        convert_checkpoint(layout, tmp_path / "full")


def test_incomplete_motion_file_names_the_published_key(layout, tmp_path):
    state = torch.load(layout / MOTION, weights_only=True)["state_dict"]
    gone = [key for key in state if key.startswith("down_blocks.0") and "ff_norm" in key]
    (layout / MOTION).unlink()
    torch.save({key: value for key, value in state.items() if key not in gone}, layout / MOTION)
    with pytest.raises(InputError, match=r"lacks down_blocks\.0\.\S+ff_norm\.weight and 3 more"):
        convert_checkpoint(layout, tmp_path / "full")


@pytest.mark.parametrize(
    ("folder", "change", "words"),
    [
        ("stable-diffusion-v1-5/unet", {"freq_shift": 1}, "sets freq_shift to 1"),
        ("stable-diffusion-v1-5/unet", {"block_out_channels": [32, 64]}, "does not describe a usable unet"),
        ("MagicAnimate/appearance_encoder", {"block_out_channels": [32, 64, 128, 160]}, "block_out_channels"),
        ("sd-vae-ft-mse", {"latent_channels": 8}, "8 latent channels"),
        ("stable-diffusion-v1-5/text_encoder", {"num_hidden_layers": 3}, "model.safetensors lacks"),
        ("stable-diffusion-v1-5/text_encoder", {"vocab_size": 5}, "shape is not that of its config"),
    ],
)
def test_configuration_of_another_model(layout, tmp_path, folder, change, words):
    path = layout / folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    path.write_text(json.dumps(config | change), encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        convert_checkpoint(layout, tmp_path / "full")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_damaged_json_files(layout, tmp_path):
    path = layout / "sd-vae-ft-mse/config.json"
    path.unlink()
    path.write_text("<html>", encoding="utf-8")
    with pytest.raises(InputError, match=r"sd-vae-ft-mse.config\.json is not a config\.json of a network"):
        convert_checkpoint(layout, tmp_path / "full")
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match=r"is not a config\.json"):
        convert_checkpoint(layout, tmp_path / "full")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("vocab.json", "{", "vocab.json is damaged"),
        ("vocab.json", "[]", "vocab.json is not a tokenizer's file"),
        ("merges.txt", "#version: 0.2\na b\n", "does not fit vocab.json at 'a b'"),
        ("tokenizer_config.json", '{"model_max_length": 3, "pad_token": "x"}', "fewer than the tokenizer"),
    ],
)
def test_broken_tokenizer(layout, tmp_path, name, content, words):
    path = layout / "stable-diffusion-v1-5/tokenizer" / name
    path.unlink()
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=f"{words}.*download stable-diffusion-v1-5 again"):
        convert_checkpoint(layout, tmp_path / "full")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]
