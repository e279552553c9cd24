"""The program installed from a wheel, away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.inputs import write_motion, write_photo

SOURCES = ("magicanimate", "densepose_tools", "training", "assets")
FILES = (
    *("pyproject.toml", "setup.py", "README.md", "LICENSE"),
    *(f"requirements{extra}.txt" for extra in ("", "-train", "-data", "-lora")),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that the wheel was installed into; what it needs is that of the tests' environment."""
    source = tmp_path_factory.mktemp("source")  # building leaves files beside the sources
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", target, source], check=True)
    return target


def run(installed: Path, folder: Path, *words: str | Path) -> str:
    """What a command of the installed program prints; it must succeed."""
    env = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_installed_program_animates_with_the_mini_it_brings(installed, tmp_path):
    photo, clip = write_photo(tmp_path / "me.png"), write_motion(tmp_path / "dance.mp4", 3)
    command = installed / "bin" / "magicanimate"
    run(installed, tmp_path, command, "animate", photo, clip, "-o", "out/me.mp4", "--steps", "1")
    assert (tmp_path / "out" / "me.mp4").stat().st_size > 0
    where = run(installed, tmp_path, "-c", "import magicanimate; print(magicanimate.ASSETS)")
    assert Path(where.strip()).is_relative_to(installed)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["magicanimate", "magicanimate-web", "densepose", "magicanimate-train"])
def test_every_command_has_help(installed, tmp_path, command):
    assert "usage:" in run(installed, tmp_path, installed / "bin" / command, "--help")


@pytest.mark.slow
def test_the_page_brings_its_files_and_examples(installed, tmp_path):
    code = (
        "from magicanimate import ASSETS; from magicanimate.webui import page;"
        "from magicanimate.webui import texts; from magicanimate.webui.gallery import result_panel;"
        "result_panel.head('en'); [texts.use(each) for each in texts.LANGUAGES];"
        "print(len(list((ASSETS / 'examples').glob('*.jpg'))))"
    )
    assert int(run(installed, tmp_path, "-c", code)) >= 3
