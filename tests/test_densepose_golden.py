"""The whole network against detectron2's outputs, which lie in ../shared."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densepose_tools import Selection, engines, load_extractor
from densepose_tools.people import part_map
from densepose_tools.rcnn.network import DensePoseRCNN
from magicanimate.palette import colourise
from tests import densepose_golden

pytestmark = pytest.mark.slow

CASES = ("demo4", "dalle2", "dalle2_crop")


@pytest.fixture(scope="module")
def network() -> DensePoseRCNN:
    network = DensePoseRCNN()
    network.load_state_dict(densepose_golden.filled_state())
    return network.eval()


def test_both_engines_find_the_same(tmp_path, monkeypatch):
    if not engines.has_detectron2():
        pytest.skip("needs detectron2 and its DensePose project")
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path / "home"))
    state = {name: value.numpy() for name, value in densepose_golden.filled_state().items()}
    weights = tmp_path / "model.pkl"
    weights.write_bytes(pickle.dumps({"model": state, "__author__": "nobody"}, protocol=4))
    image = densepose_golden.small_picture()
    selection = Selection(min_score=0.05, max_people=3)
    found = [
        load_extractor(engine, weights=weights, device="cpu", selection=selection).people([image])[0]
        for engine in ("torch", "detectron2")
    ]
    assert len(found[0]) == len(found[1]) > 0
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one.box, other.box, atol=densepose_golden.BOXES)
        assert one.score == pytest.approx(other.score, abs=densepose_golden.SCORES)
        assert (one.labels == other.labels).mean() >= densepose_golden.LABELS
        assert (
            np.isclose(one.coordinates, other.coordinates, rtol=0, atol=1).mean() >= densepose_golden.LABELS
        )


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
        drawn = colourise(part_map(sure, width=width, height=height))
        assert (drawn == expected).all(axis=-1).mean() >= densepose_golden.LABELS
