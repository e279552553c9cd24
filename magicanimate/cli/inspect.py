"""``inspect``: what a file says of itself."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magicanimate.provenance.inspection import Credentials, Inspection

_STATES = {
    "none": "none",
    "valid": "valid: the file is as it was when it was signed",
    "altered": "ALTERED: the file was changed after it was signed",
    "broken": "BROKEN: the credentials were changed or are incomplete",
    "unreadable": "cannot be read",
}


def run(args: argparse.Namespace) -> None:
    """Print what `magicanimate.provenance.inspection.inspect` finds, for people or as JSON.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    from magicanimate.provenance.inspection import inspect

    found = inspect(args.file)
    print(json.dumps(found.as_json(), indent=2) if args.json else "\n".join(_lines(found)))


def _lines(found: Inspection) -> list[str]:
    if found.settings is None and found.credentials.state == "none":
        return [str(found.path), "  says nothing of how it was made"]
    rows = [("AI-generated", "yes" if found.ai_generated else "does not say")]
    rows += _credential_rows(found.credentials)
    if found.frames:
        rows.append(("frames", ", ".join(f"{count} {state}" for state, count in found.frames.items())))
    lines = [str(found.path), *(f"  {name:<14}{value}" for name, value in rows)]
    if found.settings is not None:
        shown = {name: value for name, value in found.settings.items() if value not in (None, "")}
        lines += ["  settings", *(f"    {name:<31}{value}" for name, value in shown.items())]
    return lines


def _credential_rows(credentials: Credentials) -> list[tuple[str, str]]:
    state = _STATES[credentials.state]
    rows = [("credentials", f"{state} ({credentials.reason})" if credentials.reason else state)]
    if credentials.self_made_here:
        rows.append(("signed by", "this computer's own certificate, which proves nothing about who used it"))
    elif credentials.signer:
        rows.append(("signed by", f"{credentials.signer} (says the certificate; it is not checked)"))
    if credentials.program:
        when = f", {credentials.created}" if credentials.created else ""
        rows.append(("made by", f"{credentials.program}{when}"))
    for source in credentials.sources:
        more = f" ({source.description})" if source.description else ""
        rows.append(("made of", f"{source.title}{more}"))
    return rows
