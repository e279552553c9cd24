"""A small Hugging Face Hub on the loopback: the real paths, headers and redirects, and faults on request."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_SUFFIXES = (".safetensors", ".bin", ".ckpt")  # what repositories keep in large file storage

_INFO = re.compile(r"^/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)$")
_TREE = re.compile(r"^/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)/?(?P<folder>.*)$")
_RESOLVE = re.compile(r"^/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)$")
_STORE = re.compile(r"^/store/(?P<sha256>[0-9a-f]{64})$")


@dataclass
class Request:
    """One request as the server saw it.

    Attributes:
        range: its ``Range`` header.
        content: name of the file whose bytes were the answer.
        sent: how many of them.
    """

    method: str
    path: str
    range: str | None = None
    content: str = ""
    sent: int = 0


@dataclass
class Faults:
    """What goes wrong, by file name or repository.

    Attributes:
        break_after: name -> bytes after which each of its next downloads is cut; used up one by one.
        always_break_after: as above, for every download of it.
        status: repository -> HTTP status, ``X-Error-Code`` for everything asked of it.
        busy: name -> how many of its next requests are answered 503.
        ignore_ranges: answer range requests with the whole file.
        short: name -> bytes that each of its next downloads has, as if they were all.
        portal: answer everything with a web page, as the sign-in of a hotel's network does.
        tampered: names whose bytes are not those that were announced.
    """

    break_after: dict[str, list[int]] = field(default_factory=dict)
    always_break_after: dict[str, int] = field(default_factory=dict)
    status: dict[str, tuple[int, str]] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    short: dict[str, list[int]] = field(default_factory=dict)
    ignore_ranges: bool = False
    portal: bool = False
    tampered: set[str] = field(default_factory=set)


class HubStandIn:
    """Serves folders as model repositories; a context manager.

    Args:
        repos: "owner/name" -> folder with its files.

    Attributes:
        url: the endpoint.
        requests: everything asked so far.
        faults: see `Faults`; change at any time.
    """

    def __init__(self, repos: dict[str, Path]):
        self.repos = repos
        self.requests: list[Request] = []
        self.faults = Faults()
        self._digests: dict[Path, tuple[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubStandIn:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, repo: str) -> dict[str, Path]:
        """Name -> path of a repository's files."""
        folder = self.repos[repo]
        paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {path.relative_to(folder).as_posix(): path for path in paths}

    def digests(self, path: Path) -> tuple[str, str]:
        """A file's SHA-256 and git blob id."""
        if path not in self._digests:
            content = path.read_bytes()
            git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
            self._digests[path] = (hashlib.sha256(content).hexdigest(), git.hexdigest())
        return self._digests[path]

    def downloads(self, name: str) -> list[Request]:
        """The requests that were answered with the content of files ending in ``name``."""
        return [request for request in self.requests if request.content.endswith(name) and request.content]


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass  # tests look at `requests` instead

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.request_log = Request(self.command, path, self.headers.get("Range"))
        self.hub.requests.append(self.request_log)
        if self.hub.faults.portal:
            self._send(200, "text/html", b"<html>Welcome, please sign in</html>")
            return
        if match := _STORE.match(path):
            self._send_stored(match["sha256"])
            return
        match = _INFO.match(path) or _TREE.match(path) or _RESOLVE.match(path)
        if match is None:
            self._send_error(404, "")
        elif match["repo"] in self.hub.faults.status:
            self._send_error(*self.hub.faults.status[match["repo"]])
        elif match["repo"] not in self.hub.repos:
            self._send_error(401, "RepoNotFound")
        elif match["revision"] not in ("main", COMMIT):
            self._send_error(404, "RevisionNotFound")
        elif match.re is _RESOLVE:
            self._resolve(match["repo"], match["name"])
        elif match.re is _TREE:
            self._send_json(self._tree(match["repo"], match["folder"]))
        else:
            self._send_json(self._info(match["repo"]))

    def _info(self, repo: str) -> dict:
        siblings = []
        for name, path in self.hub.files(repo).items():
            sha256, blob = self.hub.digests(path)
            entry = {"rfilename": name, "size": path.stat().st_size, "blobId": blob}
            if name.endswith(LARGE_SUFFIXES):
                entry["lfs"] = {"sha256": sha256, "size": entry["size"], "pointerSize": 135}
            siblings.append(entry)
        return {
            "_id": "0",
            "id": repo,
            "modelId": repo,
            "sha": COMMIT,
            "private": False,
            "siblings": siblings,
        }

    def _tree(self, repo: str, folder: str) -> list[dict]:
        entries = []
        for name, path in self.hub.files(repo).items():
            if name.startswith(folder):
                sha256, blob = self.hub.digests(path)
                entry = {"type": "file", "path": name, "size": path.stat().st_size, "oid": blob}
                if name.endswith(LARGE_SUFFIXES):
                    entry["lfs"] = {"oid": sha256, "size": entry["size"], "pointerSize": 135}
                entries.append(entry)
        return entries

    def _resolve(self, repo: str, name: str) -> None:
        path = self.hub.files(repo).get(name)
        if self.hub.faults.busy.get(name, 0):
            self.hub.faults.busy[name] -= 1
            self._send_error(503, "")
        elif path is None:
            self._send_error(404, "EntryNotFound")
        elif name.endswith(LARGE_SUFFIXES):
            sha256, _ = self.hub.digests(path)
            self.send_response(302)
            self.send_header("Location", f"{self.hub.url}/store/{sha256}")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Size", str(path.stat().st_size))
            self.send_header("X-Linked-ETag", f'"{sha256}"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send_file(path, name, self.hub.digests(path)[1])

    def _send_stored(self, sha256: str) -> None:
        for repo in self.hub.repos:
            for name, path in self.hub.files(repo).items():
                if name.endswith(LARGE_SUFFIXES) and self.hub.digests(path)[0] == sha256:
                    self._send_file(path, name, sha256)
                    return
        self._send_error(404, "")

    def _send_file(self, path: Path, name: str, etag: str) -> None:
        content = path.read_bytes()
        if name in self.hub.faults.tampered:
            content = bytes([content[0] ^ 1]) + content[1:]
        start = 0
        ranged = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if ranged and not self.hub.faults.ignore_ranges:
            start = int(ranged[1])
            if start >= len(content):
                self._send_error(416, "")
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if self.command == "GET" and self.hub.faults.short.get(name):
            content = content[: start + self.hub.faults.short[name].pop(0)]
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "GET":
            self.request_log.content = name
            self._send_body(content[start:], name)

    def _send_body(self, body: bytes, name: str) -> None:
        limit = self.hub.faults.always_break_after.get(name)
        if self.hub.faults.break_after.get(name):
            limit = self.hub.faults.break_after[name].pop(0)
        part = body if limit is None else body[:limit]
        try:
            self.wfile.write(part)
        except OSError:
            self.close_connection = True  # the client stopped listening
            return
        self.request_log.sent = len(part)
        if limit is not None:
            self.close_connection = True

    def _send_json(self, content: object) -> None:
        self._send(200, "application/json", json.dumps(content).encode())

    def _send_error(self, status: int, code: str) -> None:
        self._send(status, "application/json", json.dumps({"error": code}).encode(), code)

    def _send(self, status: int, kind: str, body: bytes, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
