"""The stages at tiny size: what learns in each, what its conditions do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn
from torch.utils.data import default_collate

from benchmarks.methods import reconstruct
from densepose_tools.keypoints import draw_keypoints
from densepose_tools.segmenter import PartSegmenter
from magicanimate.animator import Animator
from magicanimate.config import AnimationRequest
from magicanimate.errors import InputError
from magicanimate.models.appearance_encoder import with_photo_map
from magicanimate.pipeline import MagicAnimatePipeline
from tests.inputs import write_motion, write_photo
from tests.media_files import write_clip
from tests.training_files import standing_points, write_points, write_video
from tests.training_runs import losses, rows, train, weights
from training.build import Start
from training.checkpoints import load_averages
from training.config import LossConfig, OptimizerConfig
from training.data.tensors import draw_labels
from training.diffusion import noise_in, same_noise, sample_latents, target
from training.initial_networks import NewNetworks, PipelineNetworks
from training.latents import Latents, channel_weights
from training.loop import Numbered
from training.presets import preset
from training.runs import build_stage
from training.runs import train as train_stage
from training.sets import DataFolders, open_data


@pytest.fixture(scope="module")
def begun(data_folder, tmp_path_factory) -> Path:
    """Runs of "vae" and "base"."""
    folder = tmp_path_factory.mktemp("runs")
    for stage in ("vae", "base"):
        train(stage, data_folder, folder)
    return folder


def linked(folder: Path, begun: Path) -> Path:
    for stage in ("vae", "base"):
        (folder / stage).symlink_to(begun / stage)
    return folder


def build(stage: str, data: Path, runs: Path, **changes):
    """The stage itself, and the settings it was built with."""
    config, network = preset("tiny", stage)
    config = replace(config, **changes)
    sets = open_data(config, DataFolders(data))
    return build_stage(config, network, sets, runs, Start(), device=torch.device("cpu"))


def first_batch(stage) -> dict:
    numbered = Numbered(stage.samples)
    return default_collate([numbered[k] for k in range(stage.config.samples_a_step)])


LEARNING = {
    "base": ("unet.", "appearance_encoder.", "controlnet."),
    "controlnet": ("controlnet.",),
    "stage1": ("appearance_encoder.", "controlnet."),
    "stage2": ("unet.",),
    "distill": ("unet.", "appearance_encoder.", "discriminator."),
    "sharpen": ("vae.", "discriminator."),
}


@pytest.mark.parametrize("stage", LEARNING)
def test_each_stage_changes_its_own_parameters_only(stage, begun, data_folder):
    built = build(stage, data_folder, begun)
    before = {name: p.detach().clone() for name, p in built.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in built.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):  # what lies behind a zero projection learns from the second step on
        built(first_batch(built)).mean().backward()
        optimizer.step()
    changed = {name for name, p in built.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert {name.partition(".")[0] + "." for name in changed} == set(LEARNING[stage])
    if stage in ("stage2", "distill"):
        changed -= {name for name in changed if not name.startswith("unet.")}
        assert all(".motion_modules." in name for name in changed)
    assert not any(name.startswith("vae.encoder.") for name in changed)  # latents keep their meaning


def test_stages_of_the_paper_follow_each_other(begun, data_folder, tmp_path):
    """ControlNet, then appearance encoder and ControlNet, then time: each goes on from the one before."""
    runs = linked(tmp_path, begun)
    fast = {"optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=0, ema_decay=0.0)}
    for stage in ("controlnet", "stage1", "stage2"):
        assert len(losses(train(stage, data_folder, runs, **fast))) == 4
    learned = weights(runs / "stage1")
    assert not torch.equal(
        learned["controlnet.conv_in.weight"], weights(runs / "base")["controlnet.conv_in.weight"]
    )
    final = build("stage2", data_folder, runs)
    assert torch.equal(final.controlnet.conv_in.weight, learned["controlnet.conv_in.weight"])
    assert torch.equal(final.appearance_encoder.conv_in.weight, learned["appearance_encoder.conv_in.weight"])


def test_untrained_temporal_layers_change_nothing(begun, data_folder):
    """A clip seen by the fresh stage-2 network is what the image network makes of its single frame."""
    stage = build("stage2", data_folder, begun)
    image_unet = NewNetworks(preset("tiny", "stage2")[1]).image_unet()
    load_averages({"unet": image_unet}, begun / "base", partly=True)
    noisy, text = torch.randn(1, 4, 1, 4, 4), torch.zeros(1, 1, 16)
    with torch.no_grad():
        clip = stage.unet(noisy, torch.tensor(500), text).sample[:, :, 0]
        picture = image_unet(noisy[:, :, 0], torch.tensor(500), text).sample
    torch.testing.assert_close(clip, picture, atol=1e-5, rtol=1e-4)


def test_sample_is_the_same_wherever_in_the_batch_it_is_computed(begun, data_folder):
    stage = build("base", data_folder, begun, batch_size=8)
    batch = first_batch(stage)
    assert batch["latents"].shape[:2] == (4, 2)
    numbered = Numbered(stage.samples)
    with torch.no_grad():
        together = stage(batch)
        alone = torch.cat([stage(default_collate([numbered[k]])) for k in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert together.unique().numel() == 4


def test_targets_of_one_reference_are_predicted_as_if_alone(begun, data_folder):
    stage = build("base", data_folder, begun)
    nn.init.normal_(stage.unet.conv_out.weight)
    batch = first_batch(stage)
    noisy, timesteps = torch.randn(2, 4, 2, 4, 4), torch.tensor([100, 900])
    shown, control = stage.latents.reference(batch), draw_labels(batch["labels"])
    with torch.no_grad():
        together = stage.predict(noisy, timesteps, shown, {"densepose": control})
        for k in range(2):
            alone = stage.predict(noisy[:, :, [k]], timesteps, shown, {"densepose": control[:, [k]]})
            torch.testing.assert_close(together[:, :, [k]], alone, atol=1e-4, rtol=1e-3)


def test_channel_weights_are_what_shows(begun, data_folder):
    stage = build("base", data_folder, begun)
    latents = Latents(stage.latents.vae)
    nn.init.zeros_(latents.vae.decoder.conv_in.weight[:, 2])
    weights = channel_weights(latents, torch.randn(2, 3, 32, 32))
    assert weights.mean().item() == pytest.approx(1)
    assert weights[2] == 0 and (weights[[0, 1, 3]] > 0).all()


def test_dropped_reference_is_not_seen(begun, data_folder):
    stage = build("stage1", data_folder, begun, drop_reference=1.0)
    batch = first_batch(stage)
    with torch.no_grad():
        before = stage(batch)
        batch["reference_latents"] = -batch["reference_latents"]
        assert torch.equal(stage(batch), before)
    seeing = build("stage1", data_folder, begun, drop_reference=0.0)
    with torch.no_grad():
        a = seeing(batch)
        batch["reference_latents"] = -batch["reference_latents"]
        assert not torch.equal(seeing(batch), a)


def test_where_to_look_counts_for_what_sees_its_reference(begun, data_folder):
    def computed(weight: float, dropped: float) -> torch.Tensor:
        loss = replace(preset("tiny", "base")[0].loss, attention_weight=weight)
        stage = build("base", data_folder, begun, loss=loss, drop_reference=dropped)
        return stage(first_batch(stage))

    assert (computed(1.0, 0.0) > computed(0.0, 0.0) + 0.1).all()
    torch.testing.assert_close(computed(1.0, 1.0), computed(0.0, 1.0))


def test_points_tell_where_to_look_too(begun, data_folder):
    by_points = LossConfig(prediction="v_prediction", attention_weight=1.0, attention_by="points")
    stage = build("base", data_folder, begun, loss=by_points, drop_reference=0.0)
    plain = build(
        "base", data_folder, begun, loss=replace(by_points, attention_weight=0.0), drop_reference=0.0
    )
    batch = first_batch(stage)
    found = stage(batch)
    assert (found > plain(batch) + 0.1).all()
    found.sum().backward()
    assert all(stage.get_parameter(f"unet.{name}.attn1.to_q.weight").grad.any() for name in stage.readers)


def test_points_are_refused_where_there_are_none(begun, tmp_path):
    data = tmp_path / "videos"
    data.mkdir()
    for name in "abc":
        write_video(data, name, 8)
    by_points = LossConfig(prediction="v_prediction", attention_weight=1.0, attention_by="points")
    plain = {"still_share": 0.0, "target_still_share": 0.0}
    with pytest.raises(InputError, match="attention_by points needs rendered dancers"):
        build("base", data, begun, loss=by_points, **plain)


def test_without_reference_there_is_no_appearance_encoder(begun, data_folder, tmp_path):
    runs = tmp_path / "plain"
    runs.mkdir()
    (runs / "vae").symlink_to(begun / "vae")
    run = train("base", data_folder, runs, reference=False)
    assert not any(name.startswith("appearance_encoder") for name in weights(run))
    assert len(losses(run)) == 4
    assert not (run / "pipeline").exists()


@pytest.mark.parametrize("fusion, readers", [("midup", 3), ("full", 4)])
def test_fusion_chooses_the_reading_blocks(fusion, readers, begun, data_folder):
    stage = build("base", data_folder, begun, fusion=fusion)
    assert len(stage.readers) == readers
    assert any(name.startswith("down_blocks") for name in stage.readers) == (fusion == "full")


def test_joint_training_mixes_clips_frames_and_images(begun, data_folder):
    stage = build("stage2", data_folder, begun, steps=60, tau_1=0.3, tau_2=0.6)
    kinds = set()
    for step in range(60):
        sample = stage.samples[step * stage.config.batch_size]
        single = len(sample["frames"]) == 1
        own = single and sample["reference_frame"] == sample["frames"][0]
        kinds.add("image" if own else "frame" if single else "clip")
    assert kinds == {"image", "frame", "clip"}


def test_gradient_checkpointing_changes_no_gradient(begun, data_folder):
    gradients = []
    for checkpointing in (False, True):
        stage = build("base", data_folder, begun, gradient_checkpointing=checkpointing)
        assert stage.unet.is_gradient_checkpointing == checkpointing
        stage(first_batch(stage)).mean().backward()
        gradients.append({name: p.grad for name, p in stage.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_samples_of_a_clip_are_a_grid_and_a_video(begun, data_folder, tmp_path):
    run = train("stage2", data_folder, linked(tmp_path, begun))
    assert {path.suffix for path in (run / "samples").iterdir()} == {".png", ".mp4"}
    last = rows(run)[-1]
    assert last["psnr"] > 5 and last["change_error"] >= 0


def test_later_stage_without_the_earlier_one(data_folder, tmp_path):
    with pytest.raises(InputError, match="run the stage 'vae' first"):
        train("base", data_folder, tmp_path)
    with pytest.raises(InputError, match="run the stage 'base' first"):
        train("stage1", data_folder, tmp_path)
    with pytest.raises(FileNotFoundError):
        load_averages({}, tmp_path / "vae")


def test_two_motion_signals_are_added(tmp_path):
    """Real videos with part maps and keypoints: two ControlNets learn, and the UNet gets their sum."""
    data = tmp_path / "videos"
    data.mkdir()
    for name in "abc":
        write_video(data, name, 8)
        write_points(data, name, 8)
    plain = {"still_share": 0.0, "target_still_share": 0.0, "driving": "both", "holdout": 1}
    train("vae", data, tmp_path, **plain)
    run = train("base", data, tmp_path, **plain)
    learned = weights(run)
    assert {name.partition(".")[0] for name in learned} == {
        "unet",
        "appearance_encoder",
        "controlnet",
        "controlnet_keypoints",
    }
    _animates_with_both(run / "pipeline", tmp_path)

    stage = build("base", data, tmp_path, **plain)
    for name in ("controlnet", "controlnet_keypoints"):
        nn.init.normal_(getattr(stage, name).controlnet_mid_block.weight)
    inputs = torch.randn(1, 4, 4, 4), torch.tensor([500]), torch.zeros(1, 1, 16)
    maps = torch.rand(2, 1, 3, 32, 32)
    together = stage._controlnets[0](*inputs, list(maps), [1.0, 1.0], return_dict=False)[1]
    apart = [
        getattr(stage, name)(*inputs, picture, return_dict=False)[1]
        for name, picture in zip(("controlnet", "controlnet_keypoints"), maps, strict=True)
    ]
    torch.testing.assert_close(together, sum(apart))


def _animates_with_both(pipeline: Path, folder: Path) -> None:
    """The program takes the pipeline, with both signals and only with both."""
    photo = write_photo(folder / "me.png")
    part, points = (write_motion(folder / f"{name}.mp4", 5) for name in ("parts", "points"))
    few = {"num_inference_steps": 1, "width": 32, "height": 32}
    request = AnimationRequest(photo, part, folder / "out.mp4", keypoints=points, **few)
    animator = Animator(pipeline, device="cpu")
    result = animator.animate(request)
    assert result.num_frames == 5 and result.settings["keypoints"] == str(points)
    with pytest.raises(InputError, match="is driven by keypoints, too; give the clip"):
        animator.animate(replace(request, keypoints=None))
    again = PipelineNetworks(pipeline)
    names = ("controlnet", "controlnet_keypoints")
    one, other = (again.controlnet(name).controlnet_mid_block.weight for name in names)
    assert not torch.equal(one, other)


def test_keypoints_alone_leave_a_pipeline(tmp_path):
    data = tmp_path / "videos"
    data.mkdir()
    for name in "abc":
        write_video(data, name, 8)
        write_points(data, name, 8)
    plain = {"still_share": 0.0, "target_still_share": 0.0, "driving": "keypoints", "holdout": 1}
    for stage in ("vae", "base"):
        run = train(stage, data, tmp_path, **plain)
    _animates_with_keypoints_only(run / "pipeline", tmp_path)
    loss = replace(preset("tiny", "base")[0].loss, attention_weight=0.1)
    with pytest.raises(InputError, match="attention_weight goes by part maps"):
        build("base", data, tmp_path, loss=loss, **plain)


def _animates_with_keypoints_only(pipeline: Path, folder: Path) -> None:
    """The pipeline says what drives it: drawn keypoints are taken, a DensePose map is refused."""
    points = standing_points(5, width=64, height=64).points
    drawn = folder / "points.mp4"
    write_clip(drawn, [draw_keypoints(p, width=64, height=64) for p in points])
    part = write_motion(folder / "parts.mp4", 5)
    few = {"num_inference_steps": 1, "width": 32, "height": 32}
    request = AnimationRequest(write_photo(folder / "me.png"), drawn, folder / "out.mp4", **few)
    animator = Animator(pipeline, device="cpu")
    assert animator.defaults.driving == "keypoints"
    assert animator.animate(request).num_frames == 5
    with pytest.raises(InputError, match=r"driven by keypoints, and the motion clip .* is a DensePose map"):
        animator.animate(replace(request, motion=part))
    with pytest.raises(InputError, match="driven by keypoints alone; give .* as the motion clip"):
        animator.animate(replace(request, motion=part, keypoints=drawn))


def test_a_pipeline_tells_its_fusion_and_goes_by_it(begun, data_folder, tmp_path):
    (tmp_path / "vae").symlink_to(begun / "vae")
    pipeline = train("base", data_folder, tmp_path, fusion="full") / "pipeline"
    pipe = MagicAnimatePipeline.from_pretrained(pipeline)
    assert pipe.config.fusion == "full" and pipe.config.driving == "densepose"
    photo, control = np.full((32, 32, 3), 90, np.uint8), np.zeros((2, 32, 32, 3), np.uint8)
    own, full, midup = (pipe(photo, control, fusion=each).frames for each in (None, "full", "midup"))
    assert np.array_equal(own, full) and not np.array_equal(own, midup)
    defaults = Animator(pipeline).defaults
    request = AnimationRequest(Path("a.png"), Path("b.mp4"), Path("c.mp4"))
    assert defaults.completed(request).fusion == "full"
    with pytest.raises(InputError, match="trained with the fusion 'full', not 'midup'"):
        defaults.completed(replace(request, fusion="midup"))


def test_encoder_that_takes_the_photos_part_map(data_folder, tmp_path):
    """It learns with the segmenter's maps, its pipeline says so, and a training at another size goes on."""
    config, network = preset("tiny", "base")
    network = replace(network, photo_map=True)
    loss = replace(config.loss, attention_weight=0.5, attention_by="points")
    train("vae", data_folder, tmp_path)
    config = replace(config, loss=loss)
    train_stage(config, network, data=DataFolders(data_folder), runs=tmp_path)
    pipe = MagicAnimatePipeline.from_pretrained(tmp_path / "base" / "pipeline")
    assert pipe.config.photo_map and pipe.appearance_encoder.config.in_channels == 4 + 25

    photo = np.full((32, 32, 3), 120, np.uint8)
    maps = np.zeros((2, 32, 32), np.uint8), PartSegmenter.load().labels(photo[None])
    maps[0][0, 8:24, 8:24] = 2
    given = {"control": np.stack([photo] * 2), "num_inference_steps": 1, "output_type": "latent"}
    one, other, seen = (pipe(photo, photo_labels=m, **given).latents for m in (*maps[0], maps[1][0]))
    assert not torch.equal(one, other), "what the map shows counts"
    assert torch.equal(pipe(photo, **given).latents, seen), "without one it is the segmenter's"
    assert reconstruct(pipe, np.stack([photo] * 2)).shape == (2, 32, 32, 3), "the map is not decoded"

    start = Start(pipeline=tmp_path / "base" / "pipeline")
    smaller = replace(config, steps=2, sample_every=2, size=16)
    train_stage(smaller, network, data=DataFolders(data_folder), runs=tmp_path / "smaller", start=start)
    again = MagicAnimatePipeline.from_pretrained(tmp_path / "smaller" / "base" / "pipeline")
    assert again.config.photo_map and again.config.default_width == 16


