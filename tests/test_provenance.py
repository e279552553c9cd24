"""Content credentials: what is signed says what it is, and shows when it was changed."""

from __future__ import annotations

import builtins
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from magicanimate.cli.main import main
from magicanimate.errors import InputError
from magicanimate.media.writer import VideoWriter
from magicanimate.results import (
    CERTIFICATE_VARIABLE,
    SELF_MADE,
    Claim,
    Seal,
    inspect,
    load_identity,
    make_certificate,
    own_certificate,
    read_identity,
)
from tests.inputs import write_motion, write_photo

c2pa = pytest.importorskip("c2pa", reason="needs c2pa-python, which has no wheel for this machine")


@pytest.fixture(scope="module")
def claim(tmp_path_factory) -> Claim:
    folder = tmp_path_factory.mktemp("sources")
    return Claim(write_photo(folder / "me.png"), write_motion(folder / "dance.mp4", 2), "mini")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A computer on which no certificate was made yet."""
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(CERTIFICATE_VARIABLE, raising=False)
    return tmp_path / "home"


def write(path: Path, seal: Seal | None) -> Path:
    """A moving picture of noise, large enough that its pictures are most of the file."""
    rng = np.random.default_rng(0)
    with VideoWriter(
        path, width=64, height=64, fps=10, metadata={"ai_generated": True, "seed": 7}, seal=seal
    ) as writer:
        for _ in range(4):
            writer.write(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "frames"])
def test_a_result_says_what_it_is_and_of_what(tmp_path, claim, name):
    seal = Seal(claim)
    found = inspect(write(tmp_path / name, seal))
    assert seal.problem == ""
    assert found.ai_generated and found.settings["seed"] == 7
    said = found.credentials
    assert (said.state, said.signer, said.self_made_here) == ("valid", SELF_MADE, True)
    assert said.source_type == "trainedAlgorithmicMedia"
    assert said.program.startswith("MagicAnimate ") and said.created
    assert [source.title for source in said.sources] == ["me.png", "dance.mp4"]
    assert all("SHA-256" in source.description for source in said.sources)
    assert found.frames == ({"valid": 4} if name == "frames" else {})
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_making_names_its_sources_as_ingredients(tmp_path, claim):
    path = write(tmp_path / "a.mp4", Seal(claim))
    with c2pa.Reader(str(path)) as reader:
        manifest = reader.get_active_manifest()
    (actions,) = [each for each in manifest["assertions"] if each["label"].startswith("c2pa.actions")]
    (made,) = actions["data"]["actions"]
    assert len(made["parameters"]["ingredients"]) == 2
    assert all(each["relationship"] == "inputTo" for each in manifest["ingredients"])
    assert str(claim.photo.parent) not in json.dumps(manifest)


def test_the_strip_is_a_composition(tmp_path, claim):
    composed = Claim(claim.photo, claim.motion, claim.checkpoint, composed=True)
    found = inspect(write(tmp_path / "a.mp4", Seal(composed)))
    assert found.credentials.source_type == "compositeWithTrainedAlgorithmicMedia" and found.ai_generated


def test_a_changed_picture_shows(tmp_path, claim, capsys):
    path = write(tmp_path / "a.mp4", Seal(claim))
    data = bytearray(path.read_bytes())
    data[data.index(b"mdat") + 1000] ^= 1
    path.write_bytes(data)
    assert inspect(path).credentials.state == "altered"
    assert main(["inspect", str(path)]) == 0
    assert "ALTERED" in capsys.readouterr().out


def test_a_changed_frame_of_a_folder_shows(tmp_path, claim):
    folder = write(tmp_path / "frames", Seal(claim))
    frame = folder / "000002.png"
    data = bytearray(frame.read_bytes())
    data[data.rindex(b"IDAT") + 100] ^= 1
    frame.write_bytes(data)
    found = inspect(folder)
    assert found.frames == {"altered": 1, "valid": 3} and found.credentials.state == "altered"


def test_changed_words_break_the_credentials(tmp_path, claim):
    path = write(tmp_path / "a.mp4", Seal(claim))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"trainedAlgorithmicMedia", b"digitalCapture_________"))
    assert inspect(path).credentials.state == "broken"


def test_another_computer_does_not_know_the_certificate(tmp_path, claim, monkeypatch, capsys):
    path = write(tmp_path / "a.mp4", Seal(claim))
    monkeypatch.setenv("MAGICANIMATE_HOME", str(tmp_path / "other"))
    said = inspect(path).credentials
    assert (said.state, said.self_made_here) == ("valid", False)
    main(["inspect", str(path)])
    assert f"{SELF_MADE} (says the certificate; it is not checked)" in capsys.readouterr().out


def test_the_certificate_is_made_once_for_its_owner_only(tmp_path):
    first = load_identity()
    assert load_identity() == first
    assert [path.name for path in own_certificate().parent.iterdir()] == ["signing.pem"]
    if os.name != "nt":
        assert stat.S_IMODE(own_certificate().stat().st_mode) == 0o600


def test_a_certificate_of_ones_own_signs(tmp_path, claim, monkeypatch):
    mine = tmp_path / "mine.pem"
    mine.write_bytes(make_certificate())
    monkeypatch.setenv(CERTIFICATE_VARIABLE, str(mine))
    seal = Seal(claim)
    assert inspect(write(tmp_path / "a.mp4", seal)).credentials.state == "valid"
    assert seal.problem == "" and not own_certificate().exists()


def test_what_is_wrong_with_a_certificate_is_said(tmp_path):
    path = tmp_path / "mine.pem"
    with pytest.raises(InputError, match=r"mine\.pem cannot be read"):
        read_identity(path)
    path.write_text("nothing")
    with pytest.raises(InputError, match="must be a PEM file"):
        read_identity(path)
    key, _, rest = make_certificate().partition(b"-----BEGIN CERTIFICATE")
    other = make_certificate().partition(b"-----BEGIN CERTIFICATE")[0]
    path.write_bytes(other + b"-----BEGIN CERTIFICATE" + rest)
    with pytest.raises(InputError, match="not that of the key"):
        read_identity(path)
    path.write_bytes(key)
    with pytest.raises(InputError, match="must be a PEM file"):
        read_identity(path)


def test_without_credentials_there_is_a_result_and_a_reason(tmp_path, claim, monkeypatch):
    seal = Seal(claim)
    found = inspect(write(tmp_path / "a.webm", seal))
    assert "webm files cannot carry" in seal.problem
    assert found.ai_generated and found.settings["seed"] == 7

    monkeypatch.setenv(CERTIFICATE_VARIABLE, str(tmp_path / "none.pem"))
    seal = Seal(claim)
    assert inspect(write(tmp_path / "a.mp4", seal)).credentials.state == "none"
    assert seal.problem.startswith("The result has no content credentials: ")
    assert "none.pem cannot be read" in seal.problem
    assert seal.problem.count(".pem") == 1 and not list(tmp_path.glob(".*"))


def test_a_machine_without_the_library(tmp_path, claim, monkeypatch, capsys):
    real = builtins.__import__

    def no_c2pa(name, *rest, **options):
        if name == "c2pa":
            raise ImportError(name)
        return real(name, *rest, **options)

    signed = write(tmp_path / "signed.mp4", Seal(claim))
    monkeypatch.setattr(builtins, "__import__", no_c2pa)
    seal = Seal(claim)
    write(tmp_path / "a.mp4", seal)
    assert "c2pa-python is not installed" in seal.problem
    assert main(["inspect", str(signed)]) == 0
    text = capsys.readouterr().out
    assert "cannot be read (the package c2pa-python is not installed" in text and "AI-generated  yes" in text


def test_a_plain_photo_says_nothing(claim, capsys):
    assert main(["inspect", str(claim.photo)]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "  says nothing of how it was made"
    assert main(["inspect", str(claim.photo), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["ai_generated"], said["settings"], said["credentials"]["state"]) == (False, None, "none")


def test_what_cannot_be_inspected(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "none.mp4")]) == 2
    assert main(["inspect", str(tmp_path)]) == 2
    assert "none.mp4 does not exist" in capsys.readouterr().err
