"""The mini's whole recipe in minutes of one large GPU, where little is installed and nothing is fetched.

    python -m benchmarks.gpu --pack --out FOLDER                    # where `make mini` would run
    python -m benchmarks.gpu --train-mini --packed FOLDER --minutes 9 --out WEIGHTS

The first writes into FOLDER, some 20 MB in all: the recipe, which is the commands of ``make mini``, the body
of the rendered people, and the code of packages that the other machine need not have (diffusers, anny without
its data, roma, requests). There torch, torchvision, transformers, accelerate, numpy, pillow, numba, opencv
and safetensors are wanted, and none of diffusers, av, anny, gradio and moviepy.

The second runs these commands one after another, each in its share of the time: rendering with as many people
as it allows on all processors, training with as many steps. ``WEIGHTS`` gets ``mini.tar.00``, ``.01``, ... of
15 MB at most (``cat mini.tar.* | tar x``), and ``train_mini.json`` with what each command did.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import logging
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from magicanimate.errors import InputError
from magicanimate.files import write_json

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
RECIPE, BODY, PACKAGES = "recipe.json", "body.pt.xz", "packages.tar.xz"
# Package -> folders that stay behind. diffusers needs requests, which newer transformers do not bring.
PACKED = {"diffusers": (), "anny": ("data", "examples"), "roma": ()}
PACKED |= dict.fromkeys(("requests", "urllib3", "certifi", "idna"), ())
PIECE = 15 * 10**6  # bytes
SHARES = {
    "clips": 0.06,
    "data": 0.2,
    "vae": 0.1,
    "base": 0.34,
    "large": 0.16,
    "stage2": 0.08,
    "sharpen": 0.06,
}
RESERVE = 30.0  # seconds, to export and to write
PACE_STEPS = 20  # of a training, after which its number of steps is chosen
BATCH = {"vae": 128, "base": 512, "large": 256, "stage2": 32, "sharpen": 32}  # on a large GPU
_TINY_DATA = ["--size", "32", "--stills", "2", "--frames", "4"]
_TINY_TRAINING = ["--preset", "tiny", "--size", "32"]


def pack(folder: Path) -> None:
    """Write what `train` needs elsewhere to a folder."""
    from training.dancers.body import bake

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RECIPE, {"commands": recipe()})
    bake(folder / BODY)
    with tarfile.open(folder / PACKAGES, "w:xz", preset=3) as tar:
        for name, left_out in PACKED.items():
            package = Path(importlib.util.find_spec(name).origin).parent
            tar.add(package, name, filter=lambda info, out=left_out, name=name: _wanted(info, name, out))


def _wanted(info: tarfile.TarInfo, package: str, left_out: tuple[str, ...]) -> tarfile.TarInfo | None:
    parts = Path(info.name).parts
    if "__pycache__" in parts or (parts[0] == package and len(parts) > 1 and parts[1] in left_out):
        return None
    return info


def recipe() -> list[list[str]]:
    """The commands of ``make mini``: a module's name and its arguments, paths in the folder ``{work}``."""
    places = [f"{name}={{work}}/{name.lower()}" for name in ("DATA", "CLIPS", "RUNS", "MINI")]
    command = ["make", "-n", "mini", "-o", ".venv/.installed-train", "-o", ".venv/.installed", *places]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    lines = [shlex.split(line) for line in printed.splitlines() if " -m training" in line]
    return [line[line.index("-m") + 1 :] for line in lines]


