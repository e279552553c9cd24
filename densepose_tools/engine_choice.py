"""The user's choice of the DensePose engine: tells what it would use, and loads it when needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densepose_tools.engines import Extractor, Selection, has_detectron2, has_mini, load_extractor
from densepose_tools.segmenter import DEFAULT_FOLDER, require_segmenter
from magicanimate import __version__
from magicanimate.config import OnProgress, ShouldStop
from magicanimate.errors import InputError

ENGINE_NAMES = {
    "torch": "the released DensePose network",
    "detectron2": "the released DensePose network through detectron2",
    "mini": "a small stand-in network, for trying (it is not DensePose)",
}
"""Descriptions of the engines for users."""


@dataclass(frozen=True)
class Forecast:
    """What a run will use.

    Attributes:
        engine: "torch", "detectron2" or "mini".
        bytes_to_fetch: size of the downloads before it can begin.
        sentence: the same as a sentence for users.
    """

    engine: str
    bytes_to_fetch: int
    sentence: str


@dataclass(frozen=True)
class EngineChoice:
    """An engine with its weights and device; the fields are arguments of `densepose_tools.load_extractor`."""

    engine: str = "auto"
    weights: Path | None = None
    device: str | None = None
    offline: bool = False

    def forecast(self) -> Forecast:
        """Tell what a run would use, without loading or downloading anything.

        Raises:
            InputError: no engine can be used; the message says what to do.
        """
        from densepose_tools.weights import bytes_to_fetch, folder
        from magicanimate.checkpoints.disk import human_bytes

        if self.engine == "mini":
            require_segmenter(self.weights or DEFAULT_FOLDER)
            return _mini_forecast("")
        # Given weights need no download, whatever they turn out to be.
        missing = 0 if self.weights else bytes_to_fetch()
        # Only "auto" may fall back: who names an engine wants that one.
        stand_in = self.engine == "auto" and has_mini()
        if missing and self.offline:
            if stand_in:
                # Told beforehand, so that nobody takes the stand-in's maps for DensePose's.
                return _mini_forecast("The weights of DensePose are not here and fetching is forbidden. ")
            raise InputError(
                f"DensePose's weights are not in {folder()} and fetching is forbidden; start once with a "
                "network, or give the released file model_final_162be9.pkl."
            )
        # As load_extractor will choose.
        engine = "detectron2" if self.engine != "torch" and has_detectron2() else "torch"
        sentence = f"People are found by {ENGINE_NAMES[engine]}"
        if missing:
            sentence += f"; its weights are fetched first, once, {human_bytes(missing)}"
            if stand_in:
                sentence += ". Without a network a small stand-in is used, for trying"
        return Forecast(engine, missing, f"{sentence}.")

    def load(
        self,
        selection: Selection,
        *,
        on_progress: OnProgress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Extractor:
        """Load the extractor.

        Raises:
            InputError, Cancelled: see `densepose_tools.load_extractor`.
        """
        return load_extractor(
            self.engine,
            weights=self.weights,
            device=self.device,
            selection=selection,
            offline=self.offline,
            on_progress=on_progress,
            should_stop=should_stop,
        )

    def settings(
        self,
        extractor: Extractor,
        selection: Selection,
        *,
        start: float,
        end: float | None,
        fps: float | None = None,
    ) -> dict[str, Any]:
        """The settings that decide which people are found, JSON-ready; resuming needs the same."""
        return {
            # The engine that was loaded, which "auto" does not tell.
            "engine": extractor.name,
            "weights": str(self.weights) if self.weights else None,
            "min_score": selection.min_score,
            "max_people": selection.max_people,
            "margin": selection.margin,
            "start": start,
            "end": end,
            "fps": fps,
            "version": __version__,
        }


def _mini_forecast(why: str) -> Forecast:
    return Forecast("mini", 0, f"{why}People are found by {ENGINE_NAMES['mini']}.")
