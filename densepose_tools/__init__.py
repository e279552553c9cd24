"""Making and reading DensePose motion signals. Nothing heavy is imported here."""

from densepose_tools.engines import ENGINES, Extractor, Selection, load_extractor

__all__ = ["ENGINES", "Extractor", "Selection", "load_extractor"]
