"""One thread at a time imports diffusers.

It fills its modules when they are first asked for, and a second thread that asks meanwhile finds them half
full ("cannot import name ..."). Whoever may be the first to import it from a thread does so under this lock.
"""

from __future__ import annotations

import threading

HEAVY_IMPORTS = threading.RLock()
