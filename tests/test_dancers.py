"""Synthetic dancers: the same seed gives the same pixels, labels are on the right side, framing varies."""

import json

import numpy as np
import pytest

pytest.importorskip("anny", reason="need anny: pip install -r requirements-dev.txt")
pytest.importorskip("numba", reason="need numba: pip install -r requirements-dev.txt")

from densepose_tools.keypoints import draw_keypoints, read_keypoints  # noqa: E402
from magicanimate.errors import InputError  # noqa: E402
from magicanimate.palette import PALETTE  # noqa: E402
from training.dancers.__main__ import main  # noqa: E402
from training.dancers.body import Body  # noqa: E402
from training.dancers.clip import identity_keypoints, identity_places, render_identity  # noqa: E402
from training.dancers.dataset import (  # noqa: E402
    POINTS_SIDE,
    DancerFolder,
    DatasetInfo,
    Spec,
    write_identity,
    write_info,
)
from training.dancers.motion import Dance, choreograph  # noqa: E402
from training.dancers.parts import soften, wobble  # noqa: E402
from training.dancers.raster import Visibility  # noqa: E402
from training.data.dancers import DancerVideos  # noqa: E402

TINY = Spec(size=48, stills=3, frames=3)
RIGHT_HAND, LEFT_HAND, RIGHT_HEAD, LEFT_HEAD = 3, 4, 23, 24


@pytest.fixture(scope="module")
def body() -> Body:
    return Body()


@pytest.fixture(scope="module")
def identities(body):
    return [render_identity(body, (5, i), TINY) for i in range(12)]


def test_same_seed_same_pixels_other_seed_others(body, identities):
    again = render_identity(body, (5, 0), TINY)
    for name in ("stills_rgb", "stills_parts", "stills_points", "clip_rgb", "clip_parts", "clip_points"):
        assert np.array_equal(getattr(again, name), getattr(identities[0], name))
    assert not np.array_equal(identities[0].clip_rgb, identities[1].clip_rgb)


def test_shapes_types_and_part_ids(identities):
    for identity in identities:
        assert identity.stills_rgb.shape == (3, 48, 48, 3) and identity.clip_rgb.shape == (3, 48, 48, 3)
        assert identity.stills_parts.shape == identity.clip_parts.shape == (3, 48, 48)
        for array in (identity.stills_rgb, identity.stills_parts, identity.clip_rgb, identity.clip_parts):
            assert array.dtype == np.uint8
        parts = np.concatenate([identity.stills_parts, identity.clip_parts])
        assert parts.max() < len(PALETTE)
        assert (parts > 0).any((1, 2)).all(), "somebody is in every picture"
    assert len(np.unique(np.concatenate([i.stills_parts for i in identities]))) > 20


def test_map_lies_on_the_person(identities):
    """Where the clip's parts move, the picture changes more than where the background stays."""
    for identity in identities:
        moved = identity.clip_parts[0] != identity.clip_parts[-1]
        still = (identity.clip_parts == 0).all(0)
        if moved.sum() < 20:
            continue
        change = np.abs(identity.clip_rgb[0].astype(int) - identity.clip_rgb[-1]).mean(-1)
        assert change[moved].mean() > change[still].mean()


def test_body_points_are_the_same_place_in_every_picture(identities):
    """Points of the head are at the top of the rest pose, feet at its bottom; left is left of right."""
    found = {label: [] for label in (LEFT_HAND, RIGHT_HAND, LEFT_HEAD, 5, 6)}
    for identity in identities:
        maps = np.concatenate([identity.stills_parts, identity.clip_parts])
        points = np.concatenate([identity.stills_points, identity.clip_points])
        assert points.shape == (6, POINTS_SIDE, POINTS_SIDE, 4) and points.dtype == np.uint8
        body = points[..., 3] > 0
        assert (points[~body] == 0).all()
        at = (np.arange(POINTS_SIDE) * 48 + 24) // POINTS_SIDE
        maps = maps[:, at][:, :, at]
        assert (body == (maps > 0)).mean() > 0.9, "clothes and softened maps differ at the edge only"
        for label, places in found.items():
            places.append(points[(maps == label) & body][:, :3].astype(int))
    middle = {label: np.median(np.concatenate(places), 0) for label, places in found.items()}
    assert middle[LEFT_HEAD][2] - middle[5][2] > 140, "a head is a body's height above a foot, in cm"
    assert middle[LEFT_HAND][0] - middle[RIGHT_HAND][0] > 60 and middle[5][0] > middle[6][0]


def test_places_are_those_of_the_rendered_pictures(body, identities):
    places = identity_places(body, (5, 2), TINY)
    points = np.concatenate([identities[2].stills_points, identities[2].clip_points])
    at = (2 * np.arange(48) + 1) * POINTS_SIDE // 96
    points = points[:, at][:, :, at]
    assert places.shape == (6, 48, 48, 4) and places.dtype == np.float32
    both = (places[..., 3] > 0) & (points[..., 3] > 0)
    assert both.mean() > 0.9 * (points[..., 3] > 0).mean()
    apart = np.abs(100 * (places[both][:, :3] + 1.28) - points[both][:, :3])
    assert np.median(apart) < 1, "in cm; pixels of the two maps lie up to half a pixel apart"


