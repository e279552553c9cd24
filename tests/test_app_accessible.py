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


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, address, theme):
    pytest.importorskip("axe_playwright_python", reason="need axe: pip install -r requirements-dev.txt")
    page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page.set_default_timeout(MILLISECONDS)
    page.goto(f"{address}?__theme={theme}")
    page.wait_for_selector("#photo img")
    found = {}
    for tab in TABS:
        page.get_by_role("tab", name=tab, exact=True).click()
        page.wait_for_timeout(500)  # colours fade into each other
        if tab == "Animate":
            unfold(page, "Advanced", "#steps")
            unfold(page, "Expert", "#window_size")
            unfold(page, "Trim and edit the dance", "#strip")
            page.click("#check summary")
        found[tab] = serious(page)
    page.close()
    assert not any(found.values()), "\n".join(f"{tab}: {line}" for tab in found for line in found[tab])


def test_first_visit_fetches_no_program_to_cut_videos(browser, address):
    page = browser.new_page()
    page.set_default_timeout(MILLISECONDS)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("#motion video")
    page.wait_for_timeout(3000)  # the page never stops asking for news
    page.close()
    assert asked and not [url for url in asked if "ffmpeg-core" in url]
