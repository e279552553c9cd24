"""JSON, YAML and npz from anybody: read in one place each, bounded before anything is unpacked."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from densepose_tools.archive import Archive, ClipInfo, write_archive
from densepose_tools.arrays import ArrayFile, map_array
from densepose_tools.keypoints import Keypoints, read_keypoints, write_keypoints
from densepose_tools.people import Person
from magicanimate.cli.batch import load_batch
from magicanimate.errors import InputError
from magicanimate.files import Unreadable, read_json, read_yaml
from tests.conftest import ROOT
from tests.test_layering import MODULES

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "not valid JSON"),
        (b"[" * 70 + b"]" * 70, "not valid JSON"),
        (b'{"a": ' * 70 + b"1" + b"}" * 70, "not valid JSON"),
        (b"1" * 5000, "not valid JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"", "not valid JSON"),
        (b" " * 2000, "larger than the 1000 bytes"),
    ],
)
def test_json_that_cannot_be(tmp_path, content, reason):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(Unreadable, match=reason):
        read_json(tmp_path / "a.json", most=1000 if len(content) == 2000 else 2**20)


def test_json_as_deep_as_ours_is_read(tmp_path):
    (tmp_path / "a.json").write_text("[" * 60 + "]" * 60)
    assert len(read_json(tmp_path / "a.json")) == 1
    (tmp_path / "b.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')  # as Windows' editor writes it
    assert read_json(tmp_path / "b.json") == {"a": 1}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
@pytest.mark.parametrize("read", [read_json, read_yaml, ArrayFile, Archive, read_keypoints])
def test_nothing_waits_for_a_named_pipe(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(InputError, match="not an ordinary file"):
        read(tmp_path / "pipe.npz")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("start: 2026-02-31", "one of its values is not possible"),
        ("seed: !!int x", "one of its values is not possible"),
        ("seed: " + "1" * 5000, "one of its values is not possible"),
        ("a: " + "[" * 2000, "nested too deeply"),
        ("a: " + "[" * 70 + "]" * 70, "nested too deeply"),
        ("a: &a [*a]", "nested too deeply"),
        (BOMB, "its aliases repeat too many values"),
        ("a: [", "not valid YAML in line 1"),
        ("a: \0", "not valid YAML"),
        ("a: !!python/object/apply:os.system [exit]", "not valid YAML in line 1"),
        ("seed: [" + "1, " * 200_000 + "]", "larger than the"),
    ],
)
def test_yaml_that_cannot_be(tmp_path, content, reason):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(InputError, match=reason) as error:
        load_batch(tmp_path / "a.yaml")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("photo: ~nosuchuser/me.png", "whose folder is not known"),
        ("savename: ../../x", "savename in .* is '../../x', which is no name of a folder"),
        ("savename: /tmp/x", "which is no name of a folder"),
        ("savename: [a]", "which is no name of a folder"),
        ("seed: [" + "1, " * 11_000 + "1]", "asks for 11001 animations; 10000 are the most"),
        ("guidance_scale: [" + "1, " * 9_000 + "1]", "guidance_scale in .* a number is needed"),
        ("fps: 1" + "0" * 400, "fps in .* a number is needed"),
    ],
)
def test_settings_that_cannot_be(tmp_path, line, reason):
    (tmp_path / "a.yaml").write_text(f"photo: me.png\nmotion: dance.mp4\n{line}\n")
    with pytest.raises(InputError, match=reason) as error:
        load_batch(tmp_path / "a.yaml")
    assert len(str(error.value)) < 400


def npz(**arrays: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    return data.getvalue()


def with_header(header: bytes, data: bytes = b"") -> bytes:
    """An npz file with one array "a" of this header."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        file.writestr("a.npy", head + data)
    return content.getvalue()


