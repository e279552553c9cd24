"""Keys that make addresses of files unguessable: only this program can make them, for a path each.

Names of results say when and of what they were made, so they can be guessed. Where several people use the
page, a file is served to whoever has its key, which is in the pages of those that it was shown to.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

_SECRET = secrets.token_bytes(32)  # of this run: pages are loaded anew after a start
_DIGITS = 32


def key_of(path: str) -> str:
    """The key of a file.

    Args:
        path: as it stands in the address.
    """
    return hmac.new(_SECRET, path.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:_DIGITS]


def is_key_of(key: str, path: str) -> bool:
    """Whether a key that somebody sent is that of a file; takes as long for any wrong one."""
    return hmac.compare_digest(key.encode("utf-8", "surrogateescape"), key_of(path).encode())
