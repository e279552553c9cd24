"""Other backgrounds: plates, mattes, and whole results."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from densepose_tools.engine_choice import EngineChoice
from densepose_tools.motion_steps import take_steps
from magicanimate import ASSETS
from magicanimate.animator import Animator
from magicanimate.background import Backdrop, clean_plate, driving_scene, photo_backdrop
from magicanimate.cast import colour_of, find_dancers, outlined
from magicanimate.config import AnimationRequest
from magicanimate.errors import InputError
from magicanimate.mask import (
    MAYBE,
    NOBODY,
    PERSON,
    Masks,
    Stroke,
    cut_out,
    grown,
    guided_filter,
    mask_of,
    painted,
    read_masks,
    write_masks,
)
from magicanimate.media.motion import open_motion
from magicanimate.media.writer import has_sound
from magicanimate.palette import PALETTE, nearest_labels
from magicanimate.request_checks import background_kind, check_request, side_by_side_path
from magicanimate.results import inspect
from tests.media_files import part_labels, part_maps, require_densepose, write_clip, write_output
from tests.small_segmenter import write_dance
from tests.test_media_writer import with_alpha

SIZE = 96


def texture(seed: int = 0) -> np.ndarray:
    """A background with edges and gradients, uint8 ``H W 3``."""
    coarse = np.random.default_rng(seed).integers(40, 215, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def figure(number: int) -> np.ndarray:
    """Where the figure of `scene` is in a frame, its labels, uint8 ``H W``."""
    return part_labels(shift=8 * number - 44)


def scene(count: int = 12) -> tuple[SimpleNamespace, np.ndarray]:
    """A red figure that walks before `texture`, as the media of an animation; and that background."""
    room = texture()
    labels = [figure(i) for i in range(count)]
    film = [np.where((each > 0)[..., None], np.uint8((200, 30, 30)), room) for each in labels]
    media = SimpleNamespace(
        driving=np.stack(film),
        control=PALETTE[np.stack(labels)],
        num_frames=count,
    )
    return media, room


def backdrop(plate: np.ndarray, media: SimpleNamespace, **settings) -> Backdrop:
    request = AnimationRequest(Path("a.png"), Path("a.mp4"), Path("a"), background="clip", **settings)
    return Backdrop(request, Masks(media.control), plate, plate, None, transparent=False)


def test_guided_filter_keeps_edges_of_the_guide_and_smooths_the_rest():
    guide = np.zeros((40, 40, 3), np.float32)
    guide[:, 20:] = (0.9, 0.2, 0.4)
    noise = np.random.default_rng(0).normal(0, 0.2, (40, 40)).astype(np.float32)
    step = (guide[..., 0] > 0).astype(np.float32)
    smooth = guided_filter(guide, step + noise, 6, 1e-3)
    assert np.abs(smooth - step)[:, 17:23].mean() < 0.1, "the edge stays where it is"
    assert np.abs(smooth - step).mean() < 0.3 * np.abs(noise).mean()


def test_the_plate_is_the_room_without_the_dancer():
    media, room = scene()
    plate = clean_plate(media, Masks(media.control))
    error = np.abs(plate.astype(int) - room)
    assert np.percentile(error, 95) <= 1, "nearly every pixel was free of the dancer at some time"
    assert error.max() < 90, "and the rest is filled in from beside it"


def test_a_dancer_who_covers_everything_leaves_no_plate():
    media, _ = scene(4)
    media.control[:] = PALETTE[2]
    with pytest.raises(InputError, match="choose another background"):
        clean_plate(media, Masks(media.control))


def test_the_driving_video_is_itself_but_for_its_dancer():
    media, room = scene()
    masks = Masks(media.control)
    for number, frame in enumerate(driving_scene(media, masks, clean_plate(media, masks))):
        near = grown(figure(number) > 0, 10)
        np.testing.assert_array_equal(frame[~near], room[~near])
        assert np.abs(frame[near].astype(int) - room[near]).mean() < 6


def test_a_shadow_close_to_the_dancer_stays_and_her_coat_goes():
    """Both are outside of the part map, where the plate is; the shadow is the plate, a little darker."""
    room = cv2.resize(texture(), (288, 288), interpolation=cv2.INTER_CUBIC)
    labels = part_labels(width=288, height=288)
    coat = grown(labels > 0, 3)
    frame = np.where(coat[..., None], np.uint8((200, 30, 30)), room)
    shadow = grown(coat, 10) & ~coat
    frame[shadow] = room[shadow] * 0.85
    media = SimpleNamespace(driving=frame[None], control=PALETTE[labels][None], num_frames=1)
    (bare,) = driving_scene(media, Masks(media.control), room)
    seen = grown(coat, 6) & ~grown(coat, 4)
    assert (bare[seen] / room[seen].astype(float)).mean() < 0.87, "replaced by the plate, it would be 0.93"
    assert np.abs(bare[coat].astype(int) - room[coat]).mean() < 3


def test_the_plate_follows_the_light():
    media, room = scene()
    masks = Masks(media.control)
    plate = clean_plate(media, masks)
    media.driving[3] = (media.driving[3] * 0.5 + 60).astype(np.uint8)  # somebody opens a curtain
    frame = list(driving_scene(media, masks, plate))[3]
    dancer = figure(3) > 0
    offset = float((frame.astype(float) - room)[dancer].mean() - (frame.astype(float) - room)[~dancer].mean())
    assert abs(offset) < 12


def networks_made(
    media: SimpleNamespace, plate: np.ndarray, *, wide: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Frames as networks make them: a person with clothes a little wider than the map, off-colour, noisy."""
    rng, frames, truth = np.random.default_rng(1), [], []
    for control in media.control:
        body = grown((control != PALETTE[0]).any(-1), wide)
        alpha = cv2.GaussianBlur(body.astype(np.float32), (0, 0), 0.7)
        picture = alpha[..., None] * (30, 160, 60) + (1 - alpha[..., None]) * plate
        frames.append((picture + 5 + rng.normal(0, 2, picture.shape)).clip(0, 255).astype(np.uint8))
        truth.append(alpha)
    return np.stack(frames), np.stack(truth)


