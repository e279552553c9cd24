"""Prints how near this program is to the published one: case, largest difference, tolerance.

    python -m benchmarks.reference_numbers [FOLDER]

FOLDER holds ``cases.json`` and the outputs; the compact set in ``tests/golden`` when it is left out.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(folder: Path) -> int:
    """Print a Markdown table; the exit status is 1 if a case is beyond its tolerance."""
    from tests.golden_cases import compare, load_cases, tiny_pipeline

    pipe, status = tiny_pipeline(), 0
    print("| case | outputs | worst output | max abs difference | tolerance |")
    print("|---|---|---|---|---|")
    for name, case in load_cases(folder).items():
        rows = compare(case, folder, pipe)
        worst = max(rows, key=lambda row: row.difference / row.tolerance)
        status |= worst.difference > worst.tolerance
        print(f"| {name} | {len(rows)} | {worst.output} | {worst.difference:.1e} | {worst.tolerance:.1e} |")
    return int(status)


if __name__ == "__main__":
    default = Path(__file__).resolve().parents[1] / "tests" / "golden"
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else default))
