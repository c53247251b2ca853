"""A kind of edit has five rooms and one line in a table; nobody else tells kinds apart. Read off the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from foldrank.edits import KINDS, class_of, room

ROOMS = ("src/foldrank/edits", "plans/simulate", "plans/reference", "passes")
TABLE = "src/foldrank/edits/__init__.py"
PRODUCT = ("src/foldrank", "plans", "passes", "graph", "runtime", "export", "benchmarks")
CLASSES = {class_of(kind).__name__: kind for kind in KINDS}
DRAWN = {
    "benchmarks/speed_plans.py": {"fold_blocks"},
    "plans/__init__.py": {"pre_rmsnorm"},
    "plans/methods/pre_rmsnorm.py": {"pre_rmsnorm"},
}
"""Who tells kinds apart all the same: a benchmark that reads the plan it made itself. A method with a kind's name tells
its own name, and so does the table of methods."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_five_files(kind: str, root: Path) -> None:
    wanted = [*(f"{folder}/{kind}.py" for folder in ROOMS), f"tests/kinds/test_{kind}.py"]
    assert [name for name in wanted if not (root / name).is_file()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_room_has_its_door(kind: str) -> None:
    assert class_of(kind).kind == kind
    for package, door in (("plans.simulate", "simulated"), ("plans.reference", "edit"), ("passes", "passes")):
        assert callable(getattr(room(f"foldrank.{package}", kind), door)), f"{package}/{kind}.py has no {door}"


def told_apart(tree: ast.AST) -> Iterator[str]:
    """Kinds that a module tells from others: by string, by isinstance, by a case, or by asking a plan for them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in KINDS:
            yield str(node.value)
        asked: list[ast.expr] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            asked = node.args[1:]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "of":
            asked = node.args
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        yield from (CLASSES[name.id] for one in asked for name in ast.walk(one)
                    if isinstance(name, ast.Name) and name.id in CLASSES)


def test_nobody_else_tells_kinds_apart(root: Path) -> None:
    found: dict[str, set[str]] = {}
    for path in sorted(p for folder in PRODUCT for p in (root / folder).rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if "campaigns" in path.parts:
            continue  # not part of the package
        own = path.stem if path.parent.relative_to(root).as_posix() in ROOMS else None
        if name != TABLE and (kinds := {*told_apart(ast.parse(path.read_text()))} - {own}):
            found[name] = kinds
    assert found == DRAWN


def test_rooms_share_no_code(root: Path) -> None:
    """But for the edit itself: what one kind's rooms compute, they compute apart."""
    packages = {"plans/simulate": "foldrank.plans.simulate", "plans/reference": "foldrank.plans.reference",
                "passes": "foldrank.passes"}
    for folder, package in packages.items():
        for path in sorted((root / folder).glob("*.py")):
            imported = {node.module or "" for node in ast.walk(ast.parse(path.read_text()))
                        if isinstance(node, ast.ImportFrom)}
            others = [p for p in packages.values() if p != package]
            assert [m for m in imported if any(m == o or m.startswith(f"{o}.") for o in others)] == [], path


def test_the_check_itself_sees_every_way_to_tell_kinds_apart() -> None:
    text = ("isinstance(e, (LowRank, int))\nplan.of(FoldBlocks)\ne.kind == 'replace_weight'\n"
            "match e:\n    case QuantizeHead():\n        pass\nLowRank(site, 3)\n")
    assert sorted(told_apart(ast.parse(text))) == ["fold_blocks", "low_rank", "quantize_head", "replace_weight"]
