"""Other backgrounds in a headless Chromium: the mask is shown, painted on and used; several photos."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from magicanimate import ASSETS
from magicanimate.mask import NOBODY
from magicanimate.media.motion import open_motion
from magicanimate.palette import PALETTE
from tests.browser_page import (
    mini_densepose,
    serving,
    set_steps,
    upload,
    visit,
    wait_for_status,
)
from tests.media_files import part_labels, write_output
from tests.small_segmenter import write_dance

pytestmark = pytest.mark.browser
FRAMES = 6
PHOTO = ASSETS / "examples" / "arms_photo.jpg"


@pytest.fixture(scope="module")
def served(browser, tiny_model, segmenter, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """Address of a running program, and its folder of results."""
    output = tmp_path_factory.mktemp("served") / "results"
    with serving(output, tiny_model, *mini_densepose(segmenter)) as address:
        yield address, output


def set_number(page, name: str, value: float) -> None:
    """Type a number into a widget."""
    page.fill(f"#{name} input[type=number]", f"{value:g}")
    page.keyboard.press("Tab")


def test_a_dancer_is_replaced_by_a_mask_that_was_painted_on(browser, served, tmp_path):
    address, output = served
    dance = write_dance(tmp_path / "dance.mp4", FRAMES)
    with visit(browser, address) as page:
        upload(page, PHOTO, dance)
        set_steps(page, 1)
        assert page.is_hidden("#show-mask")
        page.get_by_label("As in the dance video", exact=True).check()
        page.click("#show-mask")
        page.wait_for_selector("#mask-picture img")
        page.wait_for_function("document.querySelector('#mask').innerText.includes('dance_mask')")
        before = page.get_attribute("#mask-picture img", "src")

        set_number(page, "mask_grow", 6)
        page.wait_for_function("src => document.querySelector('#mask-picture img').src !== src", arg=before)
        set_number(page, "mask_grow", 0)
        page.wait_for_function("src => document.querySelector('#mask-picture img').src === src", arg=before)

        set_number(page, "mask-radius", 15)
        page.wait_for_function("document.querySelector('#mask-picture .ma-mask').dataset.radius === '0.15'")
        page.locator("#mask-picture canvas").scroll_into_view_if_needed()
        box = page.locator("#mask-picture canvas").bounding_box()
        across = [box["x"] + share * box["width"] for share in (0.05, 0.95)]
        middle = box["y"] + box["height"] / 2
        page.mouse.move(across[0], middle)
        page.mouse.down()
        page.mouse.move(across[1], middle, steps=5)
        page.mouse.up()
        page.wait_for_function("src => document.querySelector('#mask-picture img').src !== src", arg=before)
        page.click("#animate")
        wait_for_status(page, "0.2 s of video, 32 × 32")

        page.click("#mask-undo")
        page.wait_for_function("src => document.querySelector('#mask-picture img').src === src", arg=before)
        page.get_by_text("Trim and edit the dance").click()
        set_number(page, "start", 0.04)  # now it is another clip, whose people are elsewhere
        page.wait_for_function("!document.querySelector('#mask').innerText.includes('dance_mask')")
        page.wait_for_selector("#mask-picture img", state="hidden")
    (made,) = output.glob("*_arms_photo_dance.mp4")
    masks = np.stack([frame[..., 1] for frame in open_motion(Path(settings_of(made)["mask"])).frames()])
    assert masks.shape == (FRAMES, 32, 32) and (masks[:, 15:17, 3:29] == NOBODY).all()
    assert (masks > NOBODY).any((1, 2)).all(), "the rest of the person is still cut out"
    frames = np.stack(list(open_motion(made).frames())).astype(int)
    sizes = {"dsize": (32, 32), "interpolation": cv2.INTER_AREA}
    filmed = np.stack([cv2.resize(frame, **sizes) for frame in open_motion(dance).frames()]).astype(int)
    assert np.abs(frames - filmed)[:, 15:17, 3:29].mean() < 20, "there the video is as it was filmed"


def test_who_becomes_whom_is_chosen_on_the_card(browser, served, tmp_path):
    address, output = served
    two = [PALETTE[np.concatenate([part_labels(width=64, height=128)] * 2, 1)]] * FRAMES
    clip = write_output(tmp_path / "duet.mp4", two, lossless=True)
    with visit(browser, address) as page:
        upload(page, PHOTO, clip)
        set_steps(page, 1)
        page.get_by_label("A colour", exact=True).check()
        page.wait_for_selector("#background_colour")
        page.set_input_files("#other_photos input[type=file]", ASSETS / "examples" / "sway_photo.jpg")
        page.wait_for_selector("#check .ma-cast", state="attached")
        page.click("#check summary")
        page.wait_for_selector("#check select[data-photo='2']")
        assert [each.input_value() for each in page.query_selector_all("#check select")] == ["1", "2"]
        page.select_option("#check select >> nth=0", "2")  # the other one changes with it
        page.wait_for_function("document.querySelector('#cast textarea, #cast input').value === '2,1'")
        page.wait_for_function("document.querySelector('#check select')?.dataset.photo === '2'")
        page.click("#animate")
        wait_for_status(page, "0.2 s of video, 32 × 32")
    (made,) = output.glob("*_arms_photo_duet.mp4")
    found = settings_of(made)
    assert found["cast"] == "2,1" and Path(found["other_photos"][0]).name == "sway_photo.jpg"


def settings_of(result: Path) -> dict:
    return json.loads(result.with_suffix(".json").read_text(encoding="utf-8"))
