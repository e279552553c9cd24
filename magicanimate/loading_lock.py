"""One thread at a time imports diffusers, or reads networks with it.

It fills its modules when they are first asked for, and a second thread that asks meanwhile finds them half
full ("cannot import name ..."). While it reads a network, torch's modules are changed to make no weights
(accelerate's ``init_empty_weights``), and one that another thread makes meanwhile would have none.
"""

from __future__ import annotations

import threading

LOADING = threading.RLock()
