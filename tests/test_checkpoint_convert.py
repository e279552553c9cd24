"""The published layout becomes a pipeline folder: the same weights from every format."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from magicanimate.animator import Animator
from magicanimate.checkpoints import layout as layout_module
from magicanimate.checkpoints import weight_files
from magicanimate.checkpoints.convert import convert_checkpoint, empty_network
from magicanimate.checkpoints.layout import (
    SCHEDULER,
    choose_weights,
    find_published,
    is_motion_key,
    sd15_config,
    video_unet_config,
)
from magicanimate.checkpoints.weight_files import open_weights
from magicanimate.config import AnimationRequest, Progress
from magicanimate.device import dtype_argument
from magicanimate.errors import InputError
from magicanimate.models.appearance_encoder import AppearanceEncoder
from magicanimate.models.prompt import EmptyPrompt
from magicanimate.models.unet import VideoUNet
from magicanimate.pipeline import MagicAnimatePipeline
from tests import inputs
from tests.conftest import ROOT
from tests.published_layout import (
    MOTION,
    TINY_TEXT,
    TINY_UNET,
    TINY_VAE,
    TINY_VOCABULARY,
    fill_module,
    tiny_appearance_encoder,
    tiny_controlnet,
    tiny_text_state,
    tiny_unet,
    tiny_vae,
    write_motion,
    write_published_layout,
    write_single_file,
)

CLASSES = {
    "unet": (VideoUNet, tiny_unet),
    "appearance_encoder": (AppearanceEncoder, tiny_appearance_encoder),
    "controlnet": (ControlNetModel, tiny_controlnet),
    "vae": (AutoencoderKL, tiny_vae),
}


def _listed(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("component", CLASSES)
def test_every_weight_arrives_under_its_name(converted, component):
    cls, tiny = CLASSES[component]
    loaded, info = cls.from_pretrained(converted / component, output_loading_info=True)
    assert not any(info.values())
    expected = fill_module(component, tiny()).state_dict()
    state = loaded.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    arguments = {key: value for key, value in tiny().config.items() if key[0] != "_"}
    assert {key: _listed(loaded.config[key]) for key in arguments} == {
        key: _listed(value) for key, value in arguments.items()
    }


def test_the_folder_says_what_it_is(converted):
    index = json.loads((converted / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "MagicAnimatePipeline"
    assert (index["kind"], index["default_steps"], index["default_guidance_scale"]) == ("full", 25, 7.5)
    assert (index["default_width"], index["default_height"]) == (512, 512)
    parts = {name for name, value in index.items() if isinstance(value, list)}
    assert parts == {path.name for path in converted.iterdir() if path.is_dir()}
    scheduler = DDIMScheduler.from_pretrained(converted / "scheduler")
    assert {key: scheduler.config[key] for key in SCHEDULER} == SCHEDULER
    scheduler.set_timesteps(25)
    assert scheduler.timesteps.tolist() == [*range(961, 0, -40)]


def test_empty_prompt_is_what_the_text_encoder_makes_of_it(converted):
    encoder = CLIPTextModel(CLIPTextConfig(**TINY_TEXT)).eval()
    encoder.load_state_dict(
        {
            key.removeprefix("text_model."): value
            for key, value in tiny_text_state().items()
            if not key.endswith("position_ids")
        }
    )
    start, end = TINY_VOCABULARY.index("<|startoftext|>"), TINY_VOCABULARY.index("<|endoftext|>")
    with torch.inference_mode():
        expected = encoder(torch.tensor([[start] + [end] * 76])).last_hidden_state
    prompt = EmptyPrompt.from_pretrained(converted / "empty_prompt")
    torch.testing.assert_close(prompt.embedding, expected)
    assert (prompt.config.num_tokens, prompt.config.width) == (77, 32)


def test_text_encoder_and_tokenizer_come_along(converted):
    tokenizer = CLIPTokenizer.from_pretrained(converted / "tokenizer")
    assert tokenizer("a b").input_ids == [
        TINY_VOCABULARY.index(t) for t in ("<|startoftext|>", "a</w>", "b</w>", "<|endoftext|>")
    ]
    _, info = CLIPTextModel.from_pretrained(converted / "text_encoder", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.parametrize(("weights", "motion"), [("bin", "plain"), ("old_bin", "prefixed")])
def test_other_formats_convert_to_the_same_bytes(converted, tmp_path, weights, motion):
    source = write_published_layout(tmp_path / "published", weights=weights, motion=motion)
    other = convert_checkpoint(source, tmp_path / "full")
    files = sorted(path.relative_to(converted) for path in converted.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert all((converted / file).read_bytes() == (other / file).read_bytes() for file in files)


def test_half_precision(published, tmp_path, converted):
    half = convert_checkpoint(published, tmp_path / "half", dtype="float16")
    for file in half.rglob("*.safetensors"):
        whole = load_file(converted / file.relative_to(half))
        for key, value in load_file(file).items():
            assert value.dtype == torch.float16
            if "empty_prompt" not in file.parts:  # that one is computed from the halved text encoder
                assert torch.equal(value, whole[key].half())
    unet = VideoUNet.from_pretrained(half / "unet", **{dtype_argument(): torch.float16})
    assert unet.dtype == torch.float16


def test_pipeline_loads(converted):
    pipeline = MagicAnimatePipeline.from_pretrained(converted)
    assert isinstance(pipeline.unet, VideoUNet)
    assert isinstance(pipeline.appearance_encoder, AppearanceEncoder)
    assert pipeline.empty_prompt.embedding.shape == (1, 77, 32)
    assert pipeline.config.kind == "full"
    without = MagicAnimatePipeline.from_pretrained(converted, text_encoder=None, tokenizer=None)
    assert without.text_encoder is None


def test_text_encoder_is_loaded_for_a_prompt_only(converted, tmp_path):
    request = AnimationRequest(
        photo=inputs.write_photo(tmp_path / "me.png"),
        motion=inputs.write_motion(tmp_path / "dance.mp4", 2),
        output=tmp_path / "plain",
        width=64,
        height=64,
        num_inference_steps=1,
    )
    animator = Animator(converted, device="cpu")

    def frame(**change) -> np.ndarray:
        folder = animator.animate(replace(request, **change)).output
        return np.asarray(Image.open(folder / "000000.png")).astype(int)

    plain = frame()
    assert animator.pipe.text_encoder is None
    prompted = frame(prompt="a b", output=tmp_path / "prompted")
    negative = frame(negative_prompt="c", output=tmp_path / "negative")
    assert animator.pipe.text_encoder is not None
    assert np.abs(prompted - plain).max() > 1
    assert np.abs(negative - plain).max() > 1
    assert np.abs(frame(output=tmp_path / "again") - plain).max() <= 1


@pytest.mark.slow
def test_prompt_where_diffusers_was_imported_without_transformers(converted, tmp_path):
    """As in `app.py`, which leaves it out to start sooner; in a process of its own."""
    photo, motion = inputs.write_photo(tmp_path / "me.png"), inputs.write_motion(tmp_path / "dance.mp4", 2)
    script = f"""