SHAPE = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npz(a=np.zeros(2**22, np.uint8)), "would have 4194304 bytes"),
        (with_header(SHAPE % b"10, 10", b"x"), "would have 100 bytes"),
        (with_header(SHAPE % b"10000000000, 10000000000"), "would have"),
        (with_header(SHAPE % b"-1, 5", b"x" * 5), "would have|is damaged|another length"),
        (with_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}", b"x"), "of object"),
        (with_header(b"import os", b"x"), "is damaged"),
        (with_header(b"(" * 5000, b"x"), "is damaged"),
        (npz(b=np.zeros((1, 1), np.uint8)), "has no array 'a'"),
        (npz(a=np.zeros((1, 1), np.float32)), "of float32"),
        (npz(a=np.zeros(4, np.uint8)), r"shape \(4,\)"),
        (b"PK\x03\x04" + bytes(100), "no npz file"),
    ],
)
def test_arrays_are_checked_by_their_headers(tmp_path, content, reason):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=reason), ArrayFile(path) as arrays:
        arrays.read("a", kind="u", shape=(None,) * (1 if "4194304" in reason else 2))


def test_npy_files_are_mapped_or_refused(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.save(tmp_path / "a.npy", array)
    assert (map_array(tmp_path / "a.npy") == array).all()
    content = (tmp_path / "a.npy").read_bytes()
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name, damaged in (
        ("cut.npy", content[:-1]),
        ("head.npy", content[:20]),
        ("empty.npy", b""),
        ("objects.npy", None),
        ("text.npy", b"hello"),
        ("gone.npy", None),
    ):
        if damaged is not None:
            (tmp_path / name).write_bytes(damaged)
        with pytest.raises(Unreadable, match=name):
            map_array(tmp_path / name)


def test_an_encrypted_entry_is_refused(tmp_path):
    content = bytearray(npz(a=np.zeros((2, 2), np.uint8)))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + flags] |= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(Unreadable, match="is damaged"), ArrayFile(tmp_path / "a.npz") as arrays:
        arrays.read("a", kind="u", shape=(2, 2))


@pytest.fixture
def archive(tmp_path) -> Path:
    """An archive of two frames with a person each."""
    person = Person((2.0, 3.0, 4.0, 5.0), 0.9, np.ones((5, 4), np.uint8), np.ones((2, 5, 4), np.uint8))
    path = tmp_path / "map.npz"
    write_archive(path, [[person], [person]], ClipInfo(16, 12, Fraction(25), 2, {"engine": "mini"}))
    return path


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("rate", [25, 0]),
        ("rate", [-25, 1]),
        ("rate", [0, 1]),
        ("rate", [2.5, 1.0]),
        ("num_frames", 10**9),
        ("num_frames", -1),
        ("num_frames", 1),
        ("size", [60000, 60000]),
        ("size", [0, 12]),
        ("size", [16, 12, 3]),
        ("settings", "[]"),
        ("settings", "{"),
        ("settings", "[" * 5000),
        ("frame", [1, 0]),
        ("frame", [-1, 0]),
        ("frame", [0, 7]),
        ("frame", [0]),
        ("boxes", np.full((2, 4), np.nan, np.float32)),
        ("boxes", np.full((2, 4), np.inf, np.float32)),
        ("boxes", np.full((2, 4), 1e9, np.float32)),
        ("boxes", np.zeros((2, 3), np.float32)),
        ("scores", np.full(2, np.nan, np.float32)),
        ("labels_0", np.full((5, 4), 25, np.uint8)),
        ("labels_0", np.ones((4, 5), np.uint8)),
        ("labels_0", np.ones((5, 4), np.float32)),
        ("labels_0", np.ones((5, 4), np.uint16)),
        ("u_0", np.ones((5, 5), np.uint8)),
        ("v_0", None),
    ],
)
def test_archives_are_checked(archive, name, array):
    with np.load(archive) as kept:
        arrays = dict(kept)
    assert len(list(Archive(archive))) == 2
    if array is None:
        del arrays[name]
    else:
        arrays[name] = np.array(array)
    archive.write_bytes(npz(**arrays))
    with pytest.raises(InputError, match="map.npz cannot be read or was not written by this program"):  # noqa: SIM117
        with Archive(archive) as opened:
            list(opened)


