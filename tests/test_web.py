"""Who may talk to the page, and what goes out of it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import gradio as gr
import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from magicanimate.errors import InputError
from magicanimate.webui.page import GuardedBlocks, report
from magicanimate.webui.security import (
    Access,
    Guard,
    Login,
    LoginDelays,
    caller,
    exposure_warnings,
    is_key_of,
    is_loopback,
    key_of,
    parse_accounts,
)

OWN = {"host": "127.0.0.1:7860"}


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost:9000", "[::1]:7860", "192.168.1.5:7860", "my.site", "LOCALHOST"]
)
def test_own_names_are_answered(host):
    access = Access("127.0.0.1", origins=["https://my.site"])
    assert access.refusal("GET", {"host": host}) == ""
    assert access.refusal("POST", {"host": host, "origin": f"http://{host}"}) == ""


@pytest.mark.parametrize(
    "host", ["evil.example:7860", "", "127.0.0.1.evil.example", "[::1", "a@evil.example"]
)
def test_a_foreign_name_is_not_answered(host):
    """As when its owner lets the name point to this computer, so that his page counts as ours."""
    assert "does not answer" in Access("127.0.0.1").refusal("GET", {"host": host, "origin": f"http://{host}"})


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:7861", "file://"]
)
def test_a_foreign_page_may_not_send(origin):
    assert "may not use this program" in Access("127.0.0.1").refusal("POST", {**OWN, "origin": origin})


def test_a_page_that_was_named_may_send():
    access = Access("127.0.0.1", origins=["https://Good.example/"])
    assert access.refusal("POST", {**OWN, "origin": "https://good.example"}) == ""
    assert access.refusal("POST", {**OWN, "origin": "http://good.example"})
    for wrong in ("good.example", "ftp://good.example", "https://good.example/page", ""):
        with pytest.raises(InputError, match="not the origin of a site"):
            Access("127.0.0.1", origins=[wrong])


def test_a_foreign_page_may_link_here_but_not_embed():
    def asked(method="GET", **fetch):
        headers = {f"sec-fetch-{name}": value for name, value in fetch.items()}
        return Access("127.0.0.1").refusal(method, OWN | headers)

    assert asked(site="same-origin", mode="cors", dest="empty") == ""
    assert asked(site="none", mode="navigate", dest="document") == ""
    assert asked(site="cross-site", mode="navigate", dest="document") == ""
    for site in ("cross-site", "same-site"):
        assert "Another site" in asked(site=site, mode="no-cors", dest="image")
        assert "Another site" in asked(site=site, mode="navigate", dest="iframe")
        assert "Another site" in asked("POST", site=site, mode="navigate", dest="document")


def test_what_others_can_reach_is_said():
    assert exposure_warnings("127.0.0.1", share=False, accounts=False) == []
    assert exposure_warnings("::1", share=False, accounts=False) == []
    assert is_loopback("localhost") and not is_loopback("example.org")
    (network, password) = exposure_warnings("0.0.0.0", share=False, accounts=False)
    assert "everybody in the network" in network and "NOBODY IS ASKED" in password
    (link,) = exposure_warnings("127.0.0.1", share=True, accounts=True)
    assert "everybody who has the link" in link


def test_accounts_are_read(tmp_path):
    assert parse_accounts("me:pass:word") == [("me", "pass:word")]
    file = tmp_path / "accounts"
    file.write_text("me:one\n\nyou:two\n")
    assert parse_accounts(str(file)) == [("me", "one"), ("you", "two")]
    for wrong in ("secret", ":secret", "me:"):
        with pytest.raises(InputError) as error:
            parse_accounts(wrong)
        assert "secret" not in str(error.value)
    file.write_text("")
    with pytest.raises(InputError, match=r"in .*accounts is no account"):
        parse_accounts(str(file))


def answer(path: str, *, open_folders: list[Path] | None = None, **headers: str) -> httpx.Response:
    """What a guarded server says that would serve anything."""

    async def file(request):
        kind = request.query_params.get("kind", "text/html")
        return Response("<script>", media_type=kind, headers={"Content-Disposition": "inline; filename=a"})

    app = Starlette(
        routes=[
            Route("/", lambda request: PlainTextResponse("page")),
            Route("/gradio_api/{path:path}", file),
            Route("/assets/{path:path}", file),
        ]
    )
    access = Access("127.0.0.1", origins=["https://good.example"])
    guarded = Guard(app, access=access, open_folders=open_folders)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(guarded)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize("path", ["/logout", "/logout/", "/gradio_api/logout"])
def test_only_the_page_itself_logs_out(path):
    linked = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    for site in ("cross-site", "same-site"):
        reply = answer(path, **{"sec-fetch-site": site}, **linked)
        assert (reply.status_code, reply.text) == (403, "Logging out is up to the page itself.")
    for site in ("same-origin", "none"):
        assert answer(path, **{"sec-fetch-site": site}, **linked).status_code != 403
    assert answer(path).status_code != 403  # programs say nothing of sites


def test_the_page_may_not_be_framed_by_others():
    reply = answer("/")
    assert reply.text == "page"
    assert reply.headers["content-security-policy"] == "frame-ancestors 'self' https://good.example"
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_scripts_named_by_their_content_are_asked_for_once():
    """A page is a hundred small files of Gradio's; on the second visit none is asked for."""
    kept = "public, max-age=31536000, immutable"
    assert answer("/assets/Index-DrCM5gzc.css").headers["cache-control"] == kept
    for path in ("/", "/gradio_api/file=/x/assets/a-DrCM5gzc.js?kind=text/html", "/assets/plain.js"):
        assert answer(path).headers.get("cache-control") != kept


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "application/pdf", "application/xhtml+xml"])
def test_files_that_may_hold_programs_are_only_saved(kind):
    reply = answer(f"/gradio_api/file=/x/a?kind={kind}")
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"] == "attachment; filename=a"
    assert "sandbox" in reply.headers["content-security-policy"]