from pathlib import Path
from magicanimate.device import import_diffusers
from magicanimate.animator import Animator
from magicanimate.config import AnimationRequest
import_diffusers()
request = AnimationRequest(Path({str(photo)!r}), Path({str(motion)!r}), Path({str(tmp_path / "out.gif")!r}),
    prompt="a b", width=64, height=64, num_inference_steps=1)
print(Animator({str(converted)!r}, device="cpu").animate(request).num_frames)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"]


def test_progress_counts_every_byte(published, tmp_path):
    seen: list[Progress] = []
    dest = convert_checkpoint(published, tmp_path / "full", on_progress=seen.append)
    steps = [moment.step for moment in seen]
    assert steps == sorted(steps)
    assert {moment.stage for moment in seen} == {"convert"}
    assert seen[-1].step == seen[-1].total == {moment.total for moment in seen}.pop()
    written = sum(path.stat().st_size for path in dest.rglob("*.safetensors"))
    assert seen[-1].total == pytest.approx(written, rel=0.02)  # headers and position tables apart


def test_files_can_be_read_by_others(converted, tmp_path):
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    assert {path.stat().st_mode for path in converted.rglob("*") if path.is_file()} == {usual}


@pytest.mark.parametrize("nested", ["pretrained_models", None])
def test_nesting_variants(published, tmp_path, nested):
    source = tmp_path / "source"
    if nested:
        shutil.copytree(published, source / nested, copy_function=os.link)
    else:  # MagicAnimate's parts unpacked beside Stable Diffusion
        shutil.copytree(published, source, copy_function=os.link)
        for part in list((source / "MagicAnimate").iterdir()):
            part.rename(source / part.name)
    assert find_published(source).motion.weights.name == "temporal_attention.ckpt"


