"""Fetching the full model, against a stand-in for the Hub on the loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, hf_hub_download

from magicanimate.checkpoints import disk, locate
from magicanimate.checkpoints.convert import convert_checkpoint
from magicanimate.checkpoints.download import download
from magicanimate.checkpoints.locate import MAGICANIMATE, STABLE_DIFFUSION, VAE
from magicanimate.errors import Cancelled, InputError
from tests.hub_stand_in import COMMIT, HubStandIn
from tests.published_layout import write_published_layout

ROOT = Path(__file__).resolve().parents[1]
UNET = "unet/diffusion_pytorch_model.safetensors"
MOTION = "temporal_attention/temporal_attention.ckpt"
NO_WAIT = (0.0, 0.0)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The published layout, with the things beside it that must not be fetched."""
    folder = write_published_layout(tmp_path_factory.mktemp("published"))
    stable_diffusion = folder / "stable-diffusion-v1-5"
    for name in (
        "v1-5-pruned.ckpt",
        "v1-5-pruned-emaonly.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "text_encoder/pytorch_model.bin",
        "safety_checker/model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ):
        (stable_diffusion / name).parent.mkdir(exist_ok=True)
        (stable_diffusion / name).write_bytes(name.encode())
    (folder / "sd-vae-ft-mse" / "README.md").write_text("a card", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def converted(published, tmp_path_factory) -> Path:
    return convert_checkpoint(published, tmp_path_factory.mktemp("converted") / "full")


@pytest.fixture
def hub_server(published, tmp_path, monkeypatch):
    repos = {
        MAGICANIMATE: published / "MagicAnimate",
        STABLE_DIFFUSION: published / "stable-diffusion-v1-5",
        VAE: published / "sd-vae-ft-mse",
    }
    with HubStandIn(repos) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path / "home"))
        yield server


def fetch(**options) -> Path:
    return locate.fetch_full(retry_delays=NO_WAIT, **options)


def same_files(one: Path, other: Path) -> bool:
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    return all((one / file).read_bytes() == (other / file).read_bytes() for file in files)


def test_stand_in_satisfies_the_hub_library_itself(hub_server, published, tmp_path):
    for name in (UNET, "unet/config.json"):
        path = hf_hub_download(STABLE_DIFFUSION, name, cache_dir=tmp_path / "c")
        assert Path(path).read_bytes() == (published / "stable-diffusion-v1-5" / name).read_bytes()
    api = huggingface_hub.HfApi(endpoint=hub_server.url)
    assert {entry.path for entry in api.list_repo_tree(VAE, recursive=True)} == set(hub_server.files(VAE))


def test_plan_names_the_needed_files_and_their_size(hub_server, published):
    plan = locate.plan_download()
    names = {(file.remote.repo, file.remote.name) for file in plan.files}
    assert names == {
        (MAGICANIMATE, "appearance_encoder/config.json"),
        (MAGICANIMATE, "appearance_encoder/diffusion_pytorch_model.safetensors"),
        (MAGICANIMATE, "densepose_controlnet/config.json"),
        (MAGICANIMATE, "densepose_controlnet/diffusion_pytorch_model.safetensors"),
        (MAGICANIMATE, MOTION),
        (STABLE_DIFFUSION, "unet/config.json"),
        (STABLE_DIFFUSION, UNET),
        (STABLE_DIFFUSION, "text_encoder/config.json"),
        (STABLE_DIFFUSION, "text_encoder/model.safetensors"),
        (STABLE_DIFFUSION, "tokenizer/vocab.json"),
        (STABLE_DIFFUSION, "tokenizer/merges.txt"),
        (STABLE_DIFFUSION, "tokenizer/tokenizer_config.json"),
        (VAE, "config.json"),
        (VAE, "diffusion_pytorch_model.safetensors"),
    }
    sizes = [hub_server.files(repo)[name].stat().st_size for repo, name in names]
    assert plan.bytes_total == sum(sizes)
    shared_config = (published / "MagicAnimate/appearance_encoder/config.json").stat().st_size
    assert plan.bytes_missing == sum(sizes) - shared_config  # the UNet's is the same file
    assert "to download" in plan.describe()
    assert not any("/resolve/" in request.path for request in hub_server.requests)


