"""Makes training data of raw videos and pictures, as the paper's supplement (section 4) describes its own.

Of a video: its shots, 25 frames a second, the square in the middle at 512 x 512, DensePose of every frame,
and if wanted the mirrored copy with DensePose estimated anew, keypoints and mattes. Clips without enough of a
person are dropped. Of a picture the same. What is made is a folder that `training.data.opening` opens.

Every item has a record in ``records/``, written when all its files are there: what was made with checksums,
what was dropped and why. Work is cut into items that do not know of each other, so that it can be stopped,
killed, resumed and shared among processes (``--engine local``) or machines (``--engine ray``).
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
    """What became of a folder.

    Attributes:
        items: raw videos and pictures.
        resumed: of these, done by earlier runs.
        clips, pictures, frames: that were made, mirrored copies included.
        dropped: reason -> how many.
        engines: of the part maps.
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
    """Prepare items, going on where an earlier run was stopped, and write the manifest.

    Args:
        items: from `training.data.raw.find_items`.
        out: the folder of what is made.
        settings: see there.
        engine: "local" processes, or "ray", which uses the cluster that it finds and else this machine.
        workers: processes; they take the GPUs in turns, so that several may share one.
        on_record: told of items done and items in all.
        should_stop: asked after each batch of items.

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
    with ThreadPoolExecutor(_READERS) as pool:  # many records, perhaps on a file system far away
        there = list(pool.map(lambda item: is_done(item, out, settings), items))
    left = [item for item, is_there in zip(items, there, strict=True) if not is_there]
    batches, done = list(_batches(left)), len(items) - len(left)
    resumed = done
    if on_record:
        on_record(done, len(items))
    run = {"local": _run_local, "ray": _run_ray}[engine]
    with closing(run(batches, out, settings, workers)) as finished:
        for count in finished:
            done += count
            if on_record:
                on_record(done, len(items))
            if should_stop is not None and should_stop():
                raise Cancelled
    return _write_manifest(items, out, settings, resumed)


def _batches(items: Sequence[RawItem]) -> Iterator[list[RawItem]]:
    """A video by itself, pictures many together."""
    pictures = [item for item in items if item.kind == "picture"]
    yield from ([item] for item in items if item.kind == "video")
    for first in range(0, len(pictures), _PICTURES_AT_ONCE):
        yield pictures[first : first + _PICTURES_AT_ONCE]


_PREPARER: Preparer | None = None


def _start_process(out: Path, settings: PrepareSettings, threads: int, begun: Any) -> None:
    """Make this process's preparer; ``begun`` counts the processes, which take the GPUs in turns."""
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
    """Yields how many items were done, batch by batch."""
    if not batches:
        return
    if workers == 1:
        preparer = Preparer(out, settings)
        for row in _rows(batches):
            yield preparer(row)["count"]
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
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
    """The same on Ray Data: lost workers are replaced and their batches done again.

    Ray's own `CheckpointConfig` is not used: it remembers which rows a dataset has written, whereas the
    records say whether an item's source, settings and files are still those of which it was made, and both
    engines go on from them.
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
    """Hands on what it refuses as a result: of an error Ray keeps no more than the text of its traceback."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """As `Preparer`; "refusal" is a sentence, or empty."""
        try:
            return super().__call__(row) | {"refusal": ""}
        except InputError as error:
            return {"count": 0, "refusal": str(error)}


def _write_manifest(items: Sequence[RawItem], out: Path, settings: PrepareSettings, resumed: int) -> Prepared:
    """``manifest.json`` (settings and counts) and ``manifest.jsonl`` (a line for every clip and picture)."""
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
    summary = asdict(prepared)
    del summary["resumed"]
    write_bytes(out / LINES, "".join(json.dumps(line) + "\n" for line in lines).encode())
    write_json(out / MANIFEST, {"settings": settings.decisive(), **summary})
    return prepared


def check_prepared(out: Path) -> Iterator[str]:
    """Sentences on what is not as the manifest says: files missing, changed or unknown; none if all is well.

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
        is_ours = path.name.startswith((".", "manifest.")) or path.name.endswith(
            (".index.json", ".index.npz")
        )
        if path.is_file() and path.name not in known and not is_ours:
            yield f"{path} is in no manifest"
