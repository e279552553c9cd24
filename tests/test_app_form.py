"""What stands behind the form on the page: saved settings, the check card, sizes that follow."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import gradio as gr
import pytest

from magicanimate.animator import ModelDefaults
from magicanimate.config import OLD_NAMES
from magicanimate.errors import InputError
from magicanimate.webui.animate import form
from magicanimate.webui.animate.check_card import card
from magicanimate.webui.animate.earlier_settings import SavedSettings, SavedSettingsPanel
from magicanimate.webui.animate.forecast import Forecast, Remark
from magicanimate.webui.animate.form_values import check_values, form_settings

MINI = ModelDefaults("mini", 128, 128, 4, 1.0)


@pytest.fixture
def panel(tmp_path) -> SavedSettingsPanel:
    with gr.Blocks():
        controls, _ = form.main_settings(MINI)
        controls |= form.motion_settings(MINI) | form.advanced_settings(MINI) | form.expert_settings(MINI)
        controls["people"] = form.people(MINI)
        return SavedSettingsPanel(SavedSettings(tmp_path / "saved"), controls, lambda: MINI)


def data_of(panel: SavedSettingsPanel, *, name: str = "", pending=None, **changes) -> dict:
    """What the widgets hold, as Gradio hands it to the handlers."""
    data = {widget: widget.value for widget in panel.controls.values()}
    data |= {panel.controls[key]: value for key, value in changes.items()}
    return data | {panel.name: name, panel.saved: None, panel.pending: pending}


AS_IT_IS = {"__type__": "update"}


def restored(
    names: dict[str, list[str]], kept: dict | None, *, touched: tuple[str, ...] = (), **model
) -> dict:
    """What ``remember.js`` fills the form with when the page is opened.

    Args:
        names: of the settings, each with the ids of the places that change it.
        kept: what the browser kept, if it did: the model's name and the values.
        touched: ids of the places in which somebody has changed something by then.
        model: that runs, and its own settings.
    """
    if shutil.which("node") is None:
        pytest.skip("there is no Node.js to run the page's script")
    arguments = ", ".join(map(json.dumps, (list(names), list(names.values()), OLD_NAMES)))
    badge = {"model": "mini", "settings": "{}"} | model
    script = f"""
        globalThis.document = {{ querySelector: () => ({{ dataset: {json.dumps(badge)} }}) }};
        globalThis.maTouched = new Set({json.dumps(touched)});
        globalThis.localStorage = {{ getItem: () => {json.dumps(json.dumps(kept))} }};
        globalThis.fetch = async (url) => ({{ ok: !url.includes("gone") }});
        ({form.REMEMBER.read_text(encoding="utf-8")})({arguments}).restore()
            .then((values) => console.log(JSON.stringify(values)));
    """
    run = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    return dict(zip(names, json.loads(run.stdout), strict=True))


def test_a_form_that_an_earlier_version_kept_comes_back():
    """The browser keeps the form under the settings' names, some of which have changed since.

    What it did not keep, and what somebody has changed meanwhile, stays as it is.
    """
    kept = {"seed": 7, "windows": "ring", "window_size": 8, "window_overlap": 2, "fps": 9}
    names = ("seed", "closed_loop", "context_length", "context_overlap", "fit", "fps")
    found = restored({name: [name] for name in names}, {"model": "", "values": kept}, touched=("fps",))
    assert list(found.values()) == [7, True, 8, 2, AS_IT_IS, AS_IT_IS]


@pytest.mark.parametrize(
    "kept", [None, {"model": "mini", "values": {"steps": 4, "guidance": 1.0, "size": "own"}}]
)
def test_a_page_opened_after_the_model_was_switched_gets_its_settings_but_keeps_what_was_typed(kept):
    names = {"steps": ["steps", "preset"], "guidance": ["guidance"], "size": ["size"]}
    own = {"steps": 25, "guidance": 7.5, "size": "checkpoint"}
    full = {"model": "full", "settings": json.dumps(own)}
    assert restored(names, kept, **full) == own
    typed = restored(names, kept, touched=("preset", "size"), **full)
    assert typed == {"steps": AS_IT_IS, "guidance": 7.5, "size": AS_IT_IS}


@pytest.mark.parametrize("file", ["here.mp4", "gone.mp4"])
def test_edits_of_a_clip_come_back_with_it_only(file):
    clip = {"path": f"/{file}", "url": f"http://127.0.0.1/{file}"}
    places = {"seed": ["seed"], "motion": ["motion"], "people": ["people", "motion"]}
    kept = {"model": "mini", "values": {"seed": 7, "motion": clip, "people": "all"}}
    without = {"seed": 7, "motion": AS_IT_IS, "people": AS_IT_IS}
    assert restored(places, kept) == (kept["values"] if file == "here.mp4" else without)


def test_settings_kept_of_the_model_that_runs_come_back():
    """And not those of another version of it, which may be made for another number of steps."""
    own = {"model": "full", "settings": json.dumps({"steps": 25, "guidance": 7.5})}
    names = {"steps": ["steps"], "guidance": ["guidance"]}
    for version, steps in ((own["settings"], 9), ("{}", 25)):
        kept = {"model": "full" + version, "values": {"steps": 9}}
        assert restored(names, kept, **own) == {"steps": steps, "guidance": 7.5}


def test_every_setting_has_a_widget_with_its_range(panel):
    settings = form_settings(MINI)
    assert set(panel.controls) == set(settings)
    for name, setting in settings.items():
        widget = panel.controls[name]
        assert widget.value == setting.default, name
        assert widget.label, name
        if setting.low is not None:
            assert (widget.minimum, widget.maximum) == (setting.low, setting.high), name
        if setting.choices:
            assert sorted(value for _, value in widget.choices) == sorted(setting.choices), name


def test_settings_are_saved_chosen_and_reset(panel):
    saved = panel._save(data_of(panel, name=" slow ", seed=9, fit="pad"))
    assert saved[panel.saved]["choices"] == ["slow"] and "Saved as" in saved[panel.message]["value"]
    chosen = panel._load("slow")
    assert (chosen[panel.controls["seed"]], chosen[panel.controls["fit"]]) == (9, "pad")
    reset = panel._reset()
    assert reset[panel.controls["seed"]] == 1 and reset[panel.controls["fit"]] == "auto"
    assert set(panel.controls.values()) <= set(reset)


def test_nothing_is_overwritten_or_deleted_without_a_yes(panel):
    panel._save(data_of(panel, name="slow", seed=9))
    asked = panel._save(data_of(panel, name="slow", seed=10))
    assert asked[panel.question]["visible"] and "Overwrite “slow”" in asked[panel.yes]["value"]
    assert panel._load("slow")[panel.controls["seed"]] == 9
    done = panel._confirmed(data_of(panel, name="slow", seed=10, pending=asked[panel.pending]))
    assert not done[panel.question]["visible"] and panel._load("slow")[panel.controls["seed"]] == 10

    asked = panel._ask_to_delete("slow")
    assert "Delete “slow”" in asked[panel.yes]["value"] and panel.store.names() == ["slow"]
    done = panel._confirmed(data_of(panel, pending=asked[panel.pending]))
    assert done[panel.saved]["choices"] == [] and panel.store.names() == []
    assert "no settings named" in panel._load("slow")[panel.message]["value"]


def test_mistakes_are_say(panel):
    assert "no name yet" in panel._save(data_of(panel))[panel.message]["value"]
    assert "Choose" in panel._ask_to_delete(None)[panel.message]["value"]
    panel.store.save("odd", {"seed": 4, "glitter": 1, "fit": "bend"})
    told = panel._load("odd")
    assert told[panel.controls["seed"]] == 4 and panel.controls["fit"] not in told
    assert "Glitter (1)" in told[panel.message]["value"] and "Fit (bend)" in told[panel.message]["value"]


def test_card_shows_what_is_known_and_escapes_it():
    remarks = (
        Remark("good", "fine"),
        Remark("warning", "too large", {"width": 128}, "Use 128 × 128"),
        Remark("error", "<b>no</b>"),
    )
    html = card(Forecast(remarks=remarks, complete=True))
    assert "<b>no</b>" not in html and 'aria-busy="false"' in html and "<img" not in html
    assert re.search(r'ma-is-error"><span aria-label="problem"', html)
    assert 'data-mends="{&quot;width&quot;: 128}">Use 128 × 128</button>' in html
    assert 'aria-busy="true"' in card(Forecast())


def test_the_line_says_length_time_and_warnings():
    warning = Remark("warning", "small")
    found = Forecast(remarks=(warning, Remark("note", "x")), length=2.56, takes="about 11 s", complete=True)
    assert found.headline() == "2.6 s of video · about 11 s · 1 warning"
    assert found.and_then(warning).headline().endswith("2 warnings")
    assert found.and_then(Remark("error", "It is broken.")).headline() == "It is broken."


def test_settings_out_of_range_are_named_as_on_the_page():
    for values, said in (
        ({"width": 130}, "Width must be a multiple of 8. Try 128 or 136."),
        ({"num_inference_steps": 500}, "Steps must be between 1 and 100."),
        ({"guidance_scale": 6.0}, "Guidance must be between 1 and 2."),  # the mini burns out
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            check_values(values, MINI)
    with (
        gr.Blocks()
    ):  # what is typed arrives as it is; Gradio's own error would be a traceback in the terminal
        steps = form.advanced_settings(MINI)["num_inference_steps"]
    assert steps.preprocess(500) == 500
    check_values({"guidance_scale": 6.0}, ModelDefaults("full", 512, 512, 25, 7.5))
