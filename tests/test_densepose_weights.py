"""The released file: read without running it, converted once, fetched with patience."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from huggingface_hub import constants

from densepose_tools import engines, weights
from densepose_tools.engines import Selection, load_extractor
from densepose_tools.rcnn import tiny
from densepose_tools.rcnn.network import DensePoseRCNN
from densepose_tools.weights import (
    RELEASED,
    Release,
    convert,
    ensure_weights,
    load_network,
    read_converted,
    read_published,
)
from magicanimate.checkpoints.download import Unreachable, WebFile
from magicanimate.errors import Cancelled, InputError
from tests.conftest import ROOT
from tests.hub_stand_in import HubStandIn

NAME = "model_final_162be9.pkl"
NO_WAIT = (0.0, 0.0)


def tiny_state() -> dict[str, np.ndarray]:
    torch.manual_seed(5)
    return {name: value.numpy().copy() for name, value in DensePoseRCNN(tiny()).state_dict().items()}


def write_pickle(path: Path, model: dict, protocol: int = 2) -> Path:
    """A file as detectron2's model zoo writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"model": OrderedDict(model), "__author__": "someone"}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path / "home"))


@pytest.fixture
def source(tmp_path) -> Path:
    return write_pickle(tmp_path / "repo" / NAME, tiny_state())


@pytest.fixture
def server(source, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 5)
    with HubStandIn({"someone/densepose": source.parent}) as hub:
        yield hub


def release(server: HubStandIn, source: Path, **changes) -> Release:
    content = source.read_bytes()
    known = {"nbytes": len(content), "blob": hashlib.sha256(content).hexdigest()} | changes
    return Release(WebFile(f"{server.url}/someone/densepose/resolve/main/{NAME}", **known), tiny())


def test_several_at_once_wait_for_one_that_fetches(server, source):
    wanted = release(server, source)
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: ensure_weights(release=wanted, retry_delays=NO_WAIT), range(3)))
    assert len(set(made)) == 1 and load_network(made[0], widths=tiny()) is not None


def test_without_a_network_nobody_waits_for_another_program(tmp_path):
    folder = weights.folder()
    folder.mkdir(parents=True)
    with FileLock(folder / "weights.lock"):
        with pytest.raises(Unreachable, match="fetching is forbidden"):
            ensure_weights(offline=True)
        asked = iter([False, False, True])
        with pytest.raises(Cancelled):
            ensure_weights(should_stop=lambda: next(asked))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_pickle_of_any_age_is_read(tmp_path, protocol):
    state = tiny_state()
    extra = {
        "pixel_mean": np.zeros((3, 1, 1)),
        "proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4)),
    }
    model = {f"module.{name}": value for name, value in (state | extra).items()}
    read = read_published(write_pickle(tmp_path / NAME, model, protocol))
    assert set(read) == set(state)
    assert all(np.array_equal(read[name], value) for name, value in state.items())


def test_older_numpys_names_are_known(tmp_path, source):
    content = source.read_bytes()
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != content
    assert set(read_published(_written(tmp_path / "old.pkl", old))) == set(tiny_state())


class _Runs:
    def __reduce__(self):
        return (Path.touch, (Path("was_run"),))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"model": {"a": _Runs()}}),
        b"cos\nsystem\n(S'touch was_run'\ntR.",
        b'cbuiltins\neval\n(S\'open("was_run", "w")\'\ntR.',
        b"c_codecs\nencode\n(S'x'\nS'zlib'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000\ntS'd'\ntR.",
    ],
)
def test_pickle_that_wants_more_than_arrays_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="could run code, and was not loaded"):
        read_published(_written(tmp_path / "bad.pkl", content))
    assert not Path("was_run").exists()


