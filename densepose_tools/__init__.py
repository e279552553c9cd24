"""Making and reading DensePose motion signals. Nothing heavy is imported here."""

from densepose_tools.engines import Extractor, Selection
from densepose_tools.extractor import ENGINES, load_extractor

__all__ = ["ENGINES", "Extractor", "Selection", "load_extractor"]