@pytest.mark.parametrize(
    "names",
    [
        ("zcxu-eric/MagicAnimate", "runwayml/stable-diffusion-v1-5", "stabilityai/sd-vae-ft-mse"),
        (
            "models--zcxu-eric--MagicAnimate/snapshots/0123",
            "models--runwayml--stable-diffusion-v1-5/snapshots/4567",
            "models--stabilityai--sd-vae-ft-mse/snapshots/89ab",
        ),
        (
            "custom_nodes/ComfyUI-MagicAnimate/pretrained_models/MagicAnimate",
            "models/diffusers/stable-diffusion-v1-5",
            "models/diffusers/sd-vae-ft-mse",
        ),
    ],
    ids=["owners", "hub cache", "ComfyUI"],
)
def test_layouts_of_other_programs(published, tmp_path, names):
    for own, other in zip(("MagicAnimate", "stable-diffusion-v1-5", "sd-vae-ft-mse"), names, strict=True):
        shutil.copytree(published / own, tmp_path / other, copy_function=os.link)
    parts = find_published(tmp_path)
    assert parts.motion.weights == tmp_path / names[0] / "temporal_attention" / "temporal_attention.ckpt"
    assert parts.unet.weights.parent == tmp_path / names[1] / "unet"
    assert parts.vae.weights.parent == tmp_path / names[2] and len(parts.tokenizer) == 3


def test_folders_of_any_name(published, tmp_path):
    (tmp_path / "empty").mkdir()
    given = {
        "magicanimate": published / "MagicAnimate",
        "stable_diffusion": published / "stable-diffusion-v1-5",
        "vae": published / "sd-vae-ft-mse",
    }
    for name, folder in given.items():
        shutil.copytree(folder, tmp_path / f"my {name}", copy_function=os.link)
    moved = {name: tmp_path / f"my {name}" for name in given}
    parts = find_published(tmp_path / "empty", **moved)
    assert parts.controlnet.weights.parents[1] == moved["magicanimate"]
    assert parts.text_encoder.weights.parents[1] == moved["stable_diffusion"]
    with pytest.raises(InputError, match=r"empty lacks the weights in sd-vae-ft-mse \(looked for in sd-vae"):
        moved.pop("vae")
        find_published(tmp_path / "empty", **moved)
    with pytest.raises(InputError, match="gone, given as --vae, is not a file or folder"):
        find_published(tmp_path / "empty", vae=tmp_path / "gone")


def test_the_vae_of_stable_diffusion_serves_where_the_other_is_absent(layout, caplog):
    (layout / "sd-vae-ft-mse").rename(layout / "stable-diffusion-v1-5" / "vae")
    assert find_published(layout).vae.weights.parent == layout / "stable-diffusion-v1-5" / "vae"
    assert "Stable Diffusion's own VAE" in caplog.text


def test_single_files_convert_to_the_same_bytes(published, converted, tmp_path, monkeypatch):
    tiny = {"unet": TINY_UNET, "vae": TINY_VAE, "text_encoder": TINY_TEXT}
    for name, config in tiny.items():
        monkeypatch.setitem(layout_module._SD15, name, config)
    source = tmp_path / "ComfyUI"
    shutil.copytree(published / "MagicAnimate", source / "MagicAnimate", copy_function=os.link)
    shutil.copytree(
        published / "stable-diffusion-v1-5/tokenizer", source / "tokenizer", copy_function=os.link
    )
    checkpoints, vaes = source / "models" / "checkpoints", source / "models" / "vae"
    checkpoints.mkdir(parents=True)
    vaes.mkdir()
    whole = write_single_file(checkpoints / "v1-5-pruned-emaonly.safetensors")
    parts = find_published(source)
    assert parts.unet.weights == parts.vae.weights == parts.text_encoder.weights == whole
    write_single_file(vaes / "vae-ft-mse-840000-ema-pruned.safetensors", vae_only=True)
    assert find_published(source).vae.weights.parent == vaes
    dest = convert_checkpoint(source, tmp_path / "full")
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        made, expected = (load_file(folder / part / f"{name}.safetensors") for folder in (dest, converted))
        assert made.keys() == expected.keys()
        assert all(torch.equal(made[key], expected[key]) for key in expected), part
    wrong = write_single_file(tmp_path / "vae.safetensors", vae_only=True)
    with pytest.raises(InputError, match="vae.safetensors holds no unet"):
        convert_checkpoint(source, tmp_path / "other", stable_diffusion=wrong)


