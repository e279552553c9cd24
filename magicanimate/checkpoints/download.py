"""Download a large file over an unreliable connection: resume where it stopped, verify when it is complete.

huggingface_hub's own download does not serve here: as of 2.4.0 each run starts a file anew under a name of
its own (its pull request 4228), compares sizes but no checksums, and knows no files of other servers.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

from magicanimate.checkpoints.disk import human_bytes
from magicanimate.config import ShouldStop
from magicanimate.errors import Cancelled, InputError

log = logging.getLogger(__name__)

RETRY_DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds between attempts that bring nothing
PART = ".part"
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_HASH_BYTES = 1 << 22
_T = TypeVar("_T")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a Hub repository at a certain commit."""

    repo: str  # "owner/name"
    name: str  # path in the repository
    revision: str  # commit, so that all requests speak of the same bytes
    nbytes: int  # its size
    blob: str  # what identifies its content: SHA-256 of large files, git's blob id of small ones

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.repo}/{self.name}"

    @property
    def server(self) -> str:
        """What messages call its server."""
        return "the Hub"

    def request(self) -> tuple[str, dict[str, str]]:
        """Address and headers that fetch it."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        return hf_hub_url(self.repo, self.name, revision=self.revision), build_hf_headers()

    def refusal(self, error: Exception) -> str:
        """One sentence on an HTTP error that will not go away by itself."""
        return refusal(error, self.label)


@dataclass(frozen=True)
class WebFile:
    """A file of an ordinary web server, of known size and content; no token is sent for it."""

    url: str
    nbytes: int
    blob: str  # its SHA-256

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.url

    @property
    def server(self) -> str:
        """What messages call its server."""
        return urlsplit(self.url).hostname or self.url

    def request(self) -> tuple[str, dict[str, str]]:
        """Address and headers that fetch it."""
        return self.url, {}

    def refusal(self, error: Exception) -> str:
        """One sentence on an HTTP error that will not go away by itself."""
        return (
            f"{self.server} refuses {self.url} with HTTP status {error.response.status_code}; check your"
            " proxy, or get the file by other means and give its path."
        )


class Unreachable(InputError):
    """A file is missing and its server cannot be reached, or fetching is forbidden."""


def partial_bytes(target: Path) -> int:
    """Bytes of an unfinished download of ``target``."""
    part = target.with_name(target.name + PART)
    return part.stat().st_size if part.exists() else 0


def download(
    file: RemoteFile | WebFile,
    target: Path,
    *,
    on_bytes: Callable[[int], None],
    should_stop: ShouldStop,
    retry_delays: Sequence[float] = RETRY_DELAYS,
) -> Path:
    """Fetch a file, or the rest of it; until it is complete its name ends in ``.part``.

    Args:
        on_bytes: called with the number of bytes of the file that are here.
        retry_delays: seconds to wait after each attempt in a row that brought no byte.

    Raises:
        InputError: the server refuses, cannot be reached for long, or sends something else. What has come
            so far stays, and the next call goes on from there, except when its checksum is wrong.
        Cancelled: ``should_stop()`` said so; what has come so far stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PART)
    # A part of another, larger version cannot be continued.
    if partial_bytes(target) > file.nbytes:
        part.unlink()
    part.touch()

    def rest() -> None:
        if part.stat().st_size < file.nbytes:
            _append(file, part, on_bytes, should_stop)
        if part.stat().st_size < file.nbytes:
            raise ConnectionError("the answer ended early")

    persist(
        rest,
        what=file.label,
        progress=lambda: part.stat().st_size,
        should_stop=should_stop,
        retry_delays=retry_delays,
        server=file.server,
        explain=file.refusal,
    )
    _check(file, part)
    return part.replace(target)


