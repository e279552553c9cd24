"""The page in a headless Chromium, used as a visitor would; the program runs as a process of its own."""

from __future__ import annotations

import base64
import io
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, features

from magicanimate.media.writer import VideoWriter
from tests.browser_page import (
    MILLISECONDS,
    clear,
    mini_densepose,
    serving,
    set_steps,
    start,
    status,
    unfold,
    upload,
    visit,
    wait_for_check,
    wait_for_status,
)
from tests.conftest import PATIENCE, ROOT
from tests.inputs import write_motion, write_photo
from tests.media_files import part_maps
from tests.result_files import ground, write_result
from tests.small_segmenter import write_dance

pytestmark = pytest.mark.browser
FRAMES = 20


@pytest.fixture(scope="module")
def served(browser, tiny_model, segmenter, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """Address of a running program, and its folder of results."""
    output = tmp_path_factory.mktemp("served") / "results"
    with serving(output, tiny_model, *mini_densepose(segmenter)) as address:
        yield address, output


@pytest.fixture
def page(browser, served):
    """The page, freshly opened; what it asks of other machines or complains about fails the test."""
    with visit(browser, served[0]) as page:
        yield page


def test_a_visitor_gets_a_video_that_plays(page, served, tmp_path):
    upload(page, write_photo(tmp_path / "me.png"), write_motion(tmp_path / "dance.mp4", FRAMES))
    set_steps(page, 80)  # long enough for previews to be seen
    page.click("#animate")
    page.wait_for_selector("#status [role=progressbar]")
    page.wait_for_selector("#preview img")
    wait_for_status(page, "0.8 s of video, 32 × 32")
    page.wait_for_selector("#result video")
    page.wait_for_selector("#animate:enabled")
    assert page.is_hidden("#preview") and page.is_hidden("#cancel") and page.is_hidden("#example")

    video = "document.querySelector('#result ma-player')?.shadowRoot.querySelector('.ma-shown')"
    page.wait_for_function(f"{video}?.readyState >= 3 && !{video}.paused && {video}.currentTime > 0.2")
    seen = page.evaluate(f"[{video}.videoWidth, {video}.videoHeight, {video}.duration, {video}.loop]")
    assert seen == [32, 32, pytest.approx(FRAMES / 25, abs=0.05), True]
    page.click("#result [data-view=strip]")
    page.wait_for_function(f"{video}.videoWidth === 3 * 32 + 8")

    with page.expect_download() as download:
        page.click("#result-downloads a:has-text('MP4')")
    got = tmp_path / "got.mp4"
    download.value.save_as(got)
    with av.open(str(got)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert frames.shape == (FRAMES, 32, 32, 3)
    assert all(frame.std() > 2 for frame in frames)
    assert np.abs(frames[0].astype(int) - frames[FRAMES // 2]).mean() > 0.1  # it moves
    (written,) = served[1].glob("*_me_dance.mp4")
    assert written.read_bytes() == got.read_bytes()


def test_the_beginning_plays_while_the_rest_is_made(page, served, tmp_path):
    upload(page, write_photo(tmp_path / "you.png"), write_motion(tmp_path / "stream.mp4", 410))
    set_steps(page, 8)  # long enough for the page to ask while it runs
    page.get_by_label("Play the beginning while the rest is made").check()
    page.evaluate("""() => new MutationObserver(() => {
        const shown = document.querySelector("#preview figure:has(figcaption) img");
        if (shown && document.querySelector("#status [role=progressbar]")) globalThis.played ??= shown.src;
    }).observe(document.body, { childList: true, subtree: true })""")
    page.click("#animate")
    encoded = page.wait_for_function("globalThis.played").json_value().partition("base64,")[2]
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as shown:
        first_shown = np.asarray(shown.convert("L").resize((32, 32)))
        assert shown.n_frames % 8 == 0 and shown.info["duration"] == 40  # at the clip's own speed
    wait_for_status(page, "16.4 s of video, 32 × 32")
    page.wait_for_selector("#result video")
    page.wait_for_selector("#preview img", state="hidden")
    (made,) = served[1].glob("*_you_stream.mp4")
    with av.open(str(made)) as container:
        frames = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])
    assert len(frames) == 410
    # Two lossy formats lie between them, and pictures of networks that learned nothing are full of noise.
    alike = max(np.corrcoef(frame.ravel(), first_shown.ravel())[0, 1] for frame in frames)
    assert alike > 0.8, "what was shown is the result itself"
    assert not list(served[1].glob("*_so_far.mp4"))


def test_cancel_keeps_only_the_last_preview(page, served, tmp_path):
    before = set(served[1].iterdir())
    upload(page, write_photo(tmp_path / "me.png"), write_motion(tmp_path / "long.mp4", 120))
    set_steps(page, 100)
    page.click("#animate")
    page.wait_for_selector("#preview img[alt=preview]")

    # While one that waits is edited nothing beside Save stops the running one, however far that gets.
    page.click("#animate")
    page.click("#jobs .ma-job-waiting [data-action=edit]")
    page.wait_for_selector("#leave-job")
    bar = "#status [role=progressbar]"
    page.wait_for_function(
        "([at, was]) => document.querySelector(at)?.ariaValueNow !== was",
        arg=[bar, page.get_attribute(bar, "aria-valuenow")],
    )
    assert page.is_hidden("#cancel")
    page.click("#leave-job")
    page.click("#jobs .ma-job-waiting [data-action=remove]")
    page.wait_for_selector("#jobs .ma-job-waiting", state="detached")

    page.click("#cancel")
    wait_for_status(page, "Cancelled. The last preview is kept as")
    page.wait_for_selector("#preview img[alt='the last preview']")
    assert page.is_enabled("#animate") and page.is_hidden("#cancel")
    (kept,) = set(served[1].iterdir()) - before
    assert kept.name.endswith("_me_long_cancelled_preview.webp")


def test_mistakes_are_answered_in_a_sentence_that_goes_with_its_cause(page, served, tmp_path):
    clear(page)
    page.click("#animate")
    wait_for_check(page, "Add a photo")
    broken = write_photo(tmp_path / "me.png")
    broken.write_text("this is not a picture")
    page.set_input_files("#photo input[type=file]", broken)
    page.set_input_files("#motion input[type=file]", write_motion(tmp_path / "dance.mp4", 5))
    page.wait_for_selector("#motion video")
    wait_for_check(page, "The photo me.png")
    before = page.locator("#jobs .ma-job").count()
    page.click("#animate")
    wait_for_check(page, "The photo me.png")
    assert page.locator("#jobs .ma-job").count() == before and "Traceback" not in page.content()
    page.click("#photo button[aria-label='Remove Image']")
    page.set_input_files("#photo input[type=file]", write_photo(tmp_path / "right.png"))
    page.wait_for_function("!document.querySelector('#check').innerText.includes('me.png')")
    page.wait_for_selector("#check .ma-worst-error", state="detached")


def test_an_ordinary_video_and_a_gif_animate_at_once_and_the_form_stays(page, served, tmp_path):
    upload(page, write_photo(tmp_path / "me.png"), write_dance(tmp_path / "tango.mp4", 30, size=240))
    page.wait_for_selector("#motion-line .ma-message")
    assert "It will be converted first" in page.inner_text("#motion-line")
    set_steps(page, 1)
    page.fill("#seed input", "77")
    page.keyboard.press("Tab")
    unfold(page, "Trim and edit the dance", "#strip .ma-strip")
    end = page.locator("#strip input").nth(1)
    end.focus()
    end.evaluate(
        "input => { input.value = 500; for (const name of ['input', 'change'])"
        " input.dispatchEvent(new Event(name, { bubbles: true })); }"
    )
    page.wait_for_function("document.querySelector('#end input')?.value === '0.6'")
    page.click("#animate")
    wait_for_status(page, "0.6 s of video, 32 × 32")
    assert list(served[1].glob("*_me_tango.mp4")) and list(served[1].glob(".motions/*/tango_densepose.mp4"))

    page.reload()  # the form is as it was
    page.wait_for_function("document.querySelector('#seed input')?.value === '77'")
    page.wait_for_function("document.querySelector('#motion video')?.src.includes('tango')")
    page.wait_for_function("document.querySelector('#photo img')?.src.includes('me.png')")
    unfold(page, "Trim and edit the dance", "#strip .ma-strip")  # what is folded is not in the page
    page.wait_for_function("document.querySelector('#end input')?.value === '0.6'")  # and what was trimmed
    page.wait_for_function("document.querySelector('#strip output')?.textContent === '0.0 s to 0.6 s'")
    page.click("#motion button[aria-label='Clear']")
    page.wait_for_selector("#motion input[type=file]", state="attached")
    gif = tmp_path / "waltz.gif"
    with VideoWriter(gif, width=96, height=96, fps=10) as out:
        for frame in part_maps(5):
            out.write(frame)
    page.set_input_files("#motion input[type=file]", gif)
    page.wait_for_function("document.querySelector('#motion video')?.src.includes('waltz')")
    set_steps(page, 1)
    page.click("#animate")
    wait_for_status(page, "0.5 s of video, 32 × 32")


def test_what_is_typed_before_the_kept_form_is_back_stays(page, tmp_path):
    upload(page, write_photo(tmp_path / "kept.png"), write_motion(tmp_path / "dance.mp4", 5))
    set_steps(page, 3)
    page.fill("#seed input", "77")
    page.keyboard.press("Tab")
    kept = "JSON.parse(localStorage.getItem('magicanimate-form') ?? '{}').values"
    page.wait_for_function(f"{kept}?.seed === 77 && {kept}.num_inference_steps === 3")

    def hold(route) -> None:
        # So the page asks whether the kept files are still there, and fills the form after the answers.
        if route.request.method != "HEAD":
            route.continue_()

    page.route("**/*", hold)
    with page.expect_request(lambda request: request.method == "HEAD"):
        page.reload()
    page.fill("#seed input", "5")
    page.click("#examples button[data-index='1']")
    page.wait_for_function("document.querySelector('#photo img')?.src.includes('pair_photo')")
    page.unroute("**/*")  # the answers come now
    unfold(page, "Advanced", "#steps")
    page.wait_for_function("document.querySelector('#steps input[type=number]').value === '3'")
    page.wait_for_function(f"{kept}.seed === 5")  # and is kept from now on
    assert page.input_value("#seed input") == "5"
    assert "pair_photo" in page.get_attribute("#photo img", "src")


def test_who_dances_is_still_chosen_after_a_reload(page, tmp_path):
    with Image.open(ROOT / "assets/examples/pair_photo.jpg") as photo:  # of two people
        two = np.asarray(photo.convert("RGB").resize((256, 256)))
    with VideoWriter(tmp_path / "two.mp4", width=256, height=256, fps=10) as out:
        for _ in range(4):
            out.write(two)
    upload(page, write_photo(tmp_path / "me.png"), tmp_path / "two.mp4")
    chosen = "#who input[type=radio]:checked"
    page.wait_for_selector("#who-picture img")
    assert page.input_value(chosen) == "largest"
    before = page.get_attribute("#who-picture img", "src")
    page.click("#who-picture img", position={"x": 60, "y": 100})
    page.wait_for_function(f"document.querySelector('{chosen}').value === 'point'")
    page.wait_for_function(f"document.querySelector('#who-picture img').src !== '{before}'")
    marked = page.get_attribute("#who-picture img", "src")
    kept = "JSON.parse(localStorage.getItem('magicanimate-form') ?? '{}').values"
    page.wait_for_function(f"{kept}?.point?.endsWith(' two')")

    page.reload()
    page.wait_for_selector("#who-picture img")
    assert page.input_value(chosen) == "point"
    assert page.get_attribute("#who-picture img", "src") == marked  # with the ring where the click was
    page.click("#motion button[aria-label='Clear']")
    page.wait_for_function(f"{kept}.people === 'largest'")


def test_the_densepose_tab_makes_a_clip_and_hands_it_over(page, served, tmp_path):
    page.wait_for_selector("#photo img")
    page.get_by_role("tab", name="Motion tools").click()
    page.set_input_files("#dp-clip input[type=file]", write_dance(tmp_path / "waltz.mp4", 12, size=160))
    page.wait_for_selector("#dp-notice .ma-message")
    assert "This is an ordinary video" in page.inner_text("#dp-notice")
    page.get_by_label("The person I click on").locator("visible=true").check()
    page.click("#dp-picture img")  # in its middle somebody stands
    page.wait_for_function(
        "[...document.querySelectorAll('#dp-point input')].slice(0, 2).every(x => Number(x.value) > 60)"
    )
    page.get_by_label("Reduce flicker").locator("visible=true").check()
    page.click("#make-dp")
    page.wait_for_selector("#dp-status .ma-done")
    for player in ("#dp-before", "#dp-after"):
        page.wait_for_function("name => document.querySelector(name + ' video')?.readyState >= 3", arg=player)
    assert "Flicker" in page.inner_text("#dp-figures")
    with page.expect_download() as download:
        page.click("#dp-exact")
    (written,) = served[1].glob("waltz_densepose.mp4")
    assert Path(download.value.path()).read_bytes() == written.read_bytes()
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")

    page.click("#dp-use")
    page.wait_for_selector("#animate:visible")
    page.wait_for_function("document.querySelector('#motion video')?.src.includes('waltz_densepose_h264')")
    set_steps(page, 1)
    page.click("#animate")
    wait_for_status(page, "0.5 s of video, 32 × 32")
    assert list(served[1].glob("*_waltz_densepose.mp4"))  # named after the clip of exact colours


def test_jobs_go_on_while_the_page_is_closed(page, served, tmp_path):
    """Two jobs; the page is opened again in the middle; one is cancelled and the other ends."""
    upload(page, write_photo(tmp_path / "me.png"), write_motion(tmp_path / "long.mp4", 120))
    if page.is_visible("#jobs"):
        clear_jobs(page)
    set_steps(page, 100)
    page.click("#animate")
    page.wait_for_selector("#preview img[alt=preview]")
    set_steps(page, 1)
    page.click("#animate")
    page.wait_for_selector("#jobs .ma-job-waiting")
    context = page.context
    page.close()
    page = context.new_page()
    page.set_default_timeout(MILLISECONDS)
    page.goto(served[0])
    page.wait_for_selector("#status [role=progressbar]")
    page.wait_for_selector("#preview img[alt=preview]")
    assert page.inner_text("#jobs .ma-job-running b") == "me · long · seed 1"
    assert "next" in page.inner_text("#jobs .ma-job-waiting") or "behind 1" in page.inner_text("#jobs")
    page.click("#cancel")
    wait_for_status(page, "4.8 s of video, 32 × 32")
    page.wait_for_selector("#result video")
    assert page.locator("#jobs .ma-job-cancelled").count() == page.locator("#jobs .ma-job-done").count() == 1
    assert len(list(served[1].glob("*_me_long.mp4"))) == 1
    page.click("#jobs summary")
    page.click("#jobs .ma-job-done [data-action=use]")
    unfold(page, "Advanced", "#steps")
    page.wait_for_function("document.querySelector('#steps input[type=number]').value === '1'")
    clear_jobs(page)
    page.wait_for_selector("#jobs", state="hidden")


def test_a_killed_program_offers_its_jobs_again(browser, tiny_model, segmenter, tmp_path):
    output = tmp_path / "results"
    process, address = start(output, tiny_model, *mini_densepose(segmenter))
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(MILLISECONDS)
    try:
        page.goto(address)
        page.wait_for_selector("#motion video")
        set_steps(page, 100)
        page.click("#animate")
        page.wait_for_selector("#jobs .ma-job-running")
        set_steps(page, 1)
        page.click("#animate")
        page.wait_for_selector("#jobs .ma-job-waiting")
        page.close()
        process.kill()
        process.wait()
        process, address = start(output, tiny_model, *mini_densepose(segmenter))
        page = context.new_page()
        page.set_default_timeout(MILLISECONDS)
        page.goto(address)
        page.wait_for_selector("#jobs [data-action=go-on]")
        assert "Resume 2 jobs" in page.inner_text("#jobs")
        page.locator("#jobs .ma-job-interrupted [data-action=remove]").first.click()
        page.get_by_text("Resume 1 job").click()
        wait_for_status(page, "2.6 s of video, 32 × 32")
    finally:
        context.close()
        process.kill()
        process.wait()


def test_the_first_example_needs_one_click(page, served):
    """Photo and clip are there from the start, as the README says, and the clip can be trimmed."""
    page.wait_for_selector("#photo img")
    page.wait_for_selector("#motion video")
    unfold(page, "Trim and edit the dance", "#strip .ma-strip")
    set_steps(page, 1)
    page.click("#animate")
    wait_for_status(page, "2.6 s of video, 32 × 32")
    assert list(served[1].glob("*_arms_photo_arms_motion.mp4"))


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 720)])
def test_animate_is_always_in_sight_and_nothing_sticks_out(page, width, height):
    """At once, and with everything unfolded, wherever the page is scrolled to."""
    page.set_viewport_size({"width": width, "height": height})
    in_sight = """() => {
        const { top, bottom } = document.querySelector("#animate").getBoundingClientRect();
        const middle = document.elementFromPoint(innerWidth * 0.5, (top + bottom) / 2);
        return top > 0 && bottom <= innerHeight && middle?.closest("#bar") !== null;
    }"""
    page.wait_for_function(in_sight)
    unfold(page, "Advanced", "#steps")
    unfold(page, "Expert", "#context_length")
    page.wait_for_function(in_sight)
    page.evaluate("scrollTo(0, 400)")
    page.wait_for_function(in_sight)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    # What runs comes into sight, also where it is above the form.
    set_steps(page, 1)
    page.evaluate("scrollTo(0, 900)")
    page.click("#animate")
    page.wait_for_function("""() => {
        const { top } = document.querySelector("#status")?.getBoundingClientRect() ?? { top: -1 };
        return top >= 0 && top < innerHeight / 2;
    }""")
    wait_for_status(page, "of video, 32 × 32")


