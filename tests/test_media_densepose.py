"""Part maps are told from everything else, and the sentence says what the clip is."""

from __future__ import annotations

import io
import shlex

import numpy as np
import pytest
from PIL import Image

from densepose_tools.command import build_parser
from magicanimate.errors import InputError
from magicanimate.media.densepose_check import check_densepose, require_densepose
from magicanimate.media.motion import open_motion
from magicanimate.palette import BACKGROUND, PALETTE, colourise
from tests.media_files import part_labels, part_maps, write_clip

REAL = ("demo4", "dancing2", "running", "running2", "multi_dancing")
SIZE = 200
Y, X = np.mgrid[0:SIZE, 0:SIZE] / SIZE


def viridis(values: np.ndarray) -> np.ndarray:
    """Continuous viridis colours of values 0..1, through the palette's colours."""
    place = np.clip(values, 0, 1) * 24
    return np.stack([np.interp(place, np.arange(25), PALETTE[:, i]) for i in range(3)], -1).astype(np.uint8)


def jet(labels: np.ndarray) -> np.ndarray:
    """Labels on the jet colour map."""
    ramp = 4 * labels[..., None] / 24 - np.array([3, 2, 1])
    return (255 * np.clip(1.5 - np.abs(ramp), 0, 1)).astype(np.uint8)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)


def cartoon(seed: int) -> np.ndarray:
    """Flat rectangles of random saturated colours."""
    rng = np.random.default_rng(seed)
    picture = np.empty((SIZE, SIZE, 3), dtype=np.uint8)
    picture[:] = rng.integers(0, 256, 3)
    for _ in range(30):
        x, y = rng.integers(0, SIZE - 40, 2)
        picture[y : y + rng.integers(10, 100), x : x + rng.integers(10, 100)] = rng.integers(0, 256, 3)
    return picture


def scene(purple: bool = False) -> np.ndarray:
    """Something like a photograph: soft light, a skin-coloured figure in blue, film grain."""
    picture = np.stack([150 + 60 * Y, 140 + 30 * X, 120 + 40 * (1 - Y)], -1)
    if purple:
        picture = np.stack([70 + 10 * X, 5 + 10 * Y, 85 + 10 * X], -1)
    picture[((X - 0.5) ** 2 + (Y - 0.25) ** 2) < 0.01] = (220, 170, 140)
    picture[(np.abs(X - 0.5) < 0.15) & (np.abs(Y - 0.6) < 0.25)] = (40, 60, 150)
    shade = 1 + 0.15 * np.sin(9 * X)[..., None]
    grain = np.random.default_rng(0).normal(0, 6, (SIZE, SIZE, 3))
    return np.clip(picture * shade + grain, 0, 255).astype(np.uint8)


def as_jpeg(frame: np.ndarray, quality: int) -> np.ndarray:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, "JPEG", quality=quality)
    return np.array(Image.open(data))


@pytest.mark.parametrize("name", REAL)
def test_real_maps_pass(shared, name):
    report = require_densepose(open_motion(shared / f"samples/{name}.mp4"))
    assert report.is_densepose and report.palette_share > 0.85
    assert 0.45 < report.background_share < 0.85 and 0.15 < report.person_share < 0.5


@pytest.mark.parametrize("name", REAL)
def test_real_maps_pass_after_rough_treatment(shared, name):
    frames = list(open_motion(shared / f"samples/{name}.mp4").frames())[::10]
    small = [np.array(Image.fromarray(frame).resize((128, 128))) for frame in frames]
    assert check_densepose(small).is_densepose
    assert check_densepose(
        [np.array(Image.fromarray(frame).resize((512, 512))) for frame in small]
    ).is_densepose
    assert check_densepose([as_jpeg(frame, 30) for frame in frames]).is_densepose


def test_drawn_maps_pass():
    assert check_densepose(part_maps(10)).is_densepose
    assert check_densepose(part_maps(1)).is_densepose


