"""The full model: fetched from the Hugging Face Hub and converted, once."""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicanimate.checkpoints.disk import (
    HOME_VARIABLE,
    downloads_folder,
    full_folder,
    home,
    human_bytes,
    local_model,
    model_index,
    require_free,
)
from magicanimate.checkpoints.download import RETRY_DELAYS, RemoteFile, download, partial_bytes, persist
from magicanimate.checkpoints.layout import (
    CONFIG,
    INDICES,
    STEMS,
    TOKENIZER_FILES,
    ComponentFiles,
    PublishedFiles,
    choose_weights,
)
from magicanimate.config import OnProgress, Progress, ShouldStop
from magicanimate.errors import InputError
from magicanimate.files import read_json, write_json

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling


def resolve_model(name: str | Path, *, offline: bool = False, on_progress: OnProgress | None = None) -> Path:
    """As `local_model`; "full" is fetched and converted if it is not here yet, see `fetch_full`.

    Raises:
        InputError: there is no such model; the sentence says what to do.
    """
    if str(name) == "full":
        return fetch_full(offline=offline, on_progress=on_progress)
    return local_model(name)


MAGICANIMATE = "zcxu-eric/MagicAnimate"
STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
VAE = "stabilityai/sd-vae-ft-mse"
# Component -> repository and folder in it.
PLACES: dict[str, tuple[str, str]] = {
    "appearance_encoder": (MAGICANIMATE, "appearance_encoder"),
    "controlnet": (MAGICANIMATE, "densepose_controlnet"),
    "motion": (MAGICANIMATE, "temporal_attention"),
    "unet": (STABLE_DIFFUSION, "unet"),
    "text_encoder": (STABLE_DIFFUSION, "text_encoder"),
    "tokenizer": (STABLE_DIFFUSION, "tokenizer"),
    "vae": (VAE, ""),
}
# Repository -> names under which it used to be, and may be in the Hub library's cache.
_FORMER = {STABLE_DIFFUSION: ("runwayml/stable-diffusion-v1-5",)}
_MEMORY = "plan.json"
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedFile:
    """One file that the conversion needs."""

    component: str  # key of `PLACES`
    remote: RemoteFile  # what it is on the Hub
    path: Path  # where it is or will be
    missing: int  # bytes still to fetch; 0 when the file is here


@dataclass(frozen=True)
class DownloadPlan:
    """Which files the full model needs, and how much of them is missing."""

    files: tuple[PlannedFile, ...]  # every file needed, here or not
    bytes_total: int  # of all of them
    bytes_missing: int  # still to download
    bytes_converted: int  # disk that the converted checkpoint takes, at most

    def describe(self) -> str:
        """A sentence for the user before anything is fetched."""
        return (
            f"The full model is {len(self.files)} files, {human_bytes(self.bytes_total)};"
            f" {human_bytes(self.bytes_missing)} to download,"
            f" {human_bytes(self.bytes_converted)} once converted."
        )


def plan_download(
    *, should_stop: ShouldStop = lambda: False, retry_delays: Sequence[float] = RETRY_DELAYS
) -> DownloadPlan:
    """Ask the Hub which files the full model needs and how large they are; fetches none of them.

    Raises:
        InputError: a repository cannot be reached, or lacks a file that is needed.
    """
    remotes: list[tuple[str, RemoteFile]] = []
    for repo in dict.fromkeys(repo for repo, _ in PLACES.values()):
        listing = persist(
            partial(_listing, repo), what=repo, should_stop=should_stop, retry_delays=retry_delays
        )
        for component, (owner, folder) in PLACES.items():
            if owner == repo:
                remotes += [(component, remote) for remote in _needed(component, folder, repo, listing)]
    return _plan_of(remotes)


def _listing(repo: str) -> dict[str, RemoteFile]:
    """Every file of a repository by name."""
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=constants.ENDPOINT)
    try:
        info = api.model_info(
            repo, revision="main", files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        # A proxy or a mirror may answer with something else than a Hub would.
        if info.sha is None or info.siblings is None:
            raise ValueError("there is no listing")
        return {entry.rfilename: _remote(repo, info.sha, entry) for entry in info.siblings}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{constants.ENDPOINT} does not answer like a Hub about {repo}; check HF_ENDPOINT and your proxy."
        ) from error