def test_close_framing_shows_people_larger(body):
    def share(framing: str) -> float:
        spec = Spec(size=32, stills=4, frames=1, framing=framing)
        return np.mean([(render_identity(body, (6, i), spec).stills_parts > 0).mean() for i in range(10)])

    assert share("close") > 1.1 * share("varied")


def test_right_parts_are_image_left_of_left_parts_when_facing_the_camera(identities):
    columns = np.arange(48)[None].repeat(48, 0)
    for right, left in ((RIGHT_HAND, LEFT_HAND), (RIGHT_HEAD, LEFT_HEAD)):
        gaps = []
        for identity in identities:
            for ids in np.concatenate([identity.stills_parts, identity.clip_parts]):
                if (ids == right).any() and (ids == left).any() and (ids == 2).sum() > 4 * (ids == 1).sum():
                    gaps.append(columns[ids == left].mean() - columns[ids == right].mean())
        assert len(gaps) > 10 and np.mean(gaps) > 2


def test_stills_differ_in_framing_and_foreground_share_is_that_of_real_clips(identities):
    shares = np.array([(i.stills_parts > 0).mean((1, 2)) for i in identities])
    assert np.median(shares.max(1) / shares.min(1)) > 1.3
    clip_share = np.median([(i.clip_parts > 0).mean() for i in identities])
    assert 0.15 < clip_share < 0.35


