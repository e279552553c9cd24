"""Part maps in other colours than the ControlNet knows: recognised and recoloured.

Maps come with other colour maps of OpenCV, with red and blue swapped, and over black or another background.

Letters in shape comments: ``H W`` pixels, ``N`` pixels or neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from magicanimate.palette import BACKGROUND, PALETTE

_COLOUR_MAPS = {
    "jet": "000080 0000a8 0000d4 0000fc 0028ff 0054ff 007cff 00a8ff 00d4ff 00fcff 2affd6 52ffae 7eff82 "
    "aaff56 d2ff2e feff01 ffd400 ffac00 ff8000 ff5800 ff2c00 ff0000 d80000 ac0000 800000",
    "parula": "352a87 253ca3 1450c2 0461df 086edd 0e7ad8 1484d4 0f90d0 0b9ccb 06a6c6 16adb9 26b3ac 37b99f "
    "56bb90 72bd82 91bf74 aabd69 c0bc60 d8ba56 e4c04a f0c73c fcce2e fbdc24 faeb19 f9fb0e",
    "turbo": "30123b 3b2f80 434eba 4669e0 4685fa 3ba0fd 2ab9ee 1ad2d2 1ae4b6 2ff19b 55fa76 7dff56 a1fd3d "
    "bef434 d7e535 ecd13a faba39 fea130 fb8122 f36315 e5470b d23105 bc2002 9e1001 7a0403",
    "plasma": "0d0887 260591 3a049a 4b03a1 5c01a6 6e00a8 7d03a8 8d0ba5 9c179e a82296 b52f8c c03a83 cb4679 "
    "d5536f dd5e66 e56b5d ed7953 f3854b f89441 fba238 fdb22f fdc328 fbd324 f6e626 f0f921",
    "inferno": "000004 050417 110a30 1f0c48 320a5e 450a69 550f6d 67166e 781c6d 88226a 9a2865 a92e5e ba3655 "
    "ca404a d74b3f e35933 ed6925 f47918 f98c0a fc9f07 fcb418 f9c932 f4dd4f f1f179 fcffa4",
    "rainbow": "ff0000 ff1900 ff3400 ff4e00 ff6900 ff8400 ff9e00 ffb900 ffd400 ffee00 ebff00 b9ff00 82ff00 "
    "4bff00 19ff00 00e11e 00aa55 007887 0041be 000ff0 1b00ff 3f00ff 6100ff 8500ff aa00ff",
}
"""OpenCV's colours of part i at index trunc(i * 255 / 24), RGB, background first."""

_NEIGHBOURS = (
    *((1, 2), (1, 7), (1, 8), (1, 17), (1, 18), (1, 23), (1, 24), (2, 9), (2, 10), (2, 15), (2, 16), (2, 23)),
    *(
        (2, 24),
        (3, 20),
        (3, 22),
        (4, 19),
        (4, 21),
        (5, 12),
        (5, 14),
        (6, 11),
        (6, 13),
        (7, 8),
        (7, 9),
        (7, 11),
    ),
    *(
        (8, 10),
        (8, 12),
        (9, 10),
        (9, 13),
        (10, 14),
        (11, 13),
        (12, 14),
        (15, 17),
        (15, 19),
        (16, 18),
        (16, 20),
    ),
    *((17, 21), (18, 22), (19, 21), (20, 22), (23, 24)),
)
"""Parts that meet on a body."""

_NEAR, _FAR = 12, 32
"""RGB distances within which a pixel counts as background, or as some part (as for maps in our colours)."""

_MIN_SHARE, _MIN_MEETING = 0.7, 0.22
"""A map has at least so many pixels of its figure in its colours, and neighbours that meet on a body.

Real maps have 0.31 to 0.5 of the latter in the right colours and up to 0.2 in jet read backwards, which has
nearly the same colours; a smooth heat map has 0.17.
"""

_EMPTY = 0.0005
_SAMPLES, _EVERY, _PIXELS = 8, 5, 200


@dataclass(frozen=True)
class Colours:
    """The colours of a part map.

    Attributes:
        name: for people, such as "jet with red and blue swapped, over black".
        table: RGB of background and parts, uint8 (25, 3).
        usual: whether they are those that the ControlNet knows.
    """

    name: str
    table: np.ndarray
    usual: bool


