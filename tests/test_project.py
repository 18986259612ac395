"""The repository keeps its word: versions, modules, links, pages, the README's code."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml

import rtl_utils
from rtl_utils import headless

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
README = (ROOT / "README.md").read_text()
SOURCES = sorted((ROOT / "rtl_utils").rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
LONGEST_FUNCTION = 40


def test_buttons_lead_to_every_notebook_once_there_is_an_address(docs):
    launch = docs("launch")
    public = "https://github.com/owner/course"
    written = launch.buttons(public)
    for path in headless.find():
        assert f"/github/owner/course/blob/main/notebooks/{path.name})" in written
        assert f"/v2/gh/owner/course/main?labpath=notebooks/{path.name})" in written
    assert launch.site_options(public)["repository_url"] == public
    assert "no public address yet" in launch.buttons(None)
    assert launch.site_options(None) == {}
    with pytest.raises(ValueError, match=r"must begin with https://github\.com/; got https://x"):
        launch.buttons("https://x.org/course")


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_conda_and_pip_get_the_same_versions():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in entries if isinstance(entry, dict)]
    assert [line for line in pip if "==" in line] == pins()


def test_a_cuda_build_has_the_same_versions():
    builds = [f"{pin}+cu126" for pin in pins() if pin.startswith(("torch==", "torchvision=="))]
    assert len(builds) == 2
    command = ["make", "--always-make", "--dry-run", "run", "TORCH=cu126"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for build in builds:
        assert build in said
        assert build in (ROOT / "environment.yml").read_text()


def test_every_direct_dependency_is_pinned_inside_its_range():
    from packaging.requirements import Requirement

    pinned = dict(line.split("==") for line in pins())
    asked = PROJECT["dependencies"] + EXTRAS["dev"]
    wanted = [Requirement(text) for text in asked]
    assert set(pinned) == {requirement.name for requirement in wanted}
    for requirement in wanted:
        assert pinned[requirement.name] in requirement.specifier, requirement


def test_what_an_extra_installs_is_tested():
    for name, texts in EXTRAS.items():
        assert set(texts) <= set(EXTRAS["dev"]), name


def test_what_the_package_imports_is_declared():
    from importlib.metadata import packages_distributions

    homes = packages_distributions()
    extras = [text for name, texts in EXTRAS.items() if name != "dev" for text in texts]
    asked = PROJECT["dependencies"] + extras
    declared = {re.split(r"[\[<>=]", text)[0].lower() for text in asked}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names} - {"rtl_utils"}:
                known = {home.lower().replace("-", "_") for home in homes.get(name, [])}
                wanted = {home.replace("-", "_") for home in declared}
                assert not known or known & wanted, f"{path.name} imports {name}"


def test_modules_import_only_from_those_above_them(docs):
    architecture = docs("architecture")
    order = [name for layer in architecture.ORDER for name in layer]
    assert sorted(order) == sorted(architecture.modules())
    for name, used in architecture.graph().items():
        below = {other for other in used if order.index(other) > order.index(name)}
        assert not below, f"{name} imports {below}"


def test_every_module_has_its_room_in_the_picture(docs):
    architecture = docs("architecture")
    grouped = [name for names in architecture.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(architecture.modules())


def test_nobody_outside_a_module_uses_its_private_names():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            own = ".".join(path.parent.relative_to(ROOT).parts)  # rooms of one package know another
            module = (isinstance(node, ast.ImportFrom) and node.module) or ""
            if module.startswith("rtl_utils") and module != own:
                private = [alias.name for alias in node.names if re.match("_[^_]", alias.name)]
                assert not private, f"{path.name} imports {private}"


def code_lines(function):
    """Lines of a function without its docstring."""
    documented = ast.get_docstring(function) is not None
    docstring = function.body[0]
    inside = docstring.end_lineno - docstring.lineno + 1 if documented else 0
    return function.end_lineno - function.lineno + 1 - inside


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short_and_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module says what it holds"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert code_lines(node) <= LONGEST_FUNCTION, f"{node.name}: {code_lines(node)} lines"


def test_public_names_can_be_imported():
    for name in rtl_utils.__all__:
        assert getattr(rtl_utils, name) is not None
    assert set(rtl_utils.__all__) <= set(dir(rtl_utils))
    with pytest.raises(AttributeError, match="no attribute 'lora'"):
        rtl_utils.lora  # noqa: B018


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_readme_code_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(code.replace("epochs=20", "epochs=5"), {})
    assert "% on the target, weights moved" in capsys.readouterr().out


def test_readme_names_every_notebook_and_make_target():
    named = re.findall(r"\(notebooks/(\w+\.ipynb)\)", README)
    assert named == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"^    make (\w+)", README, re.M)) <= set(targets)


def test_pages_say_what_the_rows_say(docs):
    for name, text in docs("make").pages().items():
        assert (ROOT / name).read_text() == text, f"{name} is older than its rows: make results"


@pytest.mark.parametrize("name", ["docs/results.md", "docs/passing.md", "docs/method.md"])
def test_no_interval_of_a_share_leaves_0_to_100_percent(name):
    seen = 0
    for table in re.findall(r"(?:^\|.*\n)+", (ROOT / name).read_text(), re.M):
        headings, _, *lines = [line.strip("| \n").split(" | ") for line in table.splitlines()]
        for cells in lines:
            shares = [c for h, c in zip(headings, cells, strict=False) if h.endswith("%")]
            ends = re.findall(r"\[(-?[\d.]+), (-?[\d.]+)\]", " ".join(shares))
            seen += len(ends)
            assert all(float(low) >= 0 and float(high) <= 100 for low, high in ends), cells
    assert seen > 10


def test_architecture_is_drawn_alike_in_every_process():
    program = (
        "import architecture, matplotlib.pyplot as plt\n"
        "print([(t.xy, t.xyann) for t in architecture.draw(plt.gca()).texts if not t.get_text()])"
    )
    drawn = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": order, "PYTHONPATH": str(ROOT / "docs")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for order in ("1", "2")  # of the elements of sets
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0].count("(") > 100  # the arrows


def test_architecture_page_says_what_the_package_is(docs):
    text = docs("architecture").page()
    assert (ROOT / "docs" / "architecture.md").read_text() == text, "run docs/architecture.py"


@pytest.mark.parametrize("folder", sorted((ROOT / "results").iterdir()), ids=lambda f: f.name)
def test_every_sweep_has_a_manifest_that_says_where_its_rows_come_from(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["command"]
    rows = pd.concat([pd.read_csv(file) for file in folder.glob("seed-*.csv")])
    made = rows[["commit", "package", "torch", "python", "device", "processor", "threads", "date"]]
    assert not made.isna().any(axis=None)
    assert set(rows.commit) == set(manifest["commits"])


def test_english_says_per_for_a_rate():
    rate = re.compile(
        r"\b(images|epochs|steps|seeds|points|runs|lines|samples) a "
        r"(class|run|seed|step|epoch|method|second|page)\b"
    )
    for path in [*SOURCES, *PAGES, *(ROOT / "notebooks").rglob("*.ipynb")]:
        assert not rate.search(path.read_text()), path.name


@pytest.mark.parametrize(
    "name",
    [
        "LICENSE",
        "CITATION.cff",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "data/README.md",
        ".ci/run",
        ".pre-commit-config.yaml",
        ".github/workflows/ci.yml",
        "Makefile",
    ],
)
def test_file_is_there(name):
    assert (ROOT / name).stat().st_size > 200


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_command_of_a_workflow_is_a_target_of_make(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow[True], "when it runs"  # YAML reads `on` as true
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert {command.removeprefix("make ") for command in commands} <= set(targets)


def test_binder_gets_the_pinned_versions():
    folder = ROOT / "binder"
    lines = (folder / "requirements.txt").read_text().splitlines()
    (constraints,) = [line.split()[1] for line in lines if line.startswith("--constraint")]
    assert (folder / constraints).resolve() == ROOT / "constraints.txt"
    builds = [line.removesuffix("+cpu") for line in lines if line.endswith("+cpu")]
    assert builds == [pin for pin in pins() if pin.startswith(("torch==", "torchvision=="))]
    assert (folder / "postBuild").stat().st_mode & 0o100, "Binder executes it"
    assert (folder / "runtime.txt").read_text().strip() == "python-3.11"


def test_workflow_and_hooks_run_what_make_runs():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    commands = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert "make check" in commands and "make test" in commands
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text()
    for hook in hooks:
        tool = hook["entry"].split("/")[-1]
        assert tool.split()[0] in makefile
