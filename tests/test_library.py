"""Results on disk: found, searched, put into the trash and taken out, with thumbnails."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path

import pytest
from PIL import Image

from magicanimate.errors import InputError
from magicanimate.webui.gallery.library import Library
from magicanimate.webui.gallery.results import Thumbnails, result_of
from tests.result_files import write_result


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def names(results) -> list[str]:
    return [result.name for result in results]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two results of 2026 and one of a batch, among files of other kinds."""
    write_result(tmp_path / "20260102-090000_anna_waltz.mp4", photo="C:\\pictures\\Anna.jpg", strip=True)
    write_result(tmp_path / "20260215-120000_ben_tango.mp4", photo="/tmp/Ben.png", motion="/tmp/tango.mp4")
    (tmp_path / "batch").mkdir()
    write_result(tmp_path / "batch" / "carl.gif", prompt="a man in a red coat")
    (tmp_path / "package.json").write_text('{"name": "other"}')
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "alone.json").write_text('{"output": "alone.mp4"}')
    (tmp_path / ".jobs").mkdir()
    (tmp_path / ".jobs" / "job.json").write_text('{"output": "job.mp4"}')
    (tmp_path / ".jobs" / "job.mp4").touch()
    (tmp_path / "holiday.mp4").touch()
    return tmp_path


def test_results_are_found_newest_first_and_the_rest_passed_over(folder, caplog):
    (folder / "broken.json").write_text("{")
    library = Library(folder)
    found = library.results()
    assert names(found) == ["carl", "20260215-120000_ben_tango", "20260102-090000_anna_waltz"]
    assert [library.id_of(each) for each in found][0] == "batch/carl.json"
    assert (found[2].photo_name, found[2].num_frames, found[2].fps, found[2].size) == (
        "Anna.jpg",
        8,
        25,
        (32, 32),
    )
    assert found[2].strip is not None and found[1].strip is None
    assert "broken.json" in caplog.text and "not valid JSON" in caplog.text
    caplog.clear()
    library.results()
    assert "broken.json" not in caplog.text  # named once, not with every look


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("anna", ["20260102-090000_anna_waltz"]),
        ("BEN.PNG", ["20260215-120000_ben_tango"]),
        ("tango.mp4", ["20260215-120000_ben_tango"]),
        ("red coat", ["carl"]),
        ("2026-02-15", ["20260215-120000_ben_tango"]),
        ("2026-01", ["20260102-090000_anna_waltz"]),
        ("today", ["carl"]),
        ("2026-01 tango", []),
        ("(", []),
    ],
)
def test_search(folder, search, expected):
    if date.today().year == 2026 and date.today().month < 3:
        pytest.skip("the results of the test would be of today")
    assert names(Library(folder).results(search)) == expected


def test_settings_are_read_again_only_when_changed(folder, monkeypatch):
    library = Library(folder)
    library.results()
    read = []
    from magicanimate.webui.gallery import library as module

    original = module.read_result
    monkeypatch.setattr(module, "read_result", lambda path: read.append(path.name) or original(path))
    library.results()
    assert read == []
    changed = folder / "20260215-120000_ben_tango.json"
    changed.write_text(json.dumps({**json.loads(changed.read_text()), "photo": "zoe.png"}))
    assert names(library.results("zoe")) == ["20260215-120000_ben_tango"]
    assert read == [changed.name]


def test_a_deleted_result_comes_back_as_it_was(folder):
    library = Library(folder)
    (folder / "20260102-090000_anna_waltz.webm").write_bytes(b"an export")
    before = files(folder)
    trashed = library.delete("20260102-090000_anna_waltz.json")
    assert names(library.results()) == ["carl", "20260215-120000_ben_tango"]
    assert not [name for name in files(folder) if "anna" in name and not name.startswith(".bin/")]
    assert [each.id for each in library.trash.results()] == [trashed.id]
    assert Library(folder).trash.results()[0].result.photo_name == "Anna.jpg"  # another start of the program
    restored = library.trash.restore(trashed.id)
    assert restored.output == folder / "20260102-090000_anna_waltz.mp4"
    assert files(folder) == before and library.trash.results() == []


def test_a_name_taken_meanwhile_is_not_overwritten(folder):
    library = Library(folder)
    trashed = library.delete("batch/carl.json")
    write_result(folder / "batch" / "carl.gif", seed=99)
    restored = library.trash.restore(trashed.id)
    assert restored.output == folder / "batch" / "carl_2.gif"
    assert result_of(folder / "batch" / "carl.gif").settings["seed"] == 99
    assert restored.settings["prompt"] == "a man in a red coat"


def test_the_bin_is_emptied_and_nothing_else(folder):
    library = Library(folder)
    first, second = library.results()[:2]
    for result in (first, second):
        library.delete(library.id_of(result))
    assert library.trash.empty() == 2
    assert library.trash.results() == [] and names(library.results()) == ["20260102-090000_anna_waltz"]
    assert (folder / "holiday.mp4").exists()


@pytest.mark.parametrize("id", ["gone.json", "../x.json", "package.json", "/etc/passwd", ""])
def test_only_results_can_be_deleted_or_restored(folder, id):
    library = Library(folder)
    before = files(folder)
    for act in (library.delete, library.trash.restore):
        with pytest.raises(InputError):
            act(id)
    assert files(folder) == before


def test_a_forged_origin_leads_nowhere(folder):
    library = Library(folder)
    trashed = library.delete("batch/carl.json")
    (folder / ".bin" / trashed.id / ".origin").write_text('{"folder": "../.."}')
    assert library.trash.results() == []


def test_what_may_not_be_seen_is_not_there(folder):
    library = Library(folder, only=lambda result: result.photo_name == "Ben.png")
    assert names(library.results()) == ["20260215-120000_ben_tango"]
    with pytest.raises(InputError, match="not there any more"):
        library.delete("batch/carl.json")
    Library(folder).delete("batch/carl.json")
    assert library.trash.results() == [] and library.trash.empty() == 0
    assert len(Library(folder).trash.results()) == 1


def test_a_folder_that_is_not_there_yet_is_empty(tmp_path):
    assert Library(tmp_path / "none").results() == []


def test_thumbnails_move_and_are_made_once(folder):
    library, thumbnails = Library(folder), Thumbnails(folder)
    for result in library.results():
        assert thumbnails.ready(result) is None
        path = thumbnails.make(result)
        with Image.open(path) as picture:
            assert picture.n_frames > 1 and picture.size == (192, 192)
        assert thumbnails.ready(result) == path
    kept = path.stat().st_mtime_ns
    assert thumbnails.make(result) == path and path.stat().st_mtime_ns == kept
    os.utime(result.output, (1, 1))  # another file under the same name
    assert thumbnails.ready(result) is None
    thumbnails.sweep(library.results()[:1])
    assert len(list(thumbnails.folder.iterdir())) == 1


def test_a_broken_result_has_no_thumbnail(folder, caplog):
    result = result_of(folder / "20260215-120000_ben_tango.mp4")
    result.output.write_bytes(b"not a video")
    assert Thumbnails(folder).make(result) is None
    assert "ben_tango" in caplog.text and files(folder / ".thumbnails") == []
