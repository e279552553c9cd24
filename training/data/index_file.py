"""Where the index of a data folder is kept, and how it is written: beside the data, or elsewhere, or not."""

from __future__ import annotations

import logging
from pathlib import Path

from magicanimate.files import write_bytes

log = logging.getLogger(__name__)


def existing_index(name: str, folder: Path, elsewhere: Path | None) -> Path | None:
    """The index written earlier, if there is one.

    Args:
        name: of the index file.
        folder: of the data.
        elsewhere: folder (of the run, say) that holds it where the data's folder cannot be written to.
    """
    places = [folder, elsewhere] if elsewhere is not None else [folder]
    return next((place / name for place in places if (place / name).is_file()), None)


def keep_index(name: str, data: bytes, folder: Path, elsewhere: Path | None) -> None:
    """Write an index, complete or not at all, to the first place that takes it; else say it is not kept."""
    for place in (folder, elsewhere):
        if place is None:
            continue
        try:
            place.mkdir(parents=True, exist_ok=True)
            write_bytes(place / name, data)
        except OSError as error:
            log.info("no index is kept in %s (%s)", place, error.strerror)
            continue
        return
    log.warning("The index of %s cannot be kept anywhere and will be made again by the next run.", folder)
