"""What programs ask for becomes a request, or is refused by a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from magicanimate.animator import ModelDefaults
from magicanimate.config import AnimationRequest
from magicanimate.errors import InputError
from magicanimate.webui.api import api_request


def asked(settings, photo="me.jpg", motion="dance.mp4") -> AnimationRequest:
    defaults = ModelDefaults("mini", 128, 128, 20, 2.0)
    return api_request(photo, motion, settings, defaults=defaults, output=Path("out.mp4"))


def test_what_is_left_out_is_left_to_preset_and_checkpoint():
    plain = AnimationRequest(Path("me.jpg"), Path("dance.mp4"), Path("out.mp4"), preview_every=1)
    assert asked(None) == asked({}) == asked({"end": None, "scheduler": None}) == plain
    request = asked({"seed": 7, "preset": "fast", "end": 2, "fit": "pad", "credentials": False})
    assert (request.seed, request.preset, request.end, request.fit) == (7, "fast", 2, "pad")
    assert request.num_inference_steps is None and request.credentials is False


def test_names_of_earlier_versions_still_work():
    old = asked({"windows": "ring", "window_size": 8, "window_overlap": 2, "window_offset": True})
    assert (old.closed_loop, old.context_length, old.context_overlap, old.context_offset) == (
        True,
        8,
        2,
        True,
    )
    assert not asked({"windows": "open"}).closed_loop


def test_a_video_may_be_its_own_background():
    request = asked({"background": "clip"})
    assert request.motion == request.driving_video == Path("dance.mp4")


def test_several_photos_take_a_background_and_a_cast():
    defaults = ModelDefaults("mini", 64, 64, 4, 1.0)
    given = {"defaults": defaults, "output": Path("out.mp4")}
    settings = {"background": "transparent", "cast": "2,1"}
    request = api_request("a.jpg", "dance.mp4", settings, ["b.jpg"], **given)
    assert request.photos == (Path("a.jpg"), Path("b.jpg")) and request.cast == "2,1"
    with pytest.raises(InputError, match="Several photos need another background"):
        api_request("a.jpg", "dance.mp4", {}, ["b.jpg"], **given)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sed": 7}, "no setting 'sed'; choose from: seed, "),
        ({"output": "/etc/passwd"}, "no setting 'output'"),
        ({"background": "/etc/passwd"}, "must be one of: still, photo, clip, colour"),
        ({"background": "file"}, "needs a file, which cannot be sent"),
        ({"background": "colour", "background_colour": "/etc/passwd"}, "is no colour"),
        ({"driving_video": "/etc/passwd"}, "no setting 'driving_video'"),
        ({"limits": {"max_frames": 10**9}}, "no setting 'limits'"),
        ({"random_seed": True}, "no setting 'random_seed'"),
        ({"seed": "seven"}, "seed is 'seven'; seed must be a whole number"),
        ({"num_inference_steps": 1000}, "must be between 1 and 100"),
        ({"fit": "squeeze"}, "fit must be one of: auto"),
        ({"end": float("nan")}, "must be between"),
        ([7], "not of the form"),
    ],
)
def test_what_cannot_be_is_refused(settings, said):
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        asked(settings)


def test_files_are_needed():
    with pytest.raises(InputError, match="no photo"):
        asked({}, photo=None)
    with pytest.raises(InputError, match="no motion"):
        asked({}, motion=None)