def test_encoder_of_a_pipeline_begins_to_take_the_photos_part_map(data_folder, tiny_model, tmp_path):
    """The map changes nothing at first and counts when it has been learned."""
    config, network = preset("tiny", "base")
    network = replace(network, photo_map=True)
    encoder = PipelineNetworks(tiny_model).appearance_encoder()
    wider = PipelineNetworks(tiny_model, photo_map=True).appearance_encoder()
    latents, text = torch.randn(2, 4, 4, 4), torch.zeros(2, 1, 16)
    with torch.no_grad():
        before = encoder(latents, 1, text)
        after = wider(with_photo_map(latents, torch.randint(25, (2, 32, 32))), 1, text)
    for name, tokens in before.items():
        torch.testing.assert_close(after[name], tokens, atol=1e-5, rtol=1e-5)

    start = Start(pipeline=tiny_model)
    run = {"data": DataFolders(data_folder), "runs": tmp_path, "start": start}
    fast = OptimizerConfig(learning_rate=1e-2, warmup_steps=0, ema_decay=0.0)
    train_stage(replace(config, steps=2, sample_every=2, optimizer=fast), network, **run)
    pipe = MagicAnimatePipeline.from_pretrained(tmp_path / "base" / "pipeline")
    assert pipe.config.photo_map
    assert pipe.appearance_encoder.conv_in.weight[:, 4:].abs().sum() > 0
    sharpen, _ = preset("tiny", "sharpen")
    sets = open_data(sharpen, DataFolders(data_folder))
    for runs, takes in ((tmp_path, True), (tmp_path / "others", False)):
        stage = build_stage(sharpen, network, sets, runs, start, device=torch.device("cpu"))
        assert stage.appearance_encoder.takes_photo_map == takes


