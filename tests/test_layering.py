"""Who may import whom: app and command line -> animator -> pipeline -> models; training -> magicanimate.

`densepose_tools` knows the palette, the media and the errors only; the page and `training` use it, never the
reverse.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

TOP = ("app", "magicanimate.__main__", "magicanimate.cli", "magicanimate.webui")
PIPELINE = ("magicanimate.pipeline", "magicanimate.sampling", "magicanimate.windows")
# The windows are plain arithmetic, which forecasts of time and memory need.
NETWORKS = tuple(name for name in PIPELINE if name != "magicanimate.windows")
MODELS = ("magicanimate.models",)
ANIMATOR = ("magicanimate.animator",)
# The paper can be read without them.
AROUND_THE_CORE = ("magicanimate.acceleration", "magicanimate.memory", "magicanimate.checkpoints")

ROOMS = ("animate", "gallery", "jobs", "models", "motion_tools", "training")

# Package -> what neither it nor anything in it may import.
FORBIDDEN = {
    "magicanimate": ("training", "benchmarks", "tests", "app"),
    "densepose_tools": ("training", "benchmarks", "tests", "app", *TOP, *ANIMATOR, *PIPELINE, *MODELS),
    "training": ("benchmarks", "tests", "app", *TOP, *ANIMATOR),
    "training.metrics": ("densepose_tools", "magicanimate.media", *PIPELINE, *MODELS),
    "magicanimate.animator": TOP,
    "magicanimate.pipeline": (*TOP, *ANIMATOR, "magicanimate.media", "magicanimate.checkpoints"),
    "magicanimate.acceleration": (*TOP, *ANIMATOR, "magicanimate.pipeline", "magicanimate.media"),
    "magicanimate.sampling": (
        *TOP,
        *ANIMATOR,
        "magicanimate.pipeline",
        "magicanimate.media",
        *AROUND_THE_CORE,
    ),
    "magicanimate.models": (*TOP, *ANIMATOR, *PIPELINE, "magicanimate.media", *AROUND_THE_CORE),
    "magicanimate.memory": (*TOP, *ANIMATOR, *NETWORKS, "magicanimate.media", "magicanimate.checkpoints"),
    "magicanimate.media": (*TOP, *ANIMATOR, *PIPELINE, *MODELS, "magicanimate.checkpoints", "torch"),
    "magicanimate.results": (*TOP, *ANIMATOR, *PIPELINE, *MODELS, "torch"),
    "magicanimate.checkpoints": (*TOP, *ANIMATOR, "magicanimate.media"),
    "magicanimate.cli": ("app", "magicanimate.webui", "gradio", *PIPELINE, *MODELS, "magicanimate.media"),
    "magicanimate.webui": ("app", "magicanimate.cli", "torch", *NETWORKS, *MODELS),
    "magicanimate.webui.security": (
        *(f"magicanimate.webui.{room}" for room in ROOMS),
        *ANIMATOR,
        *PIPELINE,
        "gradio",
    ),
}


def modules() -> dict[str, ast.Module]:
    """Every module of the project by its dotted name."""
    files = [ROOT / "app.py"]
    for package in ("magicanimate", "densepose_tools", "training"):
        files += sorted((ROOT / package).rglob("*.py"))
    found = {}
    for file in files:
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def imports(tree: ast.AST) -> Iterator[str]:
    """Names that a module imports anywhere in it; for ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


MODULES = modules()


def test_every_layer_is_there():
    for package in FORBIDDEN:
        assert any(within(name, package) for name in MODULES), package
    assert len(MODULES) > 30


@pytest.mark.parametrize("package", FORBIDDEN)
def test_arrows_point_down(package):
    wrong = [
        f"{name} imports {imported}"
        for name, tree in MODULES.items()
        if within(name, package)
        for imported in imports(tree)
        if any(within(imported, forbidden) for forbidden in FORBIDDEN[package])
    ]
    assert not wrong


def test_widgets_and_the_work_behind_them_are_apart():
    page = {name: set(imports(tree)) for name, tree in MODULES.items() if within(name, "magicanimate.webui")}
    widgets = {name for name, imported in page.items() if "gradio" in imported}
    assert "magicanimate.webui.page" in widgets
    media = [name for name in widgets if any(within(used, "magicanimate.media") for used in page[name])]
    assert not media, "widgets leave files to the modules beside them"
    upwards = [name for name in page.keys() - widgets if page[name] & widgets]
    assert not upwards, "what works without a page does not know the page"


def test_only_the_page_and_the_animator_extract_poses():
    users = {
        name
        for name, tree in MODULES.items()
        if within(name, "magicanimate") and any(within(used, "densepose_tools") for used in imports(tree))
    }
    outside = {name for name in users if not within(name, "magicanimate.webui")}
    assert outside == {"magicanimate.animator", "magicanimate.pipeline"}


def test_no_cycles():
    graph = {
        name: {target for target in imports(tree) if target in MODULES and target != name}
        for name, tree in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert len(done) == len(MODULES)