def test_people_are_cut_out_with_their_clothes():
    media, room = scene(4)
    frames, truth = networks_made(media, room)
    for number, frame in enumerate(frames):
        labels = mask_of(figure(number))
        alpha, people = cut_out(frame, room, labels)
        assert np.abs(alpha - truth[number]).mean() < 0.04
        narrow, _ = cut_out(frame, room, labels, grow=-3)
        assert narrow.sum() < alpha.sum()
        soft, _ = cut_out(frame, room, labels, feather=3)
        assert ((soft > 0.05) & (soft < 0.95)).sum() > ((alpha > 0.05) & (alpha < 0.95)).sum()
        inside = truth[number] > 0.5
        assert np.abs(people[inside] - (30, 160, 60)).mean() < 10, "the plate and the colour cast are out"


def test_a_shadow_that_networks_draw_around_people_is_not_cut_out_with_them():
    """It left a dark rim before the new background."""
    media, room = scene(4)
    frames, _ = networks_made(media, room, wide=0)
    other, found = np.full_like(room, 180), backdrop(room, media)
    shadows = [grown(figure(i) > 0, 4) & ~grown(figure(i) > 0, 1) for i in range(4)]
    for frame, shadow in zip(frames, shadows, strict=True):
        frame[shadow] = 0.63 * frame[shadow]
    before_other = replace(found, moving=lambda: iter([other] * 4))
    for picture, shadow in zip(before_other.composited(iter(frames)), shadows, strict=True):
        assert picture[shadow].mean() > 180 - 8


def test_away_from_the_people_the_background_is_untouched():
    media, room = scene(4)
    frames, _ = networks_made(media, room)
    other = texture(7)
    found = replace(backdrop(room, media), moving=lambda: iter([other] * 4))
    for number, frame in enumerate(found.composited(iter(frames))):
        far = ~grown(figure(number) > 0, 10)
        np.testing.assert_array_equal(frame[far], other[far])


