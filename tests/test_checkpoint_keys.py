"""Published key names and diffusers': the rule of the reference numbers, and SD 1.5's manifest."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import ControlNetModel

from magicanimate.checkpoints import layout
from magicanimate.models.appearance_encoder import AppearanceEncoder
from magicanimate.models.unet import VideoUNet
from tests.published_layout import (
    fill_module,
    fill_state,
    fill_tensor,
    normals,
    published_shapes,
    tiny_unet,
)

ATTENTION = "down_blocks.1.motion_modules.0.temporal_transformer.transformer_blocks.0"


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (f"{ATTENTION}.attention_blocks.0.to_q.weight", "transformer_blocks.0.attn1.to_q.weight"),
        (f"module.{ATTENTION}.attention_blocks.1.to_out.0.bias", "transformer_blocks.0.attn2.to_out.0.bias"),
        (f"module.unet.{ATTENTION}.norms.0.weight", "transformer_blocks.0.norm1.weight"),
        (f"unet.{ATTENTION}.norms.1.bias", "transformer_blocks.0.norm2.bias"),
        (f"{ATTENTION}.ff_norm.weight", "transformer_blocks.0.norm3.weight"),
        (f"{ATTENTION}.ff.net.0.proj.weight", "transformer_blocks.0.ff.net.0.proj.weight"),
    ],
)
def test_motion_keys_follow_the_rules(published, expected):
    assert layout.motion_key(published) == f"down_blocks.1.motion_modules.0.{expected}"


def test_position_tables_are_dropped():
    assert layout.motion_key(f"{ATTENTION}.attention_blocks.0.pos_encoder.pe") is None


def test_spatial_keys_stay_as_they_are():
    key = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert layout.unet_key(f"module.{key}") == key


def test_old_autoencoder_attention():
    assert layout.vae_key("encoder.mid_block.attentions.0.query.weight").endswith("0.to_q.weight")
    assert layout.vae_key("decoder.mid_block.attentions.0.proj_attn.bias").endswith("0.to_out.0.bias")
    new = "encoder.mid_block.attentions.0.to_k.weight"
    assert layout.vae_key(new) == new
    quant = "quant_conv.weight"
    assert layout.vae_key(quant) == quant


def test_every_unet_key_survives_the_way_there_and_back():
    for key in tiny_unet().state_dict():
        published = layout.published_key("unet", key)
        assert layout.unet_key(published) == (None if layout.is_positional(key) else key)


def test_unknown_component_is_named():
    with pytest.raises(ValueError, match="'vea'"):
        layout.convert_key("vea", "conv_in.weight")


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module.", "module.unet."])
def test_wrapped_and_prefixed_state_loads_to_the_same_network(prefix, wrapped):
    unet = tiny_unet()
    published = fill_state("unet", published_shapes("unet", unet))
    state = {f"{prefix}{key}": value for key, value in published.items()}
    weights = layout.unwrap({"state_dict": state, "epoch": 3} if wrapped else state)
    state = {key: weights[name] for key, name in layout.convert_keys("unet", weights).items()}
    missing, unexpected = unet.load_state_dict(state, strict=False)
    assert unexpected == []
    assert all(layout.is_positional(key) for key in missing)
    expected = fill_module("unet", tiny_unet()).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in unet.state_dict().items())


def test_fill_rule_gives_the_self_test_values(shared):
    cases = json.loads((shared / "golden/magicanimate/cases.json").read_text(encoding="utf-8"))
    shapes = {
        "unet/conv_in.weight": (32, 4, 3, 3),
        "unet/conv_norm_out.weight": (32,),
        "controlnet/conv_in.bias": (32,),
    }
    for name, expected in cases["fill"]["self_test"].items():
        if name in shapes:
            values = fill_tensor(*name.split("/"), shapes[name])
        else:
            values = normals(name, (1, 4, 8, 16, 16))
        torch.testing.assert_close(values.flatten()[:3], torch.tensor(expected), rtol=1e-6, atol=1e-7)


def test_manifest_of_stable_diffusion_is_met_on_the_meta_device(shared):
    manifest = json.loads((shared / "golden/magicanimate/manifest_sd15.json").read_text(encoding="utf-8"))
    sd15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
    with torch.device("meta"):
        networks = {
            "unet": VideoUNet(
                cross_attention_dim=768,
                num_attention_heads=8,
                use_motion_mid_block=False,
                motion_max_seq_length=24,
            ),
            "appearance_encoder": AppearanceEncoder(**sd15),
            "controlnet": ControlNetModel(**sd15),
        }
    published = {"unet": "unet3d", "appearance_encoder": "appearance_encoder", "controlnet": "controlnet"}
    for component, network in networks.items():
        converted = layout.convert_keys(component, manifest[published[component]])
        shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
        assert {key: manifest[published[component]][name] for key, name in converted.items()} == {
            key: shape for key, shape in shapes.items() if not layout.is_positional(key)
        }


def test_motion_weights_alone_are_those_of_the_manifest(shared):
    manifest = json.loads((shared / "golden/magicanimate/manifest_sd15.json").read_text(encoding="utf-8"))
    alone = layout.convert_keys("unet", manifest["motion_modules"])
    whole = layout.convert_keys("unet", manifest["unet3d"])
    assert alone == {key: name for key, name in whole.items() if layout.is_motion_key(key)}
    assert len(alone) == 520  # 560 published, of which 40 are position tables
