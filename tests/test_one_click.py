"""From any clip to one that animates: what it is, what will be used, and what comes out."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from densepose_tools.engine_choice import EngineChoice
from densepose_tools.one_click import MotionConfig, examine, make_motion
from densepose_tools.people import flip_labels
from densepose_tools.postprocess import Postprocessing
from magicanimate.errors import Cancelled, InputError
from magicanimate.media.motion import open_motion
from magicanimate.palette import BACKGROUND, colourise, nearest_labels
from tests.media_files import loudness, part_labels, part_maps, require_densepose, write_clip, write_output
from tests.small_segmenter import dancing, negatives, write_dance


@pytest.fixture
def mini(segmenter) -> EngineChoice:
    return EngineChoice("mini", segmenter, "cpu")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A machine without DensePose's weights."""
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "densepose"


def over_black(frames: list[np.ndarray]) -> list[np.ndarray]:
    return [
        np.where((frame == BACKGROUND).all(-1, keepdims=True), 0, frame).astype(np.uint8) for frame in frames
    ]


def test_clips_are_told_apart(tmp_path):
    empty = [np.full((64, 64, 3), BACKGROUND, dtype=np.uint8)] * 5
    clips = {
        "ready": write_clip(tmp_path / "map.mp4", part_maps(5)),
        "ordinary": write_dance(tmp_path / "dance.mp4", 5),
        "recolourable": write_output(tmp_path / "black.mp4", over_black(part_maps(5)), lossless=True),
        "empty": write_clip(tmp_path / "empty.mp4", empty),
    }
    assert {kind: examine(clip).kind for kind, clip in clips.items()} == {kind: kind for kind in clips}
    assert "over black" in examine(clips["recolourable"]).reason
    note = tmp_path / "note.mp4"
    note.write_text("not a video")
    with pytest.raises(InputError, match="note.mp4"):
        examine(note)


def test_an_ordinary_video_becomes_a_clip_that_animates(tmp_path, mini):
    clip, folder = write_dance(tmp_path / "dance.mp4", 25, sound=1.0), tmp_path / "out"
    stages = []
    made = make_motion(clip, folder, engine=mini, on_progress=lambda progress: stages.append(progress.stage))
    assert made.engine == "mini" and made.extraction.video == folder / "dance_densepose.mp4"
    assert list(dict.fromkeys(stages)) == ["load", "detect", "write"]
    opened = open_motion(made.extraction.video)
    require_densepose(opened)
    assert (opened.width, opened.height, opened.fps, opened.has_sound) == (96, 96, 25, True)
    frames = list(opened.frames())
    assert len(frames) == 25
    right = [nearest_labels(frame)[0] == truth for frame, truth in zip(frames, dancing(25), strict=True)]
    assert np.mean(right) > 0.9
    assert loudness(made.extraction.video)[:10].min() > 0.2

    again = make_motion(clip, folder, engine=mini, config=MotionConfig(start=0.2, end=0.6))
    assert again.extraction.video.name == "dance_densepose_2.mp4" and again.extraction.num_frames == 10
    names = [f"dance_densepose{which}" for which in (".mp4", ".npz", "_2.mp4", "_2.npz")]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_copies_for_the_browser_are_near_and_show_before_and_after(tmp_path, mini):
    clip, folder = write_dance(tmp_path / "dance.mp4", 20, sound=0.8), tmp_path / "out"
    deflicker = MotionConfig(postprocessing=Postprocessing(deflicker=True))
    made = make_motion(clip, folder, engine=mini, config=deflicker, copies=tmp_path / "copies").extraction
    exact, near, before = (
        np.stack(list(open_motion(path).frames())).astype(int)
        for path in (made.video, made.playable, made.plain)
    )
    assert len(exact) == 20 and np.abs(near - exact).mean() < 4 > np.abs(before - exact).mean()
    assert open_motion(made.playable).has_sound and made.playable.name == "dance_densepose_h264.mp4"
    assert made.flicker[1] <= made.flicker[0] < 0.2
    assert make_motion(clip, folder, engine=mini, copies=tmp_path / "copies").extraction.plain is None


def test_people_are_not_looked_for_again_for_another_drawing(tmp_path, mini):
    clip, folder = write_dance(tmp_path / "dance.mp4", 6, sound=0.3), tmp_path / "out"
    first = make_motion(clip, folder, engine=mini)
    photo = tmp_path / "me.png"
    Image.fromarray(negatives(dancing(1, size=64)[0])).save(photo)
    told = []
    config = MotionConfig(postprocessing=Postprocessing(flip=True), like=photo)
    again = make_motion(clip, folder, engine=mini, config=config, earlier=first, on_progress=told.append)
    assert {progress.stage for progress in told} == {"load", "write"}  # the engine finds the photo's person
    made = again.extraction
    assert made.archive == first.extraction.archive and made.size == (96, 96) and made.stretch["torso"]
    assert open_motion(made.video).has_sound
    assert not first.serves(clip, MotionConfig(start=0.1)) and first.serves(clip, config)
    other = make_motion(clip, folder, engine=mini, config=MotionConfig(start=0.1), earlier=first).extraction
    assert other.archive != made.archive and other.num_frames == 3


