"""The full model from the Hugging Face Hub: fetched once, converted once, then simply there."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from magicanimate.checkpoints.disk import (
    HOME_VARIABLE,
    downloads_folder,
    free_bytes,
    full_folder,
    home,
    human_bytes,
    model_index,
    require_free,
)
from magicanimate.checkpoints.download import RETRY_DELAYS, download, partial_bytes
from magicanimate.checkpoints.plan import (
    DownloadPlan,
    offline_plan,
    plan_download,
    published_parts,
    remember,
)
from magicanimate.config import OnProgress, Progress, ShouldStop
from magicanimate.errors import InputError

log = logging.getLogger(__name__)


def fetch_full(
    *,
    cache_dir: Path | None = None,
    offline: bool = False,
    dtype: str | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    retry_delays: Sequence[float] = RETRY_DELAYS,
    free: Callable[[Path], int] = free_bytes,
) -> Path:
    """The full model's pipeline folder; downloaded and converted if it is not there yet.

    Files that the Hub library has in its cache are used from there; the others are downloaded into
    `home`, and deleted once they are converted. A broken or cancelled download goes on where it stopped.

    Args:
        cache_dir: the Hub library's cache to look into; its own setting (``HF_HOME``) when ``None``.
        offline: never ask the network; ``HF_HUB_OFFLINE`` means the same.
        dtype: weight format to convert to; ``None`` keeps the published one.
        on_progress: told the stages "download" and "convert", in bytes.
        should_stop: asked with every piece of a file and every tensor.
        retry_delays: seconds to wait after each attempt in a row that brought no byte.
        free: tells the free bytes at a path.

    Raises:
        InputError: no connection, no room, or the files are not what they should be; one sentence.
        Cancelled: ``should_stop()`` said so.
    """
    from filelock import FileLock, Timeout

    dest = full_folder()
    if model_index(dest) is not None:
        return dest
    stop = should_stop or (lambda: False)
    try:
        home().mkdir(parents=True, exist_ok=True)
        with FileLock(home() / "full.lock", timeout=0):
            plan = offline_plan(cache_dir) if _is_offline(offline) else None
            plan = plan or plan_download(cache_dir=cache_dir, should_stop=stop, retry_delays=retry_delays)
            log.info("%s", plan.describe())
            _check_room(plan, free)
            _fetch(plan, on_progress, stop, retry_delays)
            return _convert(plan, dest, dtype, on_progress, should_stop, free)
    except Timeout as error:
        raise InputError(
            f"another program is fetching the full model into {home()}; wait until it is done."
        ) from error
    except (PermissionError, FileExistsError) as error:
        raise InputError(
            f"{error.filename or home()} cannot be written; set {HOME_VARIABLE} to a folder that can."
        ) from error


def _is_offline(offline: bool) -> bool:
    from huggingface_hub import is_offline_mode

    return offline or is_offline_mode()


def _check_room(plan: DownloadPlan, free: Callable[[Path], int]) -> None:
    require_free(
        home(),
        plan.bytes_missing + plan.bytes_converted,
        what=f"the full model ({human_bytes(plan.bytes_missing)} to download and its converted copy)",
        fix=f"free some, or set {HOME_VARIABLE} to a folder on another disk",
        free=free,
    )


def _fetch(
    plan: DownloadPlan, on_progress: OnProgress | None, stop: ShouldStop, retry_delays: Sequence[float]
) -> None:
    if not plan.bytes_missing:
        return
    remember(plan)
    done = 0
    start, fetched_before = time.monotonic(), plan.bytes_total - plan.bytes_missing

    def report(count: int) -> None:
        if on_progress is None:
            return
        step = done + count
        rate = (step - fetched_before) / max(time.monotonic() - start, 1e-3)
        left = (plan.bytes_total - step) / rate if rate > 0 else None
        on_progress(Progress("download", step, plan.bytes_total, left))

    for file in sorted(plan.files, key=lambda file: file.missing):
        if not file.path.exists():
            report(partial_bytes(file.path))
            download(file.remote, file.path, on_bytes=report, should_stop=stop, retry_delays=retry_delays)
        done += file.remote.nbytes


def _convert(
    plan: DownloadPlan,
    dest: Path,
    dtype: str | None,
    on_progress: OnProgress | None,
    should_stop: ShouldStop | None,
    free: Callable[[Path], int],
) -> Path:
    from magicanimate.checkpoints.convert import convert_parts

    for stale in home().glob(f".{dest.name}.*.partial"):
        shutil.rmtree(stale)  # of a run that was killed; the lock says that it is not at work
    convert_parts(
        lambda: published_parts(plan),
        dest,
        dtype=dtype,
        on_progress=on_progress,
        should_stop=should_stop,
        free=free,
    )
    shutil.rmtree(downloads_folder(), ignore_errors=True)
    return dest
