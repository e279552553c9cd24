"""The square of the training: picture, map and points stay together, and heads stay in."""

from __future__ import annotations

import numpy as np
import pytest

from magicanimate.errors import InputError
from magicanimate.palette import colourise, nearest_labels
from tests.media_files import part_labels
from training.data.cropping import SquareCrop, person_of, same_aspect


@pytest.mark.parametrize("size", [(200, 100), (100, 240), (160, 160)])
def test_points_go_where_the_picture_goes(size):
    width, height = size
    crop = SquareCrop(50, (0.6, 0.2, 0.9, 0.7))
    picture = np.zeros((height, width, 3), np.uint8)
    x, y = round(0.7 * width), round(0.4 * height)
    picture[y - 3 : y + 3, x - 3 : x + 3] = 255
    shown = crop.picture(picture)[..., 0] > 128
    rows, columns = np.nonzero(shown)
    moved = crop.points(np.array([[x, y, 0.9]]), width=width, height=height)[0]
    assert moved[:2] == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5), abs=1)
    assert moved[2] == pytest.approx(0.9)


def test_picture_and_map_of_other_sizes_show_the_same():
    """A map of half the size of its video."""
    labels = part_labels(width=96, height=96)
    small, large = colourise(labels), colourise(np.kron(labels, np.ones((2, 2), np.uint8)))
    crop = SquareCrop(48, person_of("densepose", [small], "map"))
    first, second = nearest_labels(crop.part_map(small))[0], nearest_labels(crop.part_map(large))[0]
    assert (first == second).mean() > 0.97


def test_of_a_tall_person_the_head_stays():
    """As of a phone's upright video."""
    figure = part_labels(width=96, height=96)
    labels = np.zeros((260, 110), np.uint8)
    labels[40:232, 7:103] = np.kron(figure, np.ones((2, 1), np.uint8))
    drawn = colourise(labels)
    crop = SquareCrop(64, person_of("densepose", [drawn], "map"))
    shown = nearest_labels(crop.part_map(drawn))[0]
    assert (shown >= 23).any() and not (shown[0] > 0).any(), "all of the head and a little room above"
    assert not np.isin(shown, (5, 6)).any(), "the feet are out"


def test_keypoints_drawing_tells_where_the_person_is():
    drawing = np.zeros((50, 100, 3), np.uint8)
    drawing[10:30, 60:80] = (0, 200, 90)
    assert person_of("keypoints", [drawing], "drawing") == (0.6, 0.2, 0.8, 0.6)
    assert person_of("keypoints", [drawing * 0], "drawing") is None


def test_what_is_no_part_map_is_named():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    with pytest.raises(InputError, match="a.densepose.png .*ordinary video"):
        person_of("densepose", [noise], "a.densepose.png")


def test_aspects():
    assert same_aspect((1080, 1920), (544, 960))
    assert not same_aspect((1080, 1920), (512, 512))
