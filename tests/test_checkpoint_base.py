"""Base models other than the original: fine-tunes in every layout are converted, other models are refused.

The names are those of the original program (CompVis/stable-diffusion), in whose checkpoints the UNet of 1.x
has 686 tensors; what tells other models apart is cited in `magicanimate.checkpoints.convert`.
"""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from magicanimate.checkpoints import layout as layout_module
from magicanimate.checkpoints.convert import convert_checkpoint
from magicanimate.checkpoints.layout import is_motion_key
from magicanimate.cli.main import build_parser
from magicanimate.errors import InputError
from magicanimate.pipeline import MagicAnimatePipeline
from tests.published_layout import TINY_TEXT, TINY_UNET, TINY_VAE, write_single_file

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer."


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    """A single file has no configuration; Stable Diffusion 1.5's is taken, here at tiny size."""
    for name, config in {"unet": TINY_UNET, "vae": TINY_VAE, "text_encoder": TINY_TEXT}.items():
        monkeypatch.setitem(layout_module._SD15, name, config)


@pytest.fixture
def tuned(tmp_path) -> dict[str, torch.Tensor]:
    """The tensors of a single file whose UNet and text encoder are tuned: other than the original ones."""
    state = load_file(write_single_file(tmp_path / "original.safetensors"))
    changed = (UNET, TEXT)
    return {
        key: value * 1.5 if key.startswith(changed) and value.is_floating_point() else value
        for key, value in state.items()
    }


def unet_of(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def assert_tuned(found, original, *, within: float = 0.0) -> None:
    """The spatial layers are the tuned ones and the temporal ones are MagicAnimate's."""
    one, other = unet_of(found), unet_of(original)
    assert one.keys() == other.keys()
    for key, value in other.items():
        expected = value if is_motion_key(key) else value * 1.5
        # Below its smallest normal number float16 has steps of 6e-8.
        assert torch.allclose(one[key].float(), expected, rtol=within, atol=6e-8 if within else 0), key


def test_the_original_has_686_tensors_in_its_unet(tuned):
    assert sum(key.startswith(UNET) for key in tuned) == 686


@pytest.mark.parametrize("layout", ["safetensors", "ckpt", "half", "merge"])
def test_a_single_file(published, converted, tuned, tmp_path, layout):
    file = tmp_path / ("mine v2.ckpt" if layout == "ckpt" else "mine v2.safetensors")
    if layout == "half":
        tuned = {key: value.half() if value.is_floating_point() else value for key, value in tuned.items()}
    if layout == "merge":  # as some merging programs write it: no "text_model.", no VAE, an EMA's leftovers
        tuned = {
            key.replace(f"{TEXT}text_model.", TEXT): value
            for key, value in tuned.items()
            if not key.startswith("first_stage_model.")
        } | {"model_ema.decay": torch.ones(())}
    if layout == "ckpt":
        torch.save({"epoch": 1, "global_step": 2, "state_dict": tuned}, file)
    else:
        save_file(tuned, file)
    found = convert_checkpoint(published, tmp_path / "found", stable_diffusion=file)
    assert_tuned(found, converted, within=1e-3 if layout == "half" else 0)
    pipe = MagicAnimatePipeline.from_pretrained(found)
    assert pipe.tokenizer is not None  # the original's, as the file has none
    assert not torch.equal(
        pipe.empty_prompt.embedding, MagicAnimatePipeline.from_pretrained(converted).empty_prompt.embedding
    )


def test_a_folder(published, converted, tuned, tmp_path):
    """As diffusers writes it, under any name."""
    folder = tmp_path / "my-model"
    shutil.copytree(published / "stable-diffusion-v1-5", folder)
    shutil.copytree(published / "sd-vae-ft-mse", folder / "vae")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: value * 1.5 for key, value in load_file(file).items()}, file)
    assert_tuned(convert_checkpoint(published, tmp_path / "found", stable_diffusion=folder), converted)


