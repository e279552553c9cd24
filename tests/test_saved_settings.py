"""Settings saved by name."""

from __future__ import annotations

import json

import pytest

from magicanimate.animator import ModelDefaults
from magicanimate.errors import InputError
from magicanimate.webui.animate.earlier_settings import LONGEST_NAME, SavedSettings
from magicanimate.webui.animate.form_values import form_settings

SETTINGS = form_settings(ModelDefaults("mini", 128, 128, 4, 1.0))


@pytest.fixture
def presets(tmp_path) -> SavedSettings:
    return SavedSettings(tmp_path / "saved")


def test_every_setting_comes_back(presets):
    values = {name: setting.default for name, setting in SETTINGS.items()} | {"seed": 77, "fit": "pad"}
    assert presets.names() == []
    presets.save("  My dance \n", values)
    assert presets.names() == ["My dance"]
    found = presets.load("My dance", SETTINGS)
    assert (found.values, found.notes) == (values, ())


def test_what_is_there_is_replaced_only_when_told_to(presets):
    presets.save("a", {"seed": 1})
    with pytest.raises(InputError, match="named “a” already"):
        presets.save("a", {"seed": 2})
    assert presets.load("a", SETTINGS).values == {"seed": 1}
    presets.save("a", {"seed": 2}, overwrite=True)
    assert presets.load("a", SETTINGS).values == {"seed": 2}
    presets.delete("a")
    assert presets.names() == []
    for gone in (lambda: presets.load("a", SETTINGS), lambda: presets.delete("a")):
        with pytest.raises(InputError, match="a"):
            gone()


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "..", "a/b\\c", "CON", "x" * LONGEST_NAME, "日本語 💃", "a\x00b", ".hidden", "%2e"],
)
def test_names_are_text_and_no_paths(presets, name, tmp_path):
    presets.save(name, {"seed": 3})
    presets.save(name + "!" if len(name) < LONGEST_NAME else "other", {"seed": 4})
    (kept,) = {*presets.names()} - {name.replace("\x00", "") + "!", "other"}
    assert kept == name.replace("\x00", "")
    assert presets.load(name, SETTINGS).values == {"seed": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert len(list((tmp_path / "saved").iterdir())) == 2


@pytest.mark.parametrize("name", ["", " \t", "\x00", "x" * (LONGEST_NAME + 1)])
def test_no_name_and_too_long_a_one_are_refused(presets, name):
    with pytest.raises(InputError, match="name"):
        presets.save(name, {"seed": 1})
    assert not presets.folder.exists()


def test_another_versions_settings_load_as_far_as_they_fit(presets):
    presets.save("old", {"seed": 5, "fit": "bend", "sparkle": True})
    found = presets.load("old", SETTINGS)
    assert found.values == {"seed": 5}
    assert [note.split()[0] for note in found.notes] == ["Fit", "Sparkle"]


def test_files_of_others_are_left_alone(presets):
    presets.save("mine", {"seed": 1})
    for name, text in (("broken", "{"), ("list", "[]"), ("other", json.dumps({"name": 3, "values": {}}))):
        (presets.folder / f"{name}.json").write_text(text)
    assert presets.names() == ["mine"]
