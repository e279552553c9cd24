"""What bad visitors try, in a headless Chromium; the program runs as a process of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.browser_page import MILLISECONDS, serving, set_steps, visit, wait_for_check, wait_for_status
from tests.conftest import PATIENCE, ROOT
from tests.hostile_files import ELF, HTML, SVG, gif_of
from tests.inputs import write_motion, write_photo

pytestmark = pytest.mark.browser

# What the page's own script does to upload a file; returns where the server put it.
_UPLOAD = """async ([name, type, text]) => {
    const form = new FormData();
    form.append("files", new File([text], name, { type }));
    const reply = await fetch("gradio_api/upload", { method: "POST", body: form });
    return (await reply.json())[0];
}"""
_FETCH = """async (path) => {
    const reply = await fetch(path);
    return [reply.status, await reply.text()];
}"""


@dataclass(frozen=True)
class Served:
    """A running program: its address, and the folder with its results and everything else that it writes."""

    address: str
    home: Path

    @property
    def results(self) -> Path:
        return self.home / "results"

    @property
    def jobs(self) -> set[Path]:
        return set((self.results / ".jobs").glob("*.json"))


@contextmanager
def _served(home: Path, model: Path, *words: str) -> Iterator[Served]:
    (home / "tmp").mkdir()
    with serving(home / "results", model, *words, TMPDIR=str(home / "tmp")) as address:
        yield Served(address, home)


@pytest.fixture(scope="module")
def served(browser, tiny_model, tmp_path_factory) -> Iterator[Served]:
    with _served(tmp_path_factory.mktemp("home"), tiny_model) as served:
        yield served


@pytest.fixture
def page(browser, served):
    with visit(browser, served.address) as page:
        page.wait_for_selector("#photo img")
        page.wait_for_selector("#motion video")
        yield page


def take_out(page, which: str) -> None:
    """Take out the photo or the clip."""
    label = {"photo": "Remove Image", "motion": "Clear"}[which]
    page.click(f"#{which} button[aria-label='{label}']")
    page.wait_for_selector(f"#{which} input[type=file]", state="attached")


def put_in(page, which: str, name: str, kind: str, content: bytes) -> None:
    """Put in a file that says to be of a kind, and wait until the page has got it."""
    choose(page, which, name, kind, content)
    element = {"photo": "img", "motion": "video"}[which]
    page.wait_for_function(
        """([element, name]) => {
            const src = document.querySelector(element)?.src ?? "";
            return src.endsWith(name) || src.startsWith("data:image/svg+xml");
        }""",
        arg=[f"#{which} {element}", name.rsplit("/", 1)[-1]],
    )


def choose(page, which: str, name: str, kind: str, content: bytes) -> None:
    file = {"name": name, "mimeType": kind, "buffer": content}
    page.set_input_files(f"#{which} input[type=file]", file)


def put_in_proper_files(page, tmp_path: Path, name: str) -> None:
    """A photo of that name, and a clip of five frames."""
    for which in ("photo", "motion"):
        if page.locator(f"#{which} input[type=file]").count() == 0:
            take_out(page, which)
    put_in(page, "photo", f"{name}.png", "image/png", write_photo(tmp_path / "photo.png").read_bytes())
    put_in(page, "motion", "dance.mp4", "video/mp4", write_motion(tmp_path / "motion.mp4", 5).read_bytes())


def animate(page, tmp_path: Path) -> None:
    """The page works: it makes a video of proper files."""
    put_in_proper_files(page, tmp_path, "me")
    set_steps(page, 1)
    page.click("#animate")
    wait_for_status(page, "0.2 s of video, 32 × 32")


def test_files_of_the_computer_are_not_to_be_had(browser, served):
    (served.home / "secret.txt").write_text("the secret")
    (served.results / ".jobs" / "inputs").mkdir(exist_ok=True)
    (served.results / ".jobs" / "inputs" / "me.txt").write_text("the secret")
    with visit(browser, served.address, complaints=True) as page:
        upload = Path(page.evaluate(_UPLOAD, ["a.txt", "text/plain", "mine"]))
        assert page.evaluate(_FETCH, f"gradio_api/file={upload}") == [200, "mine"]
        for path in (
            f"{served.home}/secret.txt",
            f"{served.results}/../secret.txt",  # the browser itself works out the dots of these two
            f"{served.results}/%2e%2e/secret.txt",
            f"{served.results}/..%2fsecret.txt",
            f"{served.results}/.%2e%2f.%2e%5csecret.txt",
            f"{upload.parent}/..%2f..%2f..%2fsecret.txt",
            f"file:%2f%2f{served.home}/secret.txt",
            f"{served.results}/.jobs/inputs/me.txt",
            f"{served.results}/.JOBS/inputs/me.txt",
            f"{served.results}/x/..%2f.jobs/inputs/me.txt",
            f"{served.results}/.jobs/lock",
            f"{ROOT}/app.py",
            "app.py",
            "..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
            "/etc/passwd",
            "%2fetc%2fpasswd",
        ):
            code, text = page.evaluate(_FETCH, f"gradio_api/file={path}")
            assert code in (403, 404), path
            for content in ("the secret", "root:", "build_parser"):
                assert content not in text, path


def test_an_upload_lands_where_uploads_do(page, served, tmp_path):
    before = set(served.home.parent.rglob("*evil*"))  # other tests have such names, too
    take_out(page, "photo")
    put_in(page, "photo", "../../evil.png", "image/png", write_photo(tmp_path / "me.png").read_bytes())
    names = ("../../../evil.txt", "..\\..\\evil.txt", f"{served.home}/evil.txt", "%2e%2e/%2e%2e/evil.txt")
    for name in names:
        page.evaluate(_UPLOAD, [name, "text/plain", name])
    landed = {path for path in served.home.parent.rglob("*evil*") if path.is_file()} - before
    assert len(landed) == 5
    for path in landed:
        scratch, _, _ = path.relative_to(served.home / "tmp").parts
        assert scratch.startswith("magicanimate-"), path
    assert not [*ROOT.glob("*evil*"), *ROOT.parent.glob("*evil*"), *Path("/").glob("*evil*")]


def test_what_is_no_photo_is_refused_by_name(page, served, tmp_path):
    take_out(page, "photo")
    choose(page, "photo", "page.html", "text/html", HTML)
    page.get_by_text("Invalid file type: page.html.").wait_for()  # the page itself turns other kinds away
    for name, kind, content, said in (
        ("me.png", "image/png", ELF, "is not a picture that can be read"),
        ("page.jpg", "image/jpeg", HTML, "holds text, not a picture"),
        ("drawing.svg", "image/svg+xml", SVG, "holds text, not a picture"),
        ("page.html", "image/png", HTML, "holds text, not a picture"),  # but a visitor can say any kind
    ):
        put_in(page, "photo", name, kind, content)
        page.click("#animate")
        wait_for_check(page, f"The photo {name} {said}")
        take_out(page, "photo")
    animate(page, tmp_path)


def test_what_is_no_clip_is_refused_by_name(page, tmp_path):
    take_out(page, "motion")
    for name, kind, content in (
        ("page.html", "text/html", HTML),
        ("drawing.svg", "image/svg+xml", SVG),
    ):
        choose(page, "motion", name, kind, content)
        page.get_by_text(f"Invalid file type: {name}.").wait_for()
    for name, content, said in (
        ("dance.mp4", ELF, "is not a video that can be read"),
        ("page.mp4", HTML, "holds text, not a video"),
        ("drawing.svg", SVG, "holds text, not a video"),
        ("wide.gif", gif_of(16000, 16000, 3), "16000x16000 pixels and the limit is"),
        ("bomb.gif", gif_of(4000, 4000, 15000), "unpacks to 15000 frames of 16.0 million pixels"),
        ("long.mp4", gif_of(64, 64, 30000), "the limit is 20000"),
    ):
        put_in(page, "motion", name, "video/mp4", content)
        page.wait_for_selector(f"#motion-line:has-text('{said}')")
        assert f"The dance video {name} " in page.inner_text("#motion-line")
        page.click("#animate")
        wait_for_check(page, f"The dance video {name} ")
        take_out(page, "motion")
    animate(page, tmp_path)


def test_what_was_uploaded_runs_no_script(browser, served):
    ran = []
    with visit(browser, served.address, complaints=True) as page, foreign_site({"/": HTML}) as site:
        page.wait_for_selector("#photo img")
        page.wait_for_selector("#motion video")
        page.context.on("request", lambda request: ran.append(request.url) if "/ran" in request.url else None)

        def opened(address: str) -> bool:
            """Open an address in a page of its own; whether it was saved instead of shown."""
            other = page.context.new_page()
            try:
                other.goto(address, wait_until="load")
            except page_error() as error:
                assert "Download is starting" in str(error)
                return True
            else:
                assert other.evaluate("window.ran") is (True if address == site else None)
                return False
            finally:
                other.close()

        assert not opened(site)  # the script does run where nobody holds it back
        assert ran.pop() and not ran
        for name, kind, content, is_saved in (
            ("page.html", "text/html", HTML, True),
            ("drawing.svg", "image/svg+xml", SVG, True),
            ("page.xhtml", "application/xhtml+xml", SVG, True),
            ("page.xml", "text/xml", SVG, True),
            ("page", "text/html", HTML, True),
            ("page.png", "image/png", HTML, False),
            ("page.mp4", "video/mp4", HTML, False),
            ("page.json", "text/html", HTML, False),
            ("page.txt", "text/html", HTML, None),
        ):
            path = page.evaluate(_UPLOAD, [name, kind, content.decode()])
            saved = opened(f"{served.address}/gradio_api/file={path}")
            assert is_saved is None or saved is is_saved, name
        assert ran == []
        photo, clip = (page.locator(what).get_attribute("src") for what in ("#photo img", "#motion video"))
        other = page.context.new_page()
        other.set_default_timeout(MILLISECONDS)
        other.goto(photo)
        other.wait_for_function("document.querySelector('img')?.naturalWidth > 0")
        other.goto(clip)  # pictures and videos, though, are shown
        other.wait_for_function("document.querySelector('video')?.readyState >= 2")


def page_error() -> type[Exception]:
    from playwright.sync_api import Error

    return Error


@contextmanager
def foreign_site(pages: dict[str, bytes]) -> Iterator[str]:
    """Address of another web site on this computer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(pages.get(self.path, b""))

        def log_message(self, *_) -> None:
            """Nobody wants to know."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


_ATTACK = """async ([api, text]) => {
    const form = new FormData();
    form.append("files", new File(["x"], "a.txt"));
    const ask = (path, how) => fetch(api + path, how).then((reply) => reply.status, () => "refused");
    const told = [];
    for (const mode of ["cors", "no-cors"])
        for (const credentials of ["omit", "include"]) {
            const how = { method: "POST", mode, credentials };
            told.push(await ask("/call/animate", { ...how, body: text }));
            told.push(await ask("/call/animate", { ...how, body: new Blob([text], { type: "text/plain" }) }));
            told.push(await ask("/upload", { ...how, body: form }));
            told.push(await ask("/info", { mode, credentials }));
        }
    const json = { method: "POST", headers: { "Content-Type": "application/json" }, body: text };
    told.push(await ask("/call/animate", json));
    return told;
}"""


def test_a_foreign_page_starts_nothing_and_shows_nothing(browser, served, page, tmp_path):
    """It knows more than it could: where the files lie that the visitor has uploaded."""
    photo, motion = (
        page.evaluate("which => new URL(document.querySelector(which).src).pathname.split('file=')[1]", which)
        for which in ("#photo img", "#motion video")
    )
    files = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in (photo, motion)]
    before = served.jobs
    answers = []
    with foreign_site({}) as site:
        foreign = page.context.new_page()
        foreign.set_default_timeout(MILLISECONDS)
        foreign.on(
            "response",
            lambda reply: answers.append(reply) if reply.url.startswith(served.address) else None,
        )
        foreign.goto(site)
        text = foreign.evaluate("JSON.stringify", {"data": [*files, {"num_inference_steps": 1}]})
        told = foreign.evaluate(_ATTACK, [f"{served.address}/gradio_api", text])
        assert set(told) <= {403, 0, "refused"}  # 0: the page is not told

        # A form that makes JSON of its only field, as text.
        head, tail = text.rstrip("}").rsplit("{", 1)
        fields = {"name": head + '{"note":"', "value": '",' + tail + "}}"}
        for path in ("/gradio_api/call/animate", "/gradio_api/queue/join", "/gradio_api/upload", "/login"):
            with foreign.expect_response(served.address + path) as reply:
                foreign.evaluate(
                    """([action, name, value]) => {
                        const form = document.createElement("form");
                        Object.assign(form, { action, method: "post", enctype: "text/plain" });
                        form.append(Object.assign(document.createElement("textarea"), { name, value }));
                        document.body.append(form);
                        form.submit();
                    }""",
                    [served.address + path, fields["name"], fields["value"]],
                )
            assert reply.value.status == 403
            foreign.wait_for_selector("text=may not use this program")
            foreign.goto(site)

        # The photo is in the browser's memory already, and still not shown to others.
        photo_address = f"{served.address}/gradio_api/file={photo}"
        for element, source in (
            ("img", photo_address),
            ("script", served.address),
            ("iframe", served.address),
        ):
            outcome = foreign.evaluate(
                """([element, src]) => new Promise((resolve) => {
                    const made = Object.assign(document.createElement(element), { src });
                    made.onload = () => resolve("loaded");
                    made.onerror = () => resolve("refused");
                    document.body.append(made);
                })""",
                [element, source],
            )
            assert outcome == ("loaded" if element == "iframe" else "refused"), element  # loads what refuses
        assert all(frame.locator("#animate").count() == 0 for frame in foreign.frames)
        assert {answer.status for answer in answers if answer.url != photo_address} == {403}

        foreign.evaluate(
            """href => document.body.append(
                Object.assign(document.createElement("a"), { href, id: "link", text: "go" }))""",
            served.address,
        )
        foreign.click("#link")  # a link is fine
        foreign.wait_for_selector("#animate")
    assert served.jobs == before
    animate(page, tmp_path)
    deadline = time.monotonic() + PATIENCE
    while not served.jobs - before and time.monotonic() < deadline:
        page.wait_for_timeout(100)  # the status may still be that of an earlier animation
    assert len(served.jobs - before) == 1


def test_two_visitors_at_once_see_their_own(browser, tiny_model, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    accounts = tmp_path / "accounts"
    accounts.write_text("anna:one\nben:two\n")
    with _served(home, tiny_model, "--auth", str(accounts)) as served:
        pages = {name: browser.new_context().new_page() for name in ("anna", "ben")}
        for (name, page), password in zip(pages.items(), ("one", "two"), strict=True):
            page.set_default_timeout(MILLISECONDS)
            page.goto(served.address)
            page.get_by_label("username").fill(name)
            page.get_by_label("password").fill(password)
            page.get_by_role("button", name="Login").click()
            page.wait_for_selector("#photo img")
            page.wait_for_selector("#motion video")
            put_in_proper_files(page, tmp_path, name)
            set_steps(page, 1)
        for page in pages.values():
            page.click("#animate")
        sources = {}
        for name, page in pages.items():
            wait_for_status(page, "0.2 s of video, 32 × 32")
            page.wait_for_selector("#result ma-player")
            lead = "document.querySelector('#result ma-player').lead"
            page.wait_for_function(f"{lead}?.readyState >= 3")
            sources[name] = page.evaluate(f"{lead}.src")
            assert f"_{name}_dance.mp4?key=" in sources[name]
            (job,) = page.locator("#jobs .ma-job b").all_text_contents()  # what has ended is folded
            assert job.startswith(f"{name} · dance")
            page.get_by_role("tab", name="Gallery").click()
            page.wait_for_function("document.querySelectorAll('#gallery .ma-card img').length === 1")
            page.wait_for_function("document.querySelector('#gallery .ma-card img').naturalWidth > 0")
            assert f"_{name}_dance" in page.locator("#gallery .ma-card").get_attribute("title")
        for name, page in pages.items():
            for other in sources.values():
                assert page.evaluate(_FETCH, other.split("?")[0])[0] == 403
            page.locator("#gallery .ma-card").click()
            page.wait_for_selector("#gallery-result-downloads [data-kind=gif]")
            with page.expect_download() as download:
                page.click("#gallery-result-downloads [data-kind=gif]")
            assert download.value.suggested_filename.endswith(f"_{name}_dance.gif")
            assert Path(download.value.path()).read_bytes()[:6] == b"GIF89a"
            page.context.close()
