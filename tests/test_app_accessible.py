"""The page for everybody: axe finds nothing serious; the first visit fetches only what it shows."""

from __future__ import annotations

import re

import pytest

from tests.browser_page import MILLISECONDS, serving, unfold
from tests.conftest import ROOT

pytestmark = pytest.mark.browser

MOST_REQUESTS = 70
"""Of a first visit; 67 were counted. 51 are pieces of Gradio's scripts, for which there is no other build: it
fetches those of every kind of widget that is anywhere on the page, also in what is folded and on other
tabs, unless it is hidden by itself. Pictures and clips are 6; styles are 9, since ours come in one file."""

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
            unfold(page, "Advanced", "#guidance")
            unfold(page, "Expert", "#context_length")
            unfold(page, "Trim and edit the dance", "#strip .ma-strip")
            page.wait_for_selector("#check details")
            page.click("#check summary")
        # Colours fade into each other.
        page.wait_for_function("document.getAnimations().every((each) => each.playState !== 'running')")
        found[tab] = serious(page)
    page.close()
    assert not any(found.values()), "\n".join(f"{tab}: {line}" for tab in found for line in found[tab])


def test_the_page_speaks_to_strangers(browser, address):
    """No path of the machine and no word of the code in sight; what is read out is what is seen."""
    page = browser.new_page(viewport={"width": 1280, "height": 720}, reduced_motion="reduce")
    page.set_default_timeout(MILLISECONDS)
    page.goto(address)
    page.wait_for_selector("#photo img")
    unfold(page, "Advanced", "#guidance")
    unfold(page, "Expert", "#context_length")
    names = page.locator("#examples button").evaluate_all("all => all.map((each) => each.ariaLabel)")
    assert names and all(name.startswith("Example: ") for name in names)
    for label in ("Guidance", "Context length"):
        slider = page.get_by_role("slider", name=label, exact=True)
        assert slider.count() == 1, label
    guidance = page.get_by_role("slider", name="Guidance")
    assert guidance.get_attribute("max") == "2"  # of the mini, whose pictures burn out beyond
    page.locator("#guidance input[type=number]").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")  # past the button that resets it
    focused = "getComputedStyle(document.activeElement)"
    assert page.evaluate("document.activeElement.type") == "range"
    assert page.evaluate(f"[{focused}.outlineStyle, {focused}.outlineWidth]") == ["solid", "2px"]

    page.fill("#guidance input[type=number]", "500")  # more than it bears
    page.keyboard.press("Tab")
    page.wait_for_function("document.querySelector('#guidance input[type=number]').value === '2'")
    page.wait_for_selector("#check .ma-worst-error", state="detached")

    for tab in TABS:
        turn_to(page, tab)
        page.wait_for_timeout(300)
        text = page.inner_text("body")
        assert str(ROOT) not in text, tab
        found = re.findall(r"\b\w+_\w+\b|Traceback|\bNone\b|\bnan\b|undefined|\[object", text)
        assert not {*found} - _NAMES_OF_FILES, (tab, found)
    page.close()


_NAMES_OF_FILES = {"arms_photo", "arms_motion"}


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
    # What the page asks again and again of the work, oftener on a slow machine, is no part of its weight.
    weights = """performance.getEntriesByType('resource')
        .filter((entry) => !/gradio_api\\/(run|queue)\\//.test(entry.name))
        .map((entry) => entry.transferSize)"""
    first = page.evaluate(weights)
    page.goto(address)  # Gradio's scripts and styles are the browser's own by now
    page.wait_for_selector("#motion video")
    page.wait_for_selector("#check details[aria-busy=false]")
    fetched = sum(weight > 0 for weight in page.evaluate(weights))
    page.close()
    assert asked and not [url for url in asked if "ffmpeg-core" in url]
    assert sum(first) < 1_500_000, f"{sum(first)} bytes"
    # The pieces of Gradio's scripts come at once from this machine, and only once, as the browser keeps them.
    assert len(first) <= MOST_REQUESTS, f"{len(first)} requests of a first visit"
    assert fetched < 40, f"{fetched} requests of a second visit"