def test_own_steps_begin_where_sampling_has_come_to(begun, data_folder):
    """At the second step the latents are what the first one made, and both are to lead to the truth."""
    changes = {"own_steps": 2, "soften_control": False, "drop_reference": 0.0, "share_noise": 1.0}
    stage = build(
        "base", data_folder, begun, loss=LossConfig("v_prediction", zero_terminal_snr=True), **changes
    )
    batch = first_batch(stage)
    shown, control, clean = stage._encoder_input(batch), stage._control(batch), stage.latents.target(batch)
    noise, visible = torch.randn_like(clean), [True] * len(clean)
    met = {}
    for step in range(8):
        latents, timesteps = stage._own_latents(noise, step, shown, control, visible=visible)
        met[int(timesteps[0])] = latents
    assert sorted(met) == [499, 999]
    assert torch.equal(met[999], noise), "sampling begins with noise alone"
    ahead = []

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        ahead.append(noisy)
        return stage.predict(noisy, timesteps, shown, control)

    sample_latents(stage.scheduler, noise, predict, steps=2)
    torch.testing.assert_close(met[499], ahead[1])
    times = torch.full((len(clean),), 499)
    velocity = target(stage.scheduler, clean, noise_in(stage.scheduler, met[499], clean, times), times)
    schedule = DDIMScheduler.from_config(stage.scheduler.config)
    schedule.set_timesteps(2)
    reached = schedule.step(velocity, 499, met[499]).pred_original_sample
    torch.testing.assert_close(reached, clean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["base", "stage2"])