def test_clip_is_smooth(body):
    """No joint turns more than 60 degrees within one frame, in any style."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        poses = choreograph(body, Dance.random(rng, frontal=0.5), rng, frames=40)[:, :, :3, :3]
        step = np.einsum("tbij,tbij->tb", poses[1:], poses[:-1])
        assert np.degrees(np.arccos(np.clip((step - 1) / 2, -1, 1))).max() < 60
        assert np.allclose(np.linalg.det(poses), 1, atol=1e-4)


def test_nearer_triangle_wins_and_cut_opens_a_hole():
    def square(nearness):
        return np.float32([[0, 0, nearness], [8, 0, nearness], [8, 8, nearness], [0, 8, nearness]])

    faces = np.int32([[0, 1, 2], [0, 2, 3]])
    seen = Visibility.empty(8)
    seen.draw(square(1.0), faces)
    seen.draw(square(0.5), faces, first_face=2)
    assert seen.face.max() == 1, "the farther square is hidden"
    seen.draw(square(2.0), faces, first_face=4, cut=np.float32([-1, 1, 1, -1]))
    assert (seen.face[:, :3] < 4).all() and (seen.face[:, 5:] >= 4).all()


def test_softening_invents_no_part():
    ids = np.zeros((64, 64), np.uint8)
    ids[20:50, 10:30], ids[20:50, 30:50] = 2, 15
    soft = soften(ids, 1.0, wobble(np.random.default_rng(0), 64, 0.3))
    assert set(np.unique(soft)) == {0, 2, 15}
    assert (soft == ids).mean() > 0.95


def test_folder_round_trip(tmp_path, identities):
    write_info(tmp_path, DatasetInfo.of(TINY, seed=5, count=4))
    for index in (0, 2):
        write_identity(tmp_path, index, identities[index])
    folder = DancerFolder(tmp_path)
    assert len(folder) == 2 and folder.indices == [0, 2]
    rgb, parts = folder[1]
    assert rgb.shape == (6, 48, 48, 3) and rgb.dtype == parts.dtype == np.uint8
    assert np.array_equal(parts, np.concatenate([identities[2].stills_parts, identities[2].clip_parts]))
    points = np.concatenate([identities[2].stills_points, identities[2].clip_points])
    assert np.array_equal(folder.points(1), points)
    truth = np.concatenate([identities[2].stills_rgb, identities[2].clip_rgb]).astype(int)
    assert np.abs(rgb - truth).mean() < 8
    assert np.abs(rgb[..., ::-1] - truth).mean() > np.abs(rgb - truth).mean(), "channels are RGB"


def test_folder_errors_are_sentences(tmp_path, identities):
    with pytest.raises(InputError, match="dataset.json"):
        DancerFolder(tmp_path)
    write_info(tmp_path, DatasetInfo.of(TINY, seed=5, count=1))
    with pytest.raises(InputError, match="other settings"):
        write_info(tmp_path, DatasetInfo.of(TINY, seed=6, count=1))
    write_identity(tmp_path, 0, identities[0])
    (tmp_path / "000000.png").write_bytes(b"broken")
    with pytest.raises(InputError, match="damaged"):
        DancerFolder(tmp_path)[0]


def _arguments(out, *, identities, workers=1):
    counts = ["--identities", str(identities), "--workers", str(workers), "--seed", "5"]
    return [*counts, "--stills", "1", "--frames", "1", "--size", "32", "--out", str(out)]


def test_resume_renders_only_what_is_missing(tmp_path):
    assert main(_arguments(tmp_path, identities=1)) == 0
    first = tmp_path / "000000.webp"
    before, changed = first.read_bytes(), first.stat().st_mtime_ns
    assert main(_arguments(tmp_path, identities=2)) == 0
    assert first.stat().st_mtime_ns == changed
    first.unlink()
    assert main(_arguments(tmp_path, identities=2)) == 0
    assert first.read_bytes() == before
    assert json.loads((tmp_path / "dataset.json").read_text())["count"] == 2
    assert not list(tmp_path.glob(".*"))


def test_command_line_refuses_in_one_sentence(tmp_path, capsys):
    write_info(tmp_path, DatasetInfo.of(TINY, seed=1, count=1))
    assert main(_arguments(tmp_path, identities=1)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        main(_arguments(tmp_path, identities=0))


def test_keypoints_lie_on_the_parts_they_are_named_after(body, identities):
    """Wrists are at hands or lower arms, noses at heads, in the part map of the same picture."""
    near = {
        0: (23, 24),
        3: (16, 18, 20, 22),
        4: (3, 20, 22),
        7: (4, 19, 21),
        9: (7, 9, 11, 13),
        12: (8, 10, 12, 14),
    }
    hits, count = 0, 0
    for i, identity in enumerate(identities):
        points = identity_keypoints(body, (5, i), TINY)
        maps = np.concatenate([identity.stills_parts, identity.clip_parts])
        assert points.shape[0] == len(maps) and points.shape[2:] == (134, 3)
        if points.shape[1] > 1:
            continue
        for ids, person in zip(maps, points[:, 0], strict=True):
            for number, parts in near.items():
                x, y, confidence = person[number]
                around = ids[max(0, int(y) - 2) : int(y) + 3, max(0, int(x) - 2) : int(x) + 3]
                if confidence and (around > 0).any():
                    count += 1
                    hits += bool(np.isin(around, parts).any())
    assert count > 150
    assert hits / count > 0.85, "the rest is hidden by other parts"


def test_drawn_keypoints_lie_on_the_people(body, identities):
    """Of one person and of two; joints lie inside the limbs."""
    shares, people = [], []
    for i, identity in enumerate([*identities, render_identity(body, (5, 12), TINY)]):
        points = identity_keypoints(body, (5, i), TINY)[:, :, :18]
        people.append(points.shape[1])
        maps = np.concatenate([identity.stills_parts, identity.clip_parts])
        for ids, frame in zip(maps, points, strict=True):
            drawn = draw_keypoints(frame, width=48, height=48).max(-1) > 128
            if drawn.any():
                shares.append((ids[drawn] > 0).mean())
    assert people == [1] * 12 + [2]
    assert np.mean(shares) > 0.97


def test_keypoints_are_those_of_the_rendered_clip_and_move_smoothly(body):
    more = Spec(size=48, stills=3, frames=6)
    points = identity_keypoints(body, (5, 3), more)
    assert np.array_equal(points, identity_keypoints(body, (5, 3), more))
    clip = points[3:, 0]
    both = (clip[1:, :18, 2] > 0) & (clip[:-1, :18, 2] > 0)
    assert np.linalg.norm(np.diff(clip[:, :18, :2], axis=0), axis=-1)[both].max() < 6


def test_keypoints_are_added_to_a_rendered_folder(tmp_path):
    assert main(_arguments(tmp_path, identities=1)) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("0*")}
    assert main([*_arguments(tmp_path, identities=2), "--keypoints"]) == 0
    assert all((tmp_path / name).read_bytes() == data for name, data in before.items())
    for index in (0, 1):
        recorded = read_keypoints(tmp_path / f"{index:06d}.keypoints.npz")
        assert len(recorded.points) == 2 and (recorded.width, recorded.height) == (32, 32)
    read = DancerVideos(tmp_path, signals=("densepose", "keypoints")).read(0, [1])
    drawn, parts = (
        read.control["keypoints"][0].max(-1) > 60,
        (read.control["densepose"][0] != PALETTE[0]).any(-1),
    )
    assert drawn.any() and parts[drawn].mean() > 0.6, "the drawing lies on the person"


def test_missing_keypoints_are_an_error_with_the_way_out(tmp_path):
    assert main(_arguments(tmp_path, identities=1)) == 0
    with pytest.raises(InputError, match="--keypoints"):
        DancerVideos(tmp_path, signals=("keypoints",))


@pytest.mark.slow
def test_any_number_of_workers_renders_the_same(tmp_path):
    assert main(_arguments(tmp_path / "one", identities=3)) == 0
    assert main(_arguments(tmp_path / "two", identities=3, workers=2)) == 0
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
