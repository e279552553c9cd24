"""Results: write a video with its settings and content credentials, and say what a file tells of itself.

Content credentials have the form of the C2PA (Coalition for Content Provenance and Authenticity,
specification 2.x), written and read by its own library, ``c2pa-python``.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from magicanimate import __version__
from magicanimate.checkpoints.disk import HOME_VARIABLE, home
from magicanimate.config import PHOTO_BACKGROUND, TRANSPARENT, AnimationRequest, AnimationResult
from magicanimate.errors import InputError
from magicanimate.files import (
    encode_json,
    file_name,
    parse_json,
    partial_path,
    remove,
    require_ordinary,
    sha256_of,
    write_bytes,
)
from magicanimate.media.outputs import read_metadata
from magicanimate.media.prepare import PreparedMedia
from magicanimate.media.writer import GrowingVideo, VideoWriter, close_together
from magicanimate.progress import ProgressMeter
from magicanimate.request_checks import settings_path, side_by_side_path, so_far_path

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

log = logging.getLogger(__name__)

# Pixels between the pictures; even, as H.264 wants even widths.
_SEPARATOR, _SEPARATOR_COLOUR = 4, (255, 255, 255)
# The page plays this many of the latest frames of a stream, and gets them after so many new ones.
_MOST_SHOWN, _SHOWN_EVERY = 48, 8
_PREVIEW_SIDE = 128  # pixels, at most
_NOTHING = 128  # grey level that stands for transparency where a picture has none

CERTIFICATE_VARIABLE = "MAGICANIMATE_CERTIFICATE"
"""Names a PEM file with a private key and its certificate chain, the signing certificate first."""

SELF_MADE = "Self-made by MagicAnimate, names nobody"
"""The organisation in a certificate made here, which viewers show as the signer."""

_YEARS = 10  # without a time stamp a signature is good for as long as its certificate
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


def write_result(
    request: AnimationRequest,
    media: PreparedMedia,
    frames: Iterator[np.ndarray],
    *,
    settings: Mapping[str, Any],
    meter: ProgressMeter,
) -> AnimationResult:
    """Write the frames as they are decoded; all files appear at the end, or none.

    Args:
        frames: of the result, uint8 ``H W 3``, or ``H W 4`` where that is transparent; they are decoded as
            they are taken.
        settings: JSON-ready; the seconds of all stages are added to those beside the result.
        meter: gets the stage "decode", which is the last one; not where frames are streamed, as they are
            decoded while others are denoised.

    Raises:
        InputError: a file cannot be written.
    """
    outputs = [(Path(request.output), request.size[0])]
    strip_path = side_by_side_path(request.output) if request.side_by_side else None
    if strip_path is not None:
        # As wide as its pictures become at the height of the result, which one strip tells.
        outputs.append((strip_path, side_by_side(media.photo, media.control[0], media.photo).shape[1]))
    transparent = request.background == TRANSPARENT
    claims = [
        Claim(request.photo, request.motion, settings["model"], composed=composed)
        for composed in (request.background != PHOTO_BACKGROUND, True)
    ]
    # Video and strip state different things: only the strip shows photo and motion themselves.
    seals = [Seal(claim) if request.credentials else None for claim in claims]
    if not request.stream:
        meter.begin("decode", media.num_frames)
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                VideoWriter(
                    path,
                    width=width,
                    height=request.size[1],
                    fps=media.rate,
                    metadata=settings,
                    alpha=transparent and path == request.output,
                    seal=seal,
                    sound_from=request.motion if request.sound else None,
                    sound_start=media.sound_start,
                )
            )
            for (path, width), seal in zip(outputs, seals, strict=False)
        ]
        so_far: GrowingVideo | None = None
        if request.stream:
            width, height = request.size
            growing = GrowingVideo(
                so_far_path(request.output), width=width, height=height, fps=media.rate, metadata=settings
            )
            so_far = stack.enter_context(growing)
        for i, frame in enumerate(frames):
            writers[0].write(frame)
            # Strip and growing copy have no alpha channel.
            shown = over_grey(frame) if transparent else frame
            if strip_path is not None:
                writers[1].write(side_by_side(media.photo, media.control[i], shown))
            if so_far is None:
                meter.update(i + 1, media.num_frames)
            else:
                so_far.write(shown)
        meter.finish()
        # The video was opened with the settings before these were known, so only the JSON has them.
        settings = {**settings, "seconds": dict(meter.seconds)}
        written = encode_json(settings)
        # Video, strip and settings belong together: one without the others would mislead.
        close_together(writers, {settings_path(request.output): lambda partial: partial.write_bytes(written)})
    return AnimationResult(
        output=Path(request.output),
        settings_file=settings_path(request.output),
        side_by_side=strip_path,
        num_frames=media.num_frames,
        fps=media.fps,
        width=request.size[0],
        height=request.size[1],
        seconds=dict(meter.seconds),
        settings=settings,
        unsigned=seals[0].problem if seals[0] else "",
    )


def previewed(
    request: AnimationRequest,
    frames: Iterator[np.ndarray],
    meter: ProgressMeter,
    windows_done: Callable[[], tuple[int, int]],
    fps: float,
) -> Iterator[np.ndarray]:
    """Yield streamed frames, uint8 ``H W 3``, and show the latest ones as a preview of ``fps``."""
    latest: deque[np.ndarray] = deque(maxlen=_MOST_SHOWN)
    for number, frame in enumerate(frames, start=1):
        # The earliest moment at which opening the growing file makes sense.
        if number == 1:
            log.info("the first frames are done; they play in %s", so_far_path(request.output))
        if request.preview_every:
            # The page plays these at once, so few and small ones suffice.
            latest.append(shrunk(frame))
            if number % _SHOWN_EVERY == 0:
                meter.update(*windows_done(), preview=np.stack(latest), preview_fps=fps)
        yield frame


def shrunk(frame: np.ndarray) -> np.ndarray:
    """A finished frame, uint8 ``H W 3``, with sides of at most 128 pixels or an even share of its own."""
    share = max(1, -(-max(frame.shape[:2]) // _PREVIEW_SIDE))
    return np.asarray(Image.fromarray(frame).reduce(share))


def side_by_side(photo: np.ndarray, motion: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Put three pictures, uint8 (h, w, 3), in a row, each scaled to the height of the result."""
    height = result.shape[0]
    line = np.empty((height, _SEPARATOR, 3), dtype=np.uint8)
    line[:] = _SEPARATOR_COLOUR
    return np.concatenate([_at_height(photo, height), line, _at_height(motion, height), line, result], axis=1)


