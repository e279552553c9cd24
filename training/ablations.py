"""``python -m training ablations PLAN``: train, evaluate and compare several configurations.

A plan is a JSON file, see `Plan`. With ``raw`` it first prepares the data, so that one command leads from raw
videos to the report. Running the same command again continues where it was stopped.

The rows of MagicAnimate's own ablations are in the supplement, table 1 (DWPose, DW+Dense, FullCond, ours).
"""

from __future__ import annotations

import argparse
import csv
import io
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from magicanimate.errors import InputError
from magicanimate.files import Unreadable, read_json_object, shortened, write_bytes, write_json
from training.config import STAGES, StageConfig, flat
from training.presets import PRESETS, preset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The configurations to compare, and everything they share.

    Attributes:
        rows: name of the row -> its own settings, named as the training's options: ``{"fusion": "full"}``.
        out: folder of the runs, the reports and the table.
        data: folder of prepared training videos, or where the ``raw`` ones are prepared to.
        protocol: evaluation protocol, see `training.evaluation.protocol`.
        stages: stages to train, in this order.
        test_data: folder of the test videos, which must not be among those of ``data``.
        preset: see `training.presets`.
        raw, source: raw videos to prepare first, and their kind, see `training.data.raw`.
        prepare: settings of the preparation, by the names of `PrepareSettings`.
        images: folder of single images for image-video joint training.
        settings: settings for all rows.
        stage_settings: stage -> settings for this stage of all rows.
        start: initial weights: paths under "stable_diffusion", "vae", "motion" or "pipeline".
        networks: folder of the feature networks of LPIPS, FID and FVD.
        most: use at most this many test videos; 0 for all.
    """

    rows: dict[str, dict[str, Any]]
    out: str
    data: str
    protocol: str
    stages: list[str]
    test_data: str
    preset: str = "mini"
    raw: str = ""
    source: str = "auto"
    prepare: dict[str, Any] = field(default_factory=dict)
    images: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    stage_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    start: dict[str, str] = field(default_factory=dict)
    networks: str = ""
    most: int = 0


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the command, without importing anything heavy."""
    text = "prepare, train and evaluate several configurations by a plan, and write one table"
    command = commands.add_parser("ablations", help=text, description=text)
    command.add_argument("plan", type=Path, help="JSON file, see docs/evaluation.md")


def read_plan(path: Path) -> Plan:
    """Read a plan and check all of it, before anything is trained.

    Raises:
        InputError: it cannot be read, or has wrong keys, types or settings.
    """
    try:
        saved = read_json_object(path)
    except Unreadable as error:
        raise InputError(f"The plan {path} cannot be read ({error.reason}).") from error
    known = {f.name: f for f in fields(Plan)}
    needed = ("rows", "out", "data", "protocol", "stages", "test_data")
    if wrong := sorted(saved.keys() - known.keys()) + [name for name in needed if name not in saved]:
        raise InputError(f"The plan {path} has wrong or missing keys: {', '.join(wrong)}.")
    kinds = {"rows": dict, "stages": list, "most": int}
    for name, value in saved.items():
        kind = kinds.get(name) or (dict if "dict" in str(known[name].type) else str)
        if not isinstance(value, kind):
            raise InputError(f"{name} in {path} is {shortened(value)}; see docs/evaluation.md.")
    plan = Plan(**saved)
    if plan.preset not in PRESETS or not plan.stages or set(plan.stages) - set(STAGES) or not plan.rows:
        raise InputError(
            f"The plan {path} needs rows, a preset of {', '.join(PRESETS)} and stages of {', '.join(STAGES)}."
        )
    for row, changes in plan.rows.items():
        if not isinstance(changes, dict):
            raise InputError(f"The row {row!r} in {path} is {shortened(changes)}; give its settings.")
        # Only for their errors: better now than after a first row that trained for days.
        for stage in plan.stages:
            configured(plan, row, stage)
    return plan


def configured(plan: Plan, row: str, stage: str) -> StageConfig:
    """The settings of a stage of a row: the preset's, then the plan's, the stage's and the row's own.

    Raises:
        InputError: a setting does not exist, or has the wrong type.
    """
    config, _ = preset(plan.preset, stage)
    for changes in (plan.settings, plan.stage_settings.get(stage, {}), plan.rows[row]):
        config = _changed(config, changes)
    return config


def _changed(config: Any, changes: Mapping[str, Any]) -> Any:
    """``config`` with settings changed by the names of their options, nested ones too."""
    there = {name.rpartition(".")[2]: name for name in flat(config)}
    for name, value in changes.items():
        if name not in there or name == "stage":
            raise InputError(f"There is no setting {name!r}; `python -m training base --help` lists them.")
        group, _, own = there[name].rpartition(".")
        part = getattr(config, group) if group else config
        old = getattr(part, own)
        # JSON does not tell 1 from 1.0.
        if type(value) is not type(old) and {type(value), type(old)} != {int, float}:
            raise InputError(f"The setting {name} is {shortened(value)}; it is of the kind of {old!r}.")
        part = replace(part, **{own: value})
        config = replace(config, **{group: part}) if group else part
        assert is_dataclass(config)
    return config


