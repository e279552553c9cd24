"""The page's texts in every language: none is missing, values are put in, numbers choose the right form."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from magicanimate.config import AnimationRequest, MediaLimits
from magicanimate.errors import InputError
from magicanimate.media.motion import open_motion
from magicanimate.media.photo import load_photo
from magicanimate.request_checks import check_request
from magicanimate.webui import texts
from magicanimate.webui.page import help_texts
from tests.conftest import ROOT
from tests.hostile_files import ELF, HTML, gif_of
from tests.inputs import write_motion, write_photo

TRANSLATED = [language for language in texts.LANGUAGES if language != "en"]
ONE_FORM = ("ja", "ko", "zh")
"""Languages whose words do not change with the number."""


TABLES = (
    "_EXPLAINED",
    "_LABELS",
    "_NAMES",
    "_WHAT",
    "_ASPECTS",
    "LIKE_FILE",
    "_LEGS",
    "_KIND_NAMES",
    "_STAGES",
    "PRESETS",
    "STAGES",
    "_SAID",
    "_WANTED",
    "_LIMBS",
    "_TELLING",
    "_CALLED",
    "_TEXTS",
    "_FOUND_BY",
)
"""Names of what is looked up before it is handed to `tr`."""


def constants(node: ast.AST) -> Iterator[str]:
    """Texts that an expression may have as its value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from constants(value)
    elif isinstance(node, (ast.Tuple, ast.List)):
        for value in node.elts:
            yield from constants(value)
    elif isinstance(node, ast.Dict):
        for value in node.values:
            yield from constants(value)


def used() -> set[str]:
    """Every text that the page's code hands to `tr`, as it is or by a name."""
    found = set()
    for file in (ROOT / "magicanimate" / "webui").rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names: dict[str, set[str]] = {}
        for node in ast.walk(tree):
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name):
                        names.setdefault(target.id, set()).update(constants(node.value))
                    elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                        for each, value in zip(target.elts, node.value.elts, strict=False):
                            if isinstance(each, ast.Name):
                                names.setdefault(each.id, set()).update(constants(value))
        for name in names.keys() & {*TABLES}:
            found |= names[name]
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "tr"):
                continue
            first = node.args[0]
            found.update(constants(first))
            for part in ast.walk(first):
                if isinstance(part, ast.Name):
                    found |= names.get(part.id, set())
    return {text for text in found if any(letter.isalpha() for letter in text)}


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_text_is_there_with_its_values(language):
    table = texts.read_table(language)
    missing = sorted({*used(), *help_texts()} - table.keys())
    assert not missing, "\n".join(missing)
    for english, text in table.items():
        assert text.strip(), english
        names = {name for _, name, _, _ in string.Formatter().parse(english) if name}
        for form in text.split("|"):
            told = {name for _, name, _, _ in string.Formatter().parse(form) if name}
            # "one person" needs no number.
            assert told <= names and (told == names or "|" in english), (english, form)
        forms = 1 if language in ONE_FORM else english.count("|") + 1
        assert text.count("|") + 1 == forms, english


def test_all_languages_have_the_same_texts():
    keys = [texts.read_table(language).keys() for language in TRANSLATED]
    assert all(each == keys[0] for each in keys)


@pytest.fixture
def language():
    """Sets the language back."""
    yield texts.use
    texts.use("en")


def test_values_and_numbers(language):
    assert texts.tr("{count} warning|{count} warnings", count=1) == "1 warning"
    assert texts.tr("{count} warning|{count} warnings", count=0) == "0 warnings"
    language("de")
    assert texts.tr("{count} warning|{count} warnings", count=1) == "1 Warnung"
    assert texts.tr("{count} warning|{count} warnings", count=2) == "2 Warnungen"
    assert texts.tr("nothing of the kind {value}", value=3) == "nothing of the kind 3"
    assert texts.label_of("fps") != "Frame rate" and texts.choice_name("draft") == "Entwurf"
    language("ja")
    assert "2" in texts.tr("{count} warning|{count} warnings", count=2)