def test_videos_and_pictures_are_shown():
    for kind in ("video/mp4", "image/png", "image/webp", "application/json"):
        reply = answer(f"/gradio_api/file=/x/a?kind={kind}")
        assert (reply.headers["content-type"], reply.headers["content-disposition"][:6]) == (kind, "inline")
        assert "script-src 'none'" in reply.headers["content-security-policy"]


def test_refusals_are_plain_sentences(caplog):
    for _ in range(3):
        reply = answer("/", Origin="https://evil.example")
        assert reply.status_code == 403 and reply.headers["content-type"].startswith("text/plain")
        assert "'https://evil.example' may not use this program" in reply.text
    assert answer("/", Host="evil.example").status_code == 403


def test_routes_that_the_page_does_not_need_are_closed():
    for path in (
        "file=https://evil.example/a.png",
        "file=HTTP://10.0.0.1/",
        "file/http://a",
        "proxy=https://a",
    ):
        assert answer(f"/gradio_api/{path}").status_code == 403, path
    assert answer("/gradio_api/process_recording").status_code == 403


def test_an_error_has_a_number_that_the_log_knows(caplog):
    try:
        raise RuntimeError("the inside of things")
    except RuntimeError as error:
        with caplog.at_level(logging.ERROR):
            sentence = report(error)
    (record,) = caplog.records
    number = record.message.split()[-1]
    assert number in sentence and "inside" not in sentence
    assert record.exc_info[1].args == ("the inside of things",)


def test_what_is_cut_off_by_the_end_of_the_program_prints_no_traceback(monkeypatch):
    async def cancelled(*_, **__):
        raise asyncio.CancelledError

    monkeypatch.setattr(gr.Blocks, "process_api", cancelled)
    with GuardedBlocks() as blocks, pytest.raises(gr.Error) as told:
        asyncio.run(blocks.process_api(None, []))
    assert told.value.print_exception is False