def test_the_rest_may_come_from_a_converted_checkpoint(published, converted, tuned, tmp_path, caplog):
    file = tmp_path / "mine.safetensors"
    save_file(tuned, file)
    caplog.set_level(logging.WARNING)
    found = convert_checkpoint(converted, tmp_path / "found", stable_diffusion=file)
    other = convert_checkpoint(published, tmp_path / "other", stable_diffusion=file)
    assert not caplog.records
    files = sorted(path.relative_to(other) for path in other.rglob("*.safetensors"))
    assert files == sorted(path.relative_to(found) for path in found.rglob("*.safetensors"))
    for name in files:
        one, two = load_file(found / name), load_file(other / name)
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in two), name
    with pytest.raises(InputError, match="converted already; say with --base"):
        convert_checkpoint(converted, tmp_path / "third")


def resized(state, key: str, width: int) -> dict[str, torch.Tensor]:
    return state | {key: torch.zeros(len(state[key]), width, *state[key].shape[2:])}


CONV_IN_ORIGINAL = f"{UNET}input_blocks.0.0.weight"
TEXT_IN_ORIGINAL = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
FILES = {
    "an inpainting model": lambda state: resized(state, CONV_IN_ORIGINAL, 9),
    "InstructPix2Pix": lambda state: resized(state, CONV_IN_ORIGINAL, 8),
    "a depth map": lambda state: resized(state, CONV_IN_ORIGINAL, 5),
    "Stable Diffusion 2": lambda state: resized(state, TEXT_IN_ORIGINAL, 1024),
    "OpenCLIP": lambda state: state | {"cond_stage_model.model.ln_final.bias": torch.ones(1)},
    "Stable Diffusion XL": lambda state: (
        state | {"conditioner.embedders.0.transformer.text_model.embeddings.x": torch.ones(1)}
    ),
    "the refiner": lambda state: resized(state, TEXT_IN_ORIGINAL, 1280),
    "Stable Diffusion 3 or Flux": lambda _: {f"{UNET}double_blocks.0.img_attn.qkv.weight": torch.ones(1)},
    "a LoRA": lambda _: {"lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.ones(1)},
    "a ControlNet": lambda _: {"control_model.input_hint_block.0.weight": torch.ones(1)},
    "velocity": lambda state: state | {"v_pred": torch.ones(1)},
}


@pytest.mark.parametrize("what", FILES)
def test_other_files_are_refused_as_what_they_are(published, tuned, tmp_path, what):
    file = tmp_path / "other.safetensors"
    save_file(FILES[what](tuned), file)
    with pytest.raises(InputError, match=what) as caught:
        convert_checkpoint(published, tmp_path / "found", stable_diffusion=file)
    assert str(file) in str(caught.value)
    assert not (tmp_path / "found").exists()


FOLDERS = {
    "an inpainting model": ("unet/config.json", {"in_channels": 9}),
    "Stable Diffusion 2": ("unet/config.json", {"cross_attention_dim": 1024}),
    "Stable Diffusion XL": ("unet/config.json", {"addition_embed_type": "text_time"}),
    "velocity": ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_other_folders_are_refused_as_what_they_are(layout, tmp_path, what):
    folder, (name, change) = layout / "stable-diffusion-v1-5", FOLDERS[what]
    file = folder / name
    config = json.loads(file.read_text()) if file.exists() else {}
    file.unlink(missing_ok=True)  # it is a link to what all tests share
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=what):
        convert_checkpoint(layout, tmp_path / "found", stable_diffusion=folder)


def test_transformers_are_no_unets(layout, tmp_path):
    folder = layout / "stable-diffusion-v1-5"
    (folder / "transformer").mkdir()
    with pytest.raises(InputError, match="Stable Diffusion 3 or Flux"):
        convert_checkpoint(layout, tmp_path / "found", stable_diffusion=folder)


def test_both_names_of_the_option_mean_the_same():
    for option in ("--base", "--stable-diffusion"):
        args = build_parser().parse_args(["convert", "in", "out", option, "mine.safetensors"])
        assert str(args.stable_diffusion) == "mine.safetensors"