def test_a_map_that_animates_already_is_steadied_mirrored_and_built_like_a_photo(tmp_path, home):
    clip = write_output(tmp_path / "map.mp4", part_maps(5), lossless=True)
    offline = EngineChoice(offline=True)
    flipped = make_motion(
        clip, tmp_path / "out", engine=offline, config=MotionConfig(postprocessing=Postprocessing(flip=True))
    )
    assert flipped.kind == "ready" and flipped.engine is None
    for frame, labels in zip(open_motion(flipped.extraction.video).frames(), dancing(5), strict=True):
        np.testing.assert_array_equal(frame, colourise(flip_labels(labels)))
    photo = tmp_path / "me.png"  # a part map in the place of a photo needs no network
    Image.fromarray(colourise(part_labels(width=60, height=96))).save(photo)
    like = make_motion(clip, tmp_path / "out", engine=offline, config=MotionConfig(like=photo)).extraction
    assert like.size == (60, 96) and like.stretch["torso"][1] == pytest.approx(60 / 96, abs=0.06)


def test_what_was_cancelled_goes_on_where_it_was(tmp_path, mini):
    clip, folder = write_dance(tmp_path / "dance.mp4", 20), tmp_path / "out"
    done = []

    def stop() -> bool:
        return bool(done) and done[-1].stage == "detect" and done[-1].step >= 8

    with pytest.raises(Cancelled):
        make_motion(clip, folder, engine=mini, on_progress=done.append, should_stop=stop)
    assert not list(folder.glob("*.mp4"))
    made = make_motion(clip, folder, engine=mini)
    assert made.extraction.resumed == 8 and made.extraction.num_frames == 20
    names = ["dance_densepose.mp4", "dance_densepose.npz"]
    assert sorted(path.name for path in folder.iterdir()) == names
    # flicker is taken out after the finding, so a run with it differs in nothing that is kept
    with pytest.raises(Cancelled):
        make_motion(clip, folder, engine=mini, on_progress=done.append, should_stop=stop)
    deflicker = MotionConfig(postprocessing=Postprocessing(deflicker=True))
    assert make_motion(clip, folder, engine=mini, config=deflicker).extraction.resumed == 8


def test_a_map_in_other_colours_is_corrected_without_a_network(tmp_path, home):
    clip = write_output(tmp_path / "black.mp4", over_black(part_maps(6)), lossless=True)
    made = make_motion(clip, tmp_path / "out", engine=EngineChoice(offline=True))
    assert made.engine is None
    for frame, expected in zip(open_motion(made.extraction.video).frames(), part_maps(6), strict=True):
        np.testing.assert_array_equal(frame, expected)


def test_a_clip_that_animates_already_is_refused(tmp_path, mini):
    clip = write_clip(tmp_path / "map.mp4", part_maps(5))
    with pytest.raises(InputError, match="already"):
        make_motion(clip, tmp_path / "out", engine=mini)


def test_the_download_is_foretold_until_the_weights_are_here(home):
    forecast = EngineChoice("torch").forecast()
    assert (forecast.engine, forecast.bytes_to_fetch) == ("torch", 255_757_821)
    assert "fetched first, once, 256 MB" in forecast.sentence
    home.mkdir(parents=True)
    (home / "model_final_162be9.pkl.part").write_bytes(b"x" * 1000)
    assert EngineChoice("torch").forecast().bytes_to_fetch == 255_756_821
    (home / "model_final_162be9.pkl").touch()
    forecast = EngineChoice("torch", offline=True).forecast()
    assert forecast.bytes_to_fetch == 0 and "released DensePose network" in forecast.sentence
    assert EngineChoice("torch", weights=home / "own.pkl", offline=True).forecast().bytes_to_fetch == 0


def test_offline_the_stand_in_is_used_and_named_as_such(home, segmenter, monkeypatch, tmp_path):
    monkeypatch.setattr("densepose_tools.engines.DEFAULT_FOLDER", segmenter)
    choice = EngineChoice(offline=True, device="cpu")
    forecast = choice.forecast()
    assert forecast.engine == "mini"
    assert "for trying (it is not DensePose)" in forecast.sentence and "forbidden" in forecast.sentence
    clip = write_dance(tmp_path / "dance.mp4", 3)
    assert make_motion(clip, tmp_path / "out", engine=choice).engine == "mini"
    assert "Without a network" in EngineChoice().forecast().sentence


def test_with_nothing_at_hand_the_sentence_says_what_to_do(home, monkeypatch, tmp_path):
    monkeypatch.setattr("densepose_tools.engines.DEFAULT_FOLDER", tmp_path / "none")
    with pytest.raises(InputError, match="start once with a network, or give the released file"):
        EngineChoice(offline=True).forecast()
    mini = EngineChoice("mini", tmp_path / "none")
    for attempt in (mini.forecast, lambda: mini.load(MotionConfig().selection)):
        with pytest.raises(InputError, match="python -m training segmenter"):
            attempt()
