"""Mattes, how much of each pixel belongs to somebody, by a network of rembg (an optional dependency)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from magicanimate.errors import InputError, first_line

MODELS = ("u2net_human_seg", "birefnet-portrait")
"""Of rembg's models those for people that run on this machine: a small one (176 MB), and one that sees single
hairs and takes a GPU (973 MB)."""


class Mattes:
    """Finds mattes.

    Args:
        model: one of `MODELS`; its file is fetched by rembg unless it is there.
        offline: fetch nothing.

    Raises:
        InputError: a package is missing, or the file is missing, cannot be fetched or used.
    """

    def __init__(self, model: str, *, offline: bool = False):
        try:
            import onnxruntime  # noqa: F401  (without it rembg would end the program)
            from rembg.session_factory import new_session
            from rembg.sessions import sessions_class
        except ImportError as error:
            raise InputError(
                f"Mattes need the packages rembg and onnxruntime: pip install rembg onnxruntime ({error})."
            ) from error
        kind = {each.name(): each for each in sessions_class}[model]
        if offline and kind.resolve_existing(f"{model}.onnx") is None:
            raise InputError(
                f"{model}.onnx is not in {kind.model_dir()} and fetching is forbidden; fetch it once, from "
                "github.com/danielgatis/rembg/releases."
            )
        try:
            self._session = new_session(model)
        except Exception as error:  # noqa: BLE001  (of the connection, the checksum or onnxruntime)
            line = first_line(error)
            raise InputError(f"rembg's model {model} cannot be fetched or used ({line}).") from error

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """The matte of a picture, uint8 (H, W, 3) -> (H, W): 255 where there is nothing but people."""
        (matte,) = self._session.predict(Image.fromarray(frame))
        return np.asarray(matte)
