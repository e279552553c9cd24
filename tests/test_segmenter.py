"""The part segmenter: augmentation keeps labels on their pixels, training resumes, the product loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from densepose_tools.engines import MiniExtractor
from densepose_tools.segmenter import DEFAULT_FOLDER, NUM_LABELS, PartSegmenter
from magicanimate.errors import InputError
from magicanimate.media.photo import load_photo
from magicanimate.palette import FLIP_PERMUTATION
from tests.conftest import ROOT
from tests.dancer_files import write_boxes
from tests.training_files import write_video
from tests.training_runs import losses, rows
from training.__main__ import main
from training.dancers.dataset import DancerFolder
from training.segmenter import command
from training.segmenter.stage import (
    DICE_WEIGHT,
    _hide,
    _transform,
    augment,
    build_segmenter,
    segmentation_loss,
    segmenter_config,
)


@pytest.fixture(scope="module")
def trained(data_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert main(["segmenter", "--data", str(data_folder), "--runs", str(folder), "--preset", "tiny"]) == 0
    return folder


def train(data: Path, runs: Path, *, stop_after: int | None = None, **changes) -> Path | None:
    config = replace(segmenter_config("tiny"), **changes)
    return command.train(config, preset="tiny", data=data, runs=runs, stop_after=stop_after)


@pytest.mark.parametrize("name", ["black", "white", "grey", "blue", "sky", "field"])
def test_the_stand_in_sees_nobody_where_nobody_is(name):
    down = np.linspace(0, 1, 240)[:, None, None]
    plain = {"black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128), "blue": (40, 80, 160)}
    picture = np.broadcast_to(np.array(plain.get(name, (0, 0, 0))), (240, 160, 3))
    if name == "sky":
        picture = np.broadcast_to(np.array([100, 150, 230]) + down * np.array([80, 60, -30]), (240, 160, 3))
    if name == "field":
        grass = np.array([60, 130, 40]) + np.random.default_rng(0).normal(0, 12, (240, 160, 1))
        picture = np.where(down > 0.55, grass, np.array([150, 190, 235]))
    engine = MiniExtractor.load(DEFAULT_FOLDER, device="cpu")
    assert engine.people([picture.clip(0, 255).astype(np.uint8)] * 2) == [[], []]


def test_the_stand_in_sees_who_is_there():
    engine = MiniExtractor.load(DEFAULT_FOLDER, device="cpu")
    for photo in sorted((ROOT / "assets/examples").glob("*_photo.jpg")):
        assert all(engine.people([load_photo(photo)])), photo.name


def test_geometry_moves_labels_with_their_pixels():
    """Pictures whose colour is their label: after the move it still is, away from edges."""
    rng = np.random.default_rng(0)
    for _ in range(6):
        labels = torch.from_numpy(np.kron(rng.integers(1, 25, (4, 4)), np.ones((16, 16)))).long()
        moved, ids = _transform((labels.float() / 24).expand(3, -1, -1), labels, rng)
        assert not torch.equal(ids, labels)
        agree = (moved[0] * 24 - ids.float()).abs() < 0.25
        assert agree[ids > 0].float().mean() > 0.75  # the rest is blended at edges


def test_things_in_front_are_background_or_what_they_were():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        labels = torch.from_numpy(np.kron(rng.integers(1, 25, (4, 4)), np.ones((16, 16)))).long()
        image, before = (labels.float() / 24).repeat(3, 1, 1), labels.clone()
        _hide(image, labels, rng)
        changed = before != labels
        assert changed.any()
        if (labels == 0).any():
            assert (labels[changed] == 0).all()
        else:
            assert torch.equal(image[0], labels.float() / 24)
        seen.add(bool((labels == 0).any()))
    assert seen == {True, False}


def test_mirrored_bodies_change_sides():
    rgb, parts = np.zeros((32, 32, 3), np.uint8), np.full((32, 32), 3, np.uint8)  # the right hand everywhere
    found = [set(np.unique(augment(rgb, parts, np.random.default_rng(seed))[1])) - {0} for seed in range(20)]
    assert {frozenset(labels) for labels in found} == {frozenset({3}), frozenset({int(FLIP_PERMUTATION[3])})}


def test_augmentation_depends_on_its_generator_only():
    rgb = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    parts = np.random.default_rng(2).integers(0, 25, (32, 32), dtype=np.uint8)
    one, two, other = (augment(rgb, parts, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])
    for seed in range(20):
        image, labels = augment(rgb, parts, np.random.default_rng(seed))
        assert image.min() >= -1 and image.max() <= 1 and image.shape == (3, 32, 32)
        assert labels.dtype == torch.int64 and labels.max() < NUM_LABELS


def test_loss_by_the_formula():
    labels = torch.tensor([[[0, 0, 1, 1]]])
    right = 50 * functional.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    assert segmentation_loss(right, labels) == pytest.approx(0, abs=1e-5)
    # each share is 1/3: overlap of either label 2 * (2/3) / (4/3 + 2); the third label is not there
    dice = 1 - (4 / 3) / (4 / 3 + 2)
    assert segmentation_loss(torch.zeros(1, 3, 1, 4), labels) == pytest.approx(np.log(3) + DICE_WEIGHT * dice)
    logits = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (2, 6, 7)))
    shares, truth = logits.softmax(1), functional.one_hot(labels, 5).permute(0, 3, 1, 2)
    overlap = (shares * truth).sum(dim=(2, 3))
    dice = 1 - (2 * overlap / (shares.sum(dim=(2, 3)) + truth.sum(dim=(2, 3)))).mean(1)
    expected = (
        functional.cross_entropy(logits, labels, reduction="none").mean(dim=(1, 2)) + DICE_WEIGHT * dice
    )
    torch.testing.assert_close(segmentation_loss(logits, labels), expected)


def test_resumed_run_is_the_uninterrupted_run(trained, data_folder, tmp_path):
    assert train(data_folder, tmp_path, stop_after=2) is None
    model = train(data_folder, tmp_path)
    assert losses(tmp_path / "segmenter") == losses(trained / "segmenter")
    assert len(losses(trained / "segmenter")) == 4
    ours, whole = (PartSegmenter.load(folder).network for folder in (model, trained / "segmenter" / "model"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


def test_product_labels_pictures_of_any_size(trained):
    segmenter = PartSegmenter.load(trained / "segmenter" / "model")
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 90, 3), dtype=np.uint8)
    labels = segmenter.labels(images)
    assert labels.shape == (3, 50, 90) and labels.dtype == np.uint8 and labels.max() < NUM_LABELS
    assert (segmenter.labels(images[1:2])[0] == labels[1]).all(), "pictures do not influence each other"
    features = segmenter.features(images)
    assert [f.shape[0] for f in features] == [3, 3, 3, 3]
    assert features[0].shape[2] > features[1].shape[2]
    with pytest.raises(ValueError, match="uint8"):
        segmenter.labels(images.astype(np.float32))


def test_it_learns(tmp_path):
    """On plain boxes of a person it never saw, more pixels are right than by calling all background."""
    data = write_boxes(tmp_path / "boxes", identities=8)
    train(data, tmp_path, steps=100, batch_size=4)
    background = (DancerFolder(data)[7][1] == 0).mean()
    assert rows(tmp_path / "segmenter")[-1]["accuracy"] > background + 0.05


def test_it_trains_on_real_clips_with_their_maps(tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("one", "two"):
        write_video(tmp_path / "clips", name, 5)
    assert train(tmp_path / "clips", tmp_path / "runs").is_dir()


def test_a_model_card_outlives_an_export(data_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("card")
    config = segmenter_config("tiny")
    command.train(config, preset="tiny", data=data_folder, runs=tmp_path, out=tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "card"
    PartSegmenter.load(tmp_path / "out")


def test_a_folder_without_the_network_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a part segmenter"):
        PartSegmenter.load(tmp_path)


def test_network_is_small():
    assert sum(p.numel() for p in build_segmenter("mini").parameters()) < 4e6
