"""The repository keeps its word: versions, modules, the README's code."""

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()


def pins():
    return [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]


def test_conda_and_pip_get_the_same_versions():
    (pip,) = [entry["pip"] for entry in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"] if isinstance(entry, dict)]
    assert [line for line in pip if "==" in line] == pins()


def test_every_direct_dependency_is_pinned_inside_its_range():
    from packaging.requirements import Requirement

    pinned = dict(line.split("==") for line in pins())
    wanted = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
    assert set(pinned) == {requirement.name for requirement in wanted}
    for requirement in wanted:
        assert pinned[requirement.name] in requirement.specifier, requirement


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rtl_utils"):
            names = [alias.name for alias in node.names] if node.module == "rtl_utils" else [node.module.split(".")[1]]
            yield from names


def test_modules_import_only_from_those_above_them_in_the_readme():
    table = README.split("## The package")[1].split("##")[0]
    order = [name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`(\w+)`", row)]
    modules = {path.stem: path for path in (ROOT / "rtl_utils").glob("*.py") if path.stem != "__init__"}
    assert set(order) == set(modules), "the README's table and the package differ"
    for name, path in modules.items():
        below = [other for other in imports_of(path) if order.index(other) > order.index(name)]
        assert not below, f"{name} imports {below}"


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_readme_code_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(code.replace("epochs=20", "epochs=5"), {})
    assert "% on the target, after a walk of length" in capsys.readouterr().out


def test_pages_say_what_the_exported_rows_say(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    for name, text in importlib.import_module("make").pages().items():
        assert (ROOT / "docs" / name).read_text() == text, f"docs/{name} is older than its rows: run docs/make.py"


@pytest.mark.parametrize("name", ["LICENSE", "CITATION.cff", "data/README.md", ".ci/run", "Makefile"])
def test_file_is_there(name):
    assert (ROOT / name).stat().st_size > 200
