"""MagicAnimate: temporally consistent human image animation with a diffusion model."""

from pathlib import Path

__version__ = "0.1.0"

# The mini checkpoint, the part segmenter and the examples: beside this package in a checkout, and inside it
# where the wheel is installed (pyproject.toml puts them there).
_PACKAGE = Path(__file__).resolve().parent
ASSETS = next(
    (folder for folder in (_PACKAGE.parent / "assets", _PACKAGE / "assets") if (folder / "mini").is_dir()),
    _PACKAGE.parent / "assets",
)
