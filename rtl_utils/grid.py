"""Sweeps: a YAML file that crosses values of notebook parameters, expanded to one task per run."""

import ast
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from rtl_utils import folders, headless
from rtl_utils.messages import cut, shown
from rtl_utils.sheets import load

MOST_TASKS = 100_000
_TOP = ("title", "note", "notebook", "parameters", "grid", "cases", "exclude")
_LONGEST_NAME = 100
_DIGITS = 12  # of a key, that tell two names apart
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_UNSAFE = re.compile(r"[^A-Za-z0-9.+_-]+")


@dataclass(frozen=True)
class Task:
    """One run of a sweep: a notebook and what its parameters are.

    Args:
        notebook: to be executed.
        parameters: JSON values that replace its defaults, without `out`.
        name: of its files; no other task of the sweep has it.
        key: 16 hexadecimal digits, a hash of the sweep's name, of the notebook and of the
            parameters.
    """

    notebook: Path
    parameters: dict[str, Any]
    name: str
    key: str


class Sweep(NamedTuple):
    """What a YAML file asks for.

    Args:
        name: the file's, without its ending.
        title: one line.
        path: of the file.
        tasks: in the order in which they are to be run.
        note: what is to be known of it, such as what is compared, decided before it ran.
    """

    name: str
    title: str
    path: Path
    tasks: list[Task]
    note: str = ""


class _Value(NamedTuple):
    """A value: as the file has it, as text that equal values share, as a file name shows it."""

    given: Any
    text: str
    name: str


class _Notebook(NamedTuple):
    """A notebook: path, number or name, hash of its source, defaults of its parameters."""

    path: Path
    label: str
    source: str
    defaults: dict[str, Any]


class _Plan(NamedTuple):
    """A YAML file whose parts have their types and names, not yet crossed."""

    where: str
    folder: Path
    notebook: _Value | None
    fixed: dict[str, _Value]
    grid: dict[str, list[_Value]]
    cases: dict[str, dict[str, _Value]]
    exclude: list[dict[str, list[_Value]]]  # each a list of which one suffices


class _Choice(NamedTuple):
    """One combination: its case and the values of everything that the file sets."""

    case: str | None
    values: dict[str, _Value]


def find(text: str) -> Path:
    """The file of a sweep.

    Args:
        text: the name of a file in `sweeps/` without its ending, such as "table3", or a path.

    Raises:
        ValueError: if there is none; says which sweeps there are.
    """
    course = folders.root() / "sweeps"
    places = [Path(text), folders.root() / text, course / f"{text}.yaml"]
    for place in places:
        if "\0" not in text and place.suffix in (".yaml", ".yml") and place.is_file():
            return place
    there = ", ".join(sorted(path.stem for path in course.glob("*.yaml"))) or "none"
    raise ValueError(
        f"there is no sweep {shown(text)}; name a YAML file, or one of those in sweeps/: {there}"
    )


def read(path: str | Path) -> Sweep:
    """The sweep that a YAML file describes, expanded to its tasks.

    The values of `grid` are crossed, the first one slowest; within each combination come the
    `cases`, in their order; an entry of `exclude` drops those that have all of its values, of which
    a list means any. Where a notebook's default is a list, a number or a text stands for a list of
    one.

    Args:
        path: of the file.

    Raises:
        ValueError: in one sentence that names the file, what is wrong in it and what is allowed.
    """
    path = Path(path)
    if not path.is_file():
        path = find(str(path))
    where = _shown_path(path)
    if not _NAME.fullmatch(path.stem):
        raise ValueError(
            f"the name of a sweep must be up to 64 letters, digits, dots, - and _; got "
            f"{shown(path.stem)}: rename {where}"
        )
    content = load(path, where)
    plan = _plan(content, where, path.parent)
    tasks = _tasks(plan, path.stem)
    title = content.get("title", path.stem)
    return Sweep(path.stem, _line(title, where, "title"), path, tasks, _note(content, where))


