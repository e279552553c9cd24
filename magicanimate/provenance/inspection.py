"""What a file says of itself: the settings inside it and its content credentials."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from magicanimate.errors import InputError
from magicanimate.files import parse_json, require_ordinary
from magicanimate.media.outputs import read_metadata
from magicanimate.provenance.signing import COMPOSED, GENERATED, OFFLINE, SELF_MADE, self_made_root

State = Literal["none", "valid", "altered", "broken", "unreadable"]

_CONTENT_CODES = tuple(f"assertion.{kind}Hash.mismatch" for kind in ("data", "bmff", "boxes"))


@dataclass(frozen=True)
class Source:
    """A file that a result was made of, as its credentials say.

    Attributes:
        title: its name.
        description: more of it, for files of this program what it was for and its SHA-256.
    """

    title: str
    description: str


@dataclass(frozen=True)
class Credentials:
    """The content credentials of one file.

    Attributes:
        state: "none"; "valid": unchanged since it was signed; "altered": the pictures or the sound are
            others; "broken": the credentials themselves were changed or are incomplete; "unreadable": the
            library is missing or does not know this kind of file.
        reason: why it is not valid.
        signer: who the certificate says it is, which is not checked.
        self_made_here: whether this computer's self-made certificate signed it, which is checked.
        program: what made the file.
        created: when, as the signer's clock said.
        source_type: IPTC's word for how it came to be, e.g. "trainedAlgorithmicMedia".
        sources: what it was made of.
    """

    state: State
    reason: str = ""
    signer: str = ""
    self_made_here: bool = False
    program: str = ""
    created: str = ""
    source_type: str = ""
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        path: the file or folder of frames.
        settings: the settings inside it, ``None`` if it has none.
        credentials: of the file; of a folder those of its first frame.
        frames: how many frames of a folder are in which state; empty for a file.
    """

    path: Path
    settings: dict[str, Any] | None
    credentials: Credentials
    frames: dict[State, int] = field(default_factory=dict)

    @property
    def ai_generated(self) -> bool:
        """Whether the file says that a trained model made it, or part of it."""
        marked = (self.settings or {}).get("ai_generated") is True
        return marked or self.credentials.source_type in (GENERATED, COMPOSED)

    def as_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self) | {"path": str(self.path), "ai_generated": self.ai_generated}


def inspect(path: Path) -> Inspection:
    """Read a photo, a video, or a folder of png frames; nothing is asked of the network.

    Raises:
        InputError: there is no such file, or a folder without frames.
    """
    if path.is_dir():
        frames = sorted(path.glob("*.png"))
        if not frames:
            raise InputError(f"The folder {path} holds no png frames; give a file or a folder of frames.")
        found = [read_credentials(frame) for frame in frames]
        states = [each.state for each in found]
        worst = next((each for each in found if each.state in ("altered", "broken")), found[0])
        return Inspection(
            path, read_metadata(path), worst, {state: states.count(state) for state in sorted(set(states))}
        )
    if not os.path.lexists(path):
        raise InputError(f"The file {path} does not exist; check the name.")
    require_ordinary(path)
    return Inspection(path, read_metadata(path), read_credentials(path))


def read_credentials(path: Path) -> Credentials:
    """The content credentials of one file.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        import c2pa
    except (ImportError, OSError, RuntimeError, ValueError):
        return Credentials("unreadable", "the package c2pa-python is not installed or does not run here")
    root = self_made_root()
    settings = OFFLINE | ({"trust": {"user_anchors": root}} if root else {})
    try:
        with c2pa.Context.from_dict(settings) as context, path.open("rb") as file:
            reader = c2pa.Reader.try_create(None, file, None, context)
            if reader is None:
                return Credentials("none")
            with reader:
                return _credentials(parse_json(reader.json()))
    except OSError as error:
        raise InputError(f"The file {path} cannot be read ({error.strerror}); check it.") from error
    except c2pa.C2paError.NotSupported:
        return Credentials("unreadable", "content credentials of this kind of file cannot be read")
    except c2pa.C2paError as error:
        return Credentials("broken", str(error).strip())
    except (ValueError, LookupError, TypeError, AttributeError):
        return Credentials("broken", "what they say is of another form than content credentials have")


def _credentials(store: dict[str, Any]) -> Credentials:
    """What the library's report (its ``Reader.json``) means."""
    manifest = store["manifests"][store["active_manifest"]]
    results = store.get("validation_results", {}).get("activeManifest", {})
    codes = {each["code"]: each.get("explanation", "") for each in results.get("failure", [])}
    codes.pop("signingCredential.untrusted", None)  # so is every self-made certificate
    state: State = "valid"
    if codes:
        state = "altered" if any(code in _CONTENT_CODES for code in codes) else "broken"
    making = ("c2pa.created", "c2pa.opened")
    created = next((action for action in _actions(manifest) if action.get("action") in making), {})
    agent = created.get("softwareAgent") or (manifest.get("claim_generator_info") or [{}])[0]
    program = agent if isinstance(agent, str) else f"{agent.get('name', '')} {agent.get('version', '')}"
    signature = manifest.get("signature_info", {})
    signer = signature.get("issuer") or signature.get("common_name") or ""
    trusted = any(each["code"] == "signingCredential.trusted" for each in results.get("success", []))
    return Credentials(
        state,
        reason="; ".join(explanation or code for code, explanation in codes.items()),
        signer=signer,
        self_made_here=trusted and signer == SELF_MADE,
        program=program.strip(),
        created=created.get("when") or signature.get("time") or "",
        source_type=created.get("digitalSourceType", "").rsplit("/", 1)[-1],
        sources=tuple(
            Source(each.get("title", ""), each.get("description", ""))
            for each in manifest.get("ingredients", [])
        ),
    )


def _actions(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        action
        for assertion in manifest.get("assertions", [])
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"].get("actions", [])
    ]
