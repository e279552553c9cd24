"""Synthetic dancers: rendered people with exact DensePose part maps, for training without any photograph.

`python -m training.dancers --help` renders a data set; `DancerFolder` (in `training.dancers.dataset`) reads
it. Nothing heavy is imported here.
"""

GENERATOR_VERSION = 4
"""Rises whenever the same seed gives different pixels; written into every `dataset.json`."""
