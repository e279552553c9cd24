"""The whole network against detectron2's outputs, which lie in ../shared."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densepose_tools.people import draw_people
from densepose_tools.rcnn.network import DensePoseRCNN
from tests import densepose_golden

pytestmark = pytest.mark.slow

CASES = ("demo4", "dalle2", "dalle2_crop")


@pytest.fixture(scope="module")
def network() -> DensePoseRCNN:
    network = DensePoseRCNN()
    network.load_state_dict(densepose_golden.filled_state())
    return network.eval()


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "golden" / "densepose"


@pytest.mark.parametrize("case", CASES)
def test_every_output_agrees_with_detectron2(network, folder, case):
    expected = densepose_golden.golden(folder, case)
    image = np.array(Image.open(folder / f"input_{case}.png").convert("RGB"))
    sizes = densepose_golden.cases(folder)[case]
    found = densepose_golden.outputs(network, image, expected["fixed_boxes_network_xyxy"])
    assert list(found["x"].shape) == sizes["padded_shape"]
    assert hashlib.sha256(found["resized_bgr_u8"].tobytes()).hexdigest() == sizes["resized_bgr_u8_sha256"]
    assert densepose_golden.disagreements(found, expected) == []


@pytest.mark.parametrize("case", CASES)
def test_drawn_frames_agree_with_detectron2(network, folder, case):
    image = np.array(Image.open(folder / f"input_{case}.png").convert("RGB"))
    (people,) = network.people([image])
    height, width = image.shape[:2]
    for threshold in (0.05, 0.8):
        expected = np.array(Image.open(folder / f"frame_{case}_thr{threshold}.png").convert("RGB"))
        sure = [person for person in people if person.score > threshold]
        drawn = draw_people(sure, width=width, height=height)
        assert (drawn == expected).all(axis=-1).mean() >= densepose_golden.LABELS
