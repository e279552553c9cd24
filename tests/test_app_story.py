"""The way from the first look to a finished video as a moving picture, for the README.

To draw it anew: ``FLOW_PICTURE=docs/images/page.webp python -m pytest tests/test_app_story.py``.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from tests.browser_page import MILLISECONDS, serving
from tests.conftest import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]

_WIDTH = 900  # pixels of the moving picture


def test_the_whole_flow_as_a_moving_picture(browser, tmp_path):
    frames: list[Image.Image] = []
    seconds: list[float] = []

    def look(page, shown_for: float) -> None:
        picture = Image.open(io.BytesIO(page.screenshot(type="png"))).convert("RGB")
        frames.append(picture.resize((_WIDTH, round(_WIDTH * picture.height / picture.width))))
        seconds.append(shown_for)

    with serving(tmp_path / "results", ROOT / "assets" / "mini") as address:
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(MILLISECONDS)
        page.goto(address)
        page.wait_for_function("document.querySelector('#example video')?.currentTime > 0.2")
        page.wait_for_selector("#check details[aria-busy=false]")
        look(page, 2.5)
        page.click("#examples button[data-index='2']")
        page.wait_for_function("document.querySelector('#motion video')?.src.includes('sway')")
        page.wait_for_selector("#check details[aria-busy=false]")
        look(page, 2.0)
        page.click("#animate")
        page.wait_for_selector("#preview img")
        while page.locator("#preview img:visible").count() and len(frames) < 12:
            before = page.get_attribute("#preview img", "src")
            look(page, 0.7)
            page.wait_for_function(
                "before => document.querySelector('#preview img')?.src !== before", arg=before
            )
        page.wait_for_selector("#result video")
        player = "document.querySelector('#result ma-player')"
        page.wait_for_function(f"{player}?.lead.readyState >= 3")
        for frame in range(0, 60, 4):
            page.evaluate(f"{player}.pause(); {player}.goTo({frame})")
            page.wait_for_function(f"!{player}.lead.seeking")
            look(page, 0.16)
        page.close()
    target = Path(os.environ.get("FLOW_PICTURE") or tmp_path / "flow.webp")
    frames[0].save(
        target,
        save_all=True,
        append_images=frames[1:],
        duration=[round(1000 * each) for each in seconds],
        loop=0,
        quality=55,
        method=6,
    )
    with Image.open(target) as made:
        assert made.n_frames > 10 and target.stat().st_size < 1_500_000
