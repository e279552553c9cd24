"""``python -m tests.training_killed step|checkpoint N ARGS``: the training, killed at a moment of step N.

``step``: after the backward pass, before the parameters change; ``checkpoint``: with half of it written.
"""

from __future__ import annotations

import io
import os
import signal
import sys

import torch

from training.__main__ import main

SAVE, STEP = torch.save, torch.optim.AdamW.step
MOMENT, FATAL = sys.argv[1], int(sys.argv[2])
steps_taken = 0


def save_half_and_die(state, file) -> None:
    """Write checkpoints as usual, but the fatal one only half."""
    if state["step"] != FATAL:
        SAVE(state, file)
        return
    whole = io.BytesIO()
    SAVE(state, whole)
    file.write(whole.getvalue()[: whole.tell() // 2])
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def step_or_die(*args, **kwargs):
    """Take steps of the optimizer as usual, but not the fatal one."""
    global steps_taken
    steps_taken += 1
    if steps_taken == FATAL:
        os.kill(os.getpid(), signal.SIGKILL)
    return STEP(*args, **kwargs)


if __name__ == "__main__":
    if MOMENT == "step":
        torch.optim.AdamW.step = step_or_die
    else:
        torch.save = save_half_and_die
    sys.exit(main(sys.argv[3:]))