def test_settings_are_checked_saved_and_driven_by_keys(page):
    wait_for_check(page, "2.6 s of video")
    page.click("#check summary")
    page.locator("#check img").nth(1).wait_for()
    page.click("#check summary")
    seed = "#seed input[type=number]"
    unfold(page, "Advanced", "#settings-name")
    page.fill(seed, "77")
    page.fill("#settings-name textarea, #settings-name input", "mine")
    page.click("#save-settings")
    page.wait_for_selector("#settings-message:has-text('Saved as “mine”')")
    page.click("#reset-settings")
    page.wait_for_function("at => document.querySelector(at).value === '1'", arg=seed)
    page.click("#saved-settings input")
    page.get_by_role("option", name="mine").click()
    page.wait_for_function("at => document.querySelector(at).value === '77'", arg=seed)

    page.fill("#steps input[type=number]", "1")
    page.focus(seed)
    page.keyboard.press("Control+Enter")
    wait_for_status(page, "of video, 32 × 32")


def test_dice_changes_the_seed(page):
    before = page.input_value("#seed input[type=number]")
    page.click("#dice")
    page.wait_for_function(
        "before => document.querySelector('#seed input[type=number]').value !== before", arg=before
    )


def test_a_waiting_job_is_edited_and_moved_by_keys_and_by_dragging(page, served, tmp_path):
    upload(page, write_photo(tmp_path / "me.png"), write_motion(tmp_path / "long.mp4", 600))
    set_steps(page, 100)
    page.click("#animate")
    page.wait_for_selector("#preview img[alt=preview]")
    page.wait_for_function("document.title.includes(' % · MagicAnimate')")
    for seed in (11, 12, 13):
        page.fill("#seed input", str(seed))
        page.keyboard.press("Tab")
        page.click("#animate")
        page.wait_for_selector(f"#jobs .ma-job-waiting:has-text('seed {seed}')")
    rows = (
        "[...document.querySelectorAll('#jobs .ma-job-waiting b')].map(b => b.textContent.slice(-2)).join()"
    )
    # Enter twice on the arrow of the last one moves that one twice: the focus stays with the job.
    page.locator("#jobs .ma-job-waiting:has-text('seed 13') [data-action=up]").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"{rows} === '11,13,12'")
    page.wait_for_function("document.activeElement.dataset.action === 'up'")
    page.keyboard.press("Enter")
    page.wait_for_function(f"{rows} === '13,11,12'")
    page.drag_and_drop(
        "#jobs .ma-job-waiting:has-text('seed 13') b", "#jobs .ma-job-waiting:has-text('seed 12') b"
    )
    page.wait_for_function(f"{rows} === '11,12,13'")

    page.click("#jobs .ma-job-waiting:has-text('seed 12') [data-action=edit]")
    page.wait_for_selector("#leave-job:has-text('Discard changes')")
    assert page.inner_text("#animate") == "Save changes" and page.is_hidden("#cancel")
    # On a phone the two long buttons stand under what is said of the job, not on it.
    page.set_viewport_size({"width": 390, "height": 844})
    place = "document.querySelector('{}').getBoundingClientRect()"
    page.wait_for_function(f"{place.format('#check')}.bottom <= {place.format('#animate')}.top")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.click("#leave-job")
    page.wait_for_selector("#leave-job", state="hidden")
    assert page.is_visible("#cancel")
    assert page.locator("#jobs .ma-job-running").count() == 1
    assert page.locator("#jobs .ma-job-waiting").count() == 3
    for _ in range(3):
        count = page.locator("#jobs .ma-job-waiting").count()
        page.locator("#jobs .ma-job-waiting [data-action=remove]").first.click()
        page.wait_for_function(
            "count => document.querySelectorAll('#jobs .ma-job-waiting').length < count", arg=count
        )
    page.click("#cancel")
    page.wait_for_selector("#jobs .ma-job-running", state="detached")


