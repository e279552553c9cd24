"""The network's parts: names, sizes, boxes, drawing; and a small picture through all of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from densepose_tools.people import Person, flip_labels, part_map
from densepose_tools.rcnn import tiny
from densepose_tools.rcnn.boxes import clipped, cut_sides, moved, widened
from densepose_tools.rcnn.network import DensePoseRCNN, chart_result, network_input, network_size
from densepose_tools.rcnn.proposals import anchors, choose_proposals
from densepose_tools.rcnn.regions import choose_people
from magicanimate.palette import colourise
from tests import densepose_golden


@pytest.fixture(scope="module")
def tiny_network() -> DensePoseRCNN:
    torch.manual_seed(3)
    return DensePoseRCNN(tiny(), short=64, long=106).eval()


def test_names_and_shapes_are_those_of_the_released_weights():
    with torch.device("meta"):
        state = DensePoseRCNN().state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == {
        name: rule["shape"] for name, rule in densepose_golden.rules().items()
    }
    assert sum(value.numel() for value in state.values()) == 63_927_330


def test_names_and_shapes_are_those_of_the_manifest(shared: Path):
    manifest = json.loads((shared / "golden" / "densepose" / "manifest.json").read_text())["state_dict"]
    assert manifest == {name: rule["shape"] for name, rule in densepose_golden.rules().items()}


def test_small_picture_gives_the_recorded_outputs():
    network = DensePoseRCNN(short=160, long=266)
    network.load_state_dict(densepose_golden.filled_state())
    expected = load_file(densepose_golden.HERE / "small.safetensors")
    found = densepose_golden.outputs(
        network.eval(), densepose_golden.small_picture(), expected["fixed_boxes_network_xyxy"]
    )
    assert densepose_golden.disagreements(found, expected) == []


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(1024, 1024, (800, 800)), (540, 320, (1333, 790)), (320, 540, (790, 1333)), (2000, 3, (1333, 2))],
)
def test_pictures_are_scaled_to_the_short_side_unless_they_get_too_long(height, width, expected):
    assert network_size(height, width) == expected


def test_input_is_bgr_less_its_mean_and_padded_with_zeros():
    image = np.full((50, 40, 3), (200, 100, 50), dtype=np.uint8)
    batch = network_input([image], (50, 40), torch.device("cpu"))
    assert batch.shape == (1, 3, 64, 64)
    np.testing.assert_allclose(batch[0, :, 49, 39], [50 - 103.53, 100 - 116.28, 200 - 123.675], atol=1e-4)
    assert batch[..., 50:, :].abs().max() == batch[..., 40:].abs().max() == 0


def test_anchors_sit_on_corners_of_the_grid():
    # 32 pixels at ratio 0.5, 1 and 2, around (0, 0) and (4, 0)
    first = anchors("p2", 2, 3)
    assert first.shape == (18, 4)
    np.testing.assert_allclose(first[1], [-16, -16, 16, 16])
    np.testing.assert_allclose(first[0], [-22.627417, -11.313708, 22.627417, 11.313708], atol=1e-5)
    np.testing.assert_allclose(first[4] - first[1], [4, 0, 4, 0])
    np.testing.assert_allclose(anchors("p6", 1, 1)[1], [-256, -256, 256, 256])


def test_deltas_shift_by_box_sizes_and_grow_by_powers():
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    deltas = torch.tensor([[1.0, -0.5, 0.0, 100.0]])
    (box,) = moved(boxes, deltas, (10, 10, 5, 5)).tolist()
    assert box[0] == pytest.approx(12) and box[2] == pytest.approx(32)
    assert box[3] - box[1] == pytest.approx(40 * 1000 / 16, rel=1e-4)  # no faster than that
    assert (box[1] + box[3]) / 2 == pytest.approx(38, abs=0.01)


def test_clipping_tells_what_is_left():
    boxes = torch.tensor([[-5.0, -5, 10, 10], [50, 0, 60, 10], [0, 0, 0, 10]])
    inside, has_area = clipped(boxes, (20, 40))
    assert inside.tolist() == [[0, 0, 10, 10], [40, 0, 40, 10], [0, 0, 0, 10]]
    assert has_area.tolist() == [True, False, False]


def test_proposals_suppress_within_a_level_only():
    logits = torch.full((3, 4, 4), -9.0)
    logits[1, 2, 2] = 5.0
    deltas = torch.zeros(12, 4, 4)
    once = choose_proposals({"p2": (logits, deltas)}, (800, 800))
    assert once[1][0] == 5.0
    near = logits.clone()
    near[1, 2, 1] = 4.0  # four pixels beside the best: an overlap of 0.78
    boxes, scores = choose_proposals({"p2": (near, deltas)}, (800, 800))
    assert 4.0 not in scores.tolist()
    both = choose_proposals({"p2": (logits, deltas), "p3": (logits, deltas)}, (800, 800))
    assert both[1][:2].tolist() == [5.0, 5.0]


def test_a_higher_score_threshold_only_cuts_the_list_short():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(60, 2, generator=generator) * 60
    proposals = torch.cat([corner, corner + 10 + torch.rand(60, 2, generator=generator) * 40], dim=1)
    logits = torch.randn(60, 2, generator=generator) * 2
    deltas = torch.randn(60, 4, generator=generator)
    boxes, scores, _ = choose_people(proposals, logits, deltas, (100, 100))
    fewer, sure, _ = choose_people(proposals, logits, deltas, (100, 100), min_score=0.5)
    assert 0 < len(sure) < len(scores)
    torch.testing.assert_close(fewer, boxes[: len(sure)])  # vectors of another length round otherwise
    torch.testing.assert_close(sure, scores[: len(sure)])
    assert scores.diff().max() <= 0


def test_labels_need_a_body_and_coordinates_are_those_of_the_label():
    coarse = torch.zeros(2, 4, 4)
    coarse[1, :, :2], coarse[0, :, 2:] = 5, 5
    fine = torch.zeros(25, 4, 4)
    fine[7] = 3
    u = torch.arange(25.0).view(25, 1, 1).expand(25, 4, 4) / 25
    labels, coordinates = chart_result(coarse, fine, u, u / 2, size=(4, 4))
    assert labels[:, :2].unique().tolist() == [7] and labels[:, 2:].unique().tolist() == [0]
    np.testing.assert_allclose(coordinates[:, 0, 0], [7 / 25, 7 / 50])
    assert coordinates[:, :, 2:].abs().max() == 0
    assert chart_result(coarse, fine, u, u, size=(0, 9))[0].shape == (1, 9)


def test_tiny_network_finds_the_same_alone_and_in_a_batch(tiny_network):
    images = [np.random.default_rng(k).integers(0, 256, (48, 80, 3), dtype=np.uint8) for k in range(2)]
    together = tiny_network.people(images, min_score=0.05, max_people=3)
    assert [len(people) for people in together] == [3, 3]
    for image, people in zip(images, together, strict=True):
        (alone,) = tiny_network.people([image], min_score=0.05, max_people=3)
        for one, other in zip(people, alone, strict=True):
            np.testing.assert_allclose(one.box, other.box, atol=1e-3)
            x, y, width, height = one.corner_and_size()
            assert one.labels.shape == (max(height, 1), max(width, 1))
            assert 0 <= x <= x + width <= 80 and 0 <= y <= y + height <= 48
            assert one.coordinates.shape == (2, *one.labels.shape)
    assert tiny_network.people(images, min_score=0.999) == [[], []]


def test_boxes_that_cut_off_the_body_are_widened_if_asked_for(tiny_network):
    network = copy.deepcopy(tiny_network)
    predictor = network.roi_heads.densepose_predictor
    with torch.no_grad():  # everything is torso, so every box cuts it off
        for head in (predictor.ann_index_lowres, predictor.index_uv_lowres):
            head.weight.zero_()
        predictor.ann_index_lowres.bias.copy_(torch.tensor([0.0, 1.0]))
        predictor.index_uv_lowres.bias.copy_(torch.eye(25)[2])
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    (found,) = network.people([image], min_score=0.05, max_people=8)
    (wider,) = network.people([image], min_score=0.05, max_people=8, margin=0.1)
    for before, after in zip(found, wider, strict=True):
        x, y, width, height = before.box
        left, top = max(0, x - 0.1 * width), max(0, y - 0.1 * height)
        right, bottom = min(80, x + 1.1 * width), min(48, y + 1.1 * height)
        np.testing.assert_allclose(after.box, (left, top, right - left, bottom - top), atol=1e-3)
        assert (after.labels == 2).all()
    assert sum(after.area() > before.area() for before, after in zip(found, wider, strict=True)) > 3


def test_only_what_is_cut_off_counts_not_what_touches():
    labels = np.zeros((100, 50), dtype=np.uint8)
    labels[10:90, 10:40] = 2
    assert cut_sides(labels) == (False, False, False, False)
    labels[0, 24] = 23  # the top of a head
    labels[-1, 20:30] = 12  # a shank
    assert cut_sides(labels) == (False, False, False, True)
    assert widened(torch.tensor([[0.0, 0, 50, 100]]), cut_sides(labels), 0.2).tolist() == [[0, 0, 50, 120]]


def test_people_are_drawn_as_detectron2_draws_them():
    expected = load_file(densepose_golden.HERE / "vis_two_instances.safetensors")
    people = [
        Person(tuple(box), score, expected[f"labels{k}"])
        for k, (box, score) in enumerate(zip(expected["boxes_image_xywh"].tolist(), (0.9, 0.6), strict=True))
    ]
    sliver = Person(tuple(expected["sliver_box_xywh"].tolist()), 0.5, expected["sliver_labels"])
    size = {"width": 80, "height": 96}
    np.testing.assert_array_equal(part_map([*people, sliver], **size), expected["id_map"])
    drawn = colourise(part_map([*people, sliver], **size))
    np.testing.assert_array_equal(drawn, expected["frame_rgb"])
    swapped = colourise(part_map(people[::-1], **size))
    np.testing.assert_array_equal(swapped, expected["frame_rgb_swapped_order"])
    np.testing.assert_array_equal(flip_labels(expected["id_map"]), expected["id_map_hflip_remapped"])


def test_people_reaching_out_of_the_picture_are_cut():
    labels = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)
    person = Person((-1.0, -2.0, 4.0, 3.0), 1.0, labels)
    np.testing.assert_array_equal(part_map([person], width=2, height=2), [[10, 11], [0, 0]])
    person = Person((1.0, 1.0, 4.0, 3.0), 1.0, labels)
    np.testing.assert_array_equal(part_map([person], width=2, height=2), [[0, 0], [0, 1]])