def train(out: Path, *, minutes: float, packed: Path | None = None, tiny: bool = False) -> None:
    """Run the recipe in a time.

    Args:
        out: folder for the weights.
        minutes: for everything.
        packed: what `pack` wrote; without it everything must be installed here.
        tiny: the tests' sizes.

    Raises:
        InputError: a command fails.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    deadline = time.monotonic() + 60 * minutes - (0 if tiny else RESERVE)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="train_mini") as work:
        commands = recipe() if packed is None else _unpack(packed, Path(work) / "site")
        commands = [[word.replace("{work}", work) for word in command] for command in commands]
        commands.sort(key=lambda command: command[0] != "training.dancers")  # people first, the rest in order
        done: list[dict[str, Any]] = []
        left = [_stage(command) for command in commands]
        for command, stage in zip(commands, list(left), strict=True):
            share = SHARES.get(stage, 0.0) / (sum(SHARES.get(s, 0.0) for s in left) or 1.0)
            budget = max(1.0, share * (deadline - time.monotonic()))
            left.remove(stage)
            began = time.monotonic()
            found = _run(command, stage, budget, tiny=tiny)
            seconds = round(time.monotonic() - began, 1)
            done.append({"stage": stage, "seconds": seconds, "budget": round(budget, 1), **found})
            write_json(out / "train_mini.json", {"minutes": minutes, "stages": done})
            log.info("%s", done[-1])
        _write_pieces(Path(work) / "mini", out)


def _unpack(packed: Path, site: Path) -> list[list[str]]:
    """Make the packages and the body known to this process and those that it starts; returns the recipe."""
    with tarfile.open(packed / PACKAGES) as tar:
        tar.extractall(site, filter="data")
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    os.environ["MAGICANIMATE_BODY"] = str((packed / BODY).resolve())
    return json.loads((packed / RECIPE).read_text(encoding="utf-8"))["commands"]


def _stage(command: list[str]) -> str:
    """ "data", "clips", "vae", "base", "large", "stage2", "sharpen" or "export"."""
    module, *args = command
    if module == "training.dancers":
        return "clips" if Path(_value(args, "--out")).name == "clips" else "data"
    return "large" if args[0] == "base" and "--pipeline" in args else args[0]


def _value(args: list[str], option: str) -> str:
    return args[args.index(option) + 1]


def _run(command: list[str], stage: str, budget: float, *, tiny: bool) -> dict[str, Any]:
    module, *args = command
    if stage in ("data", "clips"):
        return _render(args, budget, tiny=tiny)
    if stage == "export":
        _call(module, [*args, *(_TINY_TRAINING[:2] if tiny else ())])
        return {}
    return _learn(args, stage, budget, tiny=tiny)


def _call(module: str, args: list[str]) -> None:
    log.info("%s %s", module, shlex.join(args))
    status = importlib.import_module(f"{module}.__main__").main(args)
    if status:
        raise InputError(f"{module} {shlex.join(args)} ended with status {status}.")


def _render(args: list[str], budget: float, *, tiny: bool) -> dict[str, Any]:
    """Render people for a time: a few for the pace of this machine, then as many as fit."""
    workers = 1 if tiny else os.cpu_count() or 1
    args = [*args, "--workers", str(workers), *(_TINY_DATA if tiny else ())]
    most = int(_value(args, "--identities"))
    began, few = time.monotonic(), 3 if tiny else 4 * workers
    _call("training.dancers", [*args, "--identities", str(few)])
    first = time.monotonic() - began  # with the start of the workers: a careful pace
    count = few if tiny else max(few, min(most, int(few * budget / first)))
    if count > few:
        _call("training.dancers", [*args, "--identities", str(count)])
    return {"people": count}


def _learn(args: list[str], stage: str, budget: float, *, tiny: bool) -> dict[str, Any]:
    """Train for a time: some steps for the pace, then as many more as fit."""
    import torch

    began = time.monotonic()
    cores = os.cpu_count() or 1
    args = [*args, "--threads", "1" if tiny else str(min(cores, 8))]
    if tiny:
        args += [*_TINY_TRAINING, "--holdout", "1", "--steps", "4"]
        args += ["--num-frames", "2"] if stage in ("stage2", "sharpen") else []
        _call("training", args)
        return {"steps": 4}
    if torch.cuda.is_available():
        args += ["--batch-size", str(BATCH[stage]), "--workers", str(max(1, min(cores - 2, 14)))]
        args += ["--channels-last"]
    args += ["--log-every", str(PACE_STEPS), "--sample-every", str(10**6)]
    _call("training", [*args, "--stop-after", str(PACE_STEPS)])
    folder = Path(_value(args, "--runs")) / args[0]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    pace = next(row["seconds_per_step"] for row in rows if "seconds_per_step" in row)
    room = budget - (time.monotonic() - began)
    steps = PACE_STEPS + max(1, int(room / pace))
    ending = ["--steps", str(steps), "--decay-steps", str(steps // 3), "--checkpoint-every", str(steps)]
    _call("training", [*args, *ending])
    return {"steps": steps, "seconds a step": pace}


def _write_pieces(folder: Path, out: Path) -> None:
    """The folder as one tar file in pieces."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        tar.add(folder, folder.name)
    for number, piece in enumerate(_pieces(held.getvalue())):
        (out / f"mini.tar.{number:02}").write_bytes(piece)


def _pieces(data: bytes) -> Iterator[bytes]:
    for first in range(0, len(data), PIECE):
        yield data[first : first + PIECE]
