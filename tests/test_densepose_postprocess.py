"""Colours recognised, people followed and chosen, gaps filled, flicker taken out."""

from __future__ import annotations

import io
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from densepose_tools.deflicker import FlickerMeter, SmoothedBoxes, deflickered
from densepose_tools.people import Person, flip_labels, part_map
from densepose_tools.postprocess import Postprocessing, postprocess
from densepose_tools.tracking import PersonAt, track_people
from magicanimate.errors import InputError
from magicanimate.media.densepose_check import check_densepose, diagnose
from magicanimate.media.motion import open_motion
from magicanimate.palette import map_tables, nearest_labels
from tests.conftest import ROOT
from tests.media_files import part_labels

EXAMPLES = ROOT / "assets" / "examples"
FRAME = {"width": 100, "height": 80, "rate": Fraction(25)}

# OpenCV 5's colours at trunc(i * 255 / 24), of parts 0, 6, 12, 18 and 24.
JET = ((0, 0, 128), (0, 124, 255), (126, 255, 130), (255, 128, 0), (128, 0, 0))
PARULA = ((53, 42, 135), (20, 132, 212), (55, 185, 159), (216, 186, 86), (249, 251, 14))


@pytest.fixture(scope="module")
def labels() -> list[np.ndarray]:
    """Real-looking part maps."""
    frames = islice(open_motion(EXAMPLES / "sway_motion.mp4").frames(), 0, 24, 8)
    return [nearest_labels(frame)[0] for frame in frames]


def as_jpeg(frame: np.ndarray, quality: int = 92) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


@pytest.mark.parametrize(("name", "expected"), [("jet", JET), ("parula", PARULA)])
def test_colour_maps_are_opencvs(name, expected):
    np.testing.assert_array_equal(map_tables()[name][::6], expected)


@pytest.mark.parametrize(
    ("name", "background", "told"),
    [
        ("viridis", None, ""),
        ("viridis", (0, 0, 0), "viridis, over black"),
        ("viridis with red and blue swapped", None, "viridis with red and blue swapped"),
        ("jet", None, "jet"),
        ("jet with red and blue swapped", (0, 0, 0), "jet with red and blue swapped, over black"),
        ("parula", (255, 255, 255), "parula, over RGB"),
    ],
)
def test_part_maps_in_other_colours_are_recognised_and_recoloured(labels, name, background, told):
    colours = map_tables()[name].copy()
    if background is not None:
        colours[0] = background
    frames = [as_jpeg(colours[frame]) for frame in labels]
    found = diagnose(frames)
    assert found is not None and found.name.startswith(told)
    assert found.usual == (not found.name) == (told == "")
    for frame, expected in zip(frames, labels, strict=True):
        assert (found.labels(frame) == expected).mean() > 0.97


def test_photos_and_heat_maps_are_no_part_maps():
    photos = [np.array(Image.open(path).convert("RGB")) for path in sorted(EXAMPLES.glob("*.jpg"))]
    assert photos
    ramp = np.clip(np.hypot(*np.indices((120, 160)) - 60) / 3, 0, 24).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    blank = np.zeros((64, 64, 3), dtype=np.uint8)
    for picture in (
        *photos,
        map_tables()["jet"][24 - ramp],
        map_tables()["viridis"][24 - ramp],
        noise,
        blank,
    ):
        assert check_densepose([picture]).colours is None


def test_real_part_maps_are_in_the_usual_colours(shared):
    for path in sorted((shared / "samples").glob("*.mp4")):
        found = diagnose(list(islice(open_motion(path).frames(), 0, 60, 10)))
        assert found is not None and found.usual, path.name


def test_who_is_pointed_at_is_drawn_through_the_clip():
    # They cross: at first label 3 is left, at the end right; the smaller one is drawn on top.
    frames = [[walker(3 * k, label=9), walker(60 - 3 * k, size=14, y=14, label=3)] for k in range(20)]
    for point, label in ((PersonAt(5, 12), 9), (PersonAt(62, 16), 3), (PersonAt(10, 30, 0.72), 3)):
        assert {int(frame.max()) for frame in drawn(frames, people=point)} == {label}
    people = [walker(10), walker(60)]
    people[1].labels[:20] = 0  # in the box, not on the body
    assert drawn([people], people=PersonAt(65, 15))[0][40, 65] == 2
    with pytest.raises(InputError, match="point 40,5 at 0 s shows nobody; people are at 20,30, 70,30"):
        drawn([people], people=PersonAt(40, 5))
    with pytest.raises(InputError, match="0,0 at 0 s shows nobody, nor anywhere else"):
        drawn([[], people], people=PersonAt(0, 0))
    with pytest.raises(InputError, match="behind the end of the clip, which has 0.80 s"):
        drawn(frames, people=PersonAt(5, 12, 0.9))
    with pytest.raises(InputError, match="outside"):
        PersonAt(-1, 0)


def walker(x: float, *, y: float = 10, size: float = 20, label: int = 2) -> Person:
    return Person((x, y, size, 2 * size), 0.9, np.full((int(2 * size), int(size)), label, dtype=np.uint8))