def test_the_photos_own_background_is_kept_and_its_people_are_gone_from_it():
    media, room = scene(4)
    standing = figure(9)
    photo = np.where((standing > 0)[..., None], np.uint8((30, 160, 60)), room)
    request = AnimationRequest(Path("a.png"), Path("a.mp4"), Path("a"))
    found = photo_backdrop(request, photo, Masks(media.control), lambda _: standing)
    np.testing.assert_array_equal(found.reference, photo, "the networks see the photo itself")
    frames, _ = networks_made(media, room)
    for number, frame in enumerate(found.composited(iter(frames))):
        dancer = figure(number) > 0
        far = ~grown(dancer, 10)
        kept = far & ~grown(standing > 0, 12)
        assert kept.sum() > 500
        np.testing.assert_array_equal(frame[kept], photo[kept])
        left = far & (standing > 0)  # whoever stands in the photo is gone from there
        assert left.any() and np.abs(frame[left].astype(int) - (30, 160, 60)).max(-1).min() > 25
        assert np.abs(frame[left].astype(int) - room[left]).mean() < 40
        inside = grown(dancer, -2) & ~grown(standing > 0, 12)
        assert np.abs(frame[inside].astype(int) - (30, 160, 60)).mean() < 12


@pytest.mark.parametrize(
    ("background", "kind"),
    [
        (None, "photo"),
        ("photo", "photo"),
        ("still", "still"),
        ("clip", "clip"),
        ("transparent", "transparent"),
        ("white", "colour"),
        ("#2060a0", "colour"),
    ],
)
def test_kinds_of_background(background, kind):
    assert background_kind(background) == kind


def test_files_are_told_by_their_suffix(tmp_path):
    for name, kind in (("a.png", "picture"), ("a.mp4", "video")):
        (tmp_path / name).touch()
        assert background_kind(str(tmp_path / name)) == kind


@pytest.fixture(scope="module")
def animator(tiny_model) -> Animator:
    return Animator(tiny_model, device="cpu")


@pytest.fixture
def request_(tmp_path) -> AnimationRequest:
    write_clip(tmp_path / "motion.mp4", part_maps(6, width=64, height=64), sound=0.5)
    film = [cv2.resize(texture(), (128, 128)) for _ in range(6)]
    write_clip(tmp_path / "film.mp4", film)
    return AnimationRequest(
        photo=ASSETS / "examples" / "arms_photo.jpg",
        motion=tmp_path / "motion.mp4",
        output=tmp_path / "out",
        num_inference_steps=1,
        credentials=False,
    )


def frames_of(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))])


def test_a_colour(animator, request_):
    result = animator.animate(replace(request_, background="#2060a0"))
    frames = frames_of(result.output)
    assert frames.shape == (6, 32, 32, 3)
    assert (frames[:, :2, -3:] == (0x20, 0x60, 0xA0)).all()
    assert result.settings["background"] == "#2060a0"