def over_grey(frame: np.ndarray) -> np.ndarray:
    """A transparent picture, uint8 (h, w, 4), over grey, uint8 (h, w, 3)."""
    alpha = frame[..., 3:] / np.float32(255)
    return np.rint(alpha * frame[..., :3] + (1 - alpha) * _NOTHING).astype(np.uint8)


def _at_height(frame: np.ndarray, height: int) -> np.ndarray:
    if frame.shape[0] == height:
        return frame
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    return np.array(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Identity:
    """A private key and its certificate chain."""

    chain: bytes  # PEM certificates, the signing one first
    key: bytes  # PEM private key
    algorithm: str  # as C2PA calls it: "es256", "es384", "es512", "ps256" or "ed25519"


def own_certificate() -> Path:
    """Folder of the self-made certificate and its key: beside the user's settings, not in a cache."""
    if os.environ.get(HOME_VARIABLE):
        base = home()
    elif sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "magicanimate"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support" / "magicanimate"
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "magicanimate"
    return base / "signing.pem"


def load_identity() -> Identity:
    """The certificate that ``MAGICANIMATE_CERTIFICATE`` names, or the self-made one, made on first use.

    Raises:
        InputError: the file cannot be read, or holds no key with its certificate.
        OSError: a new one cannot be kept.
    """
    named = os.environ.get(CERTIFICATE_VARIABLE)
    # A certificate that the user names is never replaced by another: what is wrong with it is an error.
    if named:
        return read_identity(Path(named).expanduser())
    path = own_certificate()
    if path.exists():
        try:
            return read_identity(path)
        except InputError as error:
            log.warning("%s A new certificate is made.", error)
    # Self-made, so that results are marked as generated by default, not only by those who own a certificate.
    _write_private(path, make_certificate())
    log.info("results are signed with the self-made certificate %s", path)
    return read_identity(path)


def self_made_root() -> str | None:
    """The root of this computer's self-made certificate, PEM; ``None`` if none was made yet."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        chain = x509.load_pem_x509_certificates(own_certificate().read_bytes())
    except (OSError, ValueError):
        return None
    # The root is last in the file, behind the certificate that it signed.
    return chain[-1].public_bytes(Encoding.PEM).decode()


def read_identity(path: Path) -> Identity:
    """Key and certificates of a PEM file.

    Raises:
        InputError: it cannot be read, a part is missing or unfit or belongs to another, or it has expired.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization as pem

    require_ordinary(path)
    try:
        data = path.read_bytes()
        key = pem.load_pem_private_key(data, password=None)
        chain = x509.load_pem_x509_certificates(data)
    except OSError as error:
        raise InputError(f"The certificate {path} cannot be read ({error.strerror}).") from error
    except (ValueError, TypeError) as error:
        raise InputError(
            f"The certificate {path} must be a PEM file with a private key, without password, "
            "and the certificates that belong to it."
        ) from error
    algorithm = _algorithm(key)
    if algorithm is None:
        raise InputError(f"The key in {path} is of a kind C2PA does not sign with; use ES256 or Ed25519.")
    # A signature by one key beside the certificate of another could never be verified.
    if chain[0].public_key() != key.public_key():
        raise InputError(f"The first certificate in {path} is not that of the key; put it first.")
    if chain[0].not_valid_after_utc < datetime.now(timezone.utc):
        raise InputError(f"The certificate {path} has expired.")
    return Identity(
        b"".join(each.public_bytes(pem.Encoding.PEM) for each in chain),
        key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()),
        algorithm,
    )