def test_people_keep_their_numbers_when_they_cross_and_when_the_order_changes():
    frames = []
    for k in range(30):
        people = [walker(5 * k, y=10), walker(150 - 5 * k, y=14, size=22)]
        frames.append(people if k % 3 else people[::-1])
    numbers = track_people(frames)
    first = [owners[0 if k % 3 else 1] for k, owners in enumerate(numbers)]
    assert len(set(first)) == 1 and all(set(owners) == {0, 1} for owners in numbers)


def test_somebody_hidden_for_a_while_is_the_same_person():
    frames = [[] if 5 <= k < 12 else [walker(4 * k)] for k in range(20)]
    assert track_people(frames) == [[] if 5 <= k < 12 else [0] for k in range(20)]
    assert track_people([[walker(0)], [walker(500)]]) == [[0], [1]]


def drawn(frames, **postprocessing) -> list[np.ndarray]:
    return list(postprocess(frames, Postprocessing(**postprocessing), **FRAME).maps)


def test_largest_person_is_drawn_unless_others_are_wanted():
    # The smaller one is surer, and alone in most frames.
    small, large = walker(10, size=10, label=3), walker(60, size=30, label=9)
    frames = [[small, large] if k < 8 else [small] for k in range(10)]
    assert {int(frame.max()) for frame in drawn(frames)} == {9}
    assert set(np.unique(drawn(frames, people="all")[0])) == {0, 3, 9}
    assert {int(frame.max()) for frame in drawn(frames, people=(2,))} == {3}
    assert set(np.unique(drawn(frames, people=(1, 2))[0])) == {0, 3, 9}
    with pytest.raises(InputError, match="Person 3 is asked for and 2 are seen"):
        drawn(frames, people=(3,))


def test_largest_person_who_comes_back_late_is_drawn_again():
    # Away for longer than anybody is waited for, and back elsewhere; a smaller one stays all the while.
    away = range(10, 40)
    frames = [
        [walker(0, size=6, label=3)] + ([] if k in away else [walker(30 if k < 10 else 60, label=9)])
        for k in range(50)
    ]
    maps = drawn(frames, fill=0)
    assert [int(frame.max()) for frame in maps] == [0 if k in away else 9 for k in range(50)]


def test_short_gaps_show_the_nearest_frame():
    frames = [[walker(2 * k)] if k in (2, 6, 7) else [] for k in range(12)]
    part_maps = postprocess(frames, Postprocessing(fill=3), **FRAME)
    maps = list(part_maps.maps)
    assert part_maps.empty == [8, 9, 10, 11] and part_maps.filled == [0, 1, 3, 4, 5]
    for frame, source in ((0, 2), (3, 2), (4, 2), (5, 6)):
        np.testing.assert_array_equal(maps[frame], part_map(frames[source], width=100, height=80))
    assert not maps[9].any()


def test_mirrored_map_has_left_and_right_changed():
    frames = [[walker(10, label=3)]]
    (plain,), (mirrored,) = drawn(frames), drawn(frames, flip=True)
    np.testing.assert_array_equal(mirrored, flip_labels(plain))
    assert mirrored[20, 80] == 4


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [({"people": "nobody"}, "write largest, all"), ({"people": (0,)}, "from 1"), ({"fill": -1}, "0 or more")],
)
def test_postprocessing_of_no_use_are_refused(wrong, reason):
    with pytest.raises(InputError, match=reason):
        Postprocessing(**wrong)


def flicker_score(maps) -> float:
    meter = FlickerMeter()
    assert len(list(meter.watch(maps))) == len(maps)
    return meter.score


