"""Who may talk to the page, and who may have a file: sites, accounts, and keys in addresses."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from magicanimate.errors import InputError


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
    accounts = [tuple(line.strip().split(":", 1)) for line in lines]
    if not accounts or any(len(account) != 2 or not all(account) for account in accounts):
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