def test_a_checkpoint_may_keep_the_photos_background_by_default(animator, tiny_model, request_, tmp_path):
    """The bundled one does; who asks for the networks' own background gets that."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"default_background": "still"}))
    request_ = replace(request_, overwrite=True)
    frames, keeps = {}, Animator(folder, device="cpu")
    for asked in (None, "still", "photo"):
        result = keeps.animate(replace(request_, background=asked))
        assert result.settings["background"] == (asked or "still")
        frames[asked] = frames_of(result.output)
    photo = np.asarray(Image.open(request_.photo).resize((32, 32), Image.Resampling.BOX)).astype(int)
    np.testing.assert_array_equal(frames[None], frames["still"])
    assert np.abs(frames["still"][:, :4, :4] - photo[:4, :4]).mean() < 4
    assert np.abs(frames["photo"][:, :4, :4] - photo[:4, :4]).mean() > 20
    result = animator.animate(request_)  # an index of before has no such default
    np.testing.assert_array_equal(frames_of(result.output), frames["photo"])
    assert result.settings["background"] == "photo"


def test_with_nobody_in_the_photo_nothing_of_it_can_be_kept(animator, request_, tmp_path, caplog):
    Image.fromarray(np.full((64, 64, 3), 120, np.uint8)).save(tmp_path / "wall.png")
    request_ = replace(request_, photo=tmp_path / "wall.png", overwrite=True)
    kept, made = (
        frames_of(animator.animate(replace(request_, background=asked)).output)
        for asked in ("still", "photo")
    )
    np.testing.assert_array_equal(kept, made)
    assert "nobody is recognised in the photo" in caplog.text


def test_a_picture_and_a_video(animator, request_, tmp_path):
    Image.fromarray(texture()).save(tmp_path / "room.png")
    for file in (tmp_path / "room.png", tmp_path / "film.mp4"):
        result = animator.animate(replace(request_, background=str(file)))
        expected = cv2.resize(texture(), (32, 32), interpolation=cv2.INTER_AREA)
        corner = frames_of(result.output)[:, :4, -4:].astype(int)
        assert np.abs(corner - expected[:4, -4:]).mean() < 6


def test_the_clip_with_its_sound(animator, request_, tmp_path):
    output = tmp_path / "out.mp4"
    wanted = replace(
        request_,
        background="clip",
        driving_video=tmp_path / "film.mp4",
        sound=True,
        output=output,
        credentials=True,
    )
    result = animator.animate(wanted)
    assert result.num_frames == 6 and has_sound(output)
    assert inspect(output).credentials.source_type == "compositeWithTrainedAlgorithmicMedia"
    assert str(tmp_path).encode() not in output.read_bytes()


@pytest.mark.parametrize("name", ["out.webm", "out.mov", "out"])
def test_transparent(animator, request_, tmp_path, name):
    wanted = replace(request_, background="transparent", output=tmp_path / name, side_by_side=True)
    result = animator.animate(wanted)
    frames = with_alpha(result.output)
    assert frames.shape == (6, 32, 32, 4)
    labels = part_labels(width=32, height=32)
    assert frames[0, ..., 3][labels > 0].mean() > 110  # whatever untrained networks show there
    assert frames[:, :2, -3:, 3].max() < 8
    assert side_by_side_path(tmp_path / name).exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"background": "clip", "driving_video": Path("a.mp4"), "who": "2"}, "ordinary video"),
        ({"background": "beach.jpg"}, "beach.jpg"),
        ({"background": "transparent", "output": Path("a.mp4")}, r"\.webm or \.mov"),
        ({"mask_grow": 100}, "mask_grow is 100"),
        ({"mask": Path("a.mp4")}, "A mask is for people who are cut out"),
        ({"other_photos": (Path("a.png"),)}, "A photo of another person is for people who are cut out"),
    ],
)
def test_what_cannot_be_is_one_sentence(request_, change, words):
    with pytest.raises(InputError, match=words) as caught:
        check_request(replace(request_, **change))
    assert "\n" not in str(caught.value)


def test_the_mask_is_drawn_without_the_networks(tiny_model, request_, tmp_path):
    animator, picture = Animator(tiny_model, device="cpu"), tmp_path / "mask.png"
    animator.draw_mask(replace(request_, background="white", mask_grow=1), picture=picture)
    animator.draw_mask(replace(request_, background="white"), picture=picture)  # its own picture is replaced
    drawn = np.asarray(Image.open(picture))
    assert drawn.shape == (32, 32 * 6, 3) and not animator.loaded
    moment = drawn[:, 32:64]
    body = part_labels(width=32, height=32) > 0
    assert (np.abs(moment[body] - (254.0, 127, 127)) <= 1).all(-1).mean() > 0.7
    assert (moment == (255, 220, 0)).all(-1).any() and (moment[0, -1] == 255).all()
    with pytest.raises(InputError, match="stay in their photo"):
        animator.draw_mask(request_, picture=picture)
    with pytest.raises(InputError, match="must be a .png"):
        animator.draw_mask(replace(request_, background="white"), picture=tmp_path / "mask.jpg")


@pytest.mark.parametrize("name", ["mask.mp4", "mask"])
def test_a_mask_is_saved_painted_on_and_used_again(animator, request_, tmp_path, name):
    """The same mask gives the same result, and where nobody is said to be the background is untouched."""
    wanted, file = replace(request_, background="#2060a0"), tmp_path / name
    plain = frames_of(animator.animate(wanted).output)
    animator.draw_mask(replace(wanted, mask_grow=2), mask=file)
    np.testing.assert_array_equal(frames_of(animator.animate(replace(wanted, mask=file)).output), plain)
    with read_masks(file, count=6, width=32, height=32) as kept:
        masks = [mask[..., 0] for mask in kept[:]]
    expected = mask_of(part_labels(width=32, height=32))  # but for pixels on its outline
    assert (masks[0] == expected).mean() > 0.9 and set(np.unique(masks)) == {NOBODY, MAYBE, PERSON}
    away = Stroke.of(
        {"points": [[0.5, 0.2], [0.5, 0.8]], "radius": 0.25, "adds": False, "first": 2, "last": 3}
    )
    write_masks(tmp_path / "edited.mp4", painted(masks, away), size=(32, 32), rate=Fraction(25))
    edited = frames_of(animator.animate(replace(wanted, mask=tmp_path / "edited.mp4")).output)
    np.testing.assert_array_equal(edited[[0, 1, 4, 5]], plain[[0, 1, 4, 5]])
    assert (edited[2:4, 8:24, 10:22] == (0x20, 0x60, 0xA0)).all()
    assert (plain[2:4, 8:24, 10:22] != (0x20, 0x60, 0xA0)).any()


def test_strokes_add_and_take_away():
    mask = np.zeros((40, 80), np.uint8)
    given = {"points": [[0.25, 0.5], [0.75, 0.5]], "radius": 0.05, "adds": True, "first": 0, "last": 0}
    line = Stroke.of(given).on(mask)
    assert not mask.any() and line[20, 16:64].all() and not line[:14].any() and not line[27:].any()
    dot = Stroke.of({**given, "points": [[0.5, 0.5]], "adds": False}).on(line)
    assert not dot[20, 37:43].any() and dot[20, 20] == PERSON
    for wrong in ({}, {**given, "points": []}, {**given, "points": [[9, 9]]}, {**given, "radius": "wide"}):
        with pytest.raises(InputError, match="draw it again"):
            Stroke.of(wrong)


def test_a_mask_of_another_clip_is_one_sentence(animator, request_, tmp_path):
    levels = np.full((16, 16), MAYBE, np.uint8)
    write_masks(tmp_path / "short.mp4", [levels] * 4, size=(16, 16), rate=Fraction(25))
    wanted = replace(request_, background="white", mask=tmp_path / "short.mp4")
    with pytest.raises(InputError, match="has 4 frames of 16x16 and the result 6 of 32x32") as caught:
        animator.animate(wanted)
    assert "\n" not in str(caught.value)


def test_nobody_in_the_photo_is_one_sentence(animator, request_, tmp_path):
    Image.fromarray(np.full((64, 64, 3), 120, np.uint8)).save(tmp_path / "wall.png")
    with pytest.raises(InputError, match="Nobody is recognised in the photo"):
        animator.animate(replace(request_, photo=tmp_path / "wall.png", background="white"))
    assert not request_.output.exists()


def test_a_driving_video_of_another_length_is_one_sentence(animator, request_, tmp_path):
    write_clip(tmp_path / "short.mp4", [texture()] * 4)
    wanted = replace(request_, background="clip", driving_video=tmp_path / "short.mp4")
    with pytest.raises(InputError, match="4 frames of 96x96 .* and the motion clip .* 6 frames of 64x64"):
        animator.animate(wanted)


def test_the_command_line_makes_the_part_map_of_an_ordinary_video(
    tiny_model, segmenter, request_, tmp_path, monkeypatch
):
    """`--background clip` with the video alone; the map is found again the next time."""
    monkeypatch.setattr("densepose_tools.engines.DEFAULT_FOLDER", segmenter)
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path / "home"))
    film = write_dance(tmp_path / "dance.mp4", 6)
    animator = Animator(tiny_model, device="cpu", offline=True)
    wanted = replace(request_, motion=film, background="clip")
    stages = []
    result = animator.animate(wanted, on_progress=lambda progress: stages.append(progress.stage))
    assert "detect" in stages and stages.index("detect") < stages.index("denoise")
    assert result.num_frames == 6 and result.settings["driving_video"] == str(film)
    made = Path(result.settings["motion"])
    require_densepose(open_motion(made))
    corner = frames_of(result.output)[:, :3, -3:].astype(int)
    filmed = np.stack(
        [cv2.resize(frame, (32, 32), interpolation=cv2.INTER_AREA) for frame in open_motion(film).frames()]
    )
    assert np.abs(corner - filmed[:, :3, -3:]).mean() < 6
    before, stages[:] = made.stat().st_mtime_ns, []
    animator.animate(wanted, on_progress=lambda progress: stages.append(progress.stage))
    assert "detect" not in stages and made.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="Person 2 is asked for and 1 are seen"):
        animator.animate(replace(wanted, who="2"))
    with pytest.raises(InputError, match="'him' is not largest"):
        animator.animate(replace(wanted, who="him"))
    with pytest.raises(InputError, match="A DensePose clip has no background to keep"):
        animator.animate(replace(request_, background="clip"))


def test_the_page_keeps_video_and_part_map_in_step(request_, tmp_path):
    """An ordinary video is cut and converted, and what was cut is the driving video of the same frames."""
    film = ASSETS / "examples" / "arms_result.mp4"
    wanted = replace(
        request_, motion=film, driving_video=film, background="clip", start=0.4, end=0.52, output=tmp_path
    )
    engine = EngineChoice("mini", device="cpu")
    made = take_steps(wanted, {"convert": True}, None, folder=tmp_path, engine=engine)
    whole, part = open_motion(film), open_motion(made.driving_video)
    assert part.num_frames_estimate == open_motion(made.motion).num_frames_estimate == 3
    np.testing.assert_array_equal(next(part.frames()), list(whole.frames())[10])
    assert (made.start, made.end) == (0.0, None)


@pytest.mark.parametrize(
    ("motion", "steps", "words"),
    [
        ("arms_motion.mp4", {}, "A DensePose clip has no background to keep"),
        ("arms_result.mp4", {"mirror": True}, "Mirror or Fit the dancer"),
    ],
)
def test_what_the_page_cannot_keep_is_one_sentence(request_, tmp_path, motion, steps, words):
    clip = ASSETS / "examples" / motion
    wanted = replace(request_, motion=clip, driving_video=clip, background="clip")
    with pytest.raises(InputError, match=words):
        take_steps(wanted, steps, None, folder=tmp_path, engine=EngineChoice("mini", device="cpu"))


def dancers_in_a_row(count: int, *, frames: int = 3, size: int = 128) -> list[np.ndarray]:
    """Part maps of so many figures beside each other, in their colours."""
    one = part_labels(width=size // count // 8 * 8, height=size)
    return [PALETTE[np.concatenate([one] * count, 1)]] * frames


@pytest.fixture
def troupe(tiny_model, request_, tmp_path):
    """Animates or draws three dancers with photos of a red, a green and a blue person."""
    write_output(tmp_path / "three.mp4", dancers_in_a_row(3), lossless=True)
    with Image.open(request_.photo) as photo:
        pixels = np.asarray(photo.convert("RGB"))
    photos = []
    for channel, name in enumerate(("red", "green", "blue")):
        tinted = pixels // 2
        tinted[..., channel] += 120
        photos.append(tmp_path / f"{name}.png")
        Image.fromarray(tinted).save(photos[-1])
    wanted = replace(
        request_,
        photo=photos[0],
        other_photos=tuple(photos[1:]),
        motion=tmp_path / "three.mp4",
        background="white",
        width=120,
        height=128,
    )
    return Animator(tiny_model, device="cpu"), wanted


def tints(animator: Animator, request: AnimationRequest) -> list[int]:
    """The strongest channel of the person in each third of the picture that the networks see as the photo."""
    picture = request.output.parent / "cast.png"
    animator.draw_mask(request, picture=picture)
    reference = np.asarray(Image.open(picture))[:, :120].astype(int)
    person = (reference < 230).any(-1)
    thirds = [(reference[:, x : x + 40], person[:, x : x + 40]) for x in (0, 40, 80)]
    assert all(shown.mean() > 0.05 for _, shown in thirds), "somebody is in each place"
    return [int(np.argmax(pixels[shown].mean(0))) for pixels, shown in thirds]


def test_several_photos_become_the_dancers_from_left_to_right_or_as_the_cast_says(troupe):
    animator, wanted = troupe
    assert tints(animator, wanted) == [0, 1, 2]
    assert tints(animator, replace(wanted, cast="3,1,2")) == [2, 0, 1]
    two = replace(wanted, other_photos=wanted.other_photos[:1])
    assert tints(animator, replace(two, cast="2,1,2")) == [1, 0, 1]
    result = animator.animate(wanted)
    assert result.settings["other_photos"] == tuple(map(str, wanted.other_photos))
    with pytest.raises(InputError, match=r"3 dancers apart .* too many for 2 photos; .*--cast 1,2,1\)"):
        animator.draw_mask(two, picture=wanted.output.parent / "cast.png")
    four = replace(wanted, other_photos=(*wanted.other_photos, wanted.photo))
    with pytest.raises(
        InputError, match="3 dancers apart from each other, too few for 4 photos; leave photos"
    ):
        animator.draw_mask(four, picture=wanted.output.parent / "cast.png")
    with pytest.raises(InputError, match="3 dancers .* and 2,1,1,3 says of 4 who they become"):
        animator.draw_mask(replace(wanted, cast="2,1,1,3"), picture=wanted.output.parent / "cast.png")


@pytest.mark.parametrize(
    ("photos", "cast", "words"),
    [
        (1, "2,1", "can only be chosen with several photos"),
        (2, "left,right", "The cast is 'left,right', which names no photos"),
        (2, "0,1", "names no photos"),
        (2, "1,3", "names photo 3, and there are 2"),
        (3, "1,2", "Nobody becomes photo 3"),
    ],
)
def test_a_cast_that_no_clip_could_have_is_one_sentence(request_, photos, cast, words):
    others = (request_.photo,) * (photos - 1)
    with pytest.raises(InputError, match=words):
        check_request(replace(request_, background="white", other_photos=others, cast=cast))


def test_dancers_are_counted_apart_and_for_longer_than_a_moment():
    one, two, three = (
        np.concatenate(
            [part_labels(width=40, height=128)] * count + [np.zeros((128, 120 - 40 * count), int)], 1
        )
        for count in (1, 2, 3)
    )
    assert len(find_dancers([]).parts) == len(find_dancers([one * 0]).parts) == 0
    found = find_dancers([one, two, *[one] * 8, *[two] * 10, three])
    assert (found.frame, len(found.parts)) == (1, 2), "three are seen in one frame of 21"
    np.testing.assert_array_equal(sum(found.parts), two)
    torn = two.copy()
    torn[96:99, :40] = 0  # the shins of the left one are cut off
    left, right = find_dancers([torn]).parts
    np.testing.assert_array_equal(left + right, torn)
    assert not left[:, 40:].any() and not right[:, :40].any()


def test_each_dancer_has_an_outline_in_a_colour_of_her_own():
    maps = dancers_in_a_row(3)
    found = find_dancers([nearest_labels(maps[0])[0]])
    drawn = outlined(maps[0], found.parts)
    for number, parts in enumerate(found.parts):
        columns = (drawn == colour_of(number)).all(-1).any(0).nonzero()[0]
        body = parts.any(0).nonzero()[0]
        assert abs(columns.min() - body.min()) <= 2 and abs(columns.max() - body.max()) <= 2
    assert len({colour_of(number) for number in range(7)}) == 7


@pytest.fixture
def released(converted, tmp_path) -> Path:
    """The released layout with made-up weights, said to be trained at a size that a test can afford."""
    folder = shutil.copytree(converted, tmp_path / "released")
    index = folder / "model_index.json"
    told = json.loads(index.read_text(encoding="utf-8")) | {"default_width": 64, "default_height": 64}
    index.write_text(json.dumps(told), encoding="utf-8")
    return folder


def test_the_released_layout_changes_backgrounds_and_looks_twice(released, request_, tmp_path):
    animator, stages = Animator(released, device="cpu"), []
    assert animator.defaults.kind == "full"
    wanted = replace(request_, background="clip", driving_video=tmp_path / "film.mp4", guidance_scale=2)
    once = frames_of(animator.animate(replace(wanted, output=tmp_path / "once")).output)
    twice = animator.animate(
        replace(wanted, detail="faces+hands"), lambda progress: stages.append(progress.stage)
    )
    frames = frames_of(twice.output)
    assert frames.shape == (6, 64, 64, 3) and "detail" in stages
    filmed = cv2.resize(texture(), (64, 64), interpolation=cv2.INTER_AREA).astype(int)
    away = ~grown(part_labels(width=64, height=64) > 0, 12)
    assert np.abs(frames.astype(int) - filmed)[:, away].mean() < 6
    changed = (frames != once).any((0, 3))
    small = np.isin(part_labels(width=64, height=64), (3, 4, 23, 24))
    # The colours that are corrected over the whole frame may change a little with them.
    assert changed[small].mean() > 0.5 > 2 * changed[~grown(small, 12)].mean()