def moving_figure(count: int, *, step: int, limb: int = 0) -> np.ndarray:
    """A figure that walks, and perhaps a forearm that sweeps, uint8 (count, 192, 192)."""
    figure = np.repeat(np.repeat(part_labels(), 2, axis=0), 2, axis=1)
    frames = np.stack([np.roll(figure, step * (k - count // 2), axis=1) for k in range(count)])
    for k, frame in enumerate(frames):
        if limb:
            frame[20 + limb * k : 34 + limb * k, 100:150] = 20
    return frames


def with_errors(truth: np.ndarray) -> np.ndarray:
    """Patches of the body take another label, or none, for one frame each."""
    rng = np.random.default_rng(0)
    noisy = truth.copy()
    for frame in noisy:
        for _ in range(6):
            body = np.argwhere(frame > 0)
            y, x = body[rng.integers(len(body))]
            height, width = rng.integers(6, 22, 2)
            patch = frame[y : y + height, x : x + width]
            patch[patch > 0] = rng.integers(0, 25)
    return noisy


def boundary_iou(maps: np.ndarray, truth: np.ndarray) -> float:
    """Overlap of the seams between parts, two pixels wide."""

    def seams(frames: np.ndarray) -> np.ndarray:
        edge = np.zeros(frames.shape, dtype=bool)
        edge[:, 1:] |= frames[:, 1:] != frames[:, :-1]
        edge[:, :, 1:] |= frames[:, :, 1:] != frames[:, :, :-1]
        return edge | np.roll(edge, -1, axis=1) | np.roll(edge, -1, axis=2)

    one, other = seams(maps), seams(truth)
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize(("step", "limb"), [(0, 0), (2, 0), (3, 4)])
def test_deflickering_halves_the_flicker_and_keeps_the_seams(step, limb):
    truth = moving_figure(8, step=step, limb=limb)
    noisy = with_errors(truth)
    calm = np.stack(list(deflickered(noisy)))
    assert flicker_score(truth) == 0
    assert flicker_score(noisy) > 0.03
    assert flicker_score(calm) < 0.5 * flicker_score(noisy)
    assert boundary_iou(calm, truth) > 0.97 * boundary_iou(noisy, truth)
    assert (calm == truth).mean() > (noisy == truth).mean()


def test_stray_blobs_go_however_long_they_stay():
    """They are there in every frame, so that no comparison of frames tells them."""
    truth = moving_figure(6, step=0, limb=0)
    spotted = truth.copy()
    spotted[:, 2:6, 2:6] = 15
    spotted[:, -5:-2, -9:-2] = 3
    assert (truth[:, :8, :8] == 0).all() and (truth[:, -7:, -11:] == 0).all()
    calm = np.stack(list(deflickered(spotted)))
    assert (calm == np.stack(list(deflickered(truth)))).all()


def test_deflickering_leaves_steady_motion_alone():
    truth = moving_figure(6, step=3, limb=4)
    calm = np.stack(list(deflickered(truth)))
    assert (calm == truth).mean() > 0.999
    assert boundary_iou(calm, truth) > 0.97
    for count in (0, 1, 2):
        assert [np.array_equal(*pair) for pair in zip(deflickered(truth[:count]), truth, strict=False)] == [
            True
        ] * count


def in_boxes(truth: np.ndarray, *, shake: float, locked: bool) -> list[list[Person]]:
    """Truth cut into boxes that tremble by so many pixels; the maps tremble along if ``locked``."""
    rng = np.random.default_rng(1)
    frames = []
    for labels in truth:
        rows, columns = np.flatnonzero(labels.any(axis=1)), np.flatnonzero(labels.any(axis=0))
        corners = np.array([columns[0] - 6, rows[0] - 6, columns[-1] + 7, rows[-1] + 7], dtype=float)
        shaken = corners + rng.normal(0, shake, 4)
        left, top, right, bottom = shaken
        box = (left, top, right - left, bottom - top)
        x0, y0, x1, y1 = (corners if locked else shaken).astype(int)
        person = Person(tuple(map(float, box)), 0.9, labels[y0:y1, x0:x1])
        _, _, width, height = person.corner_and_size()
        if locked:  # stretched to the box that was found
            h, w = person.labels.shape
            person = Person(
                box, 0.9, person.labels[np.arange(height) * h // height][:, np.arange(width) * w // width]
            )
        else:
            person = Person(box, 0.9, labels[int(top) : int(top) + height, int(left) : int(left) + width])
        frames.append([person])
    return frames


def as_maps(frames: list[list[Person]]) -> np.ndarray:
    return np.stack([part_map(people, width=192, height=192) for people in frames])


def test_deflickering_calms_boxes_that_tremble_with_their_maps():
    truth = moving_figure(16, step=2)
    frames = in_boxes(truth, shake=1.5, locked=True)
    plain = as_maps(frames)
    still = as_maps(SmoothedBoxes(frames, track_people(frames)))
    whole = postprocess(frames, Postprocessing(deflicker=True), width=192, height=192, rate=Fraction(25))
    assert flicker_score(plain) > 0.03 and flicker_score(np.stack(list(deflickered(plain)))) > 0.03
    for calm in (still, np.stack(list(whole.maps))):
        assert flicker_score(calm) < 0.3 * flicker_score(plain)
        assert boundary_iou(calm, truth) > 1.3 * boundary_iou(plain, truth)
    np.testing.assert_array_equal(np.stack(list(whole.plain)), plain)


def test_deflickering_leaves_maps_that_lie_still_in_trembling_boxes():
    frames = in_boxes(moving_figure(20, step=2), shake=1.5, locked=False)
    for people, (before,) in zip(SmoothedBoxes(frames, track_people(frames)), frames, strict=True):
        assert people[0] is before


def test_flicker_counts_what_changes_and_changes_back():
    maps = np.zeros((5, 4, 5), dtype=np.uint8)
    maps[:, 1:3, 1:3] = 2
    assert flicker_score(maps) == 0
    maps[2, 1, 1] = 3
    assert flicker_score(maps) == pytest.approx(1 / 12)
    maps[3, 1, 1] = 3  # two frames are still within three
    assert flicker_score(maps) == pytest.approx(1 / 12)
    maps[4:, 1, 1] = 3  # it stays: no flicker
    assert flicker_score(maps) == 0
