"""Makes DensePose motion clips from ordinary videos, and reads them. Nothing heavy is imported here.

- ``engines`` (with ``rcnn``, ``weights``, ``segmenter``) find the people and their body parts in images.
- ``extraction`` finds them in a clip: ``tracking``, ``postprocess``, ``deflicker`` and ``retarget`` make part
  maps of what was found, ``output`` writes them, ``archive`` and ``resume_log`` keep it.
- ``keypoints`` and ``dwpose`` are for the other control signal.
- ``one_click`` and ``motion_steps`` do all of it for the page, ``command`` for the command line.
"""

from densepose_tools.engines import ENGINES, Extractor, Selection, load_extractor

__all__ = ["ENGINES", "Extractor", "Selection", "load_extractor"]