def test_fetch_gives_what_converting_by_hand_gives(hub_server, converted, tmp_path):
    seen = []
    dest = fetch(on_progress=seen.append)
    assert dest == tmp_path / "home" / "full"
    assert same_files(dest, converted)
    downloads = [moment for moment in seen if moment.stage == "download"]
    assert [moment.stage for moment in seen] == ["download"] * len(downloads) + ["convert"] * (
        len(seen) - len(downloads)
    )
    steps = [moment.step for moment in downloads]
    assert steps == sorted(steps)
    assert downloads[-1].step == downloads[-1].total
    assert not (tmp_path / "home" / "downloads").exists()  # converted, so no longer needed
    count = len(hub_server.requests)
    assert fetch() == dest
    assert len(hub_server.requests) == count  # the second call asks nobody


def fetch_one(name: str, should_stop=lambda: False, on_bytes=lambda count: None) -> Path:
    """Download one of the planned files, without the rest and the conversion."""
    (file,) = [file for file in locate.plan_download().files if file.remote.name == name]
    return download(file.remote, file.path, on_bytes=on_bytes, should_stop=should_stop, retry_delays=NO_WAIT)


def test_broken_connection_is_resumed_where_it_broke(hub_server):
    source = hub_server.files(STABLE_DIFFUSION)[UNET]
    size, half = source.stat().st_size, source.stat().st_size // 2
    hub_server.faults.break_after[UNET] = [half, 1000]
    assert fetch_one(UNET).read_bytes() == source.read_bytes()
    requests = hub_server.downloads(UNET)
    assert [request.range for request in requests] == [None, f"bytes={half}-", f"bytes={half + 1000}-"]
    assert sum(request.sent for request in requests) == size  # no byte came twice


def test_next_run_resumes_after_giving_up(hub_server, published, converted, tmp_path):
    size = (published / "stable-diffusion-v1-5" / UNET).stat().st_size
    hub_server.faults.break_after[UNET] = [size // 3]
    hub_server.faults.always_break_after[UNET] = 0
    with pytest.raises(InputError, match=r"cannot be fetched .* after 3 attempts; .*run the same again"):
        fetch()
    assert not (tmp_path / "home" / "full").exists()
    before = locate.plan_download()
    assert before.bytes_total - before.bytes_missing >= size // 3
    hub_server.faults.always_break_after.clear()
    del hub_server.requests[:]
    assert same_files(fetch(), converted)
    (request,) = hub_server.downloads(UNET)
    assert request.range == f"bytes={size // 3}-"
    assert request.sent == size - size // 3


def test_cancelled_download_resumes(hub_server):
    source, counts = hub_server.files(STABLE_DIFFUSION)[UNET], []
    with pytest.raises(Cancelled):
        fetch_one(UNET, lambda: bool(counts) and counts[-1] > 10_000_000, counts.append)
    assert fetch_one(UNET).read_bytes() == source.read_bytes()
    assert [request.range for request in hub_server.downloads(UNET)] == [None, f"bytes={counts[-1]}-"]


def test_server_without_ranges_starts_the_file_anew(hub_server):
    hub_server.faults.break_after[MOTION] = [5000]
    hub_server.faults.ignore_ranges = True
    assert fetch_one(MOTION).read_bytes() == hub_server.files(MAGICANIMATE)[MOTION].read_bytes()
    assert len(hub_server.downloads(MOTION)) == 2


def test_answer_that_ends_early_is_resumed(hub_server):
    source = hub_server.files(MAGICANIMATE)[MOTION]
    hub_server.faults.short[MOTION] = [5000, 0, 700]
    assert fetch_one(MOTION).read_bytes() == source.read_bytes()
    assert [request.sent for request in hub_server.downloads(MOTION)] == [
        5000,
        0,
        700,
        source.stat().st_size - 5700,
    ]
    hub_server.faults.short[UNET] = [0] * 9
    with pytest.raises(InputError, match="the answer ended early.* after 3 attempts"):
        fetch_one(UNET)


def test_busy_server_is_asked_again(hub_server):
    hub_server.faults.busy[UNET] = 2
    assert fetch_one(UNET).stat().st_size == hub_server.files(STABLE_DIFFUSION)[UNET].stat().st_size


@pytest.mark.parametrize("name", ["tokenizer/vocab.json", UNET])
def test_tampered_file_is_thrown_away(hub_server, name):
    hub_server.faults.tampered = {name}
    with pytest.raises(InputError, match=f"{name} does not have the checksum .*; run the same again"):
        fetch_one(name)
    hub_server.faults.tampered = set()
    assert fetch_one(name).read_bytes() == hub_server.files(STABLE_DIFFUSION)[name].read_bytes()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ((401, "RepoNotFound"), "does not exist on the Hub or is private"),
        ((403, "GatedRepo"), "accept them on its page"),
        ((404, "RevisionNotFound"), "is no longer on the Hub"),
        ((403, ""), "refuses .* with HTTP status 403"),
        ((500, ""), "the Hub answered 500.* after 3 attempts"),
    ],
)
def test_refusals_are_one_sentence(hub_server, tmp_path, status, words):
    hub_server.faults.status[MAGICANIMATE] = status
    with pytest.raises(InputError, match=words) as caught:
        fetch()
    assert MAGICANIMATE in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "home" / "full").exists()


