"""The DensePose palette: its table, the nearest colour, and the way back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from magicanimate.palette import (
    BACKGROUND,
    FLIP_PERMUTATION,
    PALETTE,
    PART_NAMES,
    colourise,
    nearest_labels,
)


def test_table_agrees_with_the_reference(shared):
    facts = json.loads((shared / "golden/densepose/palette.json").read_text())
    assert facts["palette_rgb"] == PALETTE.tolist()
    assert tuple(facts["background_rgb"]) == BACKGROUND
    parts = json.loads((shared / "golden/densepose/parts.json").read_text())
    assert tuple(parts["names"]) == PART_NAMES
    assert parts["flip_label_permutation"] == FLIP_PERMUTATION.tolist()


def test_flip_is_its_own_inverse_and_swaps_the_sides():
    assert (FLIP_PERMUTATION[FLIP_PERMUTATION] == np.arange(25)).all()
    swap = {"left": "right", "right": "left"}
    for label, mirrored in enumerate(FLIP_PERMUTATION):
        expected = " ".join(swap.get(word, word) for word in PART_NAMES[label].split())
        assert PART_NAMES[mirrored] == expected


def test_drawn_labels_are_read_back():
    labels = np.random.default_rng(0).integers(0, 25, (40, 60)).astype(np.uint8)
    found, distance = nearest_labels(colourise(labels))
    assert found.dtype == np.uint8 and distance.dtype == np.float32
    assert (found == labels).all()
    assert (distance == 0).all()


def test_nearest_is_exact_for_any_colour():
    rgb = np.random.default_rng(1).integers(0, 256, (20_000, 3)).astype(np.uint8)
    near = PALETTE[np.random.default_rng(2).integers(0, 25, 20_000)].astype(int)
    near = np.clip(near + np.random.default_rng(3).integers(-9, 10, near.shape), 0, 255).astype(np.uint8)
    rgb = np.concatenate([rgb, near])
    squares = ((rgb[:, None].astype(np.int64) - PALETTE.astype(np.int64)) ** 2).sum(-1)
    labels, distance = nearest_labels(rgb)
    assert (labels == squares.argmin(1)).all()
    np.testing.assert_allclose(distance, np.sqrt(squares.min(1)), rtol=1e-6)


def test_shapes_are_kept():
    labels, distance = nearest_labels(np.zeros((2, 3, 4, 3), np.uint8))
    assert labels.shape == distance.shape == (2, 3, 4)
    assert colourise(labels).shape == (2, 3, 4, 3)
    assert nearest_labels(np.zeros((0, 5, 3), np.uint8))[0].shape == (0, 5)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.uint8(3)])
def test_wrong_colours_are_refused(wrong):
    with pytest.raises(ValueError, match="uint8"):
        nearest_labels(wrong)


@pytest.mark.parametrize("wrong", [np.array([25]), np.array([-1]), np.array([0.5])])
def test_wrong_labels_are_refused(wrong):
    with pytest.raises(ValueError, match="labels"):
        colourise(wrong)
