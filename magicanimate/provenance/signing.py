"""Sign results with content credentials."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from magicanimate import __version__
from magicanimate.errors import InputError
from magicanimate.files import file_name, partial_path, remove, sha256_of
from magicanimate.provenance.certificate import Identity, load_identity

log = logging.getLogger(__name__)

PROGRAM = "MagicAnimate"

SIGNED_KINDS = {".mp4": "video/mp4", ".gif": "image/gif", ".png": "image/png"}
"""Suffix and media type of what can be signed. The library does not know WebM."""

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED, COMPOSED = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
"""IPTC's words for "made by a trained model" and "in part made by a trained model"."""

OFFLINE = {
    "version": 1,
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
"""Settings of the library: it asks nothing of the network and puts no small copy of a picture into a file."""


@dataclass(frozen=True)
class Claim:
    """What a result says of itself.

    Attributes:
        photo, motion: the files it was made of; named, and known again by their SHA-256.
        checkpoint: kind of the networks, e.g. "mini".
        composed: whether photo and clip are to be seen in it, as in the side by side video.
    """

    photo: Path
    motion: Path
    checkpoint: str
    composed: bool = False


class Seal:
    """Signs a finished file, or every frame of a folder, in its place; never keeps it from being written.

    Attributes:
        problem: why a file could not be signed, one sentence; empty while all went well.
    """

    def __init__(self, claim: Claim):
        self.claim = claim
        self.problem = ""

    def __call__(self, path: Path) -> None:
        """Sign ``path``; a failure leaves it unsigned and is remembered in ``problem``."""
        files = sorted(path.glob("*.png")) if path.is_dir() else [path]
        kind = files[0].suffix.lower()
        if kind not in SIGNED_KINDS:
            self._failed(f"{kind[1:]} files cannot carry content credentials")
            return
        try:
            import c2pa
        except (ImportError, OSError, RuntimeError, ValueError) as error:  # what it raises without its binary
            log.debug("c2pa: %s", error)
            self._failed("the package c2pa-python is not installed or does not run on this machine")
            return
        try:
            identity, statement = load_identity(), self._statement()
            for file in files:
                _sign(file, SIGNED_KINDS[kind], statement, identity)
        except (c2pa.C2paError, InputError, OSError) as error:
            self._failed(str(error).strip().rstrip("."))

    def _failed(self, reason: str) -> None:
        self.problem = f"The result has no content credentials: {reason}."

    def _statement(self) -> dict[str, Any]:
        """The manifest (C2PA specification 2.x, sections "Actions" and "Ingredient")."""
        agent = {"name": PROGRAM, "version": __version__}
        action = {
            "action": "c2pa.created",
            "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "softwareAgent": agent,
            "description": f"Animated with the checkpoint {self.claim.checkpoint}",
            "digitalSourceType": SOURCE_TYPE + (COMPOSED if self.claim.composed else GENERATED),
            "parameters": {"ingredientIds": ["photo", "motion"]},
        }
        return {
            "claim_generator_info": [agent],
            "ingredients": [
                _ingredient("photo", self.claim.photo),
                _ingredient("motion", self.claim.motion),
            ],
            "assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}],
        }


def _ingredient(label: str, path: Path) -> dict[str, Any]:
    """Name and hash only: the file's own metadata may say where and when a private photo was taken."""
    found: dict[str, Any] = {"label": label, "title": file_name(path), "relationship": "inputTo"}
    if Path(path).is_file():
        found["description"] = f"{label}, SHA-256 {sha256_of(Path(path))}"
    return found


def _sign(path: Path, kind: str, statement: dict[str, Any], identity: Identity) -> None:
    """Replace a file by its signed copy."""
    import c2pa

    signed = partial_path(path)
    info = c2pa.C2paSignerInfo(identity.algorithm, identity.chain, identity.key, None)
    try:
        with (
            c2pa.Context.from_dict(OFFLINE) as context,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(statement, context=context) as builder,
            path.open("rb") as source,
            signed.open("w+b") as target,
        ):
            builder.sign(signer, kind, source, target)
        os.replace(signed, path)
    finally:
        remove(signed)
