"""The commands beside ``animate``: ``info``, ``inspect`` and ``convert``."""

from __future__ import annotations

import argparse
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicanimate import __version__
from magicanimate.errors import InputError
from magicanimate.progress import ProgressBar, stop_on_interrupt

if TYPE_CHECKING:
    from magicanimate.checkpoints.disk import ModelInfo
    from magicanimate.device import Device
    from magicanimate.results import Credentials, Inspection

PACKAGES = (
    *("torch", "diffusers", "transformers", "huggingface_hub", "gradio", "av", "numpy", "pillow"),
    "c2pa-python",
)
_STATES = {
    "none": "none",
    "valid": "valid: the file is as it was when it was signed",
    "altered": "ALTERED: the file was changed after it was signed",
    "broken": "BROKEN: the credentials were changed or are incomplete",
    "unreadable": "cannot be read",
}


def gather(device: str | None = None) -> dict[str, Any]:
    """Everything `show_info` prints, as JSON-ready values; sizes in bytes.

    Raises:
        InputError: ``device`` is not available.
    """
    import psutil

    from magicanimate.checkpoints.disk import describe_models, free_bytes, home
    from magicanimate.device import describe_devices, pick_device

    picked = pick_device(device)
    memory = psutil.virtual_memory()
    return {
        "version": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": {"name": picked.name, "dtype": picked.dtype, "reason": picked.reason},
        "devices": describe_devices(),
        "memory": {"total": memory.total, "available": memory.available},
        "free_disk": {str(folder): free_bytes(folder) for folder in (Path.cwd(), home())},
        "checkpoints": [
            {
                "name": model.name,
                "kind": model.kind,
                "available": model.available,
                "path": str(model.path) if model.path else None,
                "bytes": model.bytes,
                "memory_profile": _profile(model, picked) if model.available else None,
            }
            for model in describe_models()
        ],
    }


def _profile(model: ModelInfo, device: Device) -> dict[str, str] | None:
    """The memory profile a checkpoint would start with at its own size, and why; ``None`` if damaged."""
    from magicanimate.checkpoints.disk import model_index
    from magicanimate.device import available_bytes
    from magicanimate.memory import AUTO, Footprint, Work, choose_profile

    # A damaged checkpoint must not keep `info` from reporting the rest.
    index = None if model.path is None else model_index(model.path)
    if model.path is None or index is None:
        return None
    try:
        footprint = Footprint.of(model.path)
    except InputError:
        return None
    profile, reason = choose_profile(
        AUTO,
        footprint,
        Work(index["default_width"], index["default_height"]),
        device=device.name,
        dtype=device.dtype,
        free=available_bytes(device.name),
    )
    return {"name": profile.name, "summary": profile.summary, "reason": reason}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _info_lines(info: dict[str, Any]) -> list[str]:
    from magicanimate.checkpoints.disk import human_bytes

    device, memory = info["device"], info["memory"]
    lines = [
        f"MagicAnimate {info['version']}, Python {info['python']}, {info['system']}",
        "packages     " + ", ".join(f"{name} {version}" for name, version in info["packages"].items()),
        f"device       {device['name']} in {device['dtype']}: {device['reason']}",
        *(f"             {line}" for line in info["devices"]),
        f"memory       {human_bytes(memory['available'])} of {human_bytes(memory['total'])} available",
    ]
    for folder, free in info["free_disk"].items():
        lines.append(f"free disk    {human_bytes(free)} at {folder}")
    for model in info["checkpoints"]:
        where = f"{human_bytes(model['bytes'])} in {model['path']}" if model["available"] else "not here"
        if not model["available"] and model["name"] == "full":
            # Absent is normal, so it is said what would bring it.
            where += "; the first run with --model full fetches it"
        lines.append(f"checkpoint   {model['name']}: {where}")
        if profile := model["memory_profile"]:
            lines.append(
                f"             memory profile {profile['name']} ({profile['summary']}): {profile['reason']}"
            )
    return lines


def show_info(args: argparse.Namespace) -> None:
    """Print what `gather` finds, for people or as JSON."""
    info = gather(args.device)
    print(json.dumps(info, indent=2) if args.json else "\n".join(_info_lines(info)))


def show_inspection(args: argparse.Namespace) -> None:
    """Print what `magicanimate.results.inspect` finds, for people or as JSON.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    from magicanimate.results import inspect

    found = inspect(args.file)
    print(json.dumps(found.as_json(), indent=2) if args.json else "\n".join(_inspection_lines(found)))


def _inspection_lines(found: Inspection) -> list[str]:
    if found.settings is None and found.credentials.state == "none":
        return [str(found.path), "  says nothing of how it was made"]
    rows = [("AI-generated", "yes" if found.ai_generated else "does not say")]
    rows += _credential_rows(found.credentials)
    if found.frames:
        rows.append(("frames", ", ".join(f"{count} {state}" for state, count in found.frames.items())))
    lines = [str(found.path), *(f"  {name:<14}{value}" for name, value in rows)]
    if found.settings is not None:
        # Settings without a value would bury those that have one.
        shown = {name: value for name, value in found.settings.items() if value not in (None, "")}
        lines += ["  settings", *(f"    {name:<31}{value}" for name, value in shown.items())]
    return lines


def _credential_rows(credentials: Credentials) -> list[tuple[str, str]]:
    # Nothing here is proof of who made a file, which the lines must not suggest.
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


def convert(args: argparse.Namespace) -> None:
    """Convert and print the folder.

    Raises:
        InputError: see `magicanimate.checkpoints.convert.convert_checkpoint`.
        Cancelled: Ctrl-C; nothing is left behind.
    """
    from magicanimate.checkpoints.convert import convert_checkpoint

    with ProgressBar(quiet=args.quiet) as bar, stop_on_interrupt() as should_stop:
        folder = convert_checkpoint(
            args.source,
            args.dest,
            dtype=args.dtype,
            overwrite=args.overwrite,
            magicanimate=args.magicanimate,
            stable_diffusion=args.stable_diffusion,
            vae=args.vae,
            on_progress=bar,
            should_stop=should_stop,
        )
    print(folder)