def _remote(repo: str, commit: str, entry: RepoSibling) -> RemoteFile:
    blob = entry.lfs.sha256 if entry.lfs else entry.blob_id
    if blob is None or not _BLOB.fullmatch(blob):  # it becomes part of a path
        raise ValueError(f"{blob!r} is not the hash of a file")
    if entry.size is None:
        raise ValueError(f"{entry.rfilename} has no size")
    return RemoteFile(repo, entry.rfilename, commit, int(entry.size), blob)


def _needed(component: str, folder: str, repo: str, listing: dict[str, RemoteFile]) -> list[RemoteFile]:
    """The files of one component: its configuration and one weight file, or the tokenizer's."""
    prefix = f"{folder}/" if folder else ""
    names = {name.removeprefix(prefix) for name in listing if name.startswith(prefix)}
    names = {name for name in names if "/" not in name}
    if component == "tokenizer":
        wanted = [name for name in TOKENIZER_FILES if name in names]
        found = "tokenizer.json" in wanted or {"vocab.json", "merges.txt"} <= set(wanted)
    else:
        weights = choose_weights({name for name in names if not name.endswith(INDICES)})
        wanted = [name for name in (CONFIG, weights) if name in names]
        found = weights is not None
    if not found:
        raise InputError(
            f"{repo} on the Hub no longer has the {component} files in {folder or 'its top folder'}; "
            "download them elsewhere and use `convert`."
        )
    return [listing[prefix + name] for name in wanted]


def _plan_of(remotes: list[tuple[str, RemoteFile]]) -> DownloadPlan:
    files: list[PlannedFile] = []
    for component, remote in remotes:
        here = _in_hub_cache(remote)
        # The content's identity is in the path, so what lies there is what is wanted, whatever the commit.
        path = here or downloads_folder() / remote.blob[:16] / Path(remote.name).name
        # Counted once: otherwise the plan would announce more to download than there is.
        is_here = path.exists() or path in {file.path for file in files}  # components may share a config.json
        missing = 0 if is_here else max(0, remote.nbytes - partial_bytes(path))
        files.append(PlannedFile(component, remote, path, missing))
    total = sum(file.remote.nbytes for file in files)
    return DownloadPlan(tuple(files), total, sum(file.missing for file in files), total)


def _in_hub_cache(remote: RemoteFile) -> Path | None:
    """The file in the Hub library's cache, if the same content is there."""
    from huggingface_hub import try_to_load_from_cache

    places = [(remote.repo, remote.revision), (remote.repo, "main")]
    places += [(former, "main") for former in _FORMER.get(remote.repo, ())]
    for repo, revision in places:
        found = try_to_load_from_cache(repo, remote.name, revision=revision)
        if not isinstance(found, str):
            continue
        path = Path(found)
        # A cache of another commit, or of a former name, serves if the content is the same.
        same = (repo, revision) == places[0] or path.resolve().name == remote.blob
        if same and path.stat().st_size == remote.nbytes:
            return path
    return None


def offline_plan() -> DownloadPlan:
    """The plan without a network: what an earlier run downloaded, or what the Hub library's cache holds.

    Raises:
        InputError: a file is in neither.
    """
    # The own downloads first: they are complete or say what is missing.
    remotes = _remembered() or _cached()
    plan = _plan_of(remotes)
    if not remotes or plan.bytes_missing:
        raise InputError(
            f"the full model is not in {full_folder()}, its files are not all in the cache, and fetching is"
            " switched off; run once online, or use `convert` on downloaded files."
        )
    return plan


def _remembered() -> list[tuple[str, RemoteFile]]:
    try:
        saved = read_json(downloads_folder() / _MEMORY)
        return [(entry.pop("part"), RemoteFile(**entry)) for entry in saved]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []  # no earlier run, or not a whole one


def _cached() -> list[tuple[str, RemoteFile]]:
    """The needed files as far as the cache's "main" has them; empty unless every component is complete."""
    from huggingface_hub import try_to_load_from_cache

    remotes = []
    for component, (repo, folder) in PLACES.items():
        prefix = f"{folder}/" if folder else ""
        paths: dict[str, Path] = {}
        for name in _candidates(component):
            for each in (repo, *_FORMER.get(repo, ())):
                found = try_to_load_from_cache(each, prefix + name)
                if isinstance(found, str):
                    paths.setdefault(prefix + name, Path(found))
        # The cache keeps each commit in a folder of its own name.
        commit = next((path.parents[name.count("/")].name for name, path in paths.items()), "")
        listing = {
            name: RemoteFile(repo, name, commit, path.stat().st_size, path.resolve().name)
            for name, path in paths.items()
        }
        try:
            remotes += [(component, remote) for remote in _needed(component, folder, repo, listing)]
        except InputError:
            return []
    return remotes


