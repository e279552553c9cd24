"""The benchmark end to end at tiny size, on boxes instead of rendered people."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import flops, kinds, methods, oracle, plots, presets, published, real_pairs, synthdance
from benchmarks.figures import Judge, mean_figures, write_json
from benchmarks.strips import strip
from benchmarks.synthdance_data import Task, cross_tasks, render, scaled, self_tasks, still_tasks
from densepose_tools.segmenter import PartSegmenter
from magicanimate.acceleration.options import OptimizationConfig
from magicanimate.errors import InputError
from magicanimate.models.hybrid_attention import install_hybrid_attention, set_reference
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.windows import WindowPlan
from tests.dancer_files import control_frames, write_boxes
from tests.golden_cases import tiny_pipeline
from tests.test_acceleration import animate
from training.segmenter.stage import build_segmenter


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return write_boxes(tmp_path_factory.mktemp("boxes"), stills=1, frames=6)


@pytest.fixture(scope="module")
def segmenter() -> PartSegmenter:
    torch.manual_seed(0)
    return PartSegmenter(build_segmenter("tiny"))


@pytest.fixture(scope="module")
def pipe(tiny_model) -> MagicAnimatePipeline:
    return MagicAnimatePipeline.from_pretrained(tiny_model)


def test_tasks_pair_photos_and_motions(boxes):
    own, cross = self_tasks(boxes, people=4), cross_tasks(boxes, people=4)
    assert (own[1].photo == own[1].truth[0]).all() and (own[1].photo_parts == own[1].parts[0]).all()
    assert (cross[1].parts == own[2].parts).all() and (cross[3].parts == own[0].parts).all()
    assert cross[1].truth is None and (cross[1].photo != own[1].photo).any()
    assert len(own[0].first(2).truth) == len(own[0].first(2).control) == 2
    with pytest.raises(InputError, match="4 people and 5"):
        self_tasks(boxes, people=5)


def test_tasks_at_another_size_are_the_same_tasks(boxes):
    task = still_tasks(boxes, people=2)[1]
    assert (task.photo != task.truth[0]).any() and (task.truth == self_tasks(boxes, people=2)[1].truth).all()
    small = task.at(16)
    assert small.photo.shape == (16, 16, 3) and small.truth.shape == (6, 16, 16, 3)
    assert np.array_equal(small.truth, scaled(task.truth, 16))
    assert small.parts.shape == (6, 16, 16) and set(np.unique(small.parts)) == set(np.unique(task.parts))
    assert task.at(32) is task


def test_exact_copy_takes_the_nearest_places_of_the_same_person():
    photo = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    parts = np.zeros((8, 8), np.uint8)
    parts[:, 2:6] = 2
    places = np.zeros((8, 8, 4), np.float32)
    places[..., 0], places[..., 2] = np.meshgrid(np.arange(8) / 10, np.arange(8) / 10)
    places[..., 3] = parts > 0
    moved = [np.roll(array, 2, 1)[None] for array in (parts, places, photo)]
    task = Task("copy", photo, parts, moved[0], moved[2])
    result, shown = oracle.copied(task, places, moved[1])
    person = moved[0] > 0
    assert (shown == person).all()
    assert np.abs(result[person].astype(int) - moved[2][person]).max() <= 1, "neighbours are 10 cm away"
    moved[1][..., 3] *= 2
    result, shown = oracle.copied(task, places, moved[1])
    assert not shown.any(), "another person's"
    assert (result[person] == photo[parts > 0].mean(0).round()).all()


def test_truth_is_perfect_and_the_photo_is_not(boxes, segmenter):
    judge, task = Judge(segmenter), self_tasks(boxes, people=1)[0]
    perfect = judge.figures(task, task.truth)
    assert perfect["l1"] == perfect["temporal"] == perfect["identity"] == 0
    assert perfect["psnr"] == math.inf and perfect["psnr_overflowing"] == 100
    assert perfect["ssim"] == pytest.approx(1) and perfect["feature_distance"] == pytest.approx(0, abs=1e-9)
    copied = judge.figures(task, methods.copy_photo(task))
    assert copied["psnr_person"] < copied["psnr"] < 40
    assert copied["temporal"] > 0 and copied["flicker"] == 0 and copied["feature_distance"] > 0
    blind = Task("x", task.photo, task.photo_parts, task.parts, None)
    assert set(judge.figures(blind, task.truth)) == {"identity_photo", "pose", "flicker"}


def test_frames_alone_are_what_a_clip_of_one_frame_gives(boxes, pipe):
    """Without temporal layers and with windows of one frame, no frame knows of the others."""
    task = self_tasks(boxes, people=1)[0]
    rows = {method.name: method for method in methods.methods(pipe)}
    for name in ("frame by frame, own noise", "frame by frame, shared noise"):
        clip = rows[name].make(task.first(3)).astype(int)
        assert np.abs(clip[:2] - rows[name].make(task.first(2))).max() <= 1
    assert np.abs(rows["checkpoint"].make(task.first(3)).astype(int) - clip).max() > 1


def test_untrained_networks_are_other_ones(pipe):
    fresh = methods.with_untrained_networks(pipe)
    assert fresh.vae is pipe.vae and fresh.config.default_steps == pipe.config.default_steps
    ours, theirs = pipe.unet.state_dict(), fresh.unet.state_dict()
    assert ours.keys() == theirs.keys()
    assert not torch.equal(ours["conv_in.weight"], theirs["conv_in.weight"])
    assert methods.with_components(pipe).unet is pipe.unet


def test_without_temporal_layers_a_clip_is_its_frames(pipe):
    """Only the norms of the residual blocks still look at several frames; with one frame nothing does."""
    still = methods.without_temporal_layers(pipe.unet)
    layers = [m for name, m in still.named_modules() if name.endswith("proj_out") and "motion" in name]
    assert layers and all(not p.any() for layer in layers for p in layer.parameters())
    assert any(
        p.any() for name, p in pipe.unet.named_parameters() if "motion_modules" in name and "proj_out" in name
    )


def test_whole_benchmark(boxes, segmenter, tiny_model, tmp_path):
    results = synthdance.measure(tiny_model, boxes, segmenter, people=2, frames=[2, 4], out=tmp_path)
    assert list(results) == [
        "self-reenactment, 4 frames",
        "self-reenactment, 2 frames",
        "self-reenactment from another still, 2 frames",
        "cross-identity",
    ]
    assert "untrained networks" not in results["self-reenactment, 4 frames"]
    assert set(results["cross-identity"]) >= {"checkpoint", "copying the photo", "untrained networks"}
    assert "truth" not in results["cross-identity"]
    row = results["self-reenactment, 4 frames"]["checkpoint"]
    assert len(row["people"]) == 2
    assert row["mean"]["l1"] == pytest.approx(np.mean([p["l1"] for p in row["people"]]))
    text = synthdance.report(results)
    assert "| autoencoder (ceiling) |" in text and text.count("|---|") >= 3
    assert Image.open(tmp_path / "self_00_4.png").size == (7 * 32, 4 * 32)
    assert Image.open(tmp_path / "cross_01_2.png").size == (7 * 32, 3 * 32)
    write_json(tmp_path / "results.json", results)
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["self-reenactment, 2 frames"]["truth"]["mean"]["psnr"] is None  # infinite
    with pytest.raises(InputError, match="1 to 6"):
        synthdance.measure(tiny_model, boxes, segmenter, people=1, frames=[8], out=tmp_path)


def test_mean_leaves_out_what_could_not_be_judged():
    mean = mean_figures(
        [{"a": 1.0, "b": math.nan}, {"a": 3.0, "b": math.nan}, {"a": math.nan, "b": math.nan}]
    )
    assert mean["a"] == 2 and math.isnan(mean["b"])


def test_strip_shows_first_and_last_moment():
    photo = np.zeros((4, 4, 3), np.uint8)
    video = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    picture = strip(photo, [video, video + 10], moments=3)
    assert picture[0, ::4, 0].tolist() == [0, 0, 2, 4]
    assert picture[4, ::4, 0].tolist() == [255, 10, 12, 14]


def test_renderer_missing_is_said_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "anny", None)
    with pytest.raises(InputError, match="needs anny.*requirements-train.txt"):
        render(tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_real_pairs_skip_what_is_not_there(segmenter, tiny_model, tmp_path, capsys):
    from magicanimate.media.writer import VideoWriter

    samples, out = tmp_path / "samples", tmp_path / "out"
    samples.mkdir()
    out.mkdir()
    photo, motion = real_pairs.PAIRS[1]
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(samples / photo)
    with VideoWriter(samples / motion, width=64, height=64, fps=25) as writer:
        for frame in control_frames(6, 64):
            writer.write(frame)
    rows = real_pairs.measure(samples, tiny_model, segmenter, frames=4, out=out)
    assert list(rows) == [f"{photo} + {motion}"]
    assert math.isfinite(rows[f"{photo} + {motion}"]["flicker"])
    assert Image.open(out / "demo4.png").size == (9 * 32, 2 * 32)
    assert capsys.readouterr().err.count("skipped") == 4
    assert real_pairs.main(["--samples", str(tmp_path / "none")]) == 0
    assert "--samples" in capsys.readouterr().err


def test_published_order_of_attention_gives_the_same(pipe):
    """What the arithmetic is compared with does the same work: only then do the counts say anything."""
    unet, frames = pipe.unet, 3
    torch.manual_seed(0)
    clip, text, timestep = torch.randn(1, 4, frames, 4, 4), torch.randn(1, 7, 16), torch.tensor(400)
    with torch.no_grad():
        bank = pipe.appearance_encoder(torch.randn(1, 4, 4, 4), timestep, text)
        set_reference(install_hybrid_attention(unet, fusion="midup"), bank, visible=[False, True])
        ours = unet(clip.expand(2, -1, -1, -1, -1), timestep, text.expand(2, -1, -1)).sample
        published.install_published_attention(unet, bank)
        theirs = unet(clip.expand(2, -1, -1, -1, -1), timestep, text.expand(2, -1, -1)).sample
    install_hybrid_attention(unet, fusion="midup")
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(ours[0], ours[1])


def test_published_order_of_the_whole_loop_gives_the_same():
    """In a closed loop of windows; the ControlNet sees each frame once in a step, 16 at a time."""
    pipe, loop = tiny_pipeline(), WindowPlan(closed_loop=True, context_length=4, context_overlap=1)
    given = []
    hook = pipe.controlnet.register_forward_pre_hook(lambda _, inputs: given.append(len(inputs[0])))
    with published.published_order():
        theirs = animate(pipe, published.SPEED, frames=18, windows=loop)
    hook.remove()
    assert given == [16, 2] * 2
    ours = animate(pipe, OptimizationConfig(), frames=18, windows=loop)
    assert (theirs - ours).abs().max() < 1e-4 * ours.abs().max()


def test_clips_are_padded_as_published():
    frames = np.arange(18)[:, None]
    assert published.padded(frames)[:, 0].tolist() == [*range(18), *[17] * 14]
    assert len(published.padded(frames[:16])) == 16


def test_ways_are_compared_with_the_first(boxes, segmenter, pipe):
    bench, task = presets.Bench(pipe, Judge(segmenter)), self_tasks(boxes, people=1)[0].first(2)
    own = pipe.scheduler
    ways = [presets.Way("exact", 3), presets.Way("less", 1, presets.UNIPC)]
    rows = presets.summed([bench.compare(ways, task, task.control)])
    assert rows["exact"]["psnr_exact"] == math.inf and rows["exact"]["seconds_ratio"] == 1
    assert rows["less"]["psnr_exact"] < 100 and 0 < rows["less"]["denoising"] < rows["less"]["seconds"]
    assert pipe.scheduler is own

    streamed = [ways[0], replace(ways[0], name="streamed", beginning_first=True)]
    rows = presets.summed([bench.compare(streamed, task, task.control)])
    assert rows["streamed"]["psnr_exact"] > 50 and 0 < rows["streamed"]["first"] < 100
    lines = presets.report({"two ways": rows}).splitlines()
    assert lines[0] == "**two ways**" and "PSNR to exact" in lines[2] and len(lines) == 6


def test_every_preset_is_a_way():
    exact, *others = presets.presets(25)
    assert exact == presets.Way("exact", 25)
    assert all(way.steps < 25 and way.scheduler for way in others)


def test_time_and_arithmetic_are_told_by_kind():
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.SiLU(), torch.nn.Flatten())
    with torch.inference_mode(), kinds.Timer() as timer:
        torch.nn.functional.linear(layers(torch.randn(2, 3, 6, 6)), torch.randn(7, 80))
    assert timer.flops["convolution"] == 2 * 2 * 3 * 9 * 5 * 16
    assert timer.flops["linear"] == 2 * 2 * 80 * 7
    assert set(timer.seconds) >= {"convolution", "linear", "activation"}


@pytest.mark.parametrize(
    ("largest", "last", "step"),
    [(512, 600, 100), (0.31, 0.4, 0.1), (6, 6, 1), (1, 1, 0.2), (640, 800, 200)],
)
def test_axes_have_round_numbers(largest, last, step):
    found = plots.ticks(largest)
    assert found[0] == 0 and found[-1] == pytest.approx(last) and found[1] == pytest.approx(step)


def test_plot_draws_each_point_in_its_place():
    panel = plots.Panel("a < b", "frames", [(0, 0), (5, 10), (10, 20)])
    root = ElementTree.fromstring(plots.svg([panel, panel]))
    groups = root.findall("{*}g")
    circles = [[float(c.get(name)) for c in groups[1].findall("{*}circle")] for name in ("cx", "cy")]
    assert len(groups) == 2 and circles[0] == [60, 230, 400] and circles[1] == [230, 135, 40]
    assert "a < b" in [text.text for text in groups[0].findall("{*}text")]


@pytest.mark.slow
def test_counted_arithmetic():
    with torch.device("meta"):
        networks = flops.build_networks((32, 32, 32, 32), text_width=16)
    published, ours = (
        flops.count_step(networks, frames=24, size=128, published=choice) for choice in (True, False)
    )
    assert ours["appearance encoder"] == pytest.approx(published["appearance encoder"] / 2)
    assert ours["ControlNet"] < published["ControlNet"]
    assert 0.3 < ours["UNet"] / published["UNet"] < 2 / 3  # two windows instead of the ring's three


@pytest.mark.slow
def test_counted_arithmetic_of_presets():
    with torch.device("meta"):
        networks = flops.build_networks((32, 32, 32, 32), text_width=16)
    kinds = flops.count_kinds(networks, size=128)
    assert kinds[2, False] > kinds[1, False] > kinds[2, True] == pytest.approx(2 * kinds[1, True], rel=0.2)
    rows = [line.split("|") for line in flops.preset_table(networks, size=128).splitlines()[2:]]
    ratios = [float(row[7]) for row in rows]
    assert ratios[0] == 1 and ratios == sorted(ratios)