def test_damaged_pickle_is_refused_wherever_it_ends(tmp_path, source):
    content = source.read_bytes()
    for length in np.linspace(0, len(content) - 1, 25).astype(int):
        with pytest.raises(InputError, match="damaged; download it again"):
            read_published(_written(tmp_path / "cut.pkl", content[:length]))
    for text in (b"<html>sign in</html>", b"version https://git-lfs.github.com/spec/v1\n"):
        with pytest.raises(InputError, match="not a pickle of weights"):
            read_published(_written(tmp_path / "cut.pkl", text))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({}, 'no "model"'),
        ({"a": "text"}, "a is not an array of float"),
        ({"a": np.arange(3)}, "a is not an array of float"),
        ({"a": np.array([1.0, np.nan])}, "a holds NaN"),
    ],
)
def test_pickle_of_other_things_is_refused(tmp_path, model, reason):
    with pytest.raises(InputError, match=reason):
        read_published(write_pickle(tmp_path / NAME, model))


def test_converted_weights_are_the_released_ones(tmp_path, source):
    dest = tmp_path / "converted.safetensors"
    convert(source, dest, digest="0" * 64, widths=tiny())
    state = load_network(dest, widths=tiny()).state_dict()
    assert all(np.array_equal(state[name].numpy(), value) for name, value in tiny_state().items())
    assert list(tmp_path.glob(".*")) == []


def test_names_and_shapes_must_be_exactly_those_of_the_network(tmp_path):
    dest = tmp_path / "converted.safetensors"
    name = "roi_heads.box_head.fc1.weight"
    for change, reason in (
        (lambda state: state.pop(name), f"lacks {name}, which DensePose needs"),
        (lambda state: state.update(more=np.zeros(1)), "holds more, for which DensePose has no place"),
        (lambda state: state.update({name: np.zeros((2, 2))}), f"{name} has shape"),
    ):
        state = tiny_state()
        change(state)
        with pytest.raises(InputError, match=reason):
            convert(write_pickle(tmp_path / NAME, state), dest, digest="0" * 64, widths=tiny())
        assert not dest.exists()


def test_converted_file_that_changed_is_noticed(tmp_path, source):
    dest = tmp_path / "converted.safetensors"
    convert(source, dest, digest="0" * 64, widths=tiny())
    content = bytearray(dest.read_bytes())
    content[-1] ^= 1
    dest.write_bytes(content)
    with pytest.raises(InputError, match="is damaged or was not made by this program"):
        read_converted(dest, widths=tiny())
    dest.write_bytes(content[:-9])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        read_converted(dest, widths=tiny())


def test_full_disk_is_noticed_before_writing(tmp_path, source, monkeypatch):
    monkeypatch.setattr("magicanimate.checkpoints.disk.free_bytes", lambda _: 10)
    dest = tmp_path / "converted.safetensors"
    with pytest.raises(InputError, match="needs .* of free disk"):
        convert(source, dest, digest="0" * 64, widths=tiny())
    assert not dest.exists()


def test_fetched_once_then_found(server, source):
    seen = []
    path = ensure_weights(release=release(server, source), on_progress=seen.append)
    assert [step.stage for step in seen[:1]] == ["download"] and seen[-1].stage == "convert"
    assert sorted(read_converted(path, widths=tiny())) == sorted(tiny_state())
    requests = len(server.requests)
    assert ensure_weights(release=release(server, source)) == path
    assert len(server.requests) == requests
    assert {file.name for file in path.parent.iterdir()} <= {path.name, "weights.lock"}


def test_broken_download_goes_on_where_it_stopped(server, source):
    server.faults.break_after[NAME] = [1000]
    ensure_weights(release=release(server, source), retry_delays=NO_WAIT)
    assert [request.range for request in server.downloads(NAME)] == [None, "bytes=1000-"]


def test_cancelled_download_goes_on_in_the_next_run(server, source):
    server.faults.break_after[NAME] = [1000]
    steps = []
    with pytest.raises(Cancelled):
        ensure_weights(
            release=release(server, source),
            on_progress=steps.append,
            should_stop=lambda: bool(steps),
            retry_delays=(60.0,),
        )
    ensure_weights(release=release(server, source))
    assert server.downloads(NAME)[-1].range == "bytes=1000-"


