"""What may be written where: inputs and other people's files stay, own results are replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from densepose_tools.command import main as densepose
from magicanimate import files
from magicanimate.cli.main import main
from magicanimate.config import AnimationRequest
from magicanimate.errors import InputError
from magicanimate.media.outputs import check_output
from magicanimate.media.writer import VideoWriter, close_together
from magicanimate.request_checks import check_outputs, write_settings
from tests.inputs import write_motion, write_photo
from tests.media_files import write_output

FRAME = np.zeros((16, 16, 3), np.uint8)


@pytest.fixture
def inputs(tmp_path) -> tuple[Path, Path]:
    """A photo and a clip whose name is that of another result's strip."""
    return write_photo(tmp_path / "me.png"), write_motion(tmp_path / "d_side_by_side.mp4", 2)


def request(inputs, output: Path, **more) -> AnimationRequest:
    return AnimationRequest(photo=inputs[0], motion=inputs[1], output=output, **more)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_inputs_are_refused_whatever_they_are_called(tmp_path, inputs):
    link, twin = tmp_path / "link.mp4", tmp_path / "twin.mp4"
    link.symlink_to(inputs[1])
    os.link(inputs[1], twin)
    for output in (inputs[1], link, twin, tmp_path / "x" / ".." / inputs[1].name):
        (tmp_path / "x").mkdir(exist_ok=True)
        for overwrite in (False, True):
            with pytest.raises(InputError, match="is also an input"):
                check_outputs(request(inputs, output, overwrite=overwrite))
    with pytest.raises(InputError, match="d_side_by_side.mp4 is also an input"):
        check_outputs(request(inputs, tmp_path / "d.mp4", side_by_side=True))
    check_outputs(request(inputs, tmp_path / "d.mp4"))
    frames = write_output(tmp_path / "frames", [FRAME])
    with pytest.raises(InputError, match="is also an input"):
        check_outputs(request((frames / "000000.png", inputs[1]), frames))


def test_foreign_files_are_refused_unless_that_is_meant(tmp_path, inputs):
    (tmp_path / "d.json").write_text('{"name": "my notes"}')
    with pytest.raises(InputError, match="d.json exists and was not made by this program.*--overwrite"):
        check_outputs(request(inputs, tmp_path / "d.mp4"))
    check_outputs(request(inputs, tmp_path / "d.mp4", overwrite=True))
    (tmp_path / "holiday.mp4").write_bytes(b"a video")
    with pytest.raises(InputError, match="holiday.mp4 exists and was not made by this program"):
        check_outputs(request(inputs, tmp_path / "holiday.mp4"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "000000.png").write_bytes(inputs[0].read_bytes())
    with pytest.raises(InputError, match="holds other files"):
        check_outputs(request(inputs, tmp_path / "photos", overwrite=True))
    assert (tmp_path / "d.json").read_text() == '{"name": "my notes"}'


def test_own_results_are_known_by_their_mark(tmp_path, inputs):
    for name in ("d.mp4", "d.webm", "d.gif", "d"):
        output = write_output(tmp_path / name, [FRAME] * 2)
        write_settings(output, {"program": "MagicAnimate 0.0.1", "output": str(output)})
        check_outputs(request(inputs, output))


def test_the_settings_just_read_are_not_replaced(tmp_path, inputs):
    config = tmp_path / "d.json"
    config.write_text(json.dumps({"photo": str(inputs[0]), "motion": str(inputs[1])}))
    for words in ([], ["--overwrite"]):
        assert main(["animate", "--config", str(config), "-o", str(tmp_path / "d.mp4"), *words]) == 2
    assert json.loads(config.read_text())["photo"] == str(inputs[0])


@pytest.mark.parametrize("words", [[], ["--recolour"], ["--overwrite"]])
def test_a_clip_is_not_replaced_by_its_own_map(tmp_path, words, capsys):
    clip = write_motion(tmp_path / "v.mp4", 2)
    before = content(tmp_path)
    assert densepose([str(clip), "-o", str(clip), "--engine", "mini", *words]) == 2
    assert "is also an input" in capsys.readouterr().err
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "a/" + "x" * 260, "\0.mp4", "loop/x.mp4", "\ud800.mp4"])
def test_impossible_names_are_told_before_the_work(tmp_path, inputs, name):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match="cannot be (written|made)"):
        check_outputs(request(inputs, tmp_path / name))


def test_what_goes_beside_must_have_a_name_too(tmp_path, inputs):
    output = tmp_path / ("x" * 248 + ".mp4")
    check_outputs(request(inputs, output))
    with pytest.raises(InputError, match="File name too long"):
        check_outputs(request(inputs, output, side_by_side=True))
    write_output(output, [FRAME])  # a temporary name is no longer than a name may be
    assert output.exists()


