"""The door of the web server: refuses foreign sites, and keeps files from being run as pages."""

from __future__ import annotations

import logging
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from magicanimate.web.access import Access

log = logging.getLogger(__name__)

_FILE = re.compile(r"(/gradio_api)?/file[=/]")
_FETCHED = re.compile(r"(/gradio_api)?/file[=/]+https?:", re.IGNORECASE)

_UNUSED = ("/gradio_api/process_recording", "/gradio_api/proxy=", "/gradio_api/vibe", "/monitoring")
"""What Gradio's server offers and this page has no use for: converting recordings, passing requests on."""

_SHOWN = re.compile(
    r"(image/(png|jpeg|gif|webp)|video/[\w.+-]+|audio/[\w.+-]+|application/json|text/plain)(;|$)"
)
"""Kinds of files a browser may show. Any other is only saved: HTML, SVG and PDF can hold programs."""


class Guard:
    """ASGI middleware: lets in what `Access` lets in, and adds headers to what goes out.

    Args:
        app: what is guarded.
        access: who may talk to it.
    """

    def __init__(self, app: ASGIApp, *, access: Access):
        self.app = app
        self.access = access
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

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(scope["path"], MutableHeaders(scope=message))
            await send(message)

        await app(scope, receive, send_safely)

    def _refusal(self, scope: Scope) -> str:
        refusal = self.access.refusal(scope.get("method", "GET"), Headers(scope=scope))
        if refusal and refusal not in self._told and len(self._told) < 100:  # a page may ask many times
            self._told.add(refusal)
            log.warning("refused: %s", refusal)
        if not refusal and scope["path"].startswith(_UNUSED):
            return "This program does not offer that."
        if not refusal and _FETCHED.match(scope["path"]):
            return "This program fetches nothing from other sites."
        return refusal

    def _add_headers(self, path: str, headers: MutableHeaders) -> None:
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "same-origin"
        framed_by = f"frame-ancestors 'self' {' '.join(self.access.origins)}".rstrip()
        if not _FILE.match(path):
            headers["Content-Security-Policy"] = framed_by
            return
        headers["Content-Security-Policy"] = f"sandbox; script-src 'none'; {framed_by}"
        if not _SHOWN.match(headers.get("content-type", "")):
            headers["Content-Type"] = "application/octet-stream"
            kept = headers.get("content-disposition", "").partition(";")[2]
            headers["Content-Disposition"] = f"attachment;{kept}" if kept else "attachment"
