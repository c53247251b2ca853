"""The public Python API: one list, found lazily, documented name by name."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import foldrank
from foldrank.errors import FoldrankError
from foldrank.verbs.export import export


@pytest.mark.parametrize("name", foldrank.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(foldrank, name)
    assert callable(found)
    assert (found.__doc__ or "").strip()


def test_errors_are_all_those_there_are() -> None:
    def below(error: type) -> set[str]:
        return {error.__name__}.union(*map(below, error.__subclasses__()))

    ours = {name for name in below(FoldrankError) if getattr(sys.modules["foldrank.errors"], name, None)}
    assert ours == {name for name in foldrank.__all__ if isinstance(getattr(foldrank, name), type)
                    and issubclass(getattr(foldrank, name), Exception)}


def test_the_page_of_the_api_has_each_name_once(root: Path) -> None:
    named = re.findall(r"^::: foldrank\.(\w+)$", (root / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(foldrank.__all__)


def misfits(text: str) -> list[str]:
    """Calls of `foldrank.NAME` in the page's Python whose arguments that function does not take."""
    found = []
    for program in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        for call in ast.walk(ast.parse(program)):
            if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("foldrank."):
                function = getattr(foldrank, ast.unparse(call.func).partition(".")[2])
                home = function if inspect.isfunction(function) else export
                try:
                    inspect.signature(home).bind(*call.args, **{str(k.arg): k.value for k in call.keywords})
                except TypeError as error:
                    found.append(f"{ast.unparse(call)}: {error}")
    return found


def test_python_of_the_pages_compiles_and_calls_functions_as_they_are(root: Path) -> None:
    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        assert misfits(page.read_text(encoding="utf-8")) == []
    assert len(misfits("```python\nfoldrank.plan('a', method=['slm'])\nfoldrank.export('a')\n```")) == 2


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import foldrank, sys; foldrank.Bundle; print({'torch', 'onnx', 'onnxruntime'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_no_other_name_is() -> None:
    with pytest.raises(AttributeError, match="no attribute 'compres'"):
        foldrank.compres  # noqa: B018