def _algorithm(key: object) -> str | None:
    """C2PA specification 2.x, section "Digital Signatures": the kinds of keys it allows."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {256: "es256", 384: "es384", 521: "es512"}.get(key.curve.key_size)
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    return "ed25519" if isinstance(key, ed25519.Ed25519PrivateKey) else None


def make_certificate() -> bytes:
    """A new key with its certificate and the root that signed it, PEM; the root's own key is forgotten.

    As the C2PA's profile of X.509 wants it (specification 2.x, section "Certificate Profile"): signed by
    another certificate, for digital signatures, for the purpose of e-mail protection.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    # The root's key is used once and dropped, so that nobody can issue further certificates with it.
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate("root", root_key, "root", root_key, authority=True)
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
    signing = _certificate("results", key, "root", root_key, authority=False, purpose=purpose)
    parts = [signing.public_bytes(pem.Encoding.PEM), root.public_bytes(pem.Encoding.PEM)]
    private = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    return b"".join([private, *parts])


def _certificate(
    name: str,
    key: EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: EllipticCurvePrivateKey,
    *,
    authority: bool,
    purpose: x509.ExtensionType | None = None,
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    def named(common: str) -> x509.Name:
        pairs = ((NameOID.ORGANIZATION_NAME, SELF_MADE), (NameOID.COMMON_NAME, f"MagicAnimate {common}"))
        return x509.Name([x509.NameAttribute(kind, text) for kind, text in pairs])

    now = datetime.now(timezone.utc)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        + ("encipher_only", "decipher_only"),
        False,
    )
    usage |= {"digital_signature": not authority, "key_cert_sign": authority, "crl_sign": authority}
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks differ
        .not_valid_after(now + timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(authority, 0 if authority else None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    if purpose is not None:
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data, private=True)


@dataclass(frozen=True)
class Claim:
    """What the credentials of a result state."""

    photo: Path  # of the files it was made of; named, and known again by their SHA-256
    motion: Path  # likewise
    checkpoint: str  # kind of the networks, e.g. "mini"
    composed: bool = False  # whether photo and clip are to be seen in it, as in the side by side video


class Seal:
    """Signs a finished file, or every frame of a folder, in place; a failure never prevents the result.

    Attributes:
        problem: why a file could not be signed, one sentence; empty while all went well.
    """

    def __init__(self, claim: Claim):
        self.claim = claim
        self.problem = ""

    def __call__(self, path: Path) -> None:
        """Sign ``path``; a failure leaves it unsigned and is remembered in ``problem``."""
        # Frames may be handed on one by one, so each carries credentials of its own.
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
            "ingredients": [_ingredient("photo", self.claim.photo), _ingredient("motion", self.claim.motion)],
            "assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}],
        }


