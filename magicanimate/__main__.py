"""``python -m magicanimate``."""

import sys

from magicanimate.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
