"""In front of Gradio's server: refuses foreign sites, and keeps served files from running as pages."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from magicanimate.errors import InputError
from magicanimate.webui.scratch import Scratch
from magicanimate.webui.security.access import Access, is_key_of
from magicanimate.webui.security.login import caller

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
