"""LoRAs in every format, on networks of Stable Diffusion 1.5's topology at tiny size.

What the files of each program name is known from these sources:

- kohya: ``networks/lora.py`` of kohya-ss/sd-scripts, whose trainer says "create LoRA for Text Encoder:
  72 modules" and "create LoRA for U-Net: 192 modules" for Stable Diffusion 1.5.
- LCM: ``train_lcm_distill_lora_sd_wds.py`` of diffusers, which also trains residual blocks and what changes
  the size.
- diffusers: ``StableDiffusionPipeline.save_lora_weights``, and before 0.21 the names of attention processors.
- ComfyUI: its node ``LoraSave`` (``comfy_extras/nodes_lora_extract.py``), under the original program's names.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from magicanimate import lora
from magicanimate.animator import Animator
from magicanimate.checkpoints.layout import original_unet_key
from magicanimate.cli.batch import load_batch
from magicanimate.cli.main import build_parser, requests_of
from magicanimate.config import AnimationRequest
from magicanimate.errors import InputError
from magicanimate.files import write_json
from magicanimate.media.outputs import names_only, read_metadata
from magicanimate.pipeline import MagicAnimatePipeline
from tests import inputs
from tests.published_layout import normals
from tests.rounding import assert_same_but_for_rounding

RANK = 2
ATTENTION = [f"attn{number}.to_{name}" for number in (1, 2) for name in ("q", "k", "v", "out.0")]
TRANSFORMER = [
    *("proj_in", "proj_out"),
    *(f"transformer_blocks.0.{name}" for name in (*ATTENTION, "ff.net.0.proj", "ff.net.2")),
]
PLACES = [
    *(f"down_blocks.{level}.attentions.{number}" for level in range(3) for number in range(2)),
    "mid_block.attentions.0",
    *(f"up_blocks.{level}.attentions.{number}" for level in range(1, 4) for number in range(3)),
]
UNET = [f"{place}.{name}" for place in PLACES for name in TRANSFORMER]
RESNETS = [
    *(f"down_blocks.{level}.resnets.{number}" for level in range(4) for number in range(2)),
    *(f"mid_block.resnets.{number}" for number in range(2)),
    *(f"up_blocks.{level}.resnets.{number}" for level in range(4) for number in range(3)),
]
SHORTCUTS = [f"down_blocks.{level}.resnets.0" for level in (1, 2)] + RESNETS[-12:]
LCM = [
    *UNET,
    *(f"{place}.{name}" for place in RESNETS for name in ("conv1", "conv2", "time_emb_proj")),
    *(f"{place}.conv_shortcut" for place in SHORTCUTS),
    *(f"down_blocks.{level}.downsamplers.0.conv" for level in range(3)),
    *(f"up_blocks.{level}.upsamplers.0.conv" for level in range(3)),
]
TEXT_LAYER = [
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
    *("mlp.fc1", "mlp.fc2"),
]


def text_layers(count: int) -> list[str]:
    return [f"text_model.encoder.layers.{number}.{name}" for number in range(count) for name in TEXT_LAYER]


def test_manifests_have_the_numbers_that_their_programs_tell():
    assert (len(UNET), len(text_layers(12)), len(LCM)) == (192, 72, 278)
    assert all(len(set(each)) == len(each) for each in (UNET, LCM))


@pytest.fixture
def pipe(converted) -> MagicAnimatePipeline:
    return MagicAnimatePipeline.from_pretrained(converted)


def factors(network: nn.Module, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Down ``R I (h w)`` and up ``O R (1 1)`` for a layer."""
    shape = network.get_submodule(layer.removeprefix("text_model.")).weight.shape
    down = normals(f"down/{layer}", (RANK, *shape[1:])) / 8
    return down, normals(f"up/{layer}", (shape[0], RANK, *(1 for _ in shape[2:])))


def kohya(pipe, layers, *, alpha: float = 1.0, text: bool = False) -> dict[str, torch.Tensor]:
    state = {}
    named = [("lora_unet_", pipe.unet, layer) for layer in layers]
    named += [("lora_te_", pipe.text_encoder, layer) for layer in text_layers(2) if text]
    for prefix, network, layer in named:
        name = prefix + layer.replace(".", "_")
        down, up = factors(network, layer)
        state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        state[f"{name}.alpha"] = torch.tensor(alpha)
    return state


def old_diffusers(pipe) -> dict[str, torch.Tensor]:
    """Attention processors' names, as before diffusers 0.21."""
    state = {}
    for layer in UNET:
        if ".to_" in layer:
            down, up = factors(pipe.unet, layer)
            block, _, name = layer.removesuffix(".0" if layer.endswith("to_out.0") else "").rpartition(".")
            state[f"unet.{block}.processor.{name}_lora.down.weight"] = down
            state[f"unet.{block}.processor.{name}_lora.up.weight"] = up
    return state


