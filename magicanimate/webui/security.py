"""What stands between the network and the page: accounts, who may talk to it, and what is answered."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import re
import secrets
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from magicanimate.errors import InputError
from magicanimate.webui.scratch import Scratch

caller: ContextVar[str] = ContextVar("caller", default="")
"""Address of the current request's sender, set by the guard."""

_FIRST, _LONGEST = 0.2, 5.0  # seconds to wait after one failure; it doubles with each, up to the longest
_FORGOTTEN_AFTER = 600.0  # seconds
_MOST_KEPT = 10_000  # accounts and addresses; beyond that the oldest are forgotten
_LONGEST_NAME = 100  # characters of a name that are kept
_MOST_WAITING = {"account": 20, "address": 3}  # attempts at the same time


class LoginDelays:
    """Counts failures by account and by address, so that neither many addresses nor many names help.

    An attempt never waits longer than five seconds, whatever others do.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()  # count, last one

    def begin(self, name: str, address: str) -> float:
        """Seconds that an attempt has to wait; it counts as a failure until `forget` takes that back."""
        # Counted now and not when it fails, or many attempts at once would all count as the first.
        now = self._clock()
        most = 0
        for key in _keys(name, address):
            count, last = self._failures.pop(key, (0, now))
            if now - last > _FORGOTTEN_AFTER:
                count = 0
            most = max(most, count)
            self._failures[key] = (count + 1, now)  # at the end: the newest
        while len(self._failures) > _MOST_KEPT:
            self._failures.popitem(last=False)
        return min(_LONGEST, _FIRST * 2 ** min(most - 1, 16)) if most else 0.0

    def forget(self, name: str, address: str) -> None:
        """Somebody logged in."""
        for key in _keys(name, address):
            self._failures.pop(key, None)

    def __len__(self) -> int:
        return len(self._failures)


def _keys(name: str, address: str) -> tuple[tuple[str, str], ...]:
    return ("account", name[:_LONGEST_NAME]), ("address", address)


class WaitingPlaces:
    """Limits attempts at the same time to 3 of an address and 20 for an account."""

    def __init__(self) -> None:
        self._taken: Counter[tuple[str, str]] = Counter()

    @contextlib.contextmanager
    def taking(self, name: str, address: str) -> Iterator[bool]:
        """Take a place as long as the context lasts; yields whether there was one."""
        keys = _keys(name, address)
        if any(self._taken[kind, of] >= _MOST_WAITING[kind] for kind, of in keys):
            yield False
            return
        self._taken.update(keys)
        try:
            yield True
        finally:
            for key in keys:
                self._taken[key] -= 1
                if not self._taken[key]:  # or every name that was ever tried would stay in memory
                    del self._taken[key]

    def __len__(self) -> int:
        """Accounts and addresses that places are taken for."""
        return len(self._taken)


class Login:
    """The accounts of a page.

    After some wrong guesses at an account each one takes five seconds, and 20 run at a time: about four a
    second at most, from however many addresses. The price: while somebody occupies all places of an account
    or address, others are refused there too, even with the right password, until five seconds after that
    ends. Visitors behind a proxy or public link count as one address.

    Args:
        accounts: names and passwords.
        delays: how long attempts wait.
        wait: sleeps without blocking a thread.
    """

    def __init__(
        self,
        accounts: Iterable[tuple[str, str]],
        *,
        delays: LoginDelays | None = None,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        self._passwords = dict(accounts)
        self._delays = LoginDelays() if delays is None else delays
        self._wait = wait
        self.places = WaitingPlaces()

    async def admits(self, name: str, password: str) -> bool:
        """Whether it is the password of the account, after the delay that is due.

        Refused at once, unchecked, if too many attempts of the address or for the account are under way.
        """
        address = caller.get()
        with self.places.taking(name, address) as free:
            if not free:
                return False
            await self._wait(self._delays.begin(name, address))
        known = self._passwords.get(name)
        right = hmac.compare_digest(password.encode(), (known or "").encode()) and known is not None
        if right:
            self._delays.forget(name, address)
        return right


class Access:
    """Tells requests of the program's own page, and of API clients, from those of foreign web pages.

    Any page in the visitor's browser can send requests to this computer, so the sender's address proves
    nothing. What a page cannot forge are the headers ``Host``, ``Origin`` and ``Sec-Fetch-*``:

    - ``Host`` must be a numeric address, this computer's name, or an allowed name. Any other name means that
      its owner pointed it at this computer (DNS rebinding).
    - ``Origin``, if present, must be the page's own or an allowed one.
    - Without it, ``Sec-Fetch-Site`` of a browser must say that the request is the page's own; opening the
      page by a link elsewhere is fine.

    API clients send neither of the last two and are let in.

    Args:
        host: the address that the server listens on.
        origins: other sites that may use the page, such as ``https://example.org``.

    Raises:
        InputError: an origin is not of that form.
    """

    def __init__(self, host: str, *, origins: Iterable[str] = ()):
        machine = socket.gethostname().lower()
        self._names = {"localhost", host.lower(), machine, f"{machine.split('.')[0]}.local"}
        self._origins: set[str] = set()
        for origin in origins:
            self.allow(origin)

    @property
    def origins(self) -> tuple[str, ...]:
        """The other sites that may use the page."""
        return tuple(sorted(self._origins))

    def allow(self, origin: str) -> None:
        """Let in another site, or this page under another name.

        Raises:
            InputError: it is not of the form ``https://example.org``.
        """
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise InputError(
                f"{origin!r} is not the origin of a site; write for example https://example.org."
            )
        self._origins.add(f"{parts.scheme}://{parts.netloc}".lower())
        self._names.add(parts.hostname)

    def refusal(self, method: str, headers: Mapping[str, str]) -> str:
        """A sentence on why a request is refused; empty if it is let in.

        Args:
            method: of HTTP.
            headers: by names in lower case.
        """
        host, origin = headers.get("host", "").lower(), headers.get("origin", "").lower()
        if not self._is_own(host):
            return (
                f"This program does not answer to the name {_short(host)}; open the address it printed, "
                "or start it with --allow-origin and the address with that name."
            )
        if origin:
            if origin in self._origins or urlsplit(origin).netloc == host:
                return ""
            return (
                f"The site {_short(origin)} may not use this program; "
                "if it should, start the program with --allow-origin and its address."
            )
        site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "")
        opened = method == "GET" and mode == "navigate" and headers.get("sec-fetch-dest") == "document"
        if site in ("same-origin", "none") or opened:
            return ""
        return "Another site may not load parts of this program; open the program itself."

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)  # numbers need no DNS, which an attacker could control
        except ValueError:
            return False
        return True


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_accounts(text: str) -> list[tuple[str, str]]:
    """``NAME:PASSWORD``, or the name of a file with such lines, as pairs.

    Raises:
        InputError: it is neither.
    """
    file = Path(os.path.expanduser(text))
    lines = [text]
    if os.path.isfile(file):  # unlike Path.is_file, false for text that is too long for a file name
        try:
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The file of accounts {file} cannot be read; check it.") from error
    accounts = [line.strip().partition(":")[::2] for line in lines]
    if not accounts or not all(name and password for name, password in accounts):
        where = (
            f"in {file}" if os.path.isfile(file) else "after --auth"
        )  # the text is not shown: it may be a password
        raise InputError(f"What is {where} is no account; write NAME:PASSWORD, or a file with such lines.")
    return accounts


def exposure_warnings(host: str, *, share: bool, accounts: bool) -> list[str]:
    """Sentences that warn of an address that others can reach."""
    found = []
    if share:
        found.append(
            "--share: everybody who has the link can use this program and its results; "
            "all of it passes through Gradio's servers."
        )
    if not is_loopback(host):
        found.append(
            f"--host {host}: everybody in the network can reach this program, and reads along, "
            "since the connection is not encrypted."
        )
    if found and not accounts:
        found.append("NOBODY IS ASKED FOR A PASSWORD: add --auth NAME:PASSWORD.")
    return found


# Names of results say when and of what they were made, so they can be guessed. Where several people use the
# page, a file is served to whoever has its key, which only this program can make and which is in the pages of
# those that it was shown to.
_SECRET = secrets.token_bytes(32)  # of this run: pages are loaded anew after a start
_DIGITS = 32


def key_of(path: str) -> str:
    """The key of a file, by its path as it stands in the address."""
    return hmac.new(_SECRET, path.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:_DIGITS]


def is_key_of(key: str, path: str) -> bool:
    """Whether a key is that of a file; takes equally long for all wrong keys."""
    return hmac.compare_digest(key.encode("utf-8", "surrogateescape"), key_of(path).encode())


log = logging.getLogger(__name__)

_FILE = re.compile(r"(/gradio_api)?/file[=/]")
_HASHED = re.compile(r"/assets/[\w.-]+-[\w-]{8,}\.(js|css|woff2?)")
"""Gradio's own scripts and styles, whose names tell their content."""
_FETCHED = re.compile(r"(/gradio_api)?/file[=/]+https?:", re.IGNORECASE)

