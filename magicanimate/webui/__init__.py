"""The program in the browser: the page, the jobs behind it, and who may talk to it."""

from pathlib import Path

STATIC = Path(__file__).parent / "static"
