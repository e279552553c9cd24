"""The quick tests as on other machines: `python -m tests.elsewhere [--all | --short] [ARGUMENTS OF PYTEST]`.

Every test must pass whatever the processor, the number of threads, the language, the home folder, the time
zone, the order of the tests and the load of the machine. Each run here changes several of these at once, so
that a few runs cover all; what a failure is due to is found by running the named test with one at a time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUSY_LOOPS = 2
# What computes with networks, which is where processors differ.
NUMERIC = (
    "golden or pipeline or memory or acceleration or presets or distributed or training or densepose_network"
)


@dataclass(frozen=True)
class Machine:
    """A machine that is not this one.

    Attributes:
        name: what is different.
        environment: variables; of oneDNN, ATen (torch's own kernels) and the system.
        arguments: of pytest.
        busy: whether other programs compute beside the tests.
    """

    name: str
    environment: dict[str, str]
    arguments: tuple[str, ...] = ()
    busy: bool = False


MACHINES = (
    Machine(
        "AVX2, one thread, plain C language, a home that cannot be written, far west",
        {
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "ATEN_CPU_CAPABILITY": "avx2",
            "OMP_NUM_THREADS": "1",
            "LC_ALL": "C",
            "HOME": os.devnull,  # a file: nobody, not even root, makes a folder in it
            "TZ": "Etc/GMT+12",
        },
    ),
    Machine(
        "AVX-512, four threads, far east, random order, busy",
        {
            "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
            "OMP_NUM_THREADS": "4",
            "OMP_WAIT_POLICY": "PASSIVE",  # more threads than cores would else wait for each other busily
            "TZ": "Pacific/Kiritimati",
        },
        ("-p", "randomly"),
        busy=True,
    ),
    Machine(
        "no vector instructions in torch's kernels, SSE4.1 in oneDNN",
        {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
        ("-k", NUMERIC),
    ),
)


def main(words: list[str] | None = None) -> int:
    """Run the tests on every machine; the exit status is 0 if all passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.elsewhere", description=__doc__.splitlines()[0])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--all", action="store_true", help="all but the slow tests")
    how.add_argument("--short", action="store_true", help="on the first machine only, without a browser")
    args, others = parser.parse_known_args(words)
    failed = []
    for machine in MACHINES[:1] if args.short else MACHINES:
        print(f"\n== {machine.name} ==", flush=True)
        marks = "not slow and not browser" if args.short else "not slow"
        chosen = [] if args.all else ["@tests/quick.txt"]
        command = [sys.executable, "-m", "pytest", *chosen, "-m", marks, *machine.arguments, *others]
        loops = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"])
            for _ in range(BUSY_LOOPS if machine.busy else 0)
        ]
        try:
            status = subprocess.run(command, cwd=ROOT, env=os.environ | machine.environment).returncode
        finally:
            for loop in loops:
                loop.kill()
        if status:
            failed.append(machine.name)
    print("\nOn all machines the tests passed." if not failed else f"\nFailed on: {'; '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
