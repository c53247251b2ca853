"""Which folder may import what: the table in the design, read off the syntax trees."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "onnxruntime", "onnxruntime_genai", "onnx", "onnx_ir", "onnxscript", "optimum",
         "scipy", "matplotlib", "jinja2"}

ALLOWED = {
    "src/foldrank/reporting": {"matplotlib", "jinja2"},
    "src/foldrank": set(),
    "graph": {"onnx", "onnx_ir"},
    "export": {"torch", "transformers", "onnx", "onnx_ir"},
    "plans": {"torch", "transformers", "scipy"},
    "passes": {"onnx", "onnx_ir"},
    "runtime": {"onnxruntime", "onnxruntime_genai"},
    "benchmarks": HEAVY,
}
"""Third-party packages with weight that each folder may import."""

FRIENDS = {
    "src/foldrank/reporting": {"reporting"},
    "src/foldrank": set(),
    "graph": {"graph"},
    "export": {"export", "verbs"},  # verbs: only for the callable package, see export/__init__.py
    "plans": {"plans"},
    "passes": {"passes", "graph"},
    "runtime": {"runtime", "graph"},
    "benchmarks": {"graph", "passes", "runtime", "benchmarks", "plans", "export", "verbs"},
}
"""Mapped folders of foldrank that each folder may import, besides the shared vocabulary."""

PLANNING = ("models", "simulate", "depth", "low_rank", "bits", "width", "solver", "methods")
"""Folders inside plans/, each of which may import those before it. `training` stands beside `methods`,
`reference` knows `models` alone."""

LADDERS = {
    "src/foldrank": ("disk", "edits", "model", "bundle", "planfile"),
    "graph": ("linear", "dataflow", "safe", "dialects", "view"),
    "runtime": ("providers", "sessions", "decoding", "proof"),
}
"""Folders inside each of these, each of which may import those before it."""

MAPPED = {"graph", "export", "plans", "passes", "runtime", "benchmarks", "verbs", "cli", "reporting"}

INSIDE_FUNCTIONS = ("src/foldrank/cli/", "src/foldrank/__init__.py", "src/foldrank/__main__.py")
"""May import anything, but only inside functions, so that a command imports what it needs and no more."""

VERBS = "src/foldrank/verbs/"
"""May import anything: a verb's module is imported when that verb is asked for, which is what the rule above is for."""


def imported(tree: ast.AST, *, top_level_only: bool) -> Iterator[str]:
    nodes = _outside_functions(tree) if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which folder is meant"
            yield node.module or ""
            if node.module == "foldrank":
                yield from (f"foldrank.{alias.name}" for alias in node.names)


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _outside_functions(child)


def modules(root: Path) -> list[Path]:
    return sorted({p for folder in ALLOWED for p in (root / folder).rglob("*.py")})


def offences(path: Path, root: Path) -> list[str]:
    name = path.relative_to(root).as_posix()
    folder = next(f for f in ALLOWED if name.startswith(f + "/"))
    free = name.startswith(INSIDE_FUNCTIONS)
    found: list[str] = []
    if name.startswith(VERBS):
        return found
    for module in imported(ast.parse(path.read_text()), top_level_only=free or folder == "src/foldrank"):
        top, _, rest = module.partition(".")
        inner = rest.partition(".")[0]
        if top in HEAVY and top not in ALLOWED[folder]:
            found.append(f"{name} imports {module}")
        if top == "foldrank" and inner in MAPPED and inner not in FRIENDS[folder] and not free:
            found.append(f"{name} imports {module}")
        if free and top == "foldrank" and inner in MAPPED - {"cli", "reporting"}:
            found.append(f"{name} imports {module} outside a function")
    return found


def test_every_module_imports_only_what_its_folder_may(root: Path) -> None:
    assert [o for path in modules(root) for o in offences(path, root)] == []


def test_folders_of_planning_import_one_way(root: Path) -> None:
    found = []
    beside = {"training": {*PLANNING[:-1], "training"}, "reference": {"models", "reference"}}
    for folder in (*PLANNING, *beside):
        may = {*PLANNING[: PLANNING.index(folder) + 1]} if folder in PLANNING else beside[folder]
        for path in sorted((root / "plans" / folder).glob("*.py")):
            names = [m.split(".")[2] for m in imported(ast.parse(path.read_text()), top_level_only=False)
                     if m.startswith("foldrank.plans.")]
            found += [f"{path.name} imports {name}" for name in names if name in {*PLANNING, *beside} - may]
    assert found == []


@pytest.mark.parametrize("top", LADDERS)
def test_folders_inside_import_one_way(top: str, root: Path) -> None:
    package = "foldrank." + ("" if top == "src/foldrank" else f"{top}.")
    found = []
    for place, folder in enumerate(LADDERS[top]):
        for path in sorted((root / top / folder).glob("*.py")):
            names = [m.removeprefix(package).split(".")[0]
                     for m in imported(ast.parse(path.read_text()), top_level_only=False) if m.startswith(package)]
            found += [f"{folder}/{path.name} imports {name}" for name in names if name in LADDERS[top][place + 1:]]
    assert found == []


def test_the_check_itself_sees_a_forbidden_import(tmp_path: Path) -> None:
    (tmp_path / "passes").mkdir()
    bad = tmp_path / "passes" / "bad.py"
    bad.write_text("def f():\n    import torch\n    from foldrank.runtime import session\n")
    assert len(offences(bad, tmp_path)) == 2


def test_the_model_card_needs_neither_matplotlib_nor_jinja2() -> None:
    program = ("import sys; sys.modules['matplotlib'] = sys.modules['jinja2'] = None; "
               "from foldrank.reporting.card import model_card")
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_no_file_grows_past_what_a_reader_holds(folder: str, root: Path) -> None:
    long = {p.name: n for p in (root / folder).rglob("*.py") if (n := len(p.read_text().splitlines())) > 300}
    assert long == {}