@pytest.mark.slow
def test_results_are_looked_at_compared_binned_and_used_again(page, served, tmp_path):
    for day, seed in ((1, 41), (2, 42)):
        photo = str(write_photo(tmp_path / f"me{day}.png"))
        motion = str(write_motion(tmp_path / "waltz.mp4", 3))
        output = served[1] / f"2026020{day}-090000_me{day}_waltz.mp4"
        write_result(output, size=64, photo=photo, motion=motion, seed=seed, strip=True)
    page.get_by_role("tab", name="Gallery").click()
    search = "#gallery-search textarea, #gallery-search input"
    first, second = "20260201-090000_me1_waltz", "20260202-090000_me2_waltz"
    page.fill(search, "me1")
    wait_for_cards(page, first)
    page.press(search, "Control+a")
    page.press(search, "Control+x")  # cutting presses no key that Gradio tells of as input
    page.wait_for_selector(f"#gallery .ma-card[title='{second}']")
    page.press(search, "Control+v")
    wait_for_cards(page, first)
    page.fill(search, "waltz")
    wait_for_cards(page, second, first)
    page.click(f"#gallery .ma-card[title='{first}']")

    player = "document.querySelector('#gallery-result ma-player')"
    page.wait_for_function(f"{player}?.clips.length === 1 && {player}.lead.currentTime > 0.05")
    page.click("#gallery-result [data-view=motion]")
    page.wait_for_function(f"{player}.lead.readyState >= 3 && {player}.lead.videoWidth === 3 * 64 + 8")
    page.click("#gallery-result .ma-play")
    page.evaluate(f"{player}.goTo(3)")
    page.locator("#gallery-result .ma-stage").focus()
    page.keyboard.press(".")
    page.keyboard.press(".")
    page.keyboard.press(",")
    page.wait_for_function(f"{player}.readout.textContent === '5 / 8' && !{player}.lead.seeking")
    shows = f"""([part, colour, most]) => {{
        const canvas = {player}.canvas, at = [part * canvas.width, 0.9 * canvas.height, 1, 1];
        const seen = [...canvas.getContext("2d").getImageData(...at).data].slice(0, 3);
        return seen.every((value, i) => Math.abs(value - colour[i]) <= most);
    }}"""
    motion, fifth = [[0, 0, 200], 20], [[ground(4)] * 3, 4]  # colours, and how far off they may be
    page.wait_for_function(shows, arg=[0.25, *motion])
    page.wait_for_function(shows, arg=[0.75, *fifth])
    page.locator("#gallery-result .ma-divider").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(shows, arg=[0.75, *motion])
    stage = page.locator("#gallery-result .ma-frame")  # may still be on its way: the page scrolls to it
    stage.click(position={"x": 0.1 * stage.bounding_box()["width"], "y": 20})
    page.wait_for_function(shows, arg=[0.25, *fifth])

    page.click("#gallery-compare")
    page.wait_for_selector("text=Choose the result to compare it with")
    page.click(f"#gallery .ma-card[title='{second}']")
    page.wait_for_function(f"{player}?.clips.length === 2 && {player}.lead.currentTime > 0.05")
    page.click("#gallery-result .ma-play")
    page.evaluate(f"{player}.goTo(6)")
    times = f"{player}.playing.map(video => video.currentTime)"
    page.wait_for_function(f"{times}.every(time => Math.abs(time - 6.5 / 25) < 1e-3)")

    page.click("#gallery-compare")
    page.wait_for_function(f"{player}?.clips.length === 1")
    page.click("#gallery-delete")
    wait_for_cards(page, second)
    page.wait_for_selector("#gallery-result-downloads", state="hidden")
    page.click("#gallery-undo")
    wait_for_cards(page, second, first)
    page.wait_for_selector("#gallery-result-downloads [data-kind=gif]")
    with page.expect_download() as download:
        page.click("#gallery-result-downloads [data-kind=gif]")
    assert download.value.suggested_filename == f"{first}.gif"
    page.click("#gallery-result-again")
    page.wait_for_selector("#seed", state="visible")
    page.wait_for_function("document.querySelector('#seed input[type=number]').value === '41'")


