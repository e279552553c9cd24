"""Results in other kinds of file, and their settings read back."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest

from magicanimate.config import Progress
from magicanimate.errors import Cancelled, InputError
from magicanimate.media.motion import open_motion
from magicanimate.media.outputs import read_metadata
from magicanimate.media.writer import has_sound
from magicanimate.webui.animate.earlier_settings import reuse
from magicanimate.webui.gallery.library import Library, original
from magicanimate.webui.gallery.results import KINDS, export, read_settings, result_of
from magicanimate.webui.jobs.queue import run_with_progress
from tests.inputs import write_motion
from tests.result_files import write_result


@pytest.fixture
def result(tmp_path):
    sound = write_motion(tmp_path / "sound.mp4", 8, sound=0.32)
    (tmp_path / "out").mkdir()
    return write_result(tmp_path / "out" / "me.mp4", sound_from=sound, seed=7)


def pixels(path: Path) -> np.ndarray:
    return np.stack(list(open_motion(path).frames())).astype(int)


@pytest.mark.parametrize("kind", ["webm", "gif", "frames"])
def test_every_kind_has_the_frames_the_settings_and_is_made_once(result, kind, tmp_path):
    reports: list[Progress] = []
    made = export(result, kind, reports.append)
    assert [report.step for report in reports] == list(range(9)) and reports[-1].total == 8
    if kind == "frames":
        assert made.name == "me_frames.zip"
        with zipfile.ZipFile(made) as archive:
            archive.extractall(tmp_path / "got")
        settings = json.loads((tmp_path / "got" / "settings.json").read_text())
        frames = tmp_path / "got" / "me"
        assert read_metadata(frames)["seed"] == 7
    else:
        assert made.name == f"me.{kind}"
        settings, frames = read_metadata(made), made
    assert settings["ai_generated"] is True and settings["seed"] == 7
    assert (settings["photo"], settings["motion"]) == ("me.png", "dance.mp4")  # without their folders
    assert has_sound(result.output) and (kind != "webm" or has_sound(made))
    seen, wanted = pixels(frames), pixels(result.output)
    assert seen.shape == wanted.shape
    assert np.abs(seen - wanted).mean() < 8

    stamp = made.stat().st_mtime_ns
    assert export(result, kind) == made and made.stat().st_mtime_ns == stamp
    assert made in result_of(result.output).companions()
    assert not list(result.output.parent.glob(".*"))


def test_its_own_kind_is_the_result_itself(result):
    assert export(result, "mp4") == result.output


def test_a_gif_becomes_a_video(tmp_path):
    result = write_result(tmp_path / "me.gif")
    made = export(result, "mp4")
    with av.open(str(made)) as container:
        assert container.streams.video[0].frames == 8


@pytest.mark.parametrize("kind", ["gif", "frames"])
def test_another_file_of_that_name_stays(result, kind):
    name = "me_frames.zip" if kind == "frames" else "me.gif"
    foreign = result.output.with_name(name)
    foreign.write_bytes(b"somebody's")
    made = export(result, kind)
    assert made != foreign and foreign.read_bytes() == b"somebody's"
    assert export(result, kind) == made


def test_stopped_and_failed_exports_leave_nothing(result):
    before = sorted(result.output.parent.iterdir())
    with pytest.raises(Cancelled):
        export(result, "gif", should_stop=lambda: True)
    assert sorted(result.output.parent.iterdir()) == before
    result.output.write_bytes(b"not a video")
    with pytest.raises(InputError, match="me.mp4"):
        export(result, "webm")
    assert sorted(result.output.parent.iterdir()) == before


def test_work_is_followed_and_stops_with_its_follower(result):
    *_, made = run_with_progress(lambda progress, stop: export(result, "gif", progress, stop))
    assert made.exists()

    stopped = []

    def endless(report, should_stop):
        while not should_stop():
            report(Progress("write", 1, 2))
        stopped.append(True)

    following = run_with_progress(endless)
    assert next(following) == Progress("write", 1, 2)
    following.close()
    assert stopped == [True]

    def silent(report, should_stop):
        report(Progress("write", 1, 2))
        while not should_stop():
            time.sleep(0.01)
        stopped.append(True)

    following = run_with_progress(silent)  # whoever reads it can give it up between two pieces of news
    assert [next(following), next(following)] == [Progress("write", 1, 2)] * 2
    following.close()
    assert stopped == [True, True]

    def failing(report, should_stop):
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        list(run_with_progress(failing))


@pytest.mark.parametrize("kind", ["mp4", "webm", "gif", "json", "png"])
def test_settings_come_back_out_of_every_kind(result, kind, tmp_path):
    if kind == "png":
        with zipfile.ZipFile(export(result, "frames")) as archive:
            file = Path(archive.extract("me/000003.png", tmp_path))
    else:
        file = result.settings_file if kind == "json" else export(result, kind)
    settings = read_settings(file)
    assert (settings["seed"], settings["fit"], settings["width"]) == (7, "auto", 32)


def test_files_without_settings_are_named(tmp_path):
    clip = write_motion(tmp_path / "holiday.mp4", 3)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    other = tmp_path / "package.json"
    other.write_text('{"name": "x"}')
    text = tmp_path / "note.txt"
    text.write_text("hello")
    for file, words in (
        (clip, "holiday.mp4 has no settings"),
        (broken, "broken.json cannot be read .it is not valid JSON"),
        (other, "package.json has no settings"),
        (text, "note.txt is no result"),
    ):
        with pytest.raises(InputError, match=words):
            read_settings(file)


def test_photo_and_clip_are_used_only_from_the_folders_given(tmp_path):
    (tmp_path / "out").mkdir()
    photo, secret = tmp_path / "out" / "me.png", tmp_path / "secret.mp4"
    photo.touch()
    secret.touch()
    settings = {"photo": str(photo), "motion": str(secret), "seed": 1}
    again = reuse(settings, [tmp_path / "out"])
    assert again.files == {"photo": photo}
    assert again.missing == ("The dance video secret.mp4 is not there any more; choose it again.",)
    assert reuse(settings, None).files["motion"] == secret
    (tmp_path / "out" / "link.mp4").symlink_to(secret)
    climbing = {**settings, "photo": str(tmp_path / "out" / ".." / "secret.mp4")}
    climbing["motion"] = str(tmp_path / "out" / "link.mp4")
    assert len(reuse(climbing, [tmp_path / "out"]).missing) == 2
    assert len(reuse({"photo": None, "motion": "a\0b", "seed": 1}, [tmp_path]).missing) == 2


def test_a_copy_is_known_by_what_it_says_of_itself(result, tmp_path):
    """Whatever became of its name; where two would fit that were made of other files, none does."""
    write_result(tmp_path / "out" / "you.mp4", seed=7)
    for kind in ("webm", "gif"):
        found = original(read_settings(export(result, kind)), Library(tmp_path / "out").results())
        assert found["photo"] == str(Path("in/me.png")) and found["output"] == str(result.output)
    copied = read_settings(result.output)
    assert original({**copied, "seed": 8}, [result]) is None
    (tmp_path / "out" / "batch").mkdir()
    twin = write_result(tmp_path / "out" / "batch" / "me.mp4", seed=7, photo=str(tmp_path / "me.png"))
    assert original(copied, [result, twin]) is None
    assert original(copied, [result, result])["photo"] == str(Path("in/me.png"))


def test_kinds_are_those_of_the_page():
    from magicanimate.webui.gallery.result_panel import _KIND_NAMES

    assert tuple(_KIND_NAMES) == KINDS


@pytest.mark.parametrize("wanted", [True, False])
def test_exports_have_credentials_as_the_result_was_to_have(tmp_path, wanted):
    pytest.importorskip("c2pa", reason="needs c2pa-python, which has no wheel for this machine")
    from magicanimate.results import inspect

    made = export(write_result(tmp_path / "me.mp4", credentials=wanted), "gif")
    found = inspect(made)
    assert found.ai_generated and found.credentials.state == ("valid" if wanted else "none")
