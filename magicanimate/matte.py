"""Where people end in a picture: mattes by the difference from what is behind them.

Frames of the networks show about the plate around the people, so the difference from it tells where they end
(difference matting), within a band around their part map. The matte is smoothed along the frame's own edges
by a guided filter: He et al. 2010, "Guided Image Filtering".

Letters in shape comments: ``H W`` pixels.
"""

from __future__ import annotations

import numpy as np

from magicanimate.mask import NOBODY, PERSON, band_of, grown

SMALLEST_DIFFERENCE = 25.0
"""Grey levels from the plate below which nothing counts as a person, whatever the networks' own error."""

# Brightness, relative to the plate's, that a shadow or a reflection may have.
_SHADOW = (0.6, 1.1)

# Weight of a change of brightness alone in the difference from the plate.
_SHADOW_COUNTS = 0.25

# A difference of this many times the networks' own error on the plate is certainly a person.
_SURE_FACTOR = 4.0

# The guided filter's epsilon, for colours of 0 to 1: edges weaker than its root are smoothed over.
_SMOOTHNESS = 1e-3

# Largest correction of a frame's colours, grey levels.
_MOST_CORRECTION = 24.0


def cut_out(
    frame: np.ndarray, plate: np.ndarray, mask: np.ndarray, *, grow: int = 0, feather: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The matte of one frame and the people's own colours.

    Args:
        frame: as the networks made it, uint8 ``H W 3``.
        plate: what is behind the people, uint8 ``H W 3``.
        mask: of the people in it, uint8 ``H W``.
        grow: pixels by which they are cut out wider, or narrower below 0.
        feather: softness of the edge, pixels (standard deviation).

    Returns:
        Alpha 0..1, float32 ``H W``, and colours, float32 ``H W 3``, from which the plate is taken out.
    """
    import cv2

    band = band_of(frame)
    body = grown(mask == PERSON, grow)
    near = grown(mask > NOBODY, grow)
    far = grown(near, band)
    frame, plate = frame.astype(np.float32), plate.astype(np.float32)
    elsewhere = ~far
    error = np.zeros(3, np.float32)
    if elsewhere.any():  # the networks' own colours differ a little from the plate's
        error = np.median((frame - plate)[elsewhere], axis=0)
        frame = frame - error.clip(-_MOST_CORRECTION, _MOST_CORRECTION)
    difference = cv2.blur(_difference(frame, plate), (3, 3))
    # Networks miss the plate a little everywhere; only what exceeds that is a person.
    usual = np.percentile(difference[elsewhere], 90) if elsewhere.any() else 0.0
    low = max(SMALLEST_DIFFERENCE, float(usual))
    person = ((difference - low) / ((_SURE_FACTOR - 1) * low)).clip(0, 1)
    core = grown(body, -max(1, band // 3))
    # The part map is sure of the inside of a body, the difference from the plate of its outline.
    likely = np.where(core, 1, np.where(body, np.maximum(person, 0.5), np.where(near, person, 0)))
    alpha = guided_filter(frame / 255, likely.astype(np.float32), max(1, band // 2), _SMOOTHNESS).clip(0, 1)
    alpha = np.where(far, np.where(core, 1, alpha), 0).astype(np.float32)
    if feather:
        alpha = cv2.GaussianBlur(alpha, (0, 0), feather)
    # frame = alpha * people + (1 - alpha) * plate, solved for the people where alpha says enough of them.
    people = (frame - (1 - alpha[..., None]) * plate) / np.maximum(alpha, 0.25)[..., None]
    weight = np.where(alpha > 0.9, 1, 0).astype(np.float32)
    spread = cv2.GaussianBlur(weight, (0, 0), band) + 1e-4
    # Where alpha is small its quotient is noise, so colours come from the inside of the person.
    inner = cv2.GaussianBlur(frame * weight[..., None], (0, 0), band) / spread[..., None]
    trust = (alpha / 0.5).clip(0, 1)[..., None]
    return alpha, (trust * people.clip(0, 255) + (1 - trust) * inner).clip(0, 255)


def _difference(frame: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """How much a frame differs from the plate, grey levels, float32 ``H W``, shadows counting less.

    Networks darken what is close to people. Taken for people, that becomes a dark rim; but it has the colour
    of the plate, only darker, so a change of brightness alone within `_SHADOW` is no person yet (the idea of
    shadow detection in Cucchiara et al. 2003, "Detecting Moving Objects, Ghosts, and Shadows").
    """
    lit = lit_as(frame, plate, within=_SHADOW)
    return np.abs(frame - lit).max(-1) + _SHADOW_COUNTS * np.abs(plate - lit).max(-1)


def lit_as(frame: np.ndarray, plate: np.ndarray, *, within: tuple[float, float]) -> np.ndarray:
    """The plate with the brightness that each pixel has in a frame, at least and at most ``within`` times its
    own; all float32 ``H W 3``, grey levels.
    """
    bright = (frame * plate).sum(-1) / np.maximum((plate * plate).sum(-1), 1)
    return bright.clip(*within)[..., None] * plate


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Smooth ``values``, float32 ``H W``, but for the edges of ``guide``, float32 ``H W 3`` of 0..1.

    In every window of ``2 radius + 1`` pixels the result is a linear function of the guide's colours
    (He et al. 2010, equations 19 to 21).
    """
    import cv2

    def mean(array: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(array.reshape(*array.shape[:2], -1), np.float32)
        size = (2 * radius + 1, 2 * radius + 1)
        planes = [cv2.boxFilter(flat[..., i], -1, size) for i in range(flat.shape[-1])]
        return np.stack(planes, -1).reshape(array.shape)

    colour, value = mean(guide), mean(values)
    together = mean(guide * values[..., None]) - colour * value[..., None]  # H W 3
    spread = mean(guide[..., :, None] * guide[..., None, :]) - colour[..., :, None] * colour[..., None, :]
    slope = np.linalg.solve(spread + epsilon * np.eye(3, dtype=np.float32), together[..., None])[..., 0]
    offset = value - (slope * colour).sum(-1)
    return (mean(slope) * guide).sum(-1) + mean(offset)


def photo_matte(photo: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Alpha of the people in the photo, float32 ``H W``; nothing is known of what is behind them."""
    band = band_of(photo)
    body = parts > 0
    alpha = guided_filter(photo.astype(np.float32) / 255, body.astype(np.float32), band, _SMOOTHNESS)
    # The filter blurs outwards as well; this makes the edge as narrow as hair.
    alpha = ((alpha - 0.2) / 0.6).clip(0, 1)
    core = grown(body, -max(1, band // 3))
    return np.where(core, 1, np.where(grown(body, band), alpha, 0)).astype(np.float32)


def with_own_edges(photo: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The photo, float32 ``H W 3``, in which the people's colours go on beyond their edge."""
    import cv2

    band = band_of(photo)
    photo = photo.astype(np.float32)
    sure = (alpha > 0.95).astype(np.float32)
    spread = cv2.GaussianBlur(sure, (0, 0), band / 2) + 1e-4
    inner = cv2.GaussianBlur(photo * sure[..., None], (0, 0), band / 2) / spread[..., None]
    trust = ((alpha - 0.5) / 0.45).clip(0, 1)[..., None]
    return trust * photo + (1 - trust) * inner
