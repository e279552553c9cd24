"""The page's texts in every language: none is missing, values are put in, numbers choose the right form."""

from __future__ import annotations

import ast
import string
from collections.abc import Iterator

import pytest

from magicanimate.webui import texts
from tests.conftest import ROOT

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
    missing = sorted(used() - table.keys())
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