def library_says(act) -> str:
    with pytest.raises(InputError) as told:
        act()
    return str(told.value)


def test_what_the_library_says_of_files_is_said_in_the_pages_language(tmp_path, language):
    """By real errors: a sentence that is worded otherwise in the library would stay English."""
    files = {
        "me.png": ELF,
        "text.jpg": HTML,
        "nothing.png": b"",
        "cut.png": write_photo(tmp_path / "whole.png").read_bytes()[:-400],
        "wide.gif": gif_of(16000, 16000, 3),
        "dance.mp4": ELF,
        "page.mp4": HTML,
        "empty.mp4": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "still.mp4", "PNG")
    write_motion(tmp_path / "short.mp4", 5)
    photo, video = "photo", "dance video"
    english = {}
    for name in ("me.png", "text.jpg", "nothing.png", "cut.png"):
        english[name] = photo, library_says(lambda name=name: load_photo(tmp_path / name))
    few = MediaLimits(max_pixels=50)
    english["whole.png"] = photo, library_says(lambda: load_photo(tmp_path / "whole.png", limits=few))
    for name in ("dance.mp4", "page.mp4", "empty.mp4", "still.mp4", "wide.gif"):
        english[name] = video, library_says(lambda name=name: open_motion(tmp_path / name))
    english["short.mp4"] = video, library_says(lambda: open_motion(tmp_path / "short.mp4", start=9.0))
    for name, (what, sentence) in english.items():
        language("en")
        sentence = sentence.replace(f"{tmp_path}/", "")
        told = texts.said(sentence)
        assert f"The {what} {name} " in told and "raise max_" not in told, told
        for other in TRANSLATED:
            language(other)
            assert texts.said(sentence) != told and name in texts.said(sentence), (other, told)
    overlapping = AnimationRequest("a.png", "b.mp4", "c.mp4", context_length=8, context_overlap=8)
    language("de")
    assert texts.said(library_says(lambda: check_request(overlapping))).startswith("Fenster von 8 Bildern")
    assert texts.said("Nobody has foreseen this.") == "Nobody has foreseen this."


def test_what_a_sentence_says_of_a_file_is_in_the_pages_language_too(language):
    for what in ("a LoRA for Flux", "a whole checkpoint, which `convert --base` takes"):
        sentence = f"style.safetensors is {what}; give a LoRA for Stable Diffusion 1.5."
        for other in TRANSLATED:
            language(other)
            told = texts.said(sentence)
            assert told.startswith("style.safetensors") and not re.search(r"\b(for|is|whole)\b", told), told


def test_every_sentence_is_a_pattern_of_its_own():
    """None takes what another one is for, with values in."""
    for text in texts._SAID:
        filled = re.sub(r"\{\w+\}", "7", text)
        assert texts.said(filled) == filled
        matching = [each for each in texts._SAID if texts._pattern(each).fullmatch(filled)]
        assert matching == [text]


def sentences() -> set[str]:
    """Every text of the library, with 7 for each value that it puts in."""
    found = set()
    for package in ("magicanimate", "densepose_tools"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "7" for part in node.values)
                    found.add("".join(parts))
                elif isinstance(node, ast.Constant) and file.name != "texts.py":
                    found.add(str(node.value))
    return found


def test_every_sentence_is_one_that_the_library_says():
    """A sentence that is worded otherwise there would be looked for in vain, and stay English."""
    said = set()
    for sentence in sentences():
        for what in ("photo", "motion clip"):  # the file's kind is a value where it is checked
            said.add(texts.said(sentence.replace("The 7 7", f"The {what} 7")))
    unknown = [text for text in texts._SAID if not any(texts._pattern(text).fullmatch(each) for each in said)]
    assert not unknown, "\n".join(unknown)