@pytest.mark.slow
def test_stars_and_several_results_at_once(page, served, tmp_path):
    photo, motion = str(write_photo(tmp_path / "me.png")), str(write_motion(tmp_path / "polka.mp4", 3))
    first, second = "20260301-090000_me_polka", "20260302-090000_me_polka"
    for name in (first, second):
        write_result(served[1] / f"{name}.mp4", size=64, photo=photo, motion=motion, seed=3)
    page.get_by_role("tab", name="Gallery").click()
    page.fill("#gallery-search textarea, #gallery-search input", "polka")
    wait_for_cards(page, second, first)
    page.locator(f".ma-cell:has([title='{first}']) .ma-star").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f".ma-cell:has([title='{first}']) .ma-star[aria-pressed=true]")
    page.wait_for_function("document.activeElement.matches('.ma-star')")  # Enter again takes it away
    page.locator("#gallery-which").get_by_label("Starred").check(force=True)
    wait_for_cards(page, first)
    page.locator("#gallery-which").get_by_label("Results").check(force=True)
    wait_for_cards(page, second, first)
    for name in (first, second):
        page.click(f"#gallery .ma-card[title='{name}']", modifiers=["Control"])
        page.wait_for_selector(f".ma-cell:has([title='{name}']) .ma-select[aria-pressed=true]")
    assert "2 selected" in page.inner_text("#gallery .ma-selection")
    page.click("#gallery [data-act=delete]")
    page.wait_for_selector("#gallery .ma-empty")
    page.click("#gallery-undo")
    wait_for_cards(page, second, first)