def diffusers(pipe, *, text: bool = True) -> dict[str, torch.Tensor]:
    state = {}
    for layer in UNET:
        down, up = factors(pipe.unet, layer)
        state |= {f"unet.{layer}.lora.down.weight": down, f"unet.{layer}.lora.up.weight": up}
    for layer in text_layers(2) if text else ():
        down, up = factors(pipe.text_encoder, layer)
        name = f"text_encoder.{layer}.lora_linear_layer"
        state |= {f"{name}.down.weight": down, f"{name}.up.weight": up}
    return state


def peft(pipe) -> dict[str, torch.Tensor]:
    state = {}
    for layer in UNET:
        down, up = factors(pipe.unet, layer)
        state |= {f"base_model.model.{layer}.lora_A.weight": down}
        state |= {f"base_model.model.{layer}.lora_B.weight": up}
    return state


def comfyui(pipe, layers) -> dict[str, torch.Tensor]:
    state = {}
    for layer in layers:
        down, up = factors(pipe.unet, layer)
        name = "diffusion_model." + original_unet_key(f"{layer}.weight").removesuffix(".weight")
        state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    return state


FORMATS = {
    "kohya": lambda pipe: (kohya(pipe, UNET, text=True), UNET, 1 / RANK),
    "lcm": lambda pipe: (kohya(pipe, LCM), LCM, 1 / RANK),
    "diffusers": lambda pipe: (diffusers(pipe), UNET, 1.0),
    "old diffusers": lambda pipe: (old_diffusers(pipe), [each for each in UNET if ".to_" in each], 1.0),
    "peft": lambda pipe: (peft(pipe), UNET, 1.0),
    "comfyui": lambda pipe: (comfyui(pipe, LCM), LCM, 1.0),
}


def write(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata=metadata)
    return path


def predicted(pipe) -> torch.Tensor:
    """What the video UNet makes of made-up latents and a made-up text."""
    sample, text = normals("lora/sample", (1, 4, 2, 8, 8)), normals("lora/text", (1, 7, 32))
    with torch.inference_mode():
        return pipe.unet(sample, torch.tensor(500), text).sample


def state_and_modules(network: nn.Module) -> tuple[dict, dict, list[bool]]:
    kinds = {name: type(module) for name, module in network.named_modules()}
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    return weights, kinds, [each.requires_grad for each in network.parameters()]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_the_sum_of_weights_that_it_means(pipe, tmp_path, name):
    """Against weights that are added up here; afterwards weights and modules are those of before."""
    state, layers, scale = FORMATS[name](pipe)
    file = write(tmp_path / "one.safetensors", state)
    before = [state_and_modules(network) for network in (pipe.unet, pipe.text_encoder)]
    plain = predicted(pipe)
    with lora.applied(pipe, [f"{file}:0.5"]) as notes:
        found = predicted(pipe)
    assert notes == []
    for network, (weights, kinds, learns) in zip((pipe.unet, pipe.text_encoder), before, strict=True):
        after = state_and_modules(network)
        assert after[0].keys() == weights.keys()
        assert all(torch.equal(after[0][key], value) for key, value in weights.items())
        assert after[1:] == (kinds, learns)
    assert torch.equal(predicted(pipe), plain)
    with torch.no_grad():
        for layer in layers:
            down, up = factors(pipe.unet, layer)
            pipe.unet.get_submodule(layer).weight += (
                0.5 * scale * torch.einsum("or,r...->o...", up.flatten(1), down)
            )
    expected = predicted(pipe)
    assert (expected - plain).abs().max() > 0.01 * plain.abs().max()
    assert_same_but_for_rounding(found, expected)


@pytest.mark.parametrize("name", ["kohya", "diffusers"])
def test_the_text_encoder_gets_its_part(pipe, tmp_path, name):
    state, _, scale = FORMATS[name](pipe)
    file = write(tmp_path / "one.safetensors", state)
    plain = pipe.encode_text("a b", "", guided=True)
    with lora.applied(pipe, [str(file)]):
        found = pipe.encode_text("a b", "", guided=True)
    assert torch.equal(pipe.encode_text("a b", "", guided=True), plain)
    with torch.no_grad():
        for layer in text_layers(2):
            down, up = factors(pipe.text_encoder, layer)
            pipe.text_encoder.get_submodule(layer.removeprefix("text_model.")).weight += scale * up @ down
    expected = pipe.encode_text("a b", pipe._embed("c") * 0, guided=True)
    assert_same_but_for_rounding(found[1], expected[1])
    assert (found - plain).abs().flatten(1).amax(1).min() > 0.01  # the empty prompt changes as well


