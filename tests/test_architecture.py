"""The house rules that no linter checks: sizes, docstrings, no import with a side effect."""

import ast
import statistics
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path for folder in ("app", "jobs") for path in (ROOT / folder).rglob("*.py"))
JOBS = [path for path in MODULES if path.parent.name == "jobs" and path.name not in ("__init__.py", "common.py")]
MAY_IMPORT_RAY = {"pipeline.py", "trainer.py", "deployment.py", "actor.py", "cluster.py"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def num_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1


def functions() -> list[tuple[str, int]]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [(path, node) for path in MODULES for node in ast.walk(parsed(path)) if isinstance(node, kinds)]
    return [(f"{name_of(path)}:{node.lineno} {node.name}", num_lines(node)) for path, node in found]


def imports_ray(path: Path) -> bool:
    names = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return any(name.split(".")[0] == "ray" for name in names)


def test_ray_is_imported_in_files_of_five_names_only():
    offenders = [name_of(path) for path in MODULES if imports_ray(path) and path.name not in MAY_IMPORT_RAY]
    assert [name for name in offenders if not name.startswith("jobs/")] == []


def test_the_check_for_ray_sees_an_import_inside_a_function(tmp_path):
    hidden = tmp_path / "hidden.py"
    hidden.write_text("def f():\n    from ray import serve\n    return serve\n", encoding="utf-8")
    assert imports_ray(hidden)


def test_no_module_is_longer_than_500_lines():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_no_function_is_longer_than_60_lines_and_the_median_is_short():
    lengths = functions()
    assert [function for function in lengths if function[1] > 60] == []
    assert statistics.median(length for _, length in lengths) <= 12


def test_a_job_is_shorter_than_80_lines():
    assert [name_of(path) for path in JOBS if len(path.read_text(encoding="utf-8").splitlines()) >= 80] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is_for(path):
    module = parsed(path)
    assert not module.body or ast.get_docstring(module)


def test_every_pinned_version_is_plain():
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert "==" in line, line
        assert not set(line) & set("@/ +"), line


def test_the_project_pins_what_it_depends_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    }
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {
        requirement.split("[")[0].split("=")[0].split(">")[0].split("<")[0].strip().lower() for requirement in wanted
    }
    assert names - pinned == set()