def test_own_steps_make_sampling_in_as_many_truer(name, begun, data_folder):
    changes = {"own_steps": 2, "soften_control": False, "drop_reference": 0.0, "share_noise": 1.0}
    stage = build(name, data_folder, begun, **changes)
    batch = first_batch(stage)
    shown, control, clean = stage._encoder_input(batch), stage._control(batch), stage.latents.target(batch)

    def error() -> float:
        made = sample_latents(
            stage.scheduler,
            same_noise(clean),
            lambda noisy, t: stage.predict(noisy, t, shown, control),
            steps=2,
        )
        return float((made - clean).square().mean())

    before = error()
    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=3e-3)
    for step in range(24):
        # The same clips with other noise, as a step's number decides what is drawn.
        batch["index"] = torch.tensor(range(step * len(clean), (step + 1) * len(clean)))
        optimizer.zero_grad()
        stage(batch).mean().backward()
        optimizer.step()
    assert error() < 0.9 * before


def test_a_pipeline_begins_with_what_it_was_trained_to_begin_with(data_folder, tmp_path):
    """The same latents of the warped photo, in training and in its pipeline."""
    warps = {"first_latents": "warped_photo"}
    train("vae", data_folder, tmp_path)
    run = train("base", data_folder, tmp_path, **warps, own_steps=1)
    pipe = MagicAnimatePipeline.from_pretrained(run / "pipeline")
    assert pipe.config.first_latents == "warped_photo"
    for name in ("base", "stage2", "sharpen"):
        stage = build(name, data_folder, tmp_path, **warps)
        batch = stage._labelled(first_batch(stage))
        clean = stage.latents.target(batch)
        first = stage.first_latents(batch, (), clean.shape[1:], share=())
        assert first.shape == clean.shape
        photo = ((batch["reference"][0] + 1) * 127.5).round().byte().movedim(0, -1).numpy()
        control = (stage._control(batch)["densepose"][0] * 255).round().byte().movedim(1, -1).numpy()
        begun_with = []
        hook = pipe.controlnet.register_forward_pre_hook(
            lambda _, args, kept=begun_with: kept.append(args[0])
        )
        labels = stage._photo_labels(batch)[0].byte().numpy()
        pipe(photo, control, photo_labels=labels, num_inference_steps=1, guidance_scale=1.0)
        hook.remove()
        torch.testing.assert_close(first[0].transpose(0, 1), begun_with[0].float(), atol=0.05, rtol=0.05)
        assert torch.isfinite(stage(batch)).all()


def test_a_pipeline_takes_the_steps_it_was_trained_for(begun, data_folder, tmp_path):
    """Also when its decoder is sharpened afterwards, for which it samples."""
    runs = linked(tmp_path, begun)
    for stage, changes in {"stage2": {"own_steps": 1}, "sharpen": {}}.items():
        run = train(stage, data_folder, runs, **changes)
        assert json.loads((run / "pipeline" / "model_index.json").read_text())["default_steps"] == 1
