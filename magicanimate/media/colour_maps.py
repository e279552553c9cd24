"""The colours in which DensePose part maps are drawn: their tables, names, and distances between colours."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from magicanimate.palette import PALETTE

NEAR, FAR = 12, 32
"""RGB distances within which a pixel counts as background, or as some part (as for maps in our colours)."""

SHIFTED = (
    "viridis with shifted colours (full range taken for limited)",
    "viridis with shifted colours (limited range taken for full)",
)
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


def map_table(name: str) -> np.ndarray:
    """Colours of background and parts on a colour map, such as "jet", uint8 (25, 3)."""
    return map_tables()[name]


@lru_cache(maxsize=1)
def map_tables() -> dict[str, np.ndarray]:
    """Colours of the maps that are looked for by name, uint8 (25, 3)."""
    tables = {"viridis": PALETTE}
    for name, text in _COLOUR_MAPS.items():
        tables[name] = np.array([list(bytes.fromhex(colour)) for colour in text.split()], dtype=np.uint8)
    tables |= {f"{name} with red and blue swapped": table[:, ::-1] for name, table in tables.items()}
    usual = PALETTE.astype(np.float32)
    for name, shifted in zip(SHIFTED, ((usual - 16) * 255 / 219, usual * 219 / 255 + 16), strict=True):
        tables[name] = np.rint(shifted.clip(0, 255)).astype(np.uint8)
    return tables


def table_name(name: str, background: np.ndarray, *, own: bool) -> str:
    """What to call the colours; nothing if they are the usual ones."""
    if own:
        return "" if name == "viridis" else name
    red, green, blue = background.tolist()
    return (
        f"{name}, over black" if max(red, green, blue) < 32 else f"{name}, over RGB ({red}, {green}, {blue})"
    )


def nearest_colours(pixels: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest colour and its distance for every pixel of (..., 3)."""
    # |c|^2 - 2 p.c stays below 2^24, so float32 holds it exactly.
    colours = table.astype(np.float32)
    flat = pixels.reshape(-1, 3).astype(np.float32)
    labels = (flat @ (-2 * colours.T) + (colours**2).sum(axis=1)).argmin(axis=1)
    distance = np.sqrt(((flat - colours[labels]) ** 2).sum(axis=1))
    return labels.astype(np.uint8).reshape(pixels.shape[:-1]), distance.reshape(pixels.shape[:-1])


def colour_distance(colours: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """RGB distances of (..., 3) from one colour, float32 (...)."""
    difference = colours.astype(np.float32) - np.asarray(colour, dtype=np.float32)
    return np.sqrt((difference**2).sum(axis=-1))
