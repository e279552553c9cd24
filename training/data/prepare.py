"""Prepares a set of raw videos and images for training: hands out the work, and writes the manifest.

What is done to a video or image is in `training.data.preparer`. What is made is a folder that
`training.data.opening` opens.

Every item has a record in ``records/``, written when all its files exist: what was made, with checksums, and
what was dropped and why. Items do not depend on each other, so the work can be stopped, killed and resumed at
any time, and divided among processes (``--engine local``) or machines (``--engine ray``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from magicanimate.config import ShouldStop
from magicanimate.errors import Cancelled, InputError
from magicanimate.files import Unreadable, parse_json, read_json_object, sha256_of, write_bytes, write_json
from training.data.preparer import RECORDS, Preparer, PrepareSettings, is_done, read_record
from training.data.raw import RawItem
from training.data.sources import MIRRORED

log = logging.getLogger(__name__)

MANIFEST, LINES = "manifest.json", "manifest.jsonl"
_PICTURES_AT_ONCE, _READERS = 32, 16
_MOST_BLOCKS = 10_000  # Ray keeps an account of each; a worker that dies begins its block again


@dataclass(frozen=True)
class Prepared:
    """The outcome of a preparation.

    Attributes:
        items: number of raw videos and images.
        resumed: how many of them earlier runs had prepared.
        clips, pictures, frames: numbers of what was made, mirrored copies included.
        dropped: reason -> how many were dropped for it.
        engines: the engines that made the part maps.
    """

    items: int
    resumed: int
    clips: int
    pictures: int
    frames: int
    dropped: dict[str, int]
    engines: list[str]


def prepare(
    items: Sequence[RawItem],
    out: Path,
    settings: PrepareSettings,
    *,
    engine: str = "local",
    workers: int = 1,
    on_record: Callable[[int, int], None] | None = None,
    should_stop: ShouldStop | None = None,
) -> Prepared:
    """Prepare items, continuing where an earlier run was stopped, and write the manifest.

    Args:
        items: from `training.data.raw.find_items`.
        out: output folder.
        settings: what to make of every item.
        engine: "local" processes, or "ray", which uses a cluster if it finds one, else this machine.
        workers: number of processes. GPUs are assigned in turn, so several processes may share one.
        on_record: called with the numbers of finished and of all items.
        should_stop: called after each batch of items.

    Raises:
        InputError: the engine cannot be used, or ``out`` cannot be written.
        Cancelled: ``should_stop()`` said so; what is done stays.
    """
    if settings.engine == "auto":
        raise InputError("Name the DensePose engine (--densepose torch); a preparation never falls back.")
    if settings.flip and (twice := [item.name for item in items if item.name.endswith(MIRRORED)]):
        raise InputError(f"{twice[0]} is called as mirrored copies are; rename it, or leave --flip out.")
    try:
        (out / RECORDS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); choose another folder.") from error
    # Threads, as this waits for the file system, which may be far away and hold many records.
    with ThreadPoolExecutor(_READERS) as pool:
        there = list(pool.map(lambda item: is_done(item, out, settings), items))
    left = [item for item, is_there in zip(items, there, strict=True) if not is_there]
    batches, done = list(_batches(left)), len(items) - len(left)
    resumed = done
    if on_record:
        on_record(done, len(items))
    run = {"local": _run_local, "ray": _run_ray}[engine]
    # Closed also when this stops early, so that no process is left behind.
    with closing(run(batches, out, settings, workers)) as finished:
        for count in finished:
            done += count
            if on_record:
                on_record(done, len(items))
            if should_stop is not None and should_stop():
                raise Cancelled
    return _write_manifest(items, out, settings, resumed)


def _batches(items: Sequence[RawItem]) -> Iterator[list[RawItem]]:
    """Yield the units of work: single videos, and groups of pictures."""
    # Pictures in groups, since the network takes several at once; a video is work enough by itself.
    pictures = [item for item in items if item.kind == "picture"]
    yield from ([item] for item in items if item.kind == "video")
    for first in range(0, len(pictures), _PICTURES_AT_ONCE):
        yield pictures[first : first + _PICTURES_AT_ONCE]


_PREPARER: Preparer | None = None


def _start_process(out: Path, settings: PrepareSettings, threads: int, begun: Any) -> None:
    """Set up a worker process: its preparer, and its GPU, by a counter ``begun`` that all processes share."""
    global _PREPARER
    import torch

    torch.set_num_threads(threads)
    with begun.get_lock():
        number, begun.value = begun.value, begun.value + 1
    if not settings.device and torch.cuda.device_count() > 1:
        settings = replace(settings, device=f"cuda:{number % torch.cuda.device_count()}")
    _PREPARER = Preparer(out, settings)


def _in_process(row: dict[str, Any]) -> int:
    return _PREPARER(row)["count"]


def _rows(batches: Sequence[Sequence[RawItem]]) -> list[dict[str, Any]]:
    return [{"items": json.dumps([item.as_json() for item in batch])} for batch in batches]


def _run_local(
    batches: Sequence[Sequence[RawItem]], out: Path, settings: PrepareSettings, workers: int
) -> Iterator[int]:
    """Run batches in this process or in several; yields the number of items of each finished batch."""
    if not batches:
        return
    if workers == 1:
        preparer = Preparer(out, settings)
        for row in _rows(batches):
            yield preparer(row)["count"]
        return
    # The processes share the cores; with torch's default each would start a thread for every core.
    threads = max(1, (os.cpu_count() or 1) // workers)
    # A forked process could not use CUDA, which the parent may have initialized.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_start_process,
        initargs=(out, settings, threads, context.Value("i", 0)),
    )
    try:
        for future in as_completed([pool.submit(_in_process, row) for row in _rows(batches)]):
            yield future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "A process of the preparation was killed, as when memory runs out, or could not start; run the "
            "same command again, which goes on from here, with fewer --workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _run_ray(
    batches: Sequence[Sequence[RawItem]], out: Path, settings: PrepareSettings, workers: int
) -> Iterator[int]:
    """Run batches on Ray Data, which replaces workers that die and repeats their batches.

    Ray's own `CheckpointConfig` is not used. It remembers which rows a dataset has written, whereas the
    records also tell whether an item's source, settings and files are unchanged, and both engines resume from
    them.
    """
    if not batches:
        return
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine ray needs the package ray: pip install 'ray[data]'.") from error

    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of every stage of its plan
    context.execution_options.preserve_order = False
    # Actors beyond the number of batches would only load networks.
    size = min(workers, len(batches))
    # Of the cluster, not of this machine, which may be the one without. Several workers share a GPU: each
    # decodes and encodes for longer than the GPU computes.
    gpus = ray.cluster_resources().get("GPU", 0)
    blocks = min(len(batches), _MOST_BLOCKS)
    made = ray.data.from_items(_rows(batches), override_num_blocks=blocks).map(
        PreparerOnRay,
        fn_constructor_args=(str(out.resolve()), settings),
        compute=ray.data.ActorPoolStrategy(size=size),
        num_cpus=1,
        # Rounded down, or the last actors would wait for a GPU for ever.
        num_gpus=min(1.0, int(100 * gpus / size) / 100),
    )
    try:
        # Closed before Ray is: a thread of its executor that still asked for something would end this
        # process at once, before the sentence that says why could be written.
        with contextlib.closing(iter(made.iter_rows())) as rows:
            for row in rows:
                if row["refusal"]:
                    raise InputError(row["refusal"])
                yield row["count"]
    finally:
        if ours:  # its processes would stay beside a training that follows
            ray.shutdown()


class PreparerOnRay(Preparer):
    """Returns errors as results: of an exception Ray keeps only the text of the traceback."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """As `Preparer`; "refusal" is the message of an error, or empty."""
        try:
            return super().__call__(row) | {"refusal": ""}
        except InputError as error:
            return {"count": 0, "refusal": str(error)}


def _write_manifest(items: Sequence[RawItem], out: Path, settings: PrepareSettings, resumed: int) -> Prepared:
    """Write ``manifest.json`` (settings, counts) and ``manifest.jsonl`` (a line per clip or picture)."""
    lines, dropped, engines = [], Counter(), set()
    for item in items:
        record = read_record(out, item.name)
        if record is None:
            raise InputError(f"The record of {item.name} is missing in {out}; run the same command again.")
        engines.add(record["engine"])
        lines += [{**made, "source": record["item"]["path"]} for made in record["made"]]
        for drop in record["dropped"]:
            dropped[drop["reason"]] += 1
            lines.append({**drop, "kind": "dropped", "source": record["item"]["path"]})
    kinds = Counter(line["kind"] for line in lines)
    prepared = Prepared(
        items=len(items),
        resumed=resumed,
        clips=kinds["clip"],
        pictures=kinds["picture"],
        frames=sum(line.get("frames", 0) for line in lines),
        dropped=dict(dropped),
        engines=sorted(engines),
    )
    # Without `resumed`, so that the manifest does not depend on interruptions.
    summary = asdict(prepared)
    del summary["resumed"]
    write_bytes(out / LINES, "".join(json.dumps(line) + "\n" for line in lines).encode())
    write_json(out / MANIFEST, {"settings": settings.decisive(), **summary})
    return prepared


def check_prepared(out: Path) -> Iterator[str]:
    """Compare a prepared folder with its manifest; yields a sentence per missing, changed or unknown file.

    Raises:
        InputError: there is no manifest.
    """
    try:
        read_json_object(out / MANIFEST)
        text = (out / LINES).read_text(encoding="utf-8")
    except (Unreadable, OSError) as error:
        raise InputError(f"{out} has no manifest; prepare it to its end first.") from error
    known: set[str] = set()
    for line in map(parse_json, text.splitlines()):
        files = line.get("files", {})
        known |= files.keys()
        for name, digest in files.items():
            path = out / name
            if not path.is_file():
                yield f"{path} is missing"
            elif sha256_of(path) != digest:
                yield f"{path} has changed"
    for path in sorted(out.iterdir()):
        # Manifests, and the indexes that a training keeps here.
        is_ours = path.name.startswith((".", "manifest.")) or path.name.endswith(
            (".index.json", ".index.npz")
        )
        if path.is_file() and path.name not in known and not is_ours:
            yield f"{path} is in no manifest"