def test_files_outside_the_open_folders_need_their_key(tmp_path):
    open_folder, results = tmp_path / "uploads", tmp_path / "results"
    for folder in (open_folder, results):
        folder.mkdir()
    (open_folder / "link").symlink_to(results)
    mine = results / "é.mp4"

    def status(path: Path | str) -> int:
        return answer(f"/gradio_api/file={path}", open_folders=[open_folder]).status_code

    key = key_of(str(mine))
    assert status(open_folder / "a.png") == 200
    assert status(f"{mine}?key={key}") == status(f"{mine}?a=b&key={key}") == 200
    for path in (
        mine,
        f"{results / 'other.mp4'}?key={key}",
        f"{mine}?key={key[:-1]}",
        f"{open_folder}/%2e%2e/results/a",
        f"{open_folder}/link/a",
        f"{open_folder}s/a",
        f"{open_folder}/a%00",
        "",
    ):
        assert status(path) == 403, path
    assert is_key_of(key, str(mine)) and not is_key_of("", str(mine)) and not is_key_of("é", str(mine))


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_delays_grow_up_to_a_limit_and_are_forgotten():
    clock = Clock()
    delays = LoginDelays(clock)
    assert [delays.begin("me", "a") for _ in range(8)] == [0, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]
    assert delays.begin("me", "b") == 5 and delays.begin("you", "a") == 5 and delays.begin("you", "c") == 0.2
    for _ in range(5000):
        delays.begin("me", "a")
    assert delays.begin("me", "d") == 5  # nobody is locked out
    delays.forget("me", "d")
    assert delays.begin("me", "d") == 0 and delays.begin("her", "a") == 5
    clock.now = 600
    assert delays.begin("her", "a") == 5
    clock.now = 1201
    assert delays.begin("her", "a") == 0


def test_attempts_at_once_do_not_all_count_as_the_first():
    delays = LoginDelays(Clock())
    begun = [delays.begin("me", f"{i}") for i in range(100)]  # none has ended yet
    assert begun[:3] == [0, 0.2, 0.4] and begun[10:] == [5] * 90


def test_whoever_tries_many_names_fills_no_memory():
    delays = LoginDelays(Clock())
    for i in range(20_000):
        delays.begin(f"{i}" * 1000, "a")
    assert len(delays) == 10_000
    assert delays.begin("new", "a") == 5  # who did it is still known


class Attempts:
    """Attempts to log in, which wait until they are let go on."""

    def __init__(self):
        self.go_on, self.waiting = asyncio.Event(), []
        self.login = Login([("me", "secret"), ("you", "other")], delays=LoginDelays(Clock()), wait=self._wait)

    async def _wait(self, seconds: float) -> None:
        self.waiting.append(seconds)
        await self.go_on.wait()

    async def _attempt(self, name: str, password: str, address: str) -> bool:
        caller.set(address)
        return await self.login.admits(name, password)

    async def begin(self, *attempts: tuple[str, str, str]) -> list[asyncio.Task]:
        """Begin attempts (name, password, address) until each waits or has its answer."""
        tasks = [asyncio.create_task(self._attempt(*attempt)) for attempt in attempts]
        for _ in range(3):
            await asyncio.sleep(0)  # each gets its turn
        return tasks


def answers(tasks: list[asyncio.Task]) -> list[bool]:
    return [task.result() for task in tasks if task.done()]


@pytest.mark.parametrize(
    ("many", "places"),
    [
        ([("me", "secret", f"{i}") for i in range(5000)], 20),  # an account from many addresses
        ([(f"{i}", "guess", "a") for i in range(5000)], 3),  # many accounts from an address
    ],
)
def test_of_many_attempts_at_once_only_a_few_are_looked_at(many, places):
    async def run() -> None:
        attempts = Attempts()
        tasks = await attempts.begin(*many)
        assert answers(tasks) == [False] * (5000 - places) and len(attempts.waiting) == places
        (elsewhere,) = await attempts.begin(("you", "other", "b"))
        assert not elsewhere.done()  # neither of that account nor of that address
        attempts.go_on.set()
        looked_at = await asyncio.gather(*tasks[:places], elsewhere)
        assert looked_at == [password == "secret" for _, password, _ in many[:places]] + [True]
        again = await attempts.begin(*many[-places:])  # the places are free again
        assert await asyncio.gather(*again) == looked_at[:places]
        assert len(attempts.login.places) == 0

    asyncio.run(run())


def test_an_attempt_that_is_broken_off_leaves_its_place():
    async def run() -> None:
        attempts = Attempts()
        tasks = await attempts.begin(*[("me", "guess", "a")] * 3)
        assert answers(await attempts.begin(("me", "secret", "a"))) == [False]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(attempts.login.places) == 0
        attempts.go_on.set()
        (last,) = await attempts.begin(("me", "secret", "a"))
        assert await last

    asyncio.run(run())


def test_refused_attempts_do_not_make_the_next_one_wait_longer():
    async def run() -> None:
        attempts = Attempts()
        await attempts.begin(*[("me", "guess", "a")] * 100)
        attempts.go_on.set()
        await attempts.begin(("me", "guess", "b"))
        assert attempts.waiting == [0, 0.2, 0.4, 0.8]

    asyncio.run(run())