def test_a_sound_tells_that_it_is_done_if_that_is_wanted(page):
    page.wait_for_selector("#motion video")
    set_steps(page, 60)
    page.click("#animate")
    page.click("#status [data-sound]")
    page.wait_for_selector("#status [data-sound][aria-pressed=true]")
    wait_for_status(page, "of video, 32 × 32")
    page.wait_for_function("document.body.dataset.chimed === '1'")


def test_a_photo_is_pasted_over_the_one_that_is_there(page):
    page.wait_for_selector("#photo img")
    page.evaluate(
        """async () => {
            const canvas = Object.assign(document.createElement("canvas"), { width: 40, height: 40 });
            canvas.getContext("2d").fillRect(0, 0, 20, 20);
            const picture = await new Promise((done) => canvas.toBlob(done));
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([picture], "pasted.png", { type: "image/png" }));
            document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
        }"""
    )
    page.wait_for_function("document.querySelector('#photo img')?.src.includes('pasted')")


@pytest.mark.parametrize("times", [1, 2])
def test_the_program_ends_at_once_with_a_page_open(browser, tiny_model, tmp_path, capfd, times):
    """It waited for networks that were being read, and a second Ctrl-C printed a traceback."""
    process, address = start(tmp_path / "results", tiny_model)
    page = browser.new_page()
    page.set_default_timeout(MILLISECONDS)
    try:
        page.goto(address)
        page.wait_for_selector("#animate")
        for _ in range(times):
            process.terminate()  # as Ctrl-C, which is ignored where tests run in the background of a shell
        status = process.wait(timeout=PATIENCE)
    finally:
        page.close()
        process.kill()
        process.wait()
    said = capfd.readouterr().err
    assert status in (0, 128 + signal.SIGTERM) and "Traceback" not in said, said
    assert "stopping; once more" in said


