"""Animate several people: find the dancers of a clip, and assign one of the photos to each of them.

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from magicanimate.config import AnimationRequest
from magicanimate.detail import HEAD
from magicanimate.errors import InputError
from magicanimate.photo_warp import people_apart

COLOURS: tuple[tuple[int, int, int], ...] = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
)
"""Of the dancers from left to right, in turn; colours that colour-blind people can tell apart, too (Okabe and
Ito 2008, "Color Universal Design")."""

_TORSO = (1, 2)
# Share of the frames with people that must show so many dancers apart; what passes for another dancer for a
# moment is not counted.
_OFTEN = 0.1


@dataclass(frozen=True)
class Dancers:
    """The dancers of a clip, from left to right in the first frame that shows all of them apart."""

    frame: int  # number of that frame
    parts: tuple[np.ndarray, ...]  # the part map of each, uint8 ``H W``


def find_dancers(maps: Iterable[np.ndarray]) -> Dancers:
    """The dancers of a clip by its part maps, uint8 ``H W``: as many as its frames show apart."""
    counts: Counter[int] = Counter()
    first: dict[int, Dancers] = {}
    for number, labels in enumerate(maps):
        people = people_apart(labels)
        if people:
            counts[len(people)] += 1
            first.setdefault(len(people), Dancers(number, tuple(people)))
    # A merged or split piece in a few frames must not change the number of dancers.
    often = [count for count in counts if counts[count] >= _OFTEN * counts.total()]
    return first[max(often)] if often else Dancers(0, ())


def cast_of(request: AnimationRequest, dancers: int) -> tuple[int, ...]:
    """For each dancer, from left to right, which of the request's photos he becomes, counted from 0.

    Raises:
        InputError: there are too few or too many photos, or the request's cast is of another number.
    """
    photos = len(request.photos)
    shows = f"The motion clip shows {dancers} dancers apart from each other"
    if dancers == 1:
        shows = "The motion clip shows 1 dancer apart from each other"
    if request.cast:
        wanted = request.cast_numbers
        if len(wanted) != dancers:
            raise InputError(
                f"{shows}, and {request.cast} says of {len(wanted)} who they become (--cast); give a photo's "
                "number for each dancer, from left to right."
            )
        return tuple(number - 1 for number in wanted)
    if photos > dancers:
        raise InputError(
            f"{shows}, too few for {photos} photos; leave photos out, or choose a clip of as many dancers, "
            "converted for all of its people (--people all)."
        )
    if photos < dancers:
        again = ",".join(str(number % photos + 1) for number in range(dancers))
        raise InputError(
            f"{shows}, too many for {photos} photos; add photos, or say which photo each dancer becomes, "
            f"from left to right (--cast {again})."
        )
    return tuple(range(dancers))


def colour_of(dancer: int) -> tuple[int, int, int]:
    """The colour, red, green and blue, of a dancer, counted from 0 from left to right."""
    return COLOURS[dancer % len(COLOURS)]


def outlined(picture: np.ndarray, dancers: Sequence[np.ndarray]) -> np.ndarray:
    """A picture, uint8 ``H W 3``, with the outlines of the dancers' part maps, uint8, in their colours."""
    import cv2

    height, width = picture.shape[:2]
    line = max(1, round(max(height, width) / 128))
    drawn = picture.copy()
    for number, parts in enumerate(dancers):
        body = cv2.resize((parts > 0).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        edges, _ = cv2.findContours(body, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        # A dark line on either side, so that the colour is seen on any background.
        drawn = cv2.drawContours(drawn, edges, -1, (0, 0, 0), 4 * line)
        drawn = cv2.drawContours(drawn, edges, -1, colour_of(number), 2 * line)
    return drawn


def place_of(person: np.ndarray, dancer: np.ndarray) -> np.ndarray:
    """The matrix (2, 3) that moves and scales a photo's pixels so that its person stands where a dancer does.

    Of two part maps, uint8 ``H W``: head and torso come to lie on the dancer's, or the whole body where these
    are not seen.
    """
    (head, torso, box), (other_head, other_torso, other_box) = _measured(person), _measured(dancer)
    here: np.ndarray
    there: np.ndarray
    # Feet stand on the same ground then, which is the next best.
    if head is None or torso is None or other_head is None or other_torso is None:
        scale = (other_box[3] - other_box[1]) / (box[3] - box[1])
        here, there = (np.array([(each[0] + each[2]) / 2, each[3]]) for each in (box, other_box))
    else:
        scale = np.hypot(*(other_torso - other_head)) / max(1.0, np.hypot(*(torso - head)))
        here, there = head, other_head
    # A wrong measurement must not blow a person up to nothing but noise.
    scale = float(np.clip(scale, 0.2, 5))
    return np.concatenate([scale * np.eye(2), (there - scale * here)[:, None]], 1)


def moved(picture: np.ndarray, place: np.ndarray) -> np.ndarray:
    """A picture, float32 ``H W`` or ``H W 3``, by a matrix of `place_of`; nothing is beyond its edge."""
    import cv2

    how = cv2.INTER_AREA if place[0, 0] < 1 else cv2.INTER_LINEAR
    return cv2.warpAffine(picture.astype(np.float32), place, picture.shape[1::-1], flags=how)


def _measured(parts: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
    """Middle of head and torso, x and y, where they are seen, and the box x0, y0, x1, y1 of the body."""
    rows, columns = np.nonzero(parts)
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)
    middles = []
    for labels in (HEAD.labels, _TORSO):
        rows, columns = np.nonzero(np.isin(parts, labels))
        middles.append(np.array([columns.mean(), rows.mean()]) if len(rows) else None)
    return middles[0], middles[1], box