def placed(sweep: Sweep, device: str | None, auto: str) -> Sweep:
    """The sweep with a device named in every task whose notebook has one; no key changes.

    Args:
        sweep: to be executed.
        device: of all tasks; None for what the sweep or else the notebook says.
        auto: what "auto" stands for.

    Raises:
        ValueError: for a device beside another one that the sweep sets, or for a notebook without
            a parameter of that name.
    """
    notebooks = {task.notebook for task in sweep.tasks}
    defaults = {path: headless.default_parameters(path) for path in notebooks}
    tasks = []
    for task in sweep.tasks:
        given = defaults[task.notebook] | task.parameters
        if device is not None and "device" not in given:
            raise ValueError(f"{task.notebook.stem} has no parameter device; leave out --device")
        if device is not None and task.parameters.get("device", device) != device:
            raise ValueError(
                f"{_shown_path(sweep.path)} sets device {shown(task.parameters['device'])} and "
                f"--device {shown(device)}; set it in one place"
            )
        if "device" in given:
            wanted = device or given["device"]
            named = {"device": auto if wanted == "auto" else wanted}
            task = replace(task, parameters=task.parameters | named)
        tasks.append(task)
    return sweep._replace(tasks=tasks)


def check(
    tasks: Sequence[Task],
    on_checked: Callable[[], object] | None = None,
    *,
    here: bool = True,
) -> None:
    """Validate every task's parameters as its notebook would, before any kernel starts.

    Of a notebook that does not call `rtl_utils.settings.check`, a user's own, the names are
    checked alone, which `read` did.

    Args:
        tasks: of a sweep.
        on_checked: called after each task.
        here: whether this machine executes them; see `settings.validate`.

    Raises:
        ValueError: in one sentence, for the first task that its notebook would refuse.
    """
    from rtl_utils.settings import Tried, validate  # takes seconds

    tried = Tried()
    notebooks = {task.notebook for task in tasks}
    defaults = {path: headless.default_parameters(path) for path in notebooks}
    options = {path: _check_options(path) for path in notebooks}
    for task in tasks:
        asked = options[task.notebook]
        if asked is not None:
            given = defaults[task.notebook] | task.parameters
            try:
                validate(given, **asked, here=here, tried=tried)
            except ValueError as error:
                raise ValueError(cut(f"task {task.name}: {error}")) from error
        if on_checked is not None:
            on_checked()


def _plan(content: Any, where: str, folder: Path) -> _Plan:
    """The file's parts, each of its type. Raises ValueError."""
    top = _mapping(content, where, "the file")
    for name in top:
        if name not in _TOP:
            raise ValueError(f"{where} has the key {shown(name)}; it may have {', '.join(_TOP)}")
    fixed = _values(top.get("parameters"), where, "parameters")
    grid = {
        name: [_value(one, where, f"grid.{name}") for one in _list(values, where, f"grid.{name}")]
        for name, values in _mapping(top.get("grid"), where, "grid").items()
    }
    cases = {
        name: _values(values, where, f"cases.{name}")
        for name, values in _mapping(top.get("cases"), where, "cases").items()
    }
    exclude = [] if top.get("exclude") is None else _list(top["exclude"], where, "exclude")
    notebook = top.get("notebook")
    plan = _Plan(
        where,
        folder,
        None if notebook is None else _value(notebook, where, "notebook"),
        fixed,
        grid,
        cases,
        [_alternatives(one, where, f"exclude[{k}]") for k, one in enumerate(exclude)],
    )
    _check_plan(plan)
    _check_exclude(plan)
    return plan