def test_the_page_speaks_other_languages(browser, tiny_model, tmp_path):
    words = ("--lang", "ja")
    with serving(tmp_path / "results", tiny_model, *words) as address, visit(browser, address) as page:
        assert page.inner_text("#animate") == "アニメーション作成"
        assert page.evaluate("document.documentElement.lang") == "ja"
        page.wait_for_selector("#photo img")
        wait_for_check(page, "動画 2.6秒")
        page.click("#photo button[aria-label='画像を削除']")  # which Gradio has in English only
        page.wait_for_selector("#photo img", state="detached")


@pytest.fixture
def loras(tiny_model) -> Iterator[Path]:
    """The folder of LoRAs, with one for the networks that are served and one for others."""
    from magicanimate import lora
    from magicanimate.pipeline import MagicAnimatePipeline
    from tests.test_lora import FOREIGN, UNET, kohya, write

    pipe = MagicAnimatePipeline.from_pretrained(tiny_model)
    layers = [layer for layer in UNET if layer in dict(pipe.unet.named_modules())]
    lora.folder().mkdir(parents=True)
    write(lora.folder() / "sketch.safetensors", kohya(pipe, layers))
    write(lora.folder() / "flux.safetensors", FOREIGN["Flux"])
    yield lora.folder()
    shutil.rmtree(lora.folder())


