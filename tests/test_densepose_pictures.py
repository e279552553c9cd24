"""DensePose of single pictures of any sizes: one start of the program, resumable, strict about the engine."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from densepose_tools import command, engine_choice
from densepose_tools.pictures import RESUME_LOG, extract_pictures
from magicanimate.errors import Cancelled, InputError
from magicanimate.media.outputs import read_metadata
from magicanimate.palette import colourise, nearest_labels
from tests.densepose_clips import SETTINGS, NegativeReader, figures
from training.data.__main__ import main as data_main
from training.data.images import ImageFolder


@pytest.fixture
def photos(tmp_path):
    """Seven pictures in negative colours, of three sizes; one shows nobody, one is damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    sizes = [(64, 64), (80, 48), (64, 64), (48, 96), (80, 48), (64, 64)]
    for k, (width, height) in enumerate(sizes):
        (labels,) = figures(1, width=width, height=height, empty=[0] if k == 2 else ())
        Image.fromarray(255 - colourise(labels)).save(folder / f"p{k}.png")
    (folder / "torn.png").write_bytes((folder / "p0.png").read_bytes()[:60])
    return folder


def test_pictures_of_any_sizes(photos, tmp_path):
    reader, steps = NegativeReader(), []
    made = extract_pictures(photos, photos, reader, settings=SETTINGS, on_progress=steps.append)
    assert (made.made, made.resumed, made.nobody) == (5, 0, ["p2.png"]) and reader.seen == 6
    assert len(made.unreadable) == 1 and "torn.png" in made.unreadable[0]
    assert (steps[-1].step, steps[-1].total) == (7, 7)
    assert sorted(path.name for path in photos.glob("*.densepose.png")) == [
        f"p{k}.densepose.png" for k in (0, 1, 3, 4, 5)
    ]
    for k, (width, height) in {1: (80, 48), 3: (48, 96)}.items():
        with Image.open(photos / f"p{k}.densepose.png") as drawn:
            labels, distance = nearest_labels(np.array(drawn))
        assert (distance == 0).all() and np.array_equal(labels, figures(1, width=width, height=height)[0])
    assert read_metadata(photos / "p0.densepose.png")["engine"] == "test"
    assert len(ImageFolder(photos, size=32)) == 5, "a training takes them"


def test_stopped_and_resumed(photos, tmp_path):
    out = tmp_path / "maps"
    first, second = NegativeReader(batch=1), NegativeReader(batch=1)
    with pytest.raises(Cancelled):
        extract_pictures(photos, out, first, settings=SETTINGS, should_stop=lambda: first.seen == 2)
    with (out / RESUME_LOG).open("a") as log_file:
        log_file.write('{"name": "p5.p')  # as a kill leaves it
    made = extract_pictures(photos, out, second, settings=SETTINGS)
    assert (made.made, made.resumed) == (5, 2) and first.seen + second.seen == 6
    third = NegativeReader()
    assert extract_pictures(photos, out, third, settings=SETTINGS).made == 5 and third.seen == 0
    with pytest.raises(InputError, match="made with other settings .engine test, not torch"):
        extract_pictures(photos, out, third, settings=SETTINGS | {"engine": "torch"})
    with pytest.raises(InputError, match="people largest, not all"):
        extract_pictures(photos, out, third, settings=SETTINGS, people="all")


def test_two_pictures_of_one_name_and_none(photos, tmp_path):
    Image.new("RGB", (8, 8)).save(photos / "p0.jpg")
    with pytest.raises(InputError, match="would have one map"):
        extract_pictures(photos, photos, NegativeReader(), settings=SETTINGS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        extract_pictures(tmp_path / "empty", tmp_path / "out", NegativeReader(), settings=SETTINGS)
    with pytest.raises(InputError, match="cannot be read"):
        extract_pictures(tmp_path / "none", tmp_path / "out", NegativeReader(), settings=SETTINGS)


def test_the_command(photos, monkeypatch, capsys):
    monkeypatch.setattr(engine_choice.EngineChoice, "load", lambda self, selection, **_: NegativeReader())
    words = [str(photos), "-o", str(photos), "--pictures", "--engine", "mini"]
    assert command.main(words) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(photos)
    assert "5 maps by test; 1 pictures show nobody" in printed.err and "left out: " in printed.err
    assert command.main([*words, "--people", "1,2"]) == 2
    assert "--people is largest or all" in capsys.readouterr().err


def test_engine_torch_without_weights_fails(photos, tmp_path, monkeypatch, capsys):
    """It never falls back to the stand-in, so a loop over many clips cannot mix the two."""
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path / "home"))
    words = [str(photos), "-o", str(tmp_path / "out"), "--pictures", "--offline"]
    assert command.main([*words, "--engine", "torch"]) == 2
    assert "fetch" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_check_names_engines_and_mixtures(photos, tmp_path, capsys):
    extract_pictures(photos, photos, NegativeReader(), settings=SETTINGS)
    assert data_main(["check", str(photos)]) == 0
    assert "the pictures' part maps are by: test (5)\n" in capsys.readouterr().out
    one = photos / "p1.densepose.png"
    with Image.open(one) as drawn:
        drawn.copy().save(one)  # what made it is lost
    assert data_main(["check", str(photos)]) == 0
    assert "by: test (4), unknown (1); do not mix them, make all with one\n" in capsys.readouterr().out


def test_lines_of_the_resume_log_are_json(photos):
    extract_pictures(photos, photos, NegativeReader(), settings=SETTINGS)
    lines = [json.loads(line) for line in (photos / RESUME_LOG).read_text().splitlines()]
    assert lines[0] == {"settings": SETTINGS | {"people": "largest"}} and len(lines) == 8