def test_no_server_at_all(hub_server, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
    with pytest.raises(InputError, match="cannot be fetched .*check the connection"):
        fetch()


def test_web_page_instead_of_a_hub(hub_server):
    hub_server.faults.portal = True
    with pytest.raises(InputError, match="does not answer like a Hub about .*check HF_ENDPOINT"):
        fetch()


def test_repository_that_lost_its_files(hub_server, tmp_path):
    hub_server.repos[MAGICANIMATE] = tmp_path
    with pytest.raises(InputError, match="no longer has the appearance_encoder files"):
        fetch()


def test_full_disk_is_noticed_before_downloading(hub_server, monkeypatch):
    monkeypatch.setattr("magicanimate.checkpoints.disk.free_bytes", lambda path: 150_000_000)
    with pytest.raises(
        InputError, match=r"needs 2\d\d MB of free disk and .*home has 150 MB;.*MAGICANIMATE_HOME"
    ):
        fetch()
    assert not any("/resolve/" in request.path for request in hub_server.requests)


def test_hub_cache_is_used_instead_of_downloading(hub_server, converted, tmp_path):
    for name in ("unet/config.json", UNET):
        hf_hub_download(STABLE_DIFFUSION, name, cache_dir=tmp_path / "hub_cache")
    del hub_server.requests[:]
    assert same_files(fetch(), converted)
    assert hub_server.downloads(UNET) == []
    cached = (
        tmp_path
        / "hub_cache"
        / f"models--{STABLE_DIFFUSION.replace('/', '--')}"
        / "snapshots"
        / COMMIT
        / UNET
    )
    assert cached.exists()  # and it stays there


@pytest.mark.parametrize("switch", ["argument", "environment"])
def test_offline_without_the_files(hub_server, monkeypatch, switch):
    if switch == "environment":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="fetching is switched off; run once online"):
        fetch(offline=switch == "argument")
    assert hub_server.requests == []


def test_the_cache_of_a_repository_that_was_renamed_is_used(hub_server, converted, tmp_path):
    cache = tmp_path / "hub_cache"
    for file in locate.plan_download().files:
        hf_hub_download(file.remote.repo, file.remote.name, cache_dir=cache)
    renamed = f"models--{STABLE_DIFFUSION.replace('/', '--')}"
    (cache / renamed).rename(cache / "models--runwayml--stable-diffusion-v1-5")
    assert locate.plan_download().bytes_missing == 0
    assert same_files(fetch(offline=True), converted)