def test_loras_and_base_models_are_chosen_and_refused_by_name(page, served, loras, tmp_path):
    upload(page, write_photo(tmp_path / "sitter.png"), write_motion(tmp_path / "sway.mp4", 3))
    set_steps(page, 1)
    page.click("#lora input")
    page.get_by_role("option", name="sketch.safetensors").click()
    page.click("#animate")
    wait_for_status(page, "0.1 s of video, 32 × 32")
    (made,) = served[1].glob("*_sitter_sway.json")
    assert json.loads(made.read_text())["lora"] == [f"{loras / 'sketch.safetensors'}:1"]

    page.fill("#lora input", "flux:0.5")  # a weight is typed behind the name
    page.keyboard.press("Enter")
    page.click("#animate")
    page.wait_for_selector("#status .ma-error")
    assert status(page) == "flux.safetensors is a LoRA for Flux; give a LoRA for Stable Diffusion 1.5."

    page.get_by_role("tab", name="Models").click()
    page.fill("#model-folder input, #model-folder textarea", str(loras / "flux.safetensors"))
    page.click("#use-folder")
    page.wait_for_selector("#model-note .ma-error")
    assert page.inner_text("#model-note").startswith("flux.safetensors is a diffusion transformer such as ")


def wait_for_cards(page, *names: str) -> None:
    """Wait until the gallery shows these results with their thumbnails, and no others."""
    page.wait_for_function(
        """names => {
            const cards = [...document.querySelectorAll("#gallery .ma-card")];
            const shown = cards.map((card) => card.title);
            return shown.join() === names.join() && cards.every((card) => card.querySelector("img"));
        }""",
        arg=list(names),
    )


