"""Settings saved under a name, one JSON file each."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magicanimate import __version__
from magicanimate.errors import InputError
from magicanimate.files import read_json
from magicanimate.webui.animate.form_values import ReadBack, Setting, read_back

LONGEST_NAME = 60
_LARGEST_FILE = 100_000  # bytes


class SettingPresets:
    """The saved settings of a folder.

    Args:
        folder: where they are; made when the first one is saved.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def names(self) -> list[str]:
        """What was saved, by name."""
        found = (_content(file) for file in self.folder.glob("*.json"))
        return sorted((content["name"] for content in found if content is not None), key=str.casefold)

    def save(self, name: str, values: Mapping[str, Any], *, overwrite: bool = False) -> str:
        """Save settings.

        Args:
            name: any text.
            values: of the form, JSON-ready.
            overwrite: replace what was saved under that name.

        Returns:
            The name as it is kept.

        Raises:
            InputError: the name is empty, too long or taken, or the folder cannot be written to.
        """
        from magicanimate.request_checks import write_settings

        name = _tidy(name)
        if not overwrite and self._file(name).exists():
            raise InputError(
                f"There are settings named “{name}” already; overwrite them or choose another name."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"The folder {self.folder} cannot be made ({error.strerror}), so nothing was saved; free it."
            ) from error
        content = {"name": name, "program": f"MagicAnimate {__version__}", "values": dict(values)}
        write_settings(self._file(name), content)
        return name

    def load(self, name: str, settings: Mapping[str, Setting]) -> ReadBack:
        """What was saved and suits this version of the form.

        Raises:
            InputError: there is nothing of that name.
        """
        content = _content(self._file(_tidy(name)))
        if content is None:
            raise InputError(f"There are no settings named “{name}”, or their file is damaged.")
        return read_back(content["values"], settings)

    def delete(self, name: str) -> None:
        """Forget what was saved.

        Raises:
            InputError: there is nothing of that name, or its file cannot be removed.
        """
        try:
            self._file(_tidy(name)).unlink()
        except OSError as error:
            raise InputError(
                f"The settings named “{name}” cannot be deleted ({error.strerror}); look in {self.folder}."
            ) from error

    def _file(self, name: str) -> Path:
        """Where a name's settings are; a name is text, so only its letters and its hash get into the path."""
        letters = re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")[:40]
        return self.folder / f"{letters}-{hashlib.sha256(name.encode()).hexdigest()[:12]}.json"


def _tidy(name: str) -> str:
    """A name without spaces around it and invisible characters."""
    name = unicodedata.normalize("NFC", name or "")
    name = " ".join("".join(letter for letter in name if letter.isprintable() or letter == " ").split())
    if not name:
        raise InputError("The settings have no name yet; type one.")
    if len(name) > LONGEST_NAME:
        raise InputError(f"The name has {len(name)} letters; {LONGEST_NAME} are the most.")
    return name


def _content(file: Path) -> dict[str, Any] | None:
    """What a file holds; ``None`` if it is none of ours."""
    try:
        content = read_json(file, most=_LARGEST_FILE)
    except InputError:
        return None
    ours = isinstance(content, dict) and isinstance(content.get("name"), str)
    return content if ours and isinstance(content.get("values"), dict) else None