@pytest.mark.parametrize(
    "arrays",
    [
        {"points": np.zeros((2, 1, 18, 3), np.float32)},
        {"points": np.zeros((2, 1, 18, 3), np.float32), "size": np.array([0, 5])},
        {"points": np.zeros((2, 1, 18, 3), np.float32), "size": np.array([60000, 60000])},
        {"points": np.zeros((2, 1, 17, 3), np.float32), "size": np.array([5, 5])},
        {"points": np.zeros((0, 1, 18, 3), np.float32), "size": np.array([5, 5])},
        {"points": np.full((2, 1, 18, 3), np.nan, np.float32), "size": np.array([5, 5])},
        {"points": np.zeros((2, 1, 18, 3), np.int32), "size": np.array([5, 5])},
        {"points": np.zeros((2, 1, 18, 3), np.float32), "size": np.array([5])},
    ],
)
def test_keypoints_are_checked(tmp_path, arrays):
    (tmp_path / "a.npz").write_bytes(npz(**arrays))
    with pytest.raises(InputError, match="The keypoints .*a.npz"):
        read_keypoints(tmp_path / "a.npz")


def test_keypoints_come_back(tmp_path):
    points = np.random.default_rng(0).random((2, 1, 18, 3), np.float32)
    write_keypoints(tmp_path / "a.npz", Keypoints(points, 16, 12))
    read = read_keypoints(tmp_path / "a.npz")
    np.testing.assert_array_equal(read.points, points)
    assert (read.width, read.height) == (16, 12)


# Every place that reads or writes files by itself, with what it calls. All others go through those marked
# "the one place". Both what is not listed and what is listed for nothing fail the test.
LISTED = {
    # the one place for JSON and YAML, and for whole files
    "magicanimate.files": {"json.loads", "yaml.safe_load", "write_bytes", "open for writing"},
    # the one place for npz and npy
    "densepose_tools.arrays": {"zipfile.ZipFile", "numpy.load"},
    # the one place that opens pictures, and the one that opens clips
    "magicanimate.media.photo": {"PIL.Image.open"},
    "magicanimate.media.video_file": {"av.open"},
    # the one place for weights; the others read headers, and single tensors of our own checkpoints
    "magicanimate.checkpoints.weight_files": {
        *("safetensors.safe_open", "torch.load", "write_text", "safetensors.torch.save_file"),
    },
    "magicanimate.loading": {"safetensors.safe_open"},
    "magicanimate.lora": {"safetensors.safe_open"},  # metadata alone
    "magicanimate.memory": {"safetensors.safe_open"},
    "densepose_tools.weights": {"safetensors.safe_open"},
    # writers of a kind of file each, to a temporary name that takes the target's place in the end
    "magicanimate.media.writer": {"av.open", "save"},
    "magicanimate.checkpoints.convert": {"save_pretrained"},
    "magicanimate.results": {"write_bytes", "open for writing"},
    "magicanimate.background": {"save"},  # the preview of a mask
    "magicanimate.media.outputs": {"write_bytes"},
    "magicanimate.webui.gallery.results": {"zipfile.ZipFile", "save"},  # the latter: into memory
    "densepose_tools.archive": {"zipfile.ZipFile", "open for writing"},  # the latter: entries of the zip
    "densepose_tools.keypoints": {"numpy.savez_compressed", "open for writing"},
    "training.checkpoints": {"torch.load", "torch.save", "open for writing"},
    "training.build": {"torch.load", "torch.save"},
    "training.data.computed": {"numpy.save", "open for writing"},
    "training.export": {"save_pretrained"},
    "training.segmenter.command": {"save_pretrained"},
    "training.pictures": {"save"},
    "training.data.preparer": {"save"},
    "training.evaluation.run": {"save"},
    "training.data.flip": {"av.open", "save"},
    "training.data.shards": {"tarfile.open", "numpy.savez", "save"},
    "training.dancers.dataset": {"json.loads", "save"},
    "training.dancers.__main__": {"write_bytes"},
    "training.dancers.examples": {"save"},
    # into memory or a temporary folder
    "magicanimate.webui.animate.check_card": {"save"},
    "magicanimate.webui.animate.inspection": {"save"},
    "training.segmenter.stage": {"save"},
    # the TorchScript that a person names; weights that the program has read, into memory for a library
    "training.evaluation.networks": {"torch.jit.load", "torch.save"},
    # files that grow: a download that goes on, the log of a program, a resume log, rows of a run
    "magicanimate.checkpoints.download": {"open for writing"},
    "magicanimate.webui.training.detached": {"open for writing"},
    "densepose_tools.resume_log": {"numpy.savez_compressed", "open for writing"},
    "training.run_folder": {"open for writing"},
    "densepose_tools.pictures": {"save", "open for writing"},
    # no files
    "magicanimate.progress": {"open for writing"},  # the null device
    "magicanimate.webui.security": {"json.loads"},  # Gradio's answer
    # a body model that only developers name, by an environment variable
    "training.dancers.body": {"torch.load", "torch.save"},
}
_CALLS = {
    *("PIL.Image.open", "av.open", "imageio.imread", "cv2.imread", "cv2.VideoCapture"),
    *("numpy.load", "numpy.fromfile", "numpy.save", "numpy.savez", "numpy.savez_compressed"),
    *("yaml.load", "yaml.safe_load", "yaml.dump", "yaml.safe_dump"),
    *("json.load", "json.loads", "json.dump", "orjson.loads", "tomllib.load", "csv.reader"),
    *("pickle.load", "pickle.loads", "pickle.dump", "torch.load", "torch.save", "torch.jit.load"),
    *("safetensors.safe_open", "safetensors.torch.load_file", "safetensors.torch.save_file"),
    *("zipfile.ZipFile", "tarfile.open", "shutil.unpack_archive"),
}
_METHODS = {"write_text", "write_bytes", "save_pretrained", "tofile"}
_PICTURES = re.compile(r"Image|picture|small|sheet")
_KINDS = {"PNG", "WEBP", "JPEG", "GIF"}