def test_another_file_than_the_released_one_is_not_kept(server, source, tmp_path):
    server.faults.tampered.add(NAME)
    with pytest.raises(InputError, match="does not have the checksum"):
        ensure_weights(release=release(server, source))
    assert list((tmp_path / "home" / "densepose").glob("*.pkl*")) == []


def test_no_token_is_sent_to_other_servers(server, source, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    url, headers = release(server, source).file.request()
    assert url.endswith(NAME) and headers == {}


def test_refusing_server_is_named(server, source):
    server.faults.status["someone/densepose"] = (403, "")
    with pytest.raises(InputError, match="127.0.0.1 refuses .* HTTP status 403; check your proxy"):
        ensure_weights(release=release(server, source))


def test_without_network_the_way_out_is_told(source):
    nowhere = Release(WebFile(f"http://127.0.0.1:9/{NAME}", 10, "0" * 64), tiny())
    with pytest.raises(Unreachable, match="cannot be fetched .* check the connection"):
        ensure_weights(release=nowhere, retry_delays=NO_WAIT)
    with pytest.raises(Unreachable, match="fetching is forbidden; run once with a network, or give"):
        ensure_weights(release=nowhere, offline=True)


def test_given_file_is_converted_once(server, source, caplog):
    known = release(server, source)
    path = ensure_weights(source, release=known)
    assert path.name == f"{weights.NAME}.safetensors" and not caplog.messages
    changed = path.stat().st_mtime_ns
    assert ensure_weights(source, release=known).stat().st_mtime_ns == changed
    assert source.exists() and not server.requests


def test_given_file_that_is_not_the_released_one_is_told(source, caplog):
    path = ensure_weights(source, release=Release(RELEASED.file, tiny()))
    assert path.name != f"{weights.NAME}.safetensors"
    assert "is not the released file" in caplog.text
    with pytest.raises(InputError, match="cannot be read"):
        ensure_weights(source.with_name("missing.pkl"))


def test_released_file_is_the_one_of_the_model_zoo():
    assert RELEASED.file.url.endswith("/densepose_rcnn_R_50_FPN_s1x/165712039/model_final_162be9.pkl")
    parameters = sum(np.prod(value.shape) for value in _released_state().values())
    # the file is its float32 numbers and some bytes a tensor for names
    assert 0 < RELEASED.file.nbytes - 4 * parameters < 300 * len(_released_state())


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"engine": "caffe2"}, "'caffe2' is unknown; choose one of: auto, detectron2, torch, mini"),
        ({"engine": "torch", "offline": True}, "fetching is forbidden"),
        ({"engine": "torch", "weights": Path("missing.safetensors")}, "missing.safetensors does not exist"),
    ],
)
def test_extractors_that_cannot_be_had_say_why(given, reason):
    with pytest.raises(InputError, match=reason):
        load_extractor(**given)


def test_torchvision_that_does_not_fit_is_named():
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from densepose_tools import load_extractor\n"
        "from magicanimate.errors import InputError\n"
        "try: load_extractor('torch')\n"
        "except InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "torchvision is missing or does not fit the torch that is installed" in done.stdout


def test_detectron2_is_named_as_missing_where_it_is():
    if engines.has_detectron2():
        pytest.skip("detectron2 is installed")
    with pytest.raises(InputError, match="detectron2 with its DensePose project is not installed"):
        load_extractor("detectron2")


def test_mini_stands_in_offline_and_says_so(caplog):
    if not engines.has_mini():
        pytest.skip("the part segmenter is not in assets/segmenter")
    found = load_extractor("auto", offline=True)
    assert found.name == "mini"
    assert "it is a small stand-in, not DensePose" in caplog.text


@pytest.mark.parametrize(("name", "value"), [("min_score", 0.01), ("min_score", 1.0), ("max_people", 0)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(InputError, match="give a number from"):
        Selection(**{name: value})


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _released_state() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return DensePoseRCNN().state_dict()