def diagnose(frames: Iterable[np.ndarray]) -> Colours | None:
    """Tell in which colours a part map is drawn.

    Args:
        frames: RGB uint8 (H, W, 3); every fifth is looked at until eight with something on them were seen.

    Returns:
        The colours, ``None`` if this is no part map.
    """
    kept: list[np.ndarray] = []
    background = None
    for number, frame in enumerate(frames):
        if number % _EVERY:
            continue
        step = max(1, min(frame.shape[:2]) // _PIXELS)
        thinned = frame[::step, ::step]
        background = _border_colour(thinned) if background is None else background
        if (_distance(thinned, background) > _NEAR).mean() > _EMPTY:
            kept.append(thinned)
            if len(kept) == _SAMPLES:
                break
    if background is None or not kept:
        return None
    best, best_fit = None, 0.0
    for name, parts in _candidates():
        table = np.concatenate([background[None], parts[1:]])
        share, meeting = _fit(kept, table)
        if share >= _MIN_SHARE and meeting >= _MIN_MEETING and share + meeting > best_fit:
            usual = name == "viridis" and bool(_distance(background, np.array(BACKGROUND)) <= _NEAR)
            best, best_fit = Colours(_named(name, background, parts[0]), table, usual), share + meeting
    return best


def recoloured_labels(frame: np.ndarray, colours: Colours) -> np.ndarray:
    """Labels of a part map in other colours: RGB uint8 (H, W, 3) -> uint8 (H, W).

    Where compression has mixed two colours the label is that of the nearest pixels that are clear.
    """
    labels, distance = _nearest(frame, colours.table)
    unclear = distance > _FAR
    for _ in range(4):
        if not unclear.any():
            break
        for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
            other, other_unclear = np.roll(labels, shift, axis), np.roll(unclear, shift, axis)
            take = unclear & ~other_unclear
            labels[take] = other[take]
            unclear = unclear & ~take
    return labels


def _candidates() -> Iterable[tuple[str, np.ndarray]]:
    """Name and colours of the maps that are looked for."""
    tables = {"viridis": PALETTE}
    for name, text in _COLOUR_MAPS.items():
        tables[name] = np.array([list(bytes.fromhex(colour)) for colour in text.split()], dtype=np.uint8)
    for name, table in tables.items():
        yield name, table
        yield f"{name} with red and blue swapped", table[:, ::-1]


def _named(name: str, background: np.ndarray, own: np.ndarray) -> str:
    if _distance(background, own) <= _NEAR:
        return name
    red, green, blue = background.tolist()
    return (
        f"{name}, over black" if max(red, green, blue) < 32 else f"{name}, over RGB ({red}, {green}, {blue})"
    )


def _fit(frames: list[np.ndarray], table: np.ndarray) -> tuple[float, float]:
    """How much of the figure is in the table's colours, and of unlike neighbours how many meet on a body."""
    meets = np.zeros((25, 25), dtype=bool)
    for one, other in _NEIGHBOURS:
        meets[one, other] = meets[other, one] = True
    inside = figure = meeting = pairs = 0
    for frame in frames:
        labels, distance = _nearest(frame, table)
        body = _distance(frame, table[0]) > _NEAR
        clear = body & (labels > 0) & (distance < _FAR)
        figure += int(body.sum())
        inside += int(clear.sum())
        for axis in (0, 1):
            first, second = (np.moveaxis(array, axis, 0) for array in (labels, clear))
            # Across one pixel, which compression may have mixed.
            unlike = (first[:-2] != first[2:]) & second[:-2] & second[2:]
            pairs += int(unlike.sum())
            meeting += int(meets[first[:-2], first[2:]][unlike].sum())
    return inside / max(1, figure), meeting / max(1, pairs)


def _nearest(frame: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest colour and its distance for every pixel."""
    # |c|^2 - 2 p.c stays below 2^24, so float32 holds it exactly.
    colours = table.astype(np.float32)
    pixels = frame.reshape(-1, 3).astype(np.float32)
    labels = (pixels @ (-2 * colours.T) + (colours**2).sum(axis=1)).argmin(axis=1)
    distance = np.sqrt(((pixels - colours[labels]) ** 2).sum(axis=1))
    return labels.astype(np.uint8).reshape(frame.shape[:2]), distance.reshape(frame.shape[:2])


def _distance(colours: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return np.sqrt(((colours.astype(np.float32) - colour.astype(np.float32)) ** 2).sum(axis=-1))


def _border_colour(frame: np.ndarray) -> np.ndarray:
    """The usual colour along the upper edge and the sides, where people rarely are, uint8 (3,)."""
    edge = np.concatenate([frame[0], frame[:, 0], frame[:, -1]])
    return np.median(edge, axis=0).astype(np.uint8)
