"""``python -m densepose_tools``."""

import sys

from densepose_tools.command import main

if __name__ == "__main__":
    sys.exit(main())