def _check_plan(plan: _Plan) -> None:
    """Raises ValueError for what is wrong beyond types."""
    places: dict[str, str] = {} if plan.notebook is None else {"notebook": "notebook"}
    groups: dict[str, list[str]] = {"parameters": list(plan.fixed), "grid": list(plan.grid)}
    groups |= {f"cases.{name}": list(case) for name, case in plan.cases.items()}
    for place, names in groups.items():
        for name in names:
            _check_name(name, plan.where, place)
            other = places.get(name)
            if other is not None:
                raise ValueError(
                    f"{plan.where} sets {shown(name)} in {other} and in {place}; a parameter is "
                    "set in one place"
                )
        if not place.startswith("cases."):  # two cases set the same parameters
            places |= dict.fromkeys(names, place)
    count = prod(len(values) for values in plan.grid.values()) * max(1, len(plan.cases))
    if count > MOST_TASKS:
        raise ValueError(
            f"{plan.where} crosses {count:,} combinations; at most {MOST_TASKS:,} are allowed: "
            "split it into several files"
        )


def _check_exclude(plan: _Plan) -> None:
    """Raises ValueError for a name or a value in `exclude` that no run has."""
    known: dict[str, list[_Value]] = {name: [value] for name, value in plan.fixed.items()}
    known |= plan.grid
    if plan.notebook is not None:
        known["notebook"] = [plan.notebook]
    if plan.cases:
        known["case"] = [_value(name, plan.where, "cases") for name in plan.cases]
    for case in plan.cases.values():
        for name, value in case.items():
            known[name] = [*known.get(name, []), value]
    for k, dropped in enumerate(plan.exclude):
        for name, values in dropped.items():
            if name not in known:
                raise ValueError(
                    f"exclude[{k}] of {plan.where} has {shown(name)}; it may have what the file "
                    f"sets: {', '.join(sorted(known))}"
                )
            for value in values:
                if not any(_same(value, other) for other in known[name]):
                    raise ValueError(
                        f"exclude[{k}] of {plan.where} has {name}: {shown(value.given)}, which no "
                        "run has; mend or remove it (a list there means any of its values)"
                    )


def _check_name(name: str, where: str, place: str) -> None:
    """Raises ValueError for a name that no notebook's parameter may have here."""
    if name == "out":
        raise ValueError(f"{where} sets out in {place}; it is set by --out: leave it out")
    if name == "notebook" and place == "parameters":
        raise ValueError(f"{where} sets notebook in parameters; it stands beside them or in grid")
    if name == "case":
        raise ValueError(f"{where} sets case in {place}; cases are named under cases")


def _tasks(plan: _Plan, sweep: str) -> list[Task]:
    """One task per combination that is left. Raises ValueError."""
    notebooks: dict[str, _Notebook] = {}
    found: dict[str, Task] = {}
    for choice in _chosen(plan):
        text = choice.values.get("notebook")
        if text is None:
            raise ValueError(
                f'{plan.where} must name a notebook, such as notebook: "05", above or in every case'
            )
        if text.text not in notebooks:
            notebooks[text.text] = _notebook(text.given, plan)
        task = _task(notebooks[text.text], choice, plan, sweep)
        if task.key in found:
            raise ValueError(
                f"{plan.where} asks twice for the same run: {found[task.key].name} and {task.name}"
            )
        found[task.key] = task
    if not found:
        raise ValueError(f"{plan.where} leaves no run: exclude drops all of them")
    return _unique(list(found.values()))


def _chosen(plan: _Plan) -> Iterator[_Choice]:
    """The combinations that are not excluded: grid first, the first list slowest, then cases."""
    used = [False] * len(plan.exclude)
    base = plan.fixed if plan.notebook is None else {"notebook": plan.notebook} | plan.fixed
    cases: list[tuple[str | None, dict[str, _Value]]] = [*plan.cases.items()] or [(None, {})]
    for crossed in product(*plan.grid.values()):
        values = base | dict(zip(plan.grid, crossed, strict=True))
        for name, case in cases:
            choice = _Choice(name, values | case)
            hit = [k for k, one in enumerate(plan.exclude) if _matches(one, choice)]
            for k in hit:
                used[k] = True
            if not hit:
                yield choice
    for k, was in enumerate(used):
        if not was:
            said = {name: [v.given for v in values] for name, values in plan.exclude[k].items()}
            raise ValueError(
                f"exclude[{k}] of {plan.where}, {shown(said)}, matches no combination; mend or "
                "remove it"
            )


