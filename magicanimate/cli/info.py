"""``info``: what this machine has and which checkpoints are here."""

from __future__ import annotations

import argparse
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicanimate import __version__
from magicanimate.errors import InputError

if TYPE_CHECKING:
    from magicanimate.checkpoints.locate import ModelInfo
    from magicanimate.device import Device

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "huggingface_hub",
    "gradio",
    "av",
    "numpy",
    "pillow",
    "c2pa-python",
)


def gather(device: str | None = None) -> dict[str, Any]:
    """Everything `run` prints, as JSON-ready values; sizes in bytes.

    Raises:
        InputError: ``device`` is not available.
    """
    import psutil

    from magicanimate.checkpoints.disk import free_bytes
    from magicanimate.checkpoints.home import home
    from magicanimate.checkpoints.locate import describe_models
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
    """The memory profile that a checkpoint would begin with at its own size, and why; ``None`` if broken."""
    from magicanimate.checkpoints.disk import model_index
    from magicanimate.device import available_bytes
    from magicanimate.memory.profiles import AUTO, Footprint, Work, choose_profile

    try:
        footprint = Footprint.of(model.path)
    except InputError:
        return None
    index = model_index(model.path)
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


def _lines(info: dict[str, Any]) -> list[str]:
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
            where += "; the first run with --model full fetches it"
        lines.append(f"checkpoint   {model['name']}: {where}")
        if profile := model["memory_profile"]:
            lines.append(
                f"             memory profile {profile['name']} ({profile['summary']}): {profile['reason']}"
            )
    return lines


def run(args: argparse.Namespace) -> None:
    """Print what `gather` finds, for people or as JSON."""
    info = gather(args.device)
    print(json.dumps(info, indent=2) if args.json else "\n".join(_lines(info)))