_UPLOAD = re.compile(r"(/gradio_api)?/upload/?")
_LARGEST_ANSWER = 2**20
"""Bytes; Gradio answers an upload with the files' paths."""

_UNUSED = ("/gradio_api/process_recording", "/gradio_api/proxy=", "/gradio_api/vibe", "/monitoring")
"""Routes of Gradio's server that this page does not use, such as passing requests on to other hosts."""

_PLAYED = re.compile(r"(image/(png|jpeg|gif|webp)|video/[\w.+-]+|audio/[\w.+-]+)(;|$)")
_SHOWN = re.compile(rf"{_PLAYED.pattern}|(application/json|text/plain)(;|$)")
"""Kinds of files that a browser may show. Others are only downloaded: HTML, SVG and PDF can hold scripts."""


class Guard:
    """ASGI middleware: lets in what `Access` lets in, and adds headers to the answers.

    Args:
        app: Gradio's.
        access: who may talk to it.
        scratch: holds the uploads; ``None`` if nothing limits them.
        open_folders: where files need no key (see `key_of`), since their names cannot be guessed or everybody
            may have them; ``None`` if no file needs one.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: Access,
        scratch: Scratch | None = None,
        open_folders: Sequence[Path] | None = None,
    ):
        self.app = app
        self.access = access
        self._scratch = scratch
        self._open = None if open_folders is None else [folder.resolve() for folder in open_folders]
        self._told: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refusal[:120]})
            return
        app = PlainTextResponse(refusal, status_code=403) if refusal else self.app
        caller.set((scope.get("client") or ("",))[0])

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(scope["path"], MutableHeaders(scope=message))
            await send(message)

        if app is self.app and self._scratch is not None and _is_upload(scope):
            await self._upload(self._scratch, scope, receive, send_safely)
            return
        await app(scope, receive, send_safely)

    async def _upload(self, scratch: Scratch, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an upload on if there is room for it, and note whose files they are."""
        visitor, answer = caller.get(), bytearray()
        length = Headers(scope=scope).get("content-length", "")
        if not length.isdecimal():
            refusal = PlainTextResponse("An upload must say how long it is.", status_code=411)
            await refusal(scope, receive, send)
            return

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.body" and len(answer) < _LARGEST_ANSWER:
                answer.extend(message.get("body", b""))
            await send(message)

        try:
            with scratch.upload(visitor, int(length)):
                await self.app(scope, receive, send_and_note)
        except InputError as error:
            await PlainTextResponse(str(error), status_code=413)(scope, receive, send)
            return
        await run_in_threadpool(scratch.uploaded, visitor, _paths(bytes(answer)))

    def _refusal(self, scope: Scope) -> str:
        refusal = self.access.refusal(scope.get("method", "GET"), Headers(scope=scope))
        if refusal and refusal not in self._told and len(self._told) < 100:  # a page may send it many times
            self._told.add(refusal)
            log.warning("refused: %s", refusal)
        if not refusal and _is_foreign_logout(scope):
            return "Logging out is up to the page itself."
        if not refusal and scope["path"].startswith(_UNUSED):
            return "This program does not offer that."
        if not refusal and _FETCHED.match(scope["path"]):
            return "This program fetches nothing from other sites."
        if not refusal and self._lacks_key(scope):
            return "This file is only for those that it was shown to; open it from the page."
        return refusal

    def _lacks_key(self, scope: Scope) -> bool:
        asked = _FILE.match(scope["path"])
        if asked is None or self._open is None:
            return False
        path = scope["path"][asked.end() :]
        (key,) = parse_qs(scope["query_string"].decode("latin-1")).get("key", [""])[:1]
        if is_key_of(key, path):
            return False
        try:
            real = Path(os.path.abspath(path)).resolve()  # as Gradio resolves it
        except (OSError, ValueError):
            return True
        return not any(real.is_relative_to(folder) for folder in self._open)

    def _add_headers(self, path: str, headers: MutableHeaders) -> None:
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "same-origin"
        framed_by = f"frame-ancestors 'self' {' '.join(self.access.origins)}".rstrip()
        if _HASHED.match(path):  # the name changes with the content, so browsers may keep it for good
            headers["Cache-Control"] = "public, max-age=31536000, immutable"
        if not _FILE.match(path):
            headers["Content-Security-Policy"] = framed_by
            return
        # A browser shows a video that is opened by itself in a page that it makes, which then fetches the
        # video; in a sandbox that would count as a foreign page and be refused.
        sandbox = "" if _PLAYED.match(headers.get("content-type", "")) else "sandbox; "
        headers["Content-Security-Policy"] = f"{sandbox}script-src 'none'; {framed_by}"
        if not self.access.origins:  # other pages cannot embed files from the browser's cache either
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
        if not _SHOWN.match(headers.get("content-type", "")):
            headers["Content-Type"] = "application/octet-stream"
            kept = headers.get("content-disposition", "").partition(";")[2]
            headers["Content-Disposition"] = f"attachment;{kept}" if kept else "attachment"


def _is_upload(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST" and bool(_UPLOAD.fullmatch(scope["path"]))


def _paths(answer: bytes) -> list[Path]:
    """The paths in Gradio's answer to an upload; none if it refused the upload."""
    try:
        found = json.loads(answer)
    except ValueError:
        return []
    return [Path(path) for path in found if isinstance(path, str)] if isinstance(found, list) else []


def _is_foreign_logout(scope: Scope) -> bool:
    """Whether another site sends the visitor to the address that logs out; typing it is fine."""
    site = Headers(scope=scope).get("sec-fetch-site", "none")
    return scope["path"].rstrip("/").endswith("/logout") and site not in ("same-origin", "none")