def _matches(wanted: Mapping[str, Sequence[_Value]], choice: _Choice) -> bool:
    """Whether a combination has, under every name, one of the wanted values."""
    for name, values in wanted.items():
        if name == "case":
            fits = any(value.given == choice.case for value in values)
        else:
            has = choice.values.get(name)
            fits = has is not None and any(_same(value, has) for value in values)
        if not fits:
            return False
    return True


def _same(a: _Value, b: _Value) -> bool:
    """Whether two values are equal; one equals a list of it alone."""
    return a.text in (b.text, f"[{b.text}]") or b.text == f"[{a.text}]"


def _task(notebook: _Notebook, choice: _Choice, plan: _Plan, sweep: str) -> Task:
    """The task of one combination. Raises ValueError for a name that its notebook lacks."""
    parameters = {}
    texts = []
    for name, value in choice.values.items():
        if name == "notebook":
            continue
        if name not in notebook.defaults:
            names = ", ".join(known for known in notebook.defaults if known != "out")
            raise ValueError(
                f"{plan.where}: {shown(name)} is not a parameter of {notebook.path.stem}; it has "
                f"{names}"
            )
        one = isinstance(notebook.defaults[name], list | tuple) and _stands_for_one(value.given)
        parameters[name] = [value.given] if one else value.given
        texts.append(f"{name}: [{value.text}]" if one else f"{name}: {value.text}")
    read = [sweep, notebook.path.name, notebook.source, *sorted(texts)]
    key = hashlib.sha256("\n".join(read).encode()).hexdigest()[:16]
    varied = [f"{name}={choice.values[name].name}" for name in plan.grid if name != "notebook"]
    case = [] if choice.case is None else [_safe(choice.case)]
    return Task(notebook.path, parameters, "-".join([notebook.label, *case, *varied]), key)


