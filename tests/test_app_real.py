"""The page with the mini on a real photo and a real DensePose clip, in a headless Chromium."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from densepose_tools.segmenter import DEFAULT_FOLDER
from tests.browser_page import MILLISECONDS, clear, mini_densepose, start
from tests.conftest import PATIENCE, ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def frames_of(video: Path) -> np.ndarray:
    """uint8 ``F H W 3``."""
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_from_a_real_photo_to_a_saved_animation(browser, shared, tmp_path):
    """Checked, animated, watched against the photo, and found again in the gallery."""
    photo, motion = shared / "samples" / "demo4.png", shared / "samples" / "running2.mp4"
    process, address = start(tmp_path, ROOT / "assets" / "mini", *mini_densepose(DEFAULT_FOLDER))
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(MILLISECONDS)
    try:
        page.goto(address)
        clear(page)
        page.set_input_files("#photo input[type=file]", photo)
        page.set_input_files("#motion input[type=file]", motion)
        page.wait_for_selector("#check details[aria-busy=false]")
        assert "The photo shows one person" in page.text_content("#check")
        page.click("#animate")
        page.wait_for_selector("#status [role=progressbar]")
        page.wait_for_function(
            "document.querySelector('#status').innerText.includes('5.0 s of video, 256 × 256')",
            timeout=3 * MILLISECONDS,  # two minutes of a core, by itself
        )
        page.click("[data-view=photo]")
        page.get_by_role("tab", name="Gallery").click()
        page.get_by_text("demo4 × running2").first.wait_for()
    finally:
        page.close()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE)

    (video,) = (path for path in tmp_path.glob("*.mp4") if "side_by_side" not in path.name)
    frames = frames_of(video)
    assert frames.shape == (125, 256, 256, 3)
    assert json.loads(video.with_suffix(".json").read_text())["ai_generated"] is True
    # The wall beside the dancer keeps the photo's colour, from frame to frame, too.
    wall = np.array(Image.open(photo).convert("RGB").resize((256, 256)))[16:80, 200:248].mean(axis=(0, 1))
    seen = frames[:, 16:80, 200:248].mean(axis=(1, 2))
    assert np.abs(seen - wall).max() < 30
    assert np.abs(np.diff(seen, axis=0)).mean() < 3
