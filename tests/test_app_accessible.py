"""The page for everybody: axe finds nothing serious; the first visit fetches only what it shows."""

from __future__ import annotations

import pytest

from tests.browser_page import MILLISECONDS, serving, unfold
from tests.conftest import ROOT

pytestmark = pytest.mark.browser

TABS = ("Animate", "Motion tools", "Gallery", "Models", "Train", "Help")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("outputs"), ROOT / "assets" / "mini") as address:
        yield address


def serious(page) -> list[str]:
    """What axe finds on the page as it is now, one line each: rule, element, why."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {node['target'][-1]}: {node['failureSummary'].splitlines()[1].strip()}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def turn_to(page, tab: str) -> None:
    """Show a tab, which on a narrow page may lie in a menu."""
    button = page.get_by_role("tab", name=tab, exact=True)
    if button.is_visible():
        button.click()
        return
    page.locator("#tabs .overflow-menu button").first.click()
    page.locator("#tabs .overflow-dropdown button", has_text=tab).click()


@pytest.mark.parametrize("size", [(1280, 720), (390, 844)], ids=["desktop", "phone"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, address, theme, size):
    pytest.importorskip("axe_playwright_python", reason="need axe: pip install -r requirements-dev.txt")
    page = browser.new_page(
        viewport=dict(zip(("width", "height"), size, strict=True)), reduced_motion="reduce"
    )
    page.set_default_timeout(MILLISECONDS)
    page.goto(f"{address}?__theme={theme}")
    page.wait_for_selector("#photo img")
    found = {}
    for tab in TABS:
        turn_to(page, tab)
        if tab == "Animate":
            unfold(page, "Advanced", "#steps")
            unfold(page, "Expert", "#window_size")
            unfold(page, "Trim and edit the dance", "#strip .ma-strip")
            page.wait_for_selector("#check details")
            page.click("#check summary")
        # Colours fade into each other.
        page.wait_for_function("document.getAnimations().every((each) => each.playState !== 'running')")
        found[tab] = serious(page)
    page.close()
    assert not any(found.values()), "\n".join(f"{tab}: {line}" for tab in found for line in found[tab])


def test_first_visit_is_light_and_shows_a_finished_example(browser, address):
    """No program of 32 MB to cut videos in the browser, which Gradio's widget asks for."""
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.set_default_timeout(MILLISECONDS)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("#motion video")
    page.wait_for_function("document.querySelector('#example video')?.currentTime > 0.2")
    page.wait_for_selector("#check details[aria-busy=false]")
    weights = "performance.getEntriesByType('resource').map((entry) => entry.transferSize)"
    total = sum(page.evaluate(weights))
    page.goto(address)  # Gradio's hundred scripts and styles are the browser's own by now
    page.wait_for_selector("#motion video")
    page.wait_for_selector("#check details[aria-busy=false]")
    fetched = sum(weight > 0 for weight in page.evaluate(weights))
    page.close()
    assert asked and not [url for url in asked if "ffmpeg-core" in url]
    assert total < 1_500_000, f"{total} bytes"
    assert fetched < 40, f"{fetched} requests of a second visit"