def clear_jobs(page) -> None:
    """Take what has ended off the list, one by one or all at once."""
    page.wait_for_selector("#jobs")
    if page.locator("#jobs [data-action=clear]").count():
        page.click("#jobs [data-action=clear]")
    else:
        page.click("#jobs summary")
        page.click("#jobs details [data-action=remove]")


@pytest.mark.parametrize("kind", ["png", "webp", "avif"])
def test_other_animated_pictures_are_clips_as_gifs_are(page, served, tmp_path, kind):
    if kind == "avif" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    frames = [Image.fromarray(frame) for frame in part_maps(5)]  # none like the one before
    exact = {"png": {}, "webp": {"lossless": True}, "avif": {"quality": 90}}[kind]
    clip = tmp_path / f"polka.{kind}"
    frames[0].save(clip, save_all=True, append_images=frames[1:], duration=40, **exact)
    clear(page)
    assert f".{kind}" in page.locator("#motion input[type=file]").get_attribute("accept")
    page.set_input_files("#photo input[type=file]", write_photo(tmp_path / f"{kind}.png"))
    page.set_input_files("#motion input[type=file]", clip)
    page.wait_for_function("document.querySelector('#motion video')?.src.includes('polka')")
    set_steps(page, 1)
    page.click("#animate")
    wait_for_status(page, "0.2 s of video, 32 × 32")
    (made,) = served[1].glob(f"*_{kind}_polka.mp4")
    with av.open(str(made)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
