"""Weight files: every format reads alike, and what is not one is answered in a sentence."""

from __future__ import annotations

import argparse
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from magicanimate.checkpoints.weight_files import open_weights
from magicanimate.errors import InputError

STATE = {"a.weight": torch.arange(12.0).reshape(3, 4), "b.bias": torch.ones(5, dtype=torch.float16)}


class _Touch:
    """A pickle of this runs a command when it is loaded carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _write(folder, name):
    path = folder / name
    if name.endswith(".safetensors"):
        save_file(STATE, path)
    elif name == "wrapped.ckpt":
        torch.save({"state_dict": STATE, "epoch": 3}, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=name != "old.bin")
    return path


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin", "old.bin", "wrapped.ckpt", "a.pth"])
def test_formats_read_alike(tmp_path, name):
    weights = open_weights(_write(tmp_path, name))
    assert set(weights) == set(STATE)
    assert all(torch.equal(weights[key], STATE[key]) for key in STATE)
    assert all(weights[key].dtype == STATE[key].dtype for key in STATE)


def _shards(folder):
    names = dict(zip(STATE, ("m-1.safetensors", "m-2.safetensors"), strict=True))
    for key, name in names.items():
        save_file({key: STATE[key]}, folder / name)
    index = folder / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}), encoding="utf-8")
    return index


def test_shards_read_as_one_file(tmp_path):
    weights = open_weights(_shards(tmp_path))
    assert all(torch.equal(weights[key], STATE[key]) for key in STATE)
    assert weights.file_of("b.bias") == tmp_path / "m-2.safetensors"


def test_shards_of_the_half_precision_variant(tmp_path):
    index = _shards(tmp_path)
    variant = index.rename(tmp_path / index.name.replace(".index.json", ".index.fp16.json"))
    assert set(open_weights(variant)) == set(STATE)


def test_shard_that_is_missing_or_lacks_a_key_is_named(tmp_path):
    index = _shards(tmp_path)
    save_file({"other": torch.ones(1)}, tmp_path / "m-2.safetensors")
    with pytest.raises(InputError, match=r"m-2\.safetensors lacks b\.bias"):
        open_weights(index)["b.bias"]
    (tmp_path / "m-1.safetensors").unlink()
    with pytest.raises(InputError, match=r"m-1\.safetensors does not exist"):
        open_weights(index)["a.weight"]


def test_index_must_not_lead_out_of_its_folder(tmp_path):
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}), encoding="utf-8")
    with pytest.raises(InputError, match="points outside its folder"):
        open_weights(index)


@pytest.mark.parametrize("content", ['["not", "an", "index"]', "{}", "broken"])
def test_broken_index(tmp_path, content):
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="is not an index"):
        open_weights(index)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.98])
@pytest.mark.parametrize("name", ["a.safetensors", "a.bin", "old.bin"])
def test_truncated(tmp_path, name, part):
    path = _write(tmp_path, name)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(InputError, match=f"{name}.*download it again"):
        open_weights(path)


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin", "a.ckpt"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "pointer.*git lfs pull",
        ),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b'{"error":"Entry not found"}', "is not a"),
        (bytes(range(256)) * 9, "is not a"),
    ],
)
def test_what_lies_where_weights_should_be(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        open_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_pickle_is_refused_and_does_not_run(tmp_path, zipped):
    path, trap = tmp_path / "evil.ckpt", tmp_path / "trap"
    torch.save({"a": _Touch(trap)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"evil\.ckpt holds a Python object, \w+\.mkdir.*not loaded"):
        open_weights(path)
    assert not trap.exists()


def test_bare_pickle_is_refused_and_does_not_run(tmp_path):
    path, trap = tmp_path / "evil.bin", tmp_path / "trap"
    path.write_bytes(pickle.dumps({"a": _Touch(trap)}))
    with pytest.raises(InputError, match="is not a PyTorch weight file"):
        open_weights(path)
    assert not trap.exists()


def test_harmless_object_beside_the_weights_is_named(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": STATE, "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(InputError, match=r"argparse\.Namespace"):
        open_weights(path)


def test_not_a_mapping_no_weights_unknown_suffix_missing_folder(tmp_path):
    torch.save(torch.ones(3), tmp_path / "tensor.bin")
    with pytest.raises(InputError, match="holds a Tensor instead of named weights"):
        open_weights(tmp_path / "tensor.bin")
    torch.save({"epoch": 3}, tmp_path / "none.bin")
    with pytest.raises(InputError, match="holds no weights"):
        open_weights(tmp_path / "none.bin")
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match=r"expected one of \.safetensors"):
        open_weights(tmp_path / "a.onnx")
    with pytest.raises(InputError, match="does not exist"):
        open_weights(tmp_path / "absent.bin")
    (tmp_path / "folder.bin").mkdir()
    with pytest.raises(InputError, match="cannot be opened"):
        open_weights(tmp_path / "folder.bin")


def test_safetensors_and_zipped_pickles_are_mapped_not_read(tmp_path):
    big = {"a": torch.zeros(50_000_000, dtype=torch.uint8)}
    save_file(big, tmp_path / "a.safetensors")
    torch.save(big, tmp_path / "a.bin")
    del big
    for name in ("a.safetensors", "a.bin"):
        before = _private_bytes()
        weights = open_weights(tmp_path / name)
        tensor = weights["a"]
        assert tensor.nbytes == 50_000_000
        assert int(tensor[-1]) == 0
        assert _private_bytes() - before < 10_000_000


def _private_bytes() -> int:
    """Memory of this process that is not a mapped file."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            fields = dict(line.split(":", 1) for line in status)
    except OSError:
        pytest.skip("needs /proc to measure memory")
    return int(fields["RssAnon"].split()[0]) * 1024


def test_a_header_whose_length_looks_like_a_web_page(tmp_path):
    """The length comes first, its lowest byte before the others, and 0x3c20 reads as a space and ``<``."""
    path = tmp_path / "odd.safetensors"
    save_file({"x": torch.ones(1)}, path, metadata={"padding": ""})
    short = len(path.read_bytes()[8:].rpartition(b"}")[0])
    save_file({"x": torch.ones(1)}, path, metadata={"padding": "." * (0x3C20 - short - 4)})
    assert path.read_bytes()[:9] == b" <\0\0\0\0\0\0{"
    assert list(open_weights(path)) == ["x"]