def _candidates(component: str) -> list[str]:
    """File names that a component may have."""
    if component == "tokenizer":
        return list(TOKENIZER_FILES)
    if component == "motion":
        return ["temporal_attention.ckpt"]
    return [CONFIG, *(f"{stem}{suffix}" for stem in STEMS for suffix in (".safetensors", ".bin"))]


def remember(plan: DownloadPlan) -> None:
    """Record beside the downloads what they are, so that a later run can use them offline."""
    saved = [{"part": file.component, **asdict(file.remote)} for file in plan.files]
    downloads_folder().mkdir(parents=True, exist_ok=True)
    write_json(downloads_folder() / _MEMORY, saved)


def published_files(plan: DownloadPlan) -> PublishedFiles:
    """The files of a plan by their role; they must all be there."""
    components: dict[str, Any] = {}
    for component in PLACES:
        paths = {Path(file.remote.name).name: file.path for file in plan.files if file.component == component}
        if component == "tokenizer":
            components[component] = tuple(paths.values())
        else:
            config = paths.pop(CONFIG, None)
            components[component] = ComponentFiles(next(iter(paths.values())), config)
    return PublishedFiles(**components)


def fetch_full(
    *,
    offline: bool = False,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    retry_delays: Sequence[float] = RETRY_DELAYS,
) -> Path:
    """The full model's pipeline folder; downloads and converts it if it is not there yet.

    Files that the Hub library has in its cache are used from there; the others are downloaded into
    `home`, and deleted once they are converted. A broken or cancelled download goes on where it stopped.

    Args:
        offline: never ask the network; ``HF_HUB_OFFLINE`` means the same.
        on_progress: gets the stages "download" and "convert", in bytes.
        retry_delays: see `magicanimate.checkpoints.download.download`.

    Raises:
        InputError: no connection, no room, or the files are not what they should be; one sentence.
        Cancelled: ``should_stop()``, called for every piece of a file and every tensor, said so.
    """
    from filelock import FileLock, Timeout

    # Converted already: neither network nor cache is needed.
    dest = full_folder()
    if model_index(dest) is not None:
        return dest
    stop = should_stop or (lambda: False)
    try:
        home().mkdir(parents=True, exist_ok=True)
        # Two programs that fetch at once would write to the same parts.
        with FileLock(home() / "full.lock", timeout=0):
            plan = offline_plan() if _is_offline(offline) else None
            plan = plan or plan_download(should_stop=stop, retry_delays=retry_delays)
            log.info("%s", plan.describe())
            _check_room(plan)
            _fetch(plan, on_progress, stop, retry_delays)
            return _convert(plan, dest, on_progress, should_stop)
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


def _check_room(plan: DownloadPlan) -> None:
    require_free(
        home(),
        plan.bytes_missing + plan.bytes_converted,
        what=f"the full model ({human_bytes(plan.bytes_missing)} to download and its converted copy)",
        fix=f"free some, or set {HOME_VARIABLE} to a folder on another disk",
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
        # What was here before the start took no time now.
        rate = (step - fetched_before) / max(time.monotonic() - start, 1e-3)
        left = (plan.bytes_total - step) / rate if rate > 0 else None
        on_progress(Progress("download", step, plan.bytes_total, left))

    # Small files first: what is wrong with a configuration shows before gigabytes.
    for file in sorted(plan.files, key=lambda file: file.missing):
        if not file.path.exists():
            report(partial_bytes(file.path))
            download(file.remote, file.path, on_bytes=report, should_stop=stop, retry_delays=retry_delays)
        done += file.remote.nbytes


def _convert(
    plan: DownloadPlan, dest: Path, on_progress: OnProgress | None, should_stop: ShouldStop | None
) -> Path:
    from magicanimate.checkpoints.convert import convert_files

    for stale in home().glob(f".{dest.name}.*.partial"):
        shutil.rmtree(stale)  # of a run that was killed; the lock says that it is not at work
    convert_files(lambda: published_files(plan), dest, on_progress=on_progress, should_stop=should_stop)
    # The converted checkpoint replaces them; otherwise the disk would hold all weights twice.
    shutil.rmtree(downloads_folder(), ignore_errors=True)
    return dest