def test_offline_with_a_full_hub_cache(hub_server, converted, tmp_path):
    for file in locate.plan_download().files:
        hf_hub_download(file.remote.repo, file.remote.name, cache_dir=tmp_path / "hub_cache")
    del hub_server.requests[:]
    assert same_files(fetch(offline=True), converted)
    assert hub_server.requests == []


def test_offline_after_a_conversion_that_was_stopped(hub_server, converted, tmp_path):
    seen = []
    with pytest.raises(Cancelled):
        fetch(on_progress=seen.append, should_stop=lambda: bool(seen) and seen[-1].stage == "convert")
    del hub_server.requests[:]
    killed = tmp_path / "home" / ".full.deadbeef.partial"  # as a run leaves it that had no time to tidy up
    killed.mkdir()
    assert same_files(fetch(offline=True), converted)
    assert hub_server.requests == []
    assert not killed.exists()


def test_home_that_cannot_be_written(hub_server, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="file cannot be written; set MAGICANIMATE_HOME"):
        fetch()


def test_only_one_program_fetches(hub_server, tmp_path):
    from filelock import FileLock

    (tmp_path / "home").mkdir()
    with (
        FileLock(tmp_path / "home" / "full.lock"),
        pytest.raises(InputError, match="another program is fetching"),
    ):
        fetch()


def test_environment_is_respected(hub_server, tmp_path):
    """In a fresh process, as the Hub library reads its variables when it is imported."""
    env = os.environ | {
        "HF_ENDPOINT": hub_server.url,
        "HF_HOME": str(tmp_path / "hf"),
        "MAGICANIMATE_HOME": str(tmp_path / "elsewhere"),
        "PYTHONPATH": str(ROOT),
    }
    code = (
        "import sys; from magicanimate.checkpoints import download, locate; p = locate.plan_download();"
        "f = p.files[0]; no = lambda *_: None;"
        "download.download(f.remote, f.path, on_bytes=no, should_stop=no);"
        "print(p.bytes_total, f.path.parents[2], f.path.stat().st_size, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    plan = locate.plan_download()
    sizes = [str(plan.bytes_total), str(plan.files[0].remote.nbytes)]
    assert run.stdout.split() == [sizes[0], str(tmp_path / "elsewhere"), sizes[1], "False"]


def test_resolve_by_name_and_folder(hub_server, published, converted, tmp_path, monkeypatch):
    assert locate.resolve_model(converted) == converted
    assert locate.resolve_model(str(converted)) == converted
    with pytest.raises(InputError, match=r"must be converted once: `python -m magicanimate convert "):
        locate.resolve_model(published)
    with pytest.raises(InputError, match="neither a folder nor one of the models mini, full"):
        locate.resolve_model("maxi")
    with pytest.raises(InputError, match=r"has no model_index\.json"):
        locate.resolve_model(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        locate.resolve_model(converted / "model_index.json")
    with pytest.raises(InputError, match="switched off"):
        locate.resolve_model("full", offline=True)
    monkeypatch.setattr(disk, "mini_folder", lambda: tmp_path / "absent")
    with pytest.raises(InputError, match="mini checkpoint is missing"):
        locate.resolve_model("mini")


def test_models_describe_themselves(hub_server, converted, tmp_path):
    (absent,) = [model for model in disk.describe_models() if model.name == "full"]
    assert (absent.path, absent.available, absent.bytes) == (None, False, 0)
    shutil.copytree(converted, tmp_path / "home" / "full")
    (here,) = [model for model in disk.describe_models() if model.name == "full"]
    assert (here.path, here.available, here.kind) == (tmp_path / "home" / "full", True, "full")
    assert here.bytes == sum(path.stat().st_size for path in converted.rglob("*") if path.is_file())
    assert locate.resolve_model("full", offline=True) == here.path
    index = json.loads((here.path / "model_index.json").read_text(encoding="utf-8"))
    assert index["kind"] == "full"
