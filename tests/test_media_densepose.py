"""Part maps are told from everything else, and the sentence says what the clip is."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densepose_tools.command import build_parser
from magicanimate.errors import InputError
from magicanimate.media.densepose_check import check_densepose, command_for
from magicanimate.media.drawn_over import is_drawn_over_video
from magicanimate.media.motion import open_motion
from magicanimate.palette import BACKGROUND, PALETTE, colourise, map_tables, nearest_labels
from tests.conftest import ROOT
from tests.media_files import part_labels, part_maps, require_densepose, write_clip

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
    assert "other colours (jet)" in reason([jet(labels)])
    assert "ordinary video" in reason([np.repeat(noise()[..., :1], 3, axis=-1)])
    assert "heat map" in reason(OTHERS["viridis spot"])
    assert "shows nobody" in reason([np.full((64, 64, 3), (65, 0, 81), dtype=np.uint8)] * 5)
    assert "no frames" in reason([])


def cleaned(report, frame: np.ndarray) -> np.ndarray:
    """Labels of a frame as an animation would see it."""
    return nearest_labels(report.colours.cleaned(frame))[0]


MAPS = part_maps(20, width=160, height=160)
LABELS = [nearest_labels(frame)[0] for frame in MAPS]


def test_blank_frames_and_fades_are_nobody():
    black = np.zeros_like(MAPS[0])
    for frames in ([black] * 3 + MAPS, MAPS[:1] + [black] * 2, [black] + MAPS[:1]):
        report = check_densepose(frames)
        assert report.is_densepose
        assert not cleaned(report, black).any()
        assert report.colours.cleaned(MAPS[0]) is MAPS[0]  # a sound frame stays as it is
    fading = [
        (frame * share).astype(np.uint8) for frame, share in zip(MAPS, np.linspace(0, 1, 8), strict=False)
    ]
    report = check_densepose(fading + MAPS[8:], every=1)
    assert report.is_densepose and not cleaned(report, fading[2]).any()
    assert check_densepose([black] * 5).kind == "ordinary"


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 20, 20), (20, 180, 60)])
@pytest.mark.parametrize("sides", [("left",), ("top", "bottom"), ("left", "right"), ("bottom",)])
def test_bars_are_background(colour, sides):
    """On any side, of any colour; the figure, which sways, stays whole in every frame."""
    place = {"left": np.s_[:, :16], "right": np.s_[:, -16:], "top": np.s_[:12], "bottom": np.s_[-6:]}
    barred = [frame.copy() for frame in MAPS]
    for frame in barred:
        for side in sides:
            frame[place[side]] = colour
    report = check_densepose(barred)
    assert report.is_densepose
    for frame, labels in zip(barred, LABELS, strict=True):
        expected = labels.copy()
        for side in sides:
            expected[place[side]] = 0
        # Two lines beside a bar are taken for mixed with it.
        assert (cleaned(report, frame) == expected).mean() > 0.99


def test_a_body_along_an_edge_is_no_bar():
    close = [frame.copy() for frame in MAPS]
    for frame in close:
        frame[-20:] = PALETTE[2]
    report = check_densepose(close)
    assert report.is_densepose and report.colours.is_clean


def test_thin_bars_are_background():
    barred = [frame.copy() for frame in MAPS]
    for frame in barred:
        frame[:, :4] = (200, 20, 20)
    report = check_densepose(barred)
    assert report.is_densepose and not cleaned(report, barred[0])[:, :8].any()


@pytest.mark.parametrize("step", [1, 10, 255 / 24])
def test_label_numbers_are_read(step):
    grey = [np.repeat(np.rint(labels * step).astype(np.uint8)[..., None], 3, axis=-1) for labels in LABELS]
    report = check_densepose(grey)
    assert report.kind == "recolourable" and "label numbers in grey" in report.reason
    assert all((report.colours.labels(f) == labels).all() for f, labels in zip(grey, LABELS, strict=True))
    noisy = [as_jpeg(frame, 95) for frame in grey]
    report = check_densepose(noisy)
    assert (report.colours.labels(noisy[0]) == LABELS[0]).mean() > 0.95


@pytest.mark.parametrize("reading", ["red", "blue"])
def test_iuv_pictures_are_read(reading):
    side = LABELS[0].shape[0]
    rows, columns = np.mgrid[0:side, 0:side]
    frames = []
    for labels in LABELS:
        u, v = ((each % 256).astype(np.uint8) * (labels > 0) for each in (3 * rows, 2 * columns))
        channels = (labels, u, v) if reading == "red" else (v, u, labels)
        frames.append(np.stack(channels, axis=-1).astype(np.uint8))
    report = check_densepose(frames)
    assert report.kind == "recolourable" and f"in {reading}" in report.reason
    assert all((report.colours.labels(f) == labels).all() for f, labels in zip(frames, LABELS, strict=True))


def blended(frames: list[np.ndarray], behind: np.ndarray, strength: float) -> list[np.ndarray]:
    """Part maps drawn half transparent over a picture, compressed."""
    made = []
    for frame in frames:
        labels = nearest_labels(frame)[0]
        picture = np.array(Image.fromarray(behind).resize(frame.shape[1::-1])).astype(np.float32)
        mixed = (1 - strength) * picture + strength * PALETTE[labels]
        made.append(as_jpeg(np.where((labels > 0)[..., None], mixed, picture).astype(np.uint8), 75))
    return made


@pytest.mark.parametrize("mode", ["RGB", "L"])  # DensePose's own tool draws over the picture in grey
@pytest.mark.parametrize(
    ("name", "strength"),
    [("demo4", 0.5), ("demo4", 0.7), ("running2", 0.4), ("dancing2", 0.8), ("running", 0.9), ("demo4", 1.0)],
)
def test_parts_blended_with_a_video_are_told(shared, name, strength, mode):
    frames = list(open_motion(shared / f"samples/{name}.mp4", end=2.4, fps=5).frames())
    behind = np.array(Image.open(shared / "samples/dalle8.jpeg").convert(mode).convert("RGB"))
    report = check_densepose(blended(frames, behind, strength), every=1)
    assert report.kind == "ordinary" and "DensePose parts seem to be drawn" in report.reason
    assert report.advice("X").endswith("if you have it); make a DensePose clip of it with X")
    plain = check_densepose([as_jpeg(behind, 75)] * 12, every=1)
    assert plain.kind == "ordinary" and "seem to be drawn" not in plain.reason


def test_no_picture_seems_to_have_parts_drawn_over_it(shared):
    photos = [
        *shared.glob("samples/*.png"),
        *shared.glob("samples/*.jpeg"),
        *(ROOT / "assets").rglob("*.jpg"),
    ]
    pictures = [np.array(Image.open(path).convert("RGB").resize((400, 400))) for path in photos]
    pictures += [cartoon(seed) for seed in range(20)] + [scene(), scene(purple=True), noise()]
    assert len(pictures) > 25
    assert not any(is_drawn_over_video([picture[::2, ::2]]) for picture in pictures)


def test_captions_are_borne_and_taken_out():
    written = [frame.copy() for frame in MAPS]
    for frame in written:
        for x in range(10, 150, 12):
            frame[100:116, x : x + 5], frame[100:116, x + 5 : x + 7] = 255, 0
    report = check_densepose(written)
    assert report.is_densepose and report.colours.captions
    found = cleaned(report, written[0])
    assert (found == LABELS[0]).mean() > 0.97
    assert nearest_labels(report.colours.cleaned(written[0]))[1].max() == 0


def test_dithered_gifs_are_maps(tmp_path):
    """256 colours of a fixed cube, errors spread over neighbours: a gif without a palette of its own."""
    cube = Image.new("P", (1, 1))
    levels = [(r, g, b) for r in range(0, 256, 36) for g in range(0, 256, 36) for b in range(0, 256, 85)]
    cube.putpalette([value for colour in levels for value in colour])
    large = [np.array(Image.fromarray(f).resize((320, 320), Image.Resampling.NEAREST)) for f in MAPS[:12]]
    dithered = [Image.fromarray(frame).quantize(palette=cube, dither=1) for frame in large]
    dithered[0].save(tmp_path / "map.gif", save_all=True, append_images=dithered[1:], duration=40)
    clip = open_motion(tmp_path / "map.gif")
    report = require_densepose(clip)
    found = cleaned(report, next(clip.frames()))
    assert (found == nearest_labels(large[0])[0]).mean() > 0.93


@pytest.mark.parametrize("background", [None, (0, 0, 0), (255, 255, 255), (0, 255, 0)])
@pytest.mark.parametrize("name", ["parula", "jet", "turbo", "plasma", "inferno", "rainbow"])
def test_every_colour_map_is_named_and_read(name, background, shared):
    real = [
        nearest_labels(f)[0] for f in open_motion(shared / "samples/running.mp4", end=0.3, fps=5).frames()
    ]
    table = map_tables()[name].copy()
    if background is not None:
        table[0] = background
    frames = [as_jpeg(table[labels[::2, ::2]], 90) for labels in real]
    report = check_densepose(frames, every=1)
    assert report.kind == "recolourable" and name in report.reason
    assert (report.colours.labels(frames[0]) == real[0][::2, ::2]).mean() > 0.95
    command = shlex.split(command_for(tmp := Path("a clip.mp4"), report))
    args = build_parser().parse_args(command[3:])
    assert args.recolour and args.clip == tmp


def test_advice_is_the_same_sentence_whatever_mends_it():
    report = check_densepose([map_tables()["jet"][labels] for labels in LABELS])
    assert (
        report.advice("X")
        == "is a DensePose map in other colours (jet); bring it into the right colours with X"
    )
    ordinary = check_densepose([scene()])
    assert ordinary.advice("X").endswith("; make a DensePose clip of it with X")


def test_mixed_up_ranges_do_not_pass_for_other_parts():
    expanded = [np.rint((f.astype(float) - 16) * 255 / 219).clip(0, 255).astype(np.uint8) for f in MAPS]
    report = check_densepose(expanded)
    assert report.kind == "recolourable" and "shifted colours" in report.reason
    assert (report.colours.labels(expanded[0]) == LABELS[0]).all()


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