def persist(
    attempt: Callable[[], _T],
    *,
    what: str,
    should_stop: ShouldStop,
    retry_delays: Sequence[float],
    progress: Callable[[], int] = lambda: 0,
    server: str = "the Hub",
    explain: Callable[[Exception], str] | None = None,
) -> _T:
    """Retry ``attempt`` until it succeeds, waiting longer after each try in a row without progress.

    Args:
        what, server: words for messages.
        progress: grows when an attempt brings something.
        explain: a sentence on an HTTP error that stays; `refusal` when ``None``.

    Raises:
        InputError: the server refuses.
        Unreachable: the last attempt failed too, or fetching is forbidden.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    failures, before = 0, progress()
    while True:
        try:
            return attempt()
        except OfflineModeIsEnabled as error:
            raise Unreachable(f"{what} is not here and HF_HUB_OFFLINE forbids fetching; unset it.") from error
        except HfHubHTTPError as error:
            if error.response.status_code not in _TRANSIENT:
                raise InputError(explain(error) if explain else refusal(error, what)) from error
            reason, cause = f"{server} answered {error.response.status_code}", error
        except (ConnectionError, *connection_errors()) as error:
            reason, cause = str(error).strip().rstrip(".") or type(error).__name__, error
        # A slow connection that breaks often still arrives, as long as each attempt brings something.
        failures, before = (0 if progress() > before else failures), progress()
        if failures == len(retry_delays):
            raise Unreachable(
                f"{what} cannot be fetched ({reason}) after {failures + 1} attempts; check the connection and"
                " run the same again, it goes on where it stopped."
            ) from cause
        log.warning("%s: %s; trying again in %g s", what, reason, retry_delays[failures])
        _wait(retry_delays[failures], should_stop)
        failures += 1


def connection_errors() -> tuple[type[Exception], ...]:
    """What the Hub library's HTTP client raises when a connection fails or breaks."""
    from huggingface_hub import get_session

    # huggingface_hub changed from requests to httpx; its session tells which one is in use.
    client = importlib.import_module(type(get_session()).__module__.partition(".")[0])
    return (client.RequestError,)


def refusal(error: Exception, what: str) -> str:
    """One sentence on an HTTP error that will not go away by itself."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"{what} is open only to those who accepted its terms: accept them on its page on the Hub and run"
            " `hf auth login`."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{what} does not exist on the Hub or is private; check HF_ENDPOINT, or run `hf auth login` if"
            " you have access."
        )
    if isinstance(error, (errors.EntryNotFoundError, errors.RevisionNotFoundError)):
        return f"{what} is no longer on the Hub; download the files by hand and use `convert`."
    return (
        f"the Hub refuses {what} with HTTP status {error.response.status_code}; check HF_ENDPOINT, your proxy"
        " and `hf auth whoami`."
    )


def _append(
    file: RemoteFile | WebFile, part: Path, on_bytes: Callable[[int], None], should_stop: ShouldStop
) -> None:
    """Request the missing bytes and append each piece as it arrives."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import hf_raise_for_status

    url, headers = file.request()
    have = part.stat().st_size
    headers["Accept-Encoding"] = "identity"  # compressed answers would have other sizes and ranges
    if have:
        # Servers answer 206 if they can go on there, and 200 from the beginning if not.
        headers["Range"] = f"bytes={have}-"
    request = get_session().stream(
        "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, follow_redirects=True
    )
    with request as response:
        hf_raise_for_status(response)
        if response.status_code != 206:
            have = 0  # the server does not do ranges and begins anew
        with part.open("ab") as out:
            out.truncate(have)
            for piece in response.iter_raw():
                if should_stop():
                    raise Cancelled
                _write(out, piece, part)
                have += len(piece)
                on_bytes(min(have, file.nbytes))
                if have > file.nbytes:
                    return


def _write(out: BinaryIO, piece: bytes, part: Path) -> None:
    try:
        out.write(piece)
    except OSError as error:
        raise InputError(
            f"{part} cannot be written ({error.strerror}); free some disk and run the same again."
        ) from error


def _check(file: RemoteFile | WebFile, part: Path) -> None:
    """Verify size and checksum; delete the file if they are wrong."""
    actual = part.stat().st_size
    reason = ""
    if actual != file.nbytes:
        reason = f"is of another size than announced ({human_bytes(actual)}, not {human_bytes(file.nbytes)})"
    elif _blob(part, like=file.blob) != file.blob:
        reason = "does not have the checksum that it should have"
    if reason:
        # A wrong part would fail again each time, so it must go.
        part.unlink()
        raise InputError(f"{file.label} {reason} and was deleted; run the same again.")


def _blob(path: Path, *, like: str) -> str:
    """SHA-256 of a file or, when ``like`` is as short as one, the id that git gives to its content."""
    digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(usedforsecurity=False)
    if len(like) != 64:
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        while block := stream.read(_HASH_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _wait(seconds: float, should_stop: ShouldStop) -> None:
    """Sleep, but stop at once when ``should_stop()`` is true."""
    end = time.monotonic() + seconds
    # In short pieces, so that Stop is answered at once.
    while (left := end - time.monotonic()) > 0:
        if should_stop():
            raise Cancelled
        time.sleep(min(left, 0.1))