def _ingredient(label: str, path: Path) -> dict[str, Any]:
    """Name and hash only: the file's own metadata may say where and when a private photo was taken."""
    found: dict[str, Any] = {"label": label, "title": file_name(path), "relationship": "inputTo"}
    if Path(path).is_file():
        # The hash tells the file from another of this name, without revealing what it shows.
        found["description"] = f"{label}, SHA-256 {sha256_of(Path(path))}"
    return found


def _sign(path: Path, kind: str, statement: dict[str, Any], identity: Identity) -> None:
    """Replace a file by its signed copy."""
    import c2pa

    # The library writes a copy and cannot sign in place.
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
        # Only a complete signed copy replaces the file; a failure leaves the unsigned one.
        os.replace(signed, path)
    finally:
        remove(signed)


State = Literal["none", "valid", "altered", "broken", "unreadable"]

_CONTENT_CODES = tuple(f"assertion.{kind}Hash.mismatch" for kind in ("data", "bmff", "boxes"))


@dataclass(frozen=True)
class Source:
    """A file that a result was made of, as its credentials say."""

    title: str  # its name
    description: str  # more of it, for files of this program what it was for and its SHA-256


@dataclass(frozen=True)
class Credentials:
    """The content credentials of one file."""

    # "none"; "valid": unchanged since it was signed; "altered": the pictures or the sound are others;
    # "broken": the credentials themselves were changed or are incomplete; "unreadable": the library is
    # missing or does not know this kind of file.
    state: State
    reason: str = ""  # why it is not valid
    signer: str = ""  # who the certificate says it is, which is not checked
    self_made_here: bool = False  # whether this computer's self-made certificate signed it, which is checked
    program: str = ""  # what made the file
    created: str = ""  # when, as the signer's clock said
    source_type: str = ""  # IPTC's word for how it came to be, e.g. "trainedAlgorithmicMedia"
    sources: tuple[Source, ...] = ()  # what it was made of


@dataclass(frozen=True)
class Inspection:
    """What was found."""

    path: Path  # the file or folder of frames
    settings: dict[str, Any] | None  # the settings inside it, ``None`` if it has none
    credentials: Credentials  # of the file; of a folder those of its first frame
    # How many frames of a folder are in which state; empty for a file.
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
    """Read a photo, a video, or a folder of png frames; the network is not used.

    Raises:
        InputError: there is no such file, or a folder without frames.
    """
    if path.is_dir():
        frames = sorted(path.glob("*.png"))
        if not frames:
            raise InputError(f"The folder {path} holds no png frames; give a file or a folder of frames.")
        found = [read_credentials(frame) for frame in frames]
        # A folder is as trustworthy as its frames, which may each have been exchanged.
        states = [each.state for each in found]
        # One changed frame is what a reader must know of a folder.
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
    # Trusted as a root here, so that signatures of this computer are told from others by the same name.
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
    # Files of other programs may have been edited since: the first of these actions is how they began.
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