def uses(tree: ast.AST) -> set[str]:
    """What a module calls of readers and writers of files, by whatever name it imports them."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                known[alias.asname or name] = name
        elif isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        head, dot, rest = called.partition(".")
        name = f"{known.get(head, head)}{dot}{rest}"
        last = name.rpartition(".")[2]
        if name in _CALLS:
            found.add(name)
        elif (
            dot
            and last in _METHODS
            or last == "save"
            and (_PICTURES.search(called) or _KINDS & {*_texts(node)})
        ):
            found.add(last)
        elif last in ("open", "fdopen") and any(set(mode) & set("wax+") for mode in _modes(node)):
            found.add("open for writing")
    return found


def _is_of_picture(save: ast.Call) -> bool:
    return bool(_PICTURES.search(ast.unparse(save.func)) or _KINDS & {*_texts(save)})


def _texts(call: ast.Call) -> list[str]:
    """The texts written out in the arguments of a call."""
    parts = [part for each in (*call.args, *call.keywords) for part in ast.walk(each)]
    return [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def _modes(call: ast.Call) -> list[str]:
    """The modes with which a call may open a file."""
    return [text for text in _texts(call) if text and set(text) <= set("rwaxbt+")]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from PIL import Image as I\nI.open(p)", "PIL.Image.open"),
        ("import PIL.Image\nPIL.Image.open(p)", "PIL.Image.open"),
        ("import numpy as np\nnp.load(p)", "numpy.load"),
        ("from json import load as read\nread(f)", "json.load"),
        ("import av\nwith av.open(p) as c: pass", "av.open"),
        ("p.open('w')", "open for writing"),
        ("open(p, mode='r+b')", "open for writing"),
        ("p.open('wb' if new else 'ab')", "open for writing"),
        ("import yaml\nyaml.load(f, L)", "yaml.load"),
    ],
)
def test_readers_and_writers_are_found_by_any_name(code, found):
    assert uses(ast.parse(code)) == {found}


def test_files_are_read_and_written_in_the_places_that_are_listed():
    found = {name: used for name, tree in MODULES.items() if (used := uses(tree))}
    assert {name: used for name, used in found.items() if LISTED.get(name) != used} == {}
    assert LISTED.keys() == found.keys()


def test_deep_json_reads_in_a_small_stack():
    """As in a thread of the page, whose stack is small."""
    code = (
        "import sys, threading; threading.stack_size(256 * 1024); from magicanimate.files import parse_json\n"
        "def read():\n    try: parse_json('[' * 100_000)\n    except ValueError: print('refused')\n"
        "thread = threading.Thread(target=read); thread.start(); thread.join()"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout.strip() == "refused", ran.stderr


def test_encoding_and_reading_agree(tmp_path):
    from magicanimate.files import write_json

    value = {"a": ["é", "\udce9", None, 1.5, True], "b": {"c": {}}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value == json.loads((tmp_path / "a.json").read_text())