def test_without_a_prompt_the_text_encoder_is_left_alone(pipe, tmp_path):
    state = {key: value for key, value in kohya(pipe, UNET, text=True).items() if "_te_" in key}
    file, plain = write(tmp_path / "words.safetensors", state), pipe.encode_text("a b", "", guided=True)
    with lora.applied(pipe, [str(file)], prompted=False) as notes:
        assert torch.equal(pipe.encode_text("a b", "", guided=True), plain)
    assert notes == [
        "words.safetensors is for the text encoder only, and there is no prompt: it has no effect."
    ]


def test_two_files_add_up(pipe, tmp_path):
    one = write(tmp_path / "one.safetensors", kohya(pipe, UNET))
    with lora.applied(pipe, [f"{one}:0.25", f"{one}:0.5"]):
        both = predicted(pipe)
    with lora.applied(pipe, [f"{one}:0.75"]):
        assert_same_but_for_rounding(both, predicted(pipe))


def test_layers_that_do_not_fit_are_named(pipe, tmp_path):
    state = kohya(pipe, UNET)
    state |= {f"lora_unet_nowhere_{i}.lora_down.weight": torch.ones(2, 2) for i in range(5)}
    state["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"] = torch.ones(7, RANK, 1, 1)
    with lora.applied(pipe, [str(write(tmp_path / "odd.safetensors", state))]) as notes:
        pass
    (note,) = notes
    assert note.startswith("odd.safetensors has layers for which there is no place")
    assert "lora_unet_nowhere_0" in note and note.endswith("and 3 more.")
    assert not hasattr(pipe.unet, "peft_config")


def one_layer(name: str, width: int = 32) -> dict[str, torch.Tensor]:
    return {f"{name}.lora_down.weight": torch.ones(2, width), f"{name}.lora_up.weight": torch.ones(32, 2)}


SD2_LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
FOREIGN = {  # names that only such files have
    "Stable Diffusion 2": one_layer(SD2_LAYER, 1024),
    "Stable Diffusion XL": one_layer("lora_unet_input_blocks_4_1_transformer_blocks_9_attn1_to_q"),
    "for Stable Diffusion XL": one_layer("lora_te2_text_model_encoder_layers_0_mlp_fc1"),
    "Flux": one_layer("lora_unet_double_blocks_0_img_attn_qkv"),
    "a LoRA for Flux": one_layer("transformer.single_transformer_blocks.0.attn.to_q"),
    "Stable Diffusion 3": one_layer("lora_unet_joint_blocks_0_context_block_attn_qkv"),
    "AnimateDiff": one_layer("down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0"),
    "a ControlNet": one_layer("lora_controlnet_down_blocks_0"),
    "a whole checkpoint": {"model.diffusion_model.out.2.weight": torch.ones(2)},
    "LoHa or LoKr": {"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": torch.ones(2, 2)},
    "a DoRA": {f"{SD2_LAYER}.dora_scale": torch.ones(2, 2)},
    "holds no layer": {"conv.weight": torch.ones(2, 2)},
    "Stable Diffusion 1.5, whose texts have a width of 768": one_layer(SD2_LAYER, 768),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_other_files_are_refused_as_what_they_are(pipe, tmp_path, what):
    file = write(tmp_path / "other.safetensors", FOREIGN[what])
    with pytest.raises(InputError, match=what.replace(".", r"\.")), lora.applied(pipe, [str(file)]):
        pass
    assert not hasattr(pipe.unet, "peft_config")


def test_a_weight_stands_behind_a_colon(tmp_path):
    assert lora.parse("a.safetensors") == lora.Lora(Path("a.safetensors"))
    assert lora.parse("a.safetensors:-0.5") == lora.Lora(Path("a.safetensors"), -0.5)
    assert lora.parse(r"C:\loras\a.safetensors") == lora.Lora(Path(r"C:\loras\a.safetensors"))
    named = tmp_path / "odd:2"
    named.touch()
    assert lora.parse(str(named)) == lora.Lora(named)
    for weight in ("11", "nan", "inf"):
        with pytest.raises(InputError, match="-10 to 10"):
            lora.parse(f"a.safetensors:{weight}")


def test_what_is_missing_is_said_before_anything_is_loaded(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="is not a file"):
        lora.check_loras([str(tmp_path / "absent.safetensors")])
    (tmp_path / "there.safetensors").touch()
    monkeypatch.setattr(lora.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="requirements-lora.txt"):
        lora.check_loras([str(tmp_path / "there.safetensors")])


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("lcm_lora_sd15", 4),
        ("Hyper-SD15-8steps-lora", 8),
        ("sd15_lightning_2step", 2),
        ("lightning_style", None),
        ("film_grain", None),
    ],
)
def test_files_for_few_steps_are_known_by_their_names(tmp_path, name, steps):
    assert lora.few_steps(write(tmp_path / f"{name}.safetensors", {"x": torch.ones(1)})) == steps


