"""What is installed is whole: every file that the code reads is in it, and every import is of a required package."""

import ast
import fnmatch
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMES_WITH = {"docling-core": "docling-slim", "docling-parse": "docling-slim"}
"""Parts of a required distribution that is split over several."""
OF_EXTRAS = {"pynvml": "nvidia-ml-py", "liger_kernel": "liger-kernel"}
"""Modules of distributions that only an extra asks for."""


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names - {"app", "jobs", "benchmarks"}


def required() -> set[str]:
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["postgresql"], *extras["pkcs11"], *extras["gpu"]]
    return {item.split("[")[0].split("=")[0].split(">")[0].strip().lower() for item in wanted}


def test_every_data_file_of_the_library_is_installed():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["app"]
    data = [
        path.relative_to(ROOT / "app").as_posix()
        for path in (ROOT / "app").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    assert "console/report.html.j2" in data
    assert [
        name for name in data if not any(fnmatch.fnmatch(name, each.removeprefix("**/")) for each in patterns)
    ] == []


def test_every_import_is_required():
    known = packages_distributions()
    names = {
        name
        for folder in ("app", "jobs", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for name in imported(path)
    }
    packages = {name: known.get(name) or [OF_EXTRAS.get(name, name)] for name in names}
    found = {name: {each.lower().replace("_", "-") for each in packages[name]} for name in sorted(names)}
    assert {
        name for name, packages in found.items() if not {COMES_WITH.get(each, each) for each in packages} & required()
    } == set()