def run(args: argparse.Namespace) -> int:
    """Run the plan; returns the exit status, 3 when a signal stopped a training."""
    plan = read_plan(args.plan)
    out = Path(plan.out)
    # A warning, no error: to try a plan out, one folder is enough.
    if Path(plan.test_data).resolve() == Path(plan.data).resolve():
        log.warning("data and test_data are one folder: these are figures of videos that were learned from")
    if plan.raw:
        _prepare(plan)
    reports: dict[str, dict[str, Any]] = {}
    for row in plan.rows:
        log.info("ablations: %s", row)
        if not _train(plan, row, out):
            return 3
        reports[row] = _evaluate(plan, row, out)
    write_table(out, reports)
    print(out / "table.md")
    return 0


def _prepare(plan: Plan) -> None:
    from training.data.prepare import PrepareSettings, prepare
    from training.data.raw import find_items

    known = {f.name for f in fields(PrepareSettings)}
    # The engine of the preparation is "with" in a plan, since "engine" is DensePose's.
    engine, workers = plan.prepare.get("with", "local"), plan.prepare.get("workers", 1)
    wishes = {name: value for name, value in plan.prepare.items() if name not in ("with", "workers")}
    if strange := sorted(wishes.keys() - known):
        raise InputError(f"The preparation has no setting {strange[0]!r}; choose from {', '.join(known)}.")
    items = find_items(Path(plan.raw), plan.source)
    made = prepare(items, Path(plan.data), PrepareSettings(**wishes), engine=engine, workers=workers)
    log.info("prepared %d clips and %d pictures, dropped %s", made.clips, made.pictures, made.dropped)


def _folder(row: str) -> str:
    # Rows are named for the table, "DW+Dense", which not every file system takes.
    return re.sub(r"\W+", "_", row).strip("_") or "row"


def _train(plan: Plan, row: str, out: Path) -> bool:
    """Train the stages of a row; returns whether all are finished."""
    from training import runs
    from training.build import Start
    from training.sets import DataFolders

    own = out / _folder(row)
    first = out / _folder(next(iter(plan.rows)))
    start = Start(**{name: Path(path) for name, path in plan.start.items()})
    data = DataFolders(Path(plan.data), Path(plan.images) if plan.images else None)
    for stage in plan.stages:
        config, network = configured(plan, row, stage), preset(plan.preset, stage)[1]
        # The autoencoder does not depend on what is ablated, so one training of it serves all rows.
        same = stage == "vae" and config == configured(plan, next(iter(plan.rows)), stage)
        if same and own != first and not (own / stage).exists():
            own.mkdir(parents=True, exist_ok=True)
            shutil.copytree(first / stage, own / stage)
        if not runs.train(config, network, data=data, runs=own, start=start):
            return False
    return True


def _evaluate(plan: Plan, row: str, out: Path) -> dict[str, Any]:
    from magicanimate.device import pick_device
    from training.evaluation.networks import networks_folder
    from training.evaluation.protocol import load_protocol
    from training.evaluation.run import REPORT, Checkpoint, evaluate

    # The last stage has exported it.
    pipeline = out / _folder(row) / plan.stages[-1] / "pipeline"
    report = out / _folder(row) / "evaluation"
    protocol, checkpoint = load_protocol(plan.protocol), Checkpoint(pipeline)
    if (report / REPORT).exists():
        saved = read_json_object(report / REPORT)
        if (
            saved["protocol"] == protocol.as_json()
            # A report counts as finished only for the same protocol and the very same weights.
            and saved["method"]["checkpoint_digest"] == checkpoint.about["checkpoint_digest"]
        ):
            return saved
    data = Path(plan.test_data)
    networks = networks_folder(Path(plan.networks) if plan.networks else None)
    how = {"device": pick_device().name, "most": plan.most or None}
    return evaluate(protocol, data, checkpoint, report, networks=networks, **how)


def write_table(out: Path, reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Write ``table.md``, ``table.csv`` and ``table.json``, with a line for each row of the plan.

    Args:
        out: folder.
        reports: row -> as `training.evaluation.run.evaluate` returns them, all of one protocol.
    """
    from training.evaluation.protocol import METRICS

    keys = next(iter(reports.values()))["protocol"]["metrics"]
    lines = ["| | " + " | ".join(METRICS[key].title for key in keys) + " |", "|---" * (len(keys) + 1) + "|"]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["row", *keys])
    for row, report in reports.items():
        means = [report["figures"][key].get("mean") for key in keys]
        cells = (
            "not computed" if mean is None else METRICS[key].shown(mean)
            for key, mean in zip(keys, means, strict=True)
        )
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
        table.writerow([row, *("" if mean is None else repr(mean) for mean in means)])
    protocol = next(iter(reports.values()))["protocol"]
    lines += ["", f"Protocol {protocol['name']} ({protocol['digest']}): {protocol['about']}"]
    write_bytes(out / "table.md", ("\n".join(lines) + "\n").encode())
    write_bytes(out / "table.csv", text.getvalue().encode())
    write_json(out / "table.json", {row: report["figures"] for row, report in reports.items()})