def test_a_single_file_without_a_tokenizer_still_has_the_empty_prompt(
    published, converted, tmp_path, monkeypatch, caplog, capsys
):
    for name, config in {"unet": TINY_UNET, "vae": TINY_VAE, "text_encoder": TINY_TEXT}.items():
        monkeypatch.setitem(layout_module._SD15, name, config)
    source, models = tmp_path / "published", tmp_path / "my models"
    shutil.copytree(published / "MagicAnimate", source / "MagicAnimate", copy_function=os.link)
    models.mkdir()
    whole = write_single_file(models / "mine.safetensors")
    dest = convert_checkpoint(source, tmp_path / "full", stable_diffusion=whole)
    for place in (models / "tokenizer", models, source / "tokenizer"):
        assert str(place) in caplog.text
    assert "mine.safetensors holds no tokenizer" in caplog.text and "will take no prompt" in caplog.text
    assert not (dest / "text_encoder").exists() and not (dest / "tokenizer").exists()
    made, expected = (EmptyPrompt.from_pretrained(folder / "empty_prompt") for folder in (dest, converted))
    assert torch.equal(made.embedding, expected.embedding)
    inputs.write_photo(tmp_path / "me.png")
    inputs.write_motion(tmp_path / "dance.mp4", 2)
    request = AnimationRequest(
        tmp_path / "me.png", tmp_path / "dance.mp4", tmp_path / "o.mp4", width=64, height=64
    )
    animator = Animator(dest, device="cpu")
    assert animator.animate(replace(request, num_inference_steps=1)).num_frames == 2
    with pytest.raises(InputError, match="understands no text"):
        animator.animate(replace(request, num_inference_steps=1, prompt="a hat"))
    caplog.clear()
    for file in (published / "stable-diffusion-v1-5" / "tokenizer").iterdir():  # beside it they are found
        shutil.copy(file, models)
    whole_again = convert_checkpoint(source, tmp_path / "again", stable_diffusion=whole)
    assert (whole_again / "tokenizer" / "vocab.json").exists() and not caplog.text


def test_choice_of_weights():
    both = {"diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors", "config.json"}
    assert choose_weights(both) == "diffusion_pytorch_model.bin"
    assert choose_weights(both | {"diffusion_pytorch_model.safetensors"}).endswith("model.safetensors")
    assert choose_weights({"my_own.ckpt", "config.json"}) == "my_own.ckpt"
    assert choose_weights({"one.ckpt", "two.ckpt"}) is None
    assert choose_weights({"one.ckpt", "temporal_attention.ckpt"}) == "temporal_attention.ckpt"
    half = {
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model-00001.safetensors",
    }
    assert choose_weights(half) == "diffusion_pytorch_model.safetensors.index.fp16.json"
    sharded = {"m.txt", "diffusion_pytorch_model.safetensors.index.json"}
    assert choose_weights(sharded) == "diffusion_pytorch_model.safetensors.index.json"


def test_length_of_position_tables_is_taken_from_the_file(layout, tmp_path):
    state = torch.load(layout / MOTION, weights_only=True)["state_dict"]
    (layout / MOTION).unlink()
    longer = {
        key: torch.zeros(1, 32, value.shape[-1]) if key.endswith(".pe") else value
        for key, value in state.items()
    }
    torch.save(longer, layout / MOTION)
    dest = convert_checkpoint(layout, tmp_path / "full")
    unet = VideoUNet.from_pretrained(dest / "unet")
    assert unet.config.motion_max_seq_length == 32
    tables = [value for key, value in unet.state_dict().items() if key.endswith("pos_embed.pe")]
    assert all(table.shape[1] == 32 and table.abs().sum() > 0 for table in tables)


def test_shards_hold_what_one_file_holds(published, converted, tmp_path, monkeypatch):
    parts = find_published(published)
    network = empty_network("unet", video_unet_config(json.loads(parts.unet.config.read_text("utf-8"))))
    sources = weight_files.match_network(
        "unet",
        network,
        [
            (open_weights(parts.unet.weights), lambda key: not is_motion_key(key)),
            (open_weights(parts.motion.weights), is_motion_key),
        ],
    )
    folder = tmp_path / "unet"
    folder.mkdir()
    network.save_config(folder)
    tables = weight_files.position_tables(network)
    monkeypatch.setattr(weight_files, "SHARD_BYTES", 6_000_000)
    weight_files.write_weights(folder, sources, tables=tables)
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert len(sizes) > 8
    assert max(sizes) < 6_300_000
    loaded = VideoUNet.from_pretrained(folder).state_dict()
    whole = load_file(converted / "unet" / "diffusion_pytorch_model.safetensors")
    assert loaded.keys() == whole.keys()
    assert all(torch.equal(loaded[key], whole[key]) for key in whole)


def test_configurations_of_stable_diffusion_have_the_published_size():
    counts = {"unet": 1_276_658_564, "appearance_encoder": 857_066_560, "controlnet": 361_279_120}
    for component, count in counts.items():
        config = sd15_config(component)
        config = video_unet_config(config) if component == "unet" else config
        network = empty_network(component, config)
        assert sum(p.numel() for p in network.parameters()) == count
    vae = empty_network("vae", sd15_config("vae"))
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863


def test_motion_alone_is_written_as_asked(tmp_path):
    plain = open_weights(write_motion(tmp_path / "a.ckpt", motion="plain"))
    prefixed = open_weights(write_motion(tmp_path / "b.ckpt", motion="prefixed"))
    assert {f"module.{key}" for key in plain} == set(prefixed)
    assert len(plain) == 560