def test_a_person_who_comes_late_is_waited_for():
    empty = np.full((96, 96, 3), BACKGROUND, dtype=np.uint8)
    assert check_densepose([empty] * 100 + part_maps(20)).is_densepose


def test_not_all_frames_are_read():
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield part_maps(1)[0]

    assert check_densepose(endless()).is_densepose
    assert read < 100


OTHERS = {
    "noise": [noise(i) for i in range(3)],
    "grey noise": [np.repeat(noise()[..., :1], 3, axis=-1)],
    "colour gradient": [np.stack([255 * X, 255 * Y, 255 * (1 - X)], -1).astype(np.uint8)],
    "viridis gradient": [viridis(X)],
    "viridis spot": [viridis(np.exp(-((X - 0.5) ** 2 + (Y - 0.5) ** 2) / 0.02))],
    "one colour": [np.full((SIZE, SIZE, 3), 90, dtype=np.uint8)],
    "one palette colour": [np.full((SIZE, SIZE, 3), PALETTE[12], dtype=np.uint8)],
    "scene": [scene()],
    "scene before a purple wall": [scene(purple=True)],
    "jet map": [jet(part_labels(width=SIZE, height=SIZE))],
    **{f"cartoon {seed}": [cartoon(seed)] for seed in range(8)},
}


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_does_not_pass(name):
    assert not check_densepose(OTHERS[name]).is_densepose


def test_real_photos_do_not_pass(shared):
    for path in [*shared.glob("samples/*.png"), *shared.glob("samples/*.jpeg")]:
        assert not check_densepose([np.array(Image.open(path).convert("RGB"))]).is_densepose


def reason(frames) -> str:
    report = check_densepose(frames)
    assert not report.is_densepose
    return report.reason


def test_the_reasons_are_told_apart(shared):
    labels = part_labels(width=SIZE, height=SIZE)
    real = list(open_motion(shared / "samples/demo4.mp4").frames())[:20]
    for maps in ([colourise(labels)], real):
        assert "red and blue swapped" in reason([frame[..., ::-1] for frame in maps])
        person = [(np.abs(f.astype(int) - BACKGROUND).max(-1) > 20)[..., None] for f in maps]
        for colour, words in (((0, 0, 0), "over black"), ((255, 255, 255), "over RGB (255, 255, 255)")):
            painted = [np.where(p, f, np.array(colour, np.uint8)) for p, f in zip(person, maps, strict=True)]
            assert words in reason(painted)
        squeezed = [(16 + f.astype(float) * 219 / 255).astype(np.uint8) for f in maps]
        assert "shifted colours" in reason(squeezed)
    assert "ordinary video" in reason([scene()])
    assert "ordinary video" in reason([jet(labels)])
    assert "is grey" in reason([np.repeat((labels * 10)[..., None], 3, axis=-1)])
    assert "is grey" in reason([np.repeat(labels[..., None], 3, axis=-1)])
    assert "heat map" in reason(OTHERS["viridis spot"])
    assert "shows nobody" in reason([np.full((64, 64, 3), (65, 0, 81), dtype=np.uint8)] * 5)
    assert "no frames" in reason([])


def test_require_names_the_file(tmp_path):
    path = write_clip(tmp_path / "my holiday.mp4", [scene()] * 5)
    with pytest.raises(InputError) as caught:
        require_densepose(open_motion(path))
    sentence = str(caught.value)
    assert "holiday.mp4" in sentence and "ordinary video" in sentence and sentence.count(". ") == 0
    assert sentence.endswith(".")
    command = shlex.split(sentence.split("`")[1])
    assert command[:3] == ["python", "-m", "densepose_tools"]
    args = build_parser().parse_args(command[3:])
    assert (args.clip, args.output) == (path, tmp_path / "my holiday_densepose.mp4")


def test_compressed_drawn_maps_pass(tmp_path):
    path = write_clip(tmp_path / "map.mp4", part_maps(10, width=256, height=256), options={"crf": "23"})
    assert require_densepose(open_motion(path)).is_densepose
