"""Trainings that begin with Stable Diffusion's files, at tiny size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from magicanimate.errors import InputError
from magicanimate.models.unet import VideoUNet
from tests.published_layout import fill_tensor, tiny_unet, write_motion
from tests.training_runs import losses, train_paper, weights
from training import build
from training.build import Start, build_networks
from training.checkpoints import newest_checkpoint
from training.initial_networks import StableDiffusionNetworks, load_motion_weights, reset_temporal_layers
from training.presets import preset, tiny_network


@pytest.fixture(scope="module")
def initial(published: Path) -> StableDiffusionNetworks:
    return StableDiffusionNetworks(published / "stable-diffusion-v1-5", published / "sd-vae-ft-mse")


def test_networks_begin_as_copies_of_the_unet(initial):
    unet, encoder, controlnet = (
        initial.image_unet(),
        initial.appearance_encoder(),
        initial.controlnet("controlnet"),
    )
    key = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    expected = fill_tensor("unet", key, unet.state_dict()[key].shape)
    for network in (unet, encoder, controlnet):
        assert torch.equal(network.state_dict()[key], expected)
    assert initial.image_unet().state_dict()[key].data_ptr() != unet.state_dict()[key].data_ptr()
    assert initial.empty_prompt().embedding.shape == (1, 77, 32)
    assert initial.empty_prompt().embedding.abs().sum() > 0


def test_temporal_layers_begin_with_the_published_motion_weights(initial, tmp_path):
    unet = initial.video_unet()
    load_motion_weights(unet, write_motion(tmp_path / "mm.ckpt", motion="prefixed"))
    expected = tiny_unet()
    assert isinstance(unet, VideoUNet)
    assert unet.motion_parameters().keys() == expected.motion_parameters().keys()
    key = "up_blocks.1.motion_modules.0.transformer_blocks.0.attn2.to_k.weight"
    published = key.replace(".0.transformer", ".0.temporal_transformer.transformer")
    published = published.replace(".attn2.", ".attention_blocks.1.")
    assert torch.equal(unet.state_dict()[key], fill_tensor("unet", published, unet.state_dict()[key].shape))


def test_motion_weights_of_another_model_are_refused(initial, tmp_path):
    path = write_motion(tmp_path / "mm.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    missing = dict(list(state.items())[3:])
    torch.save(missing, path)
    with pytest.raises(InputError, match="mm.ckpt lacks .*use motion weights of AnimateDiff"):
        load_motion_weights(initial.video_unet(), path)
    extra = {key.replace("down_blocks.0", "mid_block"): value for key, value in state.items()} | state
    torch.save(extra, path)
    with pytest.raises(InputError, match="holds mid_block.*no place"):
        load_motion_weights(initial.video_unet(), path)


def test_without_motion_weights_the_temporal_layers_change_nothing(initial):
    unet = initial.video_unet()
    reset_temporal_layers(unet)
    last = [p for key, p in unet.motion_parameters().items() if ".proj_out." in key]
    assert last and all(not p.any() for p in last)


def test_what_is_left_out_of_the_papers_way_is_said_once_it_matters(initial, tmp_path, monkeypatch, caplog):
    trained: list[str] = []
    monkeypatch.setattr(build, "newest_checkpoint", lambda folder: folder.name in trained or None)
    monkeypatch.setattr(build, "load_averages", lambda *_, **__: 1)

    def warnings(stage: str, motion: Path | None = None) -> str:
        caplog.clear()
        build_networks(preset("paper_tiktok", stage)[0], initial, tmp_path, motion=motion)
        return caplog.text

    assert "the ControlNet was not pretrained" in warnings("stage1")
    trained.append("controlnet")
    assert warnings("stage1") == ""
    trained.append("stage1")
    assert "without --motion the temporal layers begin at random" in warnings("stage2")
    assert warnings("stage2", write_motion(tmp_path / "mm.ckpt", motion="prefixed")) == ""
    trained.append("stage2")
    caplog.clear()
    build.finished_networks(preset("paper_tiktok", "stage2")[0], initial, tmp_path)
    assert caplog.text == "", "an export does not begin anything"


def test_paper_stages_train_and_leave_a_pipeline(published, data_folder, tmp_path):
    """All three stages of the paper, from Stable Diffusion's and AnimateDiff's layouts to a pipeline."""
    from magicanimate.pipeline import MagicAnimatePipeline

    motion = write_motion(tmp_path / "mm.ckpt")
    for stage in ("controlnet", "stage1"):
        run = train_paper(stage, data_folder, tmp_path / "runs", published)
        assert len(losses(run)) == 0 and newest_checkpoint(run)
    run = train_paper("stage2", data_folder, tmp_path / "runs", published, motion=motion, log_every=1)
    assert len(losses(run)) == 2
    assert all(".motion_modules." in name for name in weights(run))
    pipe = MagicAnimatePipeline.from_pretrained(run / "pipeline")
    assert pipe.config.kind == "full"
    assert pipe.scheduler.config.prediction_type == "epsilon"


def test_both_motion_signals_have_a_controlnet_each(initial, published, tmp_path):
    config, _ = preset("paper_ted", "controlnet")
    config = replace(config, driving="both")
    networks = build_networks(config, initial, tmp_path)
    assert set(networks) == {"unet", "controlnet", "controlnet_keypoints"}


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="--stable-diffusion"):
        Start().initial_networks(None)
    with pytest.raises(InputError, match="paper_"):
        Start(stable_diffusion=tmp_path).initial_networks(tiny_network())
    with pytest.raises(InputError, match="unet"):
        StableDiffusionNetworks(tmp_path, tmp_path)
