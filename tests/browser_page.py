"""The page in a headless Chromium: the program as a process of its own, and what visitors do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import PATIENCE, ROOT

MILLISECONDS = 1000 * PATIENCE
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_OF_LEAVING = re.compile(r"AbortError|Connection errored out")


@contextmanager
def launched() -> Iterator:
    """A headless Chromium; without one, or without playwright, the test is skipped."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("need Chromium: install it (apt-get install chromium), or name it in CHROMIUM")
    api = pytest.importorskip(
        "playwright.sync_api", reason="need playwright: pip install -r requirements-dev.txt"
    )
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=_FLAGS)
        yield browser
        browser.close()


def start(output: Path, model: Path, *words: str, **environment: str) -> tuple[subprocess.Popen, str]:
    """A running program and its address; more words of its command line and environment may be given."""
    command = [sys.executable, "app.py", "--model", str(model), "--output", str(output), *words]
    nowhere = "http://127.0.0.1:9"  # a proxy that answers nothing: the program must not need the network
    env = {**os.environ, "http_proxy": nowhere, "https_proxy": nowhere, "HF_ENDPOINT": nowhere, **environment}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=env)
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found, line
    return process, found[0]


def mini_densepose(segmenter: Path) -> tuple[str, ...]:
    """Words of the command line for a small network that finds people."""
    return "--densepose", "mini", "--densepose-weights", str(segmenter)


@contextmanager
def serving(output: Path, model: Path, *words: str, **environment: str) -> Iterator[str]:
    """Address of a running program, which ends with the context."""
    process, address = start(output, model, *words, **environment)
    try:
        yield address
    finally:
        process.terminate()  # Ctrl-C is ignored where the tests run in the background of a shell
        process.wait(timeout=PATIENCE)


@contextmanager
def visit(browser, address: str, *, complaints: bool = False) -> Iterator:
    """The page, freshly opened; what it asks of other machines or complains about fails the test.

    Args:
        browser: of `launched`.
        address: of the program.
        complaints: whether the console may complain, as it does of every answer that refuses something.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(MILLISECONDS)
    trouble = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    if not complaints:
        page.on("console", lambda entry: trouble.append(entry.text) if entry.type == "error" else None)
    page.on("request", lambda request: None if _local(request.url) else trouble.append(request.url))

    def left(_) -> None:
        """A page that is left gives up the questions it has asked of the program, and says so."""
        trouble[:] = [each for each in trouble if not _OF_LEAVING.search(each)]

    page.on("framenavigated", left)
    try:
        page.goto(address)
        page.wait_for_selector("#animate")
        yield page
    finally:
        context.close()
    assert not trouble, "\n".join(trouble)


def _local(url: str) -> bool:
    return urlsplit(url).scheme in ("data", "blob") or urlsplit(url).hostname == "127.0.0.1"


def clear(page) -> None:
    """Take away the example that the page begins with, once it is there."""
    page.wait_for_selector("#photo img")
    page.wait_for_selector("#motion video")
    for button in ("#photo button[aria-label='Remove Image']", "#motion button[aria-label='Clear']"):
        page.click(button)
    page.wait_for_selector("#photo input[type=file]", state="attached")
    page.wait_for_selector("#motion input[type=file]", state="attached")


def upload(page, photo: Path, motion: Path) -> None:
    """Put in a photo and a clip that can be shown."""
    clear(page)
    _put_in(page, "#photo", photo, "#photo img")
    _put_in(page, "#motion", motion, "#motion video")


def _put_in(page, place: str, file: Path, shown: str) -> None:
    """Put a file in, again if need be, as a person would.

    Gradio mounts a place anew after it was emptied; on a busy machine that may fall on the very moment in
    which a program puts something in, which is lost then.
    """
    from playwright.sync_api import TimeoutError as NotShown

    for tries_left in (3, 2, 1, 0):
        page.set_input_files(f"{place} input[type=file]", file)
        try:
            page.wait_for_selector(shown, timeout=MILLISECONDS / 8)
            return
        except NotShown:
            if not tries_left or not page.locator(f"{place} input[type=file]").count():
                raise


def set_steps(page, steps: int) -> None:
    """Fill in the steps of denoising."""
    unfold(page, "Advanced", "#steps")
    page.fill("#steps input[type=number]", str(steps))
    page.keyboard.press("Tab")


def unfold(page, name: str, sees: str) -> None:
    """Open a part of the form, if it is closed; ``sees`` is something in it."""
    if not page.is_visible(sees):
        page.get_by_text(name, exact=True).click()
        page.wait_for_selector(sees)


def status(page) -> str:
    """What the page says of the job."""
    return page.inner_text("#status")


def wait_for_status(page, text: str) -> None:
    """Wait until the page says that of the job."""
    page.wait_for_function("text => document.querySelector('#status')?.innerText.includes(text)", arg=text)


def wait_for_check(page, text: str) -> None:
    """Wait until the line beside Animate says that."""
    page.wait_for_function("text => document.querySelector('#check').innerText.includes(text)", arg=text)