def _stands_for_one(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _unique(tasks: list[Task]) -> list[Task]:
    """The tasks with names that are short, and different on disks that know no capitals, too."""
    names = Counter(task.name.casefold() for task in tasks)
    return [
        task
        if len(task.name) <= _LONGEST_NAME and names[task.name.casefold()] == 1
        else replace(
            task,
            name=f"{task.name[: _LONGEST_NAME - _DIGITS - 1]}-{task.key[:_DIGITS]}",
        )
        for task in tasks
    ]


def _notebook(given: Any, plan: _Plan) -> _Notebook:
    """The notebook that a file names. Raises ValueError."""
    if type(given) is int and 0 < given < 100:
        given = f"{given:02d}"
    if not isinstance(given, str) or not given or "\0" in given:
        raise ValueError(
            f'notebook in {plan.where} must be a number of the course, such as "05", or the path '
            f"of a notebook; got {shown(given)}"
        )
    path = plan.folder / given if given.endswith(".ipynb") else _of_course(given, plan.where)
    if not path.is_file():
        raise ValueError(f"{plan.where} names the notebook {shown(given)}; there is no file {path}")
    path = path.resolve()
    defaults = headless.default_parameters(path)
    source = headless.source_hash(headless.cells_of(path))
    number = re.match(r"\d\d(?=_)", path.stem)
    return _Notebook(path, number[0] if number else _safe(path.stem), source, defaults)


def _of_course(which: str, where: str) -> Path:
    """The one notebook of the course whose name starts so. Raises ValueError."""
    try:
        every = headless.find()
    except FileNotFoundError as error:
        raise ValueError(f"{where} names notebook {shown(which)}: {error}") from error
    found = [path for path in every if path.name.startswith(which)]
    if len(found) != 1:
        names = ", ".join(path.stem for path in every)
        raise ValueError(
            f"notebook in {where} must be the start of one name among {names}, or a path that ends "
            f"with .ipynb; got {shown(which)}"
        )
    return found[0]


def _check_options(notebook: Path) -> dict[str, Any] | None:
    """Keywords of the notebook's own call of `settings.check`; None if it has none."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    imported = False
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        try:
            nodes = list(ast.walk(ast.parse("".join(cell["source"]))))
        except (SyntaxError, ValueError):  # a magic of Jupyter
            continue
        imported = imported or any(_imports_check(node) for node in nodes)
        for node in nodes:
            if imported and isinstance(node, ast.Call) and _is_check(node):
                try:
                    return {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg}
                except ValueError:  # computed: the notebook itself will say
                    return None
    return None


def _imports_check(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.ImportFrom)
        and node.module == "rtl_utils.settings"
        and any(alias.name == "check" and alias.asname is None for alias in node.names)
    )


def _is_check(node: ast.Call) -> bool:
    """Whether a call is `check(globals(), ...)`."""
    first = node.args[0] if node.args else None
    return (
        isinstance(node.func, ast.Name)
        and node.func.id == "check"
        and isinstance(first, ast.Call)
        and isinstance(first.func, ast.Name)
        and first.func.id == "globals"
    )


def _mapping(value: Any, where: str, place: str) -> dict[str, Any]:
    """A mapping; nothing stands for an empty one, but not for the whole file."""
    if value is None and place != "the file":
        return {}
    if not isinstance(value, dict):
        raise ValueError(
            f"{place} in {where} must be a mapping, one `name: value` per line; got {shown(value)}"
        )
    return value


def _list(value: Any, where: str, place: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(
            f"{place} in {where} must be a list of one value or more, such as [1, 2]; "
            f"got {shown(value)}"
        )
    return value


def _values(value: Any, where: str, place: str) -> dict[str, _Value]:
    found = _mapping(value, where, place)
    return {name: _value(one, where, f"{place}.{name}") for name, one in found.items()}


def _alternatives(value: Any, where: str, place: str) -> dict[str, list[_Value]]:
    """What an entry of `exclude` names: a list stands for any of its values."""
    found = _mapping(value, where, place)
    if not found:
        raise ValueError(f"{place} in {where} names nothing; name the values to be left out")
    return {
        name: [_value(one, where, f"{place}.{name}") for one in values]
        for name, given in found.items()
        for values in [given if isinstance(given, list) and given else [given]]
    }


def _value(given: Any, where: str, place: str) -> _Value:
    """A value that a notebook can hold. Raises ValueError."""
    try:
        json.dumps(given, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{place} in {where} must be finite numbers, UTF-8 text, true, false, null, or lists "
            f"of them; got {shown(given)}"
        ) from error
    text = json.dumps(_equal(given), sort_keys=True)
    return _Value(given, text, _safe(_short(given)))


def _equal(value: Any) -> Any:
    """The value with whole numbers for those that equal one: 1 and 1.0 are the same rate."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_equal(one) for one in value]
    if isinstance(value, dict):
        return {name: _equal(one) for name, one in value.items()}
    return value


def _short(value: Any) -> str:
    """A value as the name of a task shows it."""
    if isinstance(value, list):
        return "+".join(map(_short, value))
    return value if isinstance(value, str) else json.dumps(value)


def _safe(text: str) -> str:
    """The text with what some file system refuses replaced."""
    return _UNSAFE.sub("_", text).strip(".") or "_"


def _line(value: Any, where: str, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place} in {where} must be a text; got {shown(value)}")
    return " ".join(value.split())


def _note(content: Mapping[str, Any], where: str) -> str:
    return _line(content["note"], where, "note") if "note" in content else ""


def _shown_path(path: Path) -> str:
    """A path as messages show it: from the checkout where it lies in it."""
    try:
        return str(path.resolve().relative_to(folders.root().resolve()))
    except ValueError:
        return str(path)
