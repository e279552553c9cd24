"""Figures of the code itself: files, lines, comments, files that one animation enters, errors of types.

    python -m benchmarks.structure
    python -m benchmarks.structure --names  # also which files one animation enters

An animation enters a file when a function of it runs, for the command line's ``animate`` with one step and
two frames, from the first line of the program to the last; what runs while modules are imported is left out.
"""

from __future__ import annotations

import argparse
import inspect
import re
import subprocess
import sys
import tempfile
import threading
import tokenize
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("magicanimate", "densepose_tools", "training")
CORE = ("sampling.py", "pipeline.py", "windows.py", "models", "acceleration", "memory.py")


def python_files(*folders: Path) -> list[Path]:
    """The modules in folders, and those that are named themselves."""
    return sorted(
        path for folder in folders for path in (folder.rglob("*.py") if folder.is_dir() else [folder])
    )


def comment_share(files: list[Path]) -> float:
    """Lines that have a comment, for each line of code; strings and blank lines are neither."""
    code, comments = set(), set()
    for file in files:
        with file.open("rb") as source:
            for token in tokenize.tokenize(source.readline):
                if token.type == tokenize.COMMENT and not re.match(r"# (noqa|type:)", token.string):
                    comments.add((file, token.start[0]))
                elif token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER):
                    code.add((file, token.start[0]))
    return len(comments) / len(code)


def functions_entered(arguments: list[str]) -> Counter[tuple[str, str]]:
    """How often each function of the project runs while the command line does something, by file and name."""
    from magicanimate.cli.main import main

    entered: Counter[tuple[str, str]] = Counter()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(ROOT)):
            return
        file = str(Path(code.co_filename).relative_to(ROOT))
        if not file.startswith(PACKAGES) or not code.co_flags & inspect.CO_NEWLOCALS:
            return
        caller: FrameType | None = frame
        while caller is not None:  # a decorator or a default, worked out by an import
            own = caller.f_code.co_filename not in ("", __file__)
            if (
                caller.f_code.co_name == "<module>"
                and own
                and caller.f_code.co_filename.startswith(str(ROOT))
            ):
                return
            caller = caller.f_back
        entered[file, code.co_qualname if hasattr(code, "co_qualname") else code.co_name] += 1

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        status = main(arguments)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    if status:
        raise SystemExit(f"the animation ended with status {status}")
    return entered


def one_animation() -> Counter[tuple[str, str]]:
    """What `functions_entered` finds of one animation of one step."""
    photo, motion = (ROOT / "assets/examples" / name for name in ("sway_photo.jpg", "sway_motion.mp4"))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.mp4"
        return functions_entered(
            ["animate", str(photo), str(motion), "-o", str(output), "--steps", "1", "--end", "0.1"]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", action="store_true", help="also name the files that an animation enters")
    args = parser.parse_args()
    for package in PACKAGES:
        files = python_files(ROOT / package)
        lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        print(
            f"{package}: {len(files)} files, {lines} lines, {comment_share(files):.3f} comments per code line"
        )
    web = python_files(ROOT / "magicanimate/webui")
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in web)
    print(f"of these magicanimate/webui: {len(web)} files, {lines} lines")
    core = python_files(*(ROOT / "magicanimate" / name for name in CORE))
    print(f"the core ({', '.join(CORE)}): {comment_share(core):.3f} comments per code line")
    types = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    print("mypy:", (types.stdout or types.stderr).strip().splitlines()[-1])
    entered = one_animation()
    files = Counter(file for file, _ in entered)
    print(f"one animation enters {len(files)} files, {len(entered)} functions, {sum(entered.values())} calls")
    if args.names:
        for file in sorted(files):
            names = sorted(name for f, name in entered if f == file)
            print(f"  {file}: {', '.join(names)}")


if __name__ == "__main__":
    main()