def test_odd_files_are_left_alone(tmp_path, inputs):
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.mp4")
        with pytest.raises(InputError, match="not an ordinary file"):
            check_output(tmp_path / "pipe.mp4", overwrite=True)


def writers(folder: Path) -> list[VideoWriter]:
    made = [VideoWriter(folder / name, width=16, height=16, fps=5) for name in ("a.mp4", "b.mp4")]
    for writer in made:
        writer.write(FRAME)
    return made


def test_all_of_a_result_appears_or_nothing(tmp_path):
    for old in (False, True):
        folder = tmp_path / str(old)
        folder.mkdir()
        if old:
            for name in ("a.mp4", "a.json"):
                (folder / name).write_bytes(b"older")
        before = content(folder)

        def full(path: Path) -> None:
            raise OSError(28, "No space left on device", str(path))

        with pytest.raises(InputError, match="No space left on device"):
            close_together(writers(folder), {folder / "a.json": full})
        assert content(folder) == before and len(list(folder.iterdir())) == len(before)
        (folder / "b.mp4").mkdir()  # in the way of the second when the first is in place already
        (folder / "b.mp4" / "mine").touch()
        made = [VideoWriter(folder / "a.mp4", width=16, height=16, fps=5)]
        made[0].write(FRAME)
        with pytest.raises(OSError):
            files.put_in_place([(made[0]._partial, folder / "a.mp4"), (folder / "gone", folder / "c.mp4")])
        made[0].discard()
        assert content(folder) == before | {"mine": b""}


def test_a_result_replaces_the_older_one_as_a_whole(tmp_path):
    write = {tmp_path / "a.json": lambda path: path.write_bytes(b"{}")}
    for _ in range(2):
        close_together(writers(tmp_path), write)
        assert sorted(content(tmp_path)) == ["a.json", "a.mp4", "b.mp4"]
        assert len(list(tmp_path.iterdir())) == 3


def test_leftovers_of_killed_runs_are_removed_by_the_next(tmp_path, monkeypatch):
    gone = 2**22 + 1  # no process has this number
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: gone)
        patch.setattr(files, "_own_start", lambda pid: 1)
        left = files.partial_path(tmp_path / "me.mp4")
        left.write_bytes(b"half")
        folder = files.partial_path(tmp_path / "frames")
        folder.mkdir()
        aside = files._beside(tmp_path / "dance", "old")
        aside.mkdir()
        (aside / "000000.png").touch()
    at_work = files.partial_path(tmp_path / "other.mp4")
    at_work.write_bytes(b"half")
    mine = tmp_path / ".me.partial.mp4"
    mine.write_bytes(b"mine")
    check_output(tmp_path / "new.mp4")
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == sorted([at_work.name, mine.name, "dance"])
    assert (tmp_path / "dance" / "000000.png").exists()  # what had to make room is put back
    files.remove(at_work)


def test_a_process_at_work_is_known_whatever_the_clock_says(tmp_path, monkeypatch):
    """By number and start; times of files say nothing after a clock was set."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        start = round(100 * files.process_start(other.pid))
        made = []
        for began in (start, start - 500):  # the second by an earlier process of the same number
            with monkeypatch.context() as patch:
                patch.setattr(os, "getpid", lambda: other.pid)
                patch.setattr(files, "_own_start", lambda pid, began=began: began)
                made.append(files.partial_path(tmp_path / "me.mp4"))
            made[-1].write_bytes(b"half")
            os.utime(made[-1], (0, 0))
        files.sweep(tmp_path)
        assert [path.exists() for path in made] == [True, False]
    finally:
        other.communicate(b"\n")
    files.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_not_utf8(tmp_path, capfd):
    """Linux takes any bytes; settings keep them, and what is printed are the same bytes."""
    odd = os.fsdecode(b"caf\xe9")
    try:
        (tmp_path / odd).touch()
    except OSError:
        pytest.skip("this disk takes UTF-8 only")
    path = write_settings(tmp_path / f"{odd}.mp4", {"photo": tmp_path / odd})
    assert files.read_json(path)["photo"] == str(tmp_path / odd)
    assert b"caf\\udce9" in path.read_bytes()
    output = write_output(tmp_path / f"{odd}.mp4", [FRAME], metadata={"photo": odd})
    assert output.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_the_umask_counts_for_every_file(tmp_path):
    before = os.umask(0o077)
    try:
        path = write_settings(tmp_path / "a.mp4", {})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