def test_files_for_few_steps_are_known_by_metadata_and_folder(tmp_path):
    said = {"modelspec.title": "Hyper-SD 1.5, 4 steps"}
    assert lora.few_steps(write(tmp_path / "a.safetensors", {"x": torch.ones(1)}, said)) == 4
    folder = tmp_path / "lcm-lora-sdv1-5"
    folder.mkdir()
    assert lora.few_steps(write(folder / "pytorch_lora_weights.safetensors", {"x": torch.ones(1)})) == 4


def test_advice_is_what_is_not_done_yet(tmp_path):
    file = str(write(tmp_path / "lcm.safetensors", {"x": torch.ones(1)}))
    request = AnimationRequest(
        Path(), Path(), Path(), lora=(file,), num_inference_steps=25, guidance_scale=7.5
    )
    (sentence,) = lora.advice(request)
    assert sentence.endswith("it works best with scheduler LCMScheduler, steps 4, guidance 1.")
    heeded = replace(request, num_inference_steps=4, scheduler="LCMScheduler", guidance_scale=1.0)
    assert lora.advice(heeded) == []


def test_command_line_and_batches_take_several(tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).touch()
    words = [
        "animate",
        "me.png",
        "d.mp4",
        "-o",
        "o.mp4",
        "--lora",
        "a.safetensors:0.5",
        "--lora",
        "b.safetensors",
    ]
    (request,) = requests_of(build_parser().parse_args(words))
    assert request.lora == ("a.safetensors:0.5", "b.safetensors")
    batch = tmp_path / "batch.yaml"
    batch.write_text("photo: me.png\nmotion: d.mp4\nlora: [a.safetensors:0.5, b.safetensors]\n")
    (job,) = load_batch(batch).jobs
    assert job["lora"] == (f"{tmp_path / 'a.safetensors'}:0.5", f"{tmp_path / 'b.safetensors'}:1")
    batch.write_text("photo: me.png\nmotion: d.mp4\nlora: a.safetensors\n")
    assert load_batch(batch).jobs[0]["lora"] == (f"{tmp_path / 'a.safetensors'}:1",)


@pytest.mark.parametrize("memory", ["standard", "tight"])
def test_an_animation_with_a_lora(pipe, converted, tmp_path, memory):
    """Its settings name the files, it differs from one without, and what follows is as before."""
    file = write(tmp_path / "lcm.safetensors", kohya(pipe, LCM, alpha=RANK, text=True))
    request = AnimationRequest(
        photo=inputs.write_photo(tmp_path / "me.png"),
        motion=inputs.write_motion(tmp_path / "dance.mp4", 3),
        output=tmp_path / "plain",
        width=64,
        height=64,
        num_inference_steps=2,
        guidance_scale=1.0,
        prompt="a b",
    )
    animator, notes = Animator(converted, device="cpu", memory=memory), []

    def frame(**change) -> np.ndarray:
        result = animator.animate(replace(request, **change), lambda seen: notes.append(seen.note))
        return np.asarray(Image.open(result.output / "000000.png")).astype(int)

    plain = frame()
    assert not any(notes)
    given = f"{file}:0.5"
    adapted = frame(output=tmp_path / "adapted", lora=(given,))
    assert np.abs(adapted - plain).max() > 1
    assert any("scheduler LCMScheduler" in note for note in notes)
    assert json.loads((tmp_path / "adapted.json").read_text())["lora"] == [given]
    assert read_metadata(tmp_path / "adapted")["lora"] == ["lcm.safetensors:0.5"]
    assert np.abs(frame(output=tmp_path / "again") - plain).max() <= 1
    few = frame(output=tmp_path / "few", lora=(given,), scheduler="LCMScheduler")
    assert np.abs(few - adapted).max() > 1


def test_a_result_is_made_again_by_its_settings(tmp_path):
    file = write(tmp_path / "a.safetensors", {"x": torch.ones(1)})
    request = AnimationRequest(Path("me.png"), Path("d.mp4"), Path("o.mp4"), lora=(f"{file}:0.5",))
    write_json(tmp_path / "o.json", request.settings())
    assert load_batch(tmp_path / "o.json").jobs[0]["lora"] == request.lora
    assert names_only(request.settings())["lora"] == ["a.safetensors:0.5"]
