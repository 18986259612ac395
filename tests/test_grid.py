"""Sweeps as YAML: what is expanded in which order, what is refused; nothing is executed."""

import json
import time
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtl_utils import folders, grid, headless, sheets

USUAL = """\
title: "A title"
note: What is compared.
notebook: "05"
parameters:
  dataset: digits
  epochs: 8
grid:
  seeds: [0, 1]
  lr: [0.01, 1e-3]
cases:
  few: {n_train: 20}
  all: {n_train: null, methods: [ft, ut]}
exclude:
  - {case: few, lr: 0.001}
"""


@pytest.fixture
def write(tmp_path):
    """Writes a YAML file and returns its path."""

    def make(text: str | bytes, name: str = "sweep.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return make


@pytest.fixture
def own_notebook(tmp_path):
    """Writes a user's own notebook with these cells; the first is its parameters cell."""

    def make(*cells: str, name: str = "own.ipynb") -> Path:
        made = [nbformat.v4.new_code_cell(cell) for cell in cells]
        made[0].metadata["tags"] = ["parameters"]
        path = tmp_path / name
        nbformat.write(nbformat.v4.new_notebook(cells=made), path)
        return path

    return make


def refusal(path) -> str:
    with pytest.raises(ValueError) as error:
        grid.read(path)
    message = str(error.value)
    assert message.count("\n") == 0 and 20 < len(message) < 700
    assert type(error.value) is ValueError
    return message


def test_lists_are_crossed_first_slowest_and_cases_come_within(write):
    sweep = grid.read(write(USUAL))
    assert (sweep.name, sweep.title, sweep.note) == ("sweep", "A title", "What is compared.")
    assert [task.name for task in sweep.tasks] == [
        "05-few-seeds=0-lr=0.01",
        "05-all-seeds=0-lr=0.01",
        "05-all-seeds=0-lr=0.001",
        "05-few-seeds=1-lr=0.01",
        "05-all-seeds=1-lr=0.01",
        "05-all-seeds=1-lr=0.001",
    ]
    assert sweep.tasks[0].parameters == {
        "dataset": "digits",
        "epochs": 8,
        "seeds": [0],
        "lr": 0.01,
        "n_train": 20,
    }
    assert sweep.tasks[2].parameters["methods"] == ["ft", "ut"]
    assert {task.notebook for task in sweep.tasks} == set(headless.find("05"))


def test_value_that_is_a_list_stays_one_value(write):
    text = "notebook: 4\ngrid: {n_train: [50, [20, null]], seeds: [[0, 1], [2], 3]}"
    tasks = grid.read(write(text)).tasks
    assert [task.parameters["n_train"] for task in tasks] == [50] * 3 + [[20, None]] * 3
    assert [task.parameters["seeds"] for task in tasks[:3]] == [[0, 1], [2], [3]]
    assert tasks[3].name == "04-n_train=20+null-seeds=0+1"


def test_one_value_stands_for_a_list_of_one_everywhere(write):
    text = "notebook: '05'\nparameters: {seeds: 3}\ncases: {a: {methods: ft}, b: {methods: null}}"
    a, b = grid.read(write(text)).tasks
    assert a.parameters == {"seeds": [3], "methods": ["ft"]}
    assert b.parameters["methods"] is None


def test_notebook_may_be_crossed_or_differ_by_case(write, own_notebook):
    own_notebook("size = 3")
    text = "grid: {notebook: ['03', '04'], seeds: [0, 1]}\nparameters: {dataset: digits}"
    names = [task.name for task in grid.read(write(text)).tasks]
    assert names == ["03-seeds=0", "03-seeds=1", "04-seeds=0", "04-seeds=1"]
    text = "cases: {a: {notebook: own.ipynb, size: 5}, b: {notebook: '01', seeds: [4]}}"
    a, b = grid.read(write(text)).tasks
    assert (a.name, a.parameters, b.name) == ("own-a", {"size": 5}, "01-b")
    assert a.notebook.samefile(write("", "x").with_name("own.ipynb"))


def test_list_in_exclude_means_any_of_its_values(write):
    text = USUAL.replace("{case: few, lr: 0.001}", "{case: [few, all], lr: [0.01], seeds: 0}")
    assert [task.name for task in grid.read(write(text)).tasks] == [
        "05-few-seeds=0-lr=0.001",
        "05-all-seeds=0-lr=0.001",
        "05-few-seeds=1-lr=0.01",
        "05-all-seeds=1-lr=0.01",
        "05-few-seeds=1-lr=0.001",
        "05-all-seeds=1-lr=0.001",
    ]


def test_key_depends_on_what_decides_a_run_and_on_nothing_else(write, own_notebook):
    def key(text="notebook: own.ipynb\nparameters: {rate: 1, many: 2}", name="s.yaml"):
        (task,) = grid.read(write(text, name)).tasks
        return task.key

    own_notebook("rate = 0.5\nmany = 3\nother = 1", "print(rate)")
    first = key()
    assert len(first) == 16 and int(first, 16) >= 0
    turned = "grid: {many: [2]}\nnotebook: own.ipynb\ncases: {named: {rate: 1.0}}\ntitle: other"
    assert key(turned) == first
    assert key("notebook: own.ipynb\nparameters: {rate: 1, many: 3}") != first
    assert key("notebook: own.ipynb\nparameters: {rate: 1, many: 2, other: 1}") != first
    assert key(name="t.yaml") != first
    own_notebook("rate = 0.5\nmany = 3\nother = 1", "print(many)")
    assert key() != first


def test_names_are_safe_short_and_unique_on_every_file_system(write, own_notebook):
    own_notebook("text = ''")
    values = ["a/b", "a\\b", "A", "a", "x" * 300, "x" * 299 + "y", "..", "ü:*?", "ü:*!", " ", "-"]
    tasks = grid.read(write(json.dumps({"notebook": "own.ipynb", "grid": {"text": values}}))).tasks
    names = [task.name for task in tasks]
    assert [task.parameters["text"] for task in tasks] == values
    assert len({name.casefold() for name in names}) == len(values)
    assert all(len(name) <= 100 for name in names)
    assert all(set(name) <= set(grid_alphabet()) and name.strip(".") == name for name in names)


def grid_alphabet():
    letters = "abcdefghijklmnopqrstuvwxyz"
    return f"{letters}{letters.upper()}0123456789-_=.+"


def test_ten_thousand_tasks_are_expanded_and_validated_without_ten_thousand_trials(
    write, monkeypatch
):
    from rtl_utils import experiments

    text = "notebook: '05'\nparameters: {dataset: digits, n_train: 20}\ngrid: "
    axes = {"width": ["small", "wide"], "lr": [k / 1000 for k in range(1, 101)]}
    axes |= {"momentum": [k / 50 for k in range(50)]}
    sweep = grid.read(write(text + json.dumps(axes)))
    assert len(sweep.tasks) == len({task.key for task in sweep.tasks}) == 10_000
    tried, checked = [], []
    check = experiments.check
    monkeypatch.setattr(experiments, "check", lambda runs: (tried.extend(runs), check(runs)))
    grid.check(sweep.tasks, lambda: checked.append(1))
    assert len(checked) == 10_000
    assert len(tried) == 2 * len(["scratch", "ft", "fixed", "ut"])


NO_SWEEP = [  # text, what the message names
    (USUAL.replace("cases:", "case:"), ["'case'", "title, note, notebook"]),
    (USUAL.replace("epochs: 8", "lr: 8"), ["'lr'", "parameters", "grid", "one place"]),
    (USUAL.replace("n_train: 20", "epochs: 2"), ["'epochs'", "parameters", "cases.few"]),
    (USUAL.replace("{n_train: 20}", "{lr: 1}"), ["'lr'", "grid", "cases.few"]),
    (USUAL.replace("[0, 1]", "[]"), ["grid.seeds", "list of one value or more", "[]"]),
    (USUAL.replace("[0, 1]", "3"), ["grid.seeds", "list", "3"]),
    (USUAL.replace("{n_train: 20}", "[20]"), ["cases.few", "mapping", "[20]"]),
    ("notebook: '05'\ngrid: [1]", ["grid", "mapping", "[1]"]),
    ("notebook: '05'\nparameters: 3", ["parameters", "mapping", "3"]),
    ("[1, 2]", ["the file", "mapping", "[1, 2]"]),
    ("", ["empty"]),
    ("# nothing", ["empty"]),
    (USUAL.replace("lr: 0.001}", "lr: 0.2}"), ["exclude[0]", "lr: 0.2", "no run has"]),
    (USUAL.replace("case: few", "case: many"), ["exclude[0]", "'many'", "no run has"]),
    (USUAL.replace("lr: 0.001}", "rate: 1}"), ["exclude[0]", "'rate'", "lr, methods, n_train"]),
    (USUAL + "  - {case: few, methods: [[ft, ut]]}", ["exclude[1]", "matches no combination"]),
    (USUAL + "  - {}", ["exclude[1]", "names nothing"]),
    (USUAL + "  - {dataset: digits}", ["leaves no run"]),
    (USUAL.replace("[0, 1]", "[0, 0]"), ["twice", "05-few-seeds=0-lr=0.01"]),
    (USUAL.replace("[0, 1]", "[0, [0]]"), ["twice"]),
    (USUAL.replace("[0.01, 1e-3]", "[0.001, 1, 1.0]"), ["twice"]),
    (USUAL.replace("epochs: 8", "out: here"), ["out", "--out"]),
    (USUAL.replace("seeds: [0, 1]", "out: [a, b]"), ["out", "--out"]),
    (USUAL.replace("epochs: 8", "notebook: '05'"), ["notebook", "parameters"]),
    (USUAL.replace('"05"', '"88"'), ["'88'", "05_ut_vs_ft"]),
    (USUAL.replace('"05"', '"0"'), ["'0'", "one name"]),
    (USUAL.replace('"05"', "none.ipynb"), ["'none.ipynb'", "no file"]),
    (USUAL.replace('"05"', "[5]"), ["notebook", "[5]"]),
    (USUAL.replace('"05"', "1.5"), ["notebook", "1.5"]),
    (USUAL.replace('"05"', "null"), ["must name a notebook"]),
    (USUAL.replace("lr:", "learning_rate:"), ["'learning_rate'", "05_ut_vs_ft", "momentum"]),
    (USUAL.replace('"A title"', "[1]"), ["title", "text", "[1]"]),
    (USUAL.replace("What is compared.", "3"), ["note", "text", "3"]),
    (USUAL.replace("[0, 1]", "[0, 1"), ["not YAML", "line 9"]),
    (USUAL.replace("epochs: 8", "epochs: {"), ["not YAML", "line"]),
    (USUAL + "title: again", ["'title' twice", "line 15"]),
    (USUAL.replace("epochs: 8", "dataset: digits"), ["'dataset' twice", "line 6"]),
    (USUAL.replace("0.01, ", ".nan, "), ["grid.lr", "finite", "nan"]),
    (USUAL.replace("0.01, ", ".inf, "), ["grid.lr", "finite", "inf"]),
    (USUAL.replace("dataset: digits", r'dataset: "\ud800"'), ["parameters.dataset", "UTF-8"]),
    (USUAL.replace("epochs: 8", "epochs: " + "8" * 5_000), ["line 6"]),
    (USUAL.replace("epochs: 8", "8: epochs"), ["key", "line 6", "quotes"]),
    (USUAL.replace("epochs: 8", "? [a]\n  : 1"), ["key", "line 6"]),
    ("notebook: '05'\ngrid: {seeds: &a [*a]}", ["inside itself", "line 2"]),
    (f"a: {'[' * 60}{']' * 60}", ["nested too deeply"]),
    ("[" * 100_000, ["nested too deeply"]),
    ("a: !!python/object/apply:os.system ['true']", ["tag", "line 1"]),
    ("a: !!binary aGVsbG8=", ["tag !!binary"]),
    ("a: !own 3", ["tag !own"]),
    ("a: !!int x", ["tag !!int in line 1"]),
    ("a: !!bool x", ["tag !!bool"]),
    ("a: !!str 3", ["tag !!str"]),
    ("a: !!map [3]", ["tag !!map"]),
    ("a: !!set {b: 3}", ["tag !!set"]),
    ("--- 1\n--- 2", ["not YAML", "line 2"]),
    ("a\tb: \x01", ["not YAML"]),
    (b"\xff\xfe\x00", ["UTF-8"]),
    (b"title: \xc3\x28", ["UTF-8"]),
    ("#" * 1_100_000, ["1,000,000 bytes"]),
    (
        "notebook: '05'\ngrid: " + json.dumps({n: [*range(330)] for n in ("seeds", "epochs")}),
        ["108,900 combinations", "100,000"],
    ),
]


@pytest.mark.parametrize(("text", "says"), NO_SWEEP, ids=range(len(NO_SWEEP)))
def test_file_that_is_no_sweep_is_refused_in_one_sentence(write, text, says):
    message = refusal(write(text))
    for part in ["sweep.yaml", *says]:
        assert part in message


def test_billion_laughs_are_refused_before_they_are_told(write):
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    for k in range(1, 20):
        lines.append(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]")
    start = time.process_time()
    assert "at most 1,000,000 values" in refusal(write("\n".join(lines)))
    merged = ["a0: &a0 {x: 1, y: 2}"]
    for k in range(1, 25):
        merged.append(f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 10)}]}}")
    assert "at most 1,000,000 values" in refusal(write("\n".join(merged)))
    assert time.process_time() - start < 30  # they would take years


def test_yaml_executes_nothing(write, tmp_path):
    for tag in ("object/apply:os.system", "object/new:os.system", "name:os.system", "module:os"):
        refusal(write(f"title: !!python/{tag} ['touch {tmp_path}/done']"))
    assert not (tmp_path / "done").exists()


def test_anchors_and_merged_mappings_are_fine(write):
    text = """\
notebook: "05"
cases:
  a: &usual {n_train: 20, lr: 0.1}
  b: {<<: *usual, lr: 0.2}
"""
    a, b = grid.read(write(text)).tasks
    assert (a.parameters, b.parameters) == ({"n_train": 20, "lr": 0.1}, {"n_train": 20, "lr": 0.2})


def test_scalars_are_read_as_yaml_1_2_reads_them(write):
    text = "[no, on, 2026-11-25, 1:30, 05, 1e-3, .5, -2, +1.5E+2, true, ~, null, '7', 1_000, 0x1f]"
    assert sheets.load(write(text), "x") == [
        *("no", "on", "2026-11-25", "1:30", 5, 0.001, 0.5, -2, 150.0, True, None, None, "7"),
        *("1_000", "0x1f"),
    ]


@given(content=st.binary(max_size=60) | st.text("-:{}[]&*!|>?#'\"\n ,ab01", max_size=60))
def test_any_file_is_read_or_refused_with_a_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        grid.read(path)
    except ValueError as error:
        assert type(error) is ValueError and "\n" not in str(error)


def test_sweep_is_found_by_name_or_path(write, monkeypatch):
    course = folders.root() / "sweeps" / "digits.yaml"
    assert grid.find("digits") == course
    assert grid.find("sweeps/digits.yaml").samefile(course)
    mine = write(USUAL, "mine.yaml")
    assert grid.find(str(mine)) == mine
    monkeypatch.chdir(mine.parent)
    assert grid.find("mine.yaml").samefile(mine)
    for text in ("nowhere", "sweeps/nowhere.yaml", "", "a\0b", "notebooks"):
        with pytest.raises(ValueError, match=r"name a YAML file, or one of .*digits, .*table3"):
            grid.find(text)
    with pytest.raises(ValueError, match=r"no sweep .*gone\.yaml"):
        grid.read(mine.parent / "gone.yaml")


def test_sweep_needs_a_name_that_a_folder_may_have(write):
    assert "letters, digits" in refusal(write(USUAL, "a b.yaml"))


def test_refused_parameters_are_named_with_their_task(write):
    tasks = grid.read(write(USUAL.replace("[0.01, 1e-3]", "[0.01, -1]").split("exclude")[0])).tasks
    checked = []
    with pytest.raises(ValueError, match=r"^task 05-few-seeds=0-lr=-1: lr must be .*got -1$"):
        grid.check(tasks, lambda: checked.append(1))
    assert len(checked) == 2


def test_notebook_is_validated_as_its_own_check_would(write):
    several = "notebook: '{}'\nparameters: {{n_train: [20, null]}}"
    grid.check(grid.read(write(several.format("04"))).tasks)
    with pytest.raises(ValueError, match="n_train must be one number"):
        grid.check(grid.read(write(several.format("05"))).tasks)
    images = "notebook: '01'\nparameters: {dataset: digits}"
    with pytest.raises(ValueError, match="dataset must be one of synthetic"):
        grid.check(grid.read(write(images)).tasks)


def test_own_notebook_is_validated_by_its_names_alone_unless_it_calls_check(write, own_notebook):
    text = "notebook: own.ipynb\nparameters: {lr: -5}"
    own_notebook("lr = 1", "%matplotlib inline", "def check(x): pass\ncheck(globals())")
    checked = []
    grid.check(grid.read(write(text)).tasks, lambda: checked.append(1))
    assert checked == [1]
    usual = "dataset = 'digits'\nseeds = [0]\ntaus = [0, 1]\nbatch_size = 16\nlr = 1\n"
    usual += "momentum = 0\ndevice = 'cpu'\nout = 'runs'"
    own_notebook(usual, "from rtl_utils.settings import check\nsettings = check(globals())")
    with pytest.raises(ValueError, match="lr must be"):
        grid.check(grid.read(write(text)).tasks)


@pytest.mark.parametrize(
    ("sets", "device", "auto", "found"),
    [
        ("", None, "cpu", "cpu"),  # the notebook says "auto"
        ("", None, "auto", "auto"),  # for a worker that sees for itself
        ("", "cuda:1", "cpu", "cuda:1"),
        ("", "auto", "cuda", "cuda"),
        ("device: cuda", None, "cpu", "cuda"),
        ("device: cuda", "cuda", "cpu", "cuda"),
        ("device: auto", None, "cuda", "cuda"),
    ],
)
def test_every_task_gets_its_device_and_keeps_its_key(write, sets, device, auto, found):
    sweep = grid.read(write(f"notebook: '05'\nparameters: {{{sets}}}\ngrid: {{seeds: [0, 1]}}"))
    placed = grid.placed(sweep, device, auto)
    assert [task.parameters["device"] for task in placed.tasks] == [found] * 2
    assert [(t.key, t.name) for t in placed.tasks] == [(t.key, t.name) for t in sweep.tasks]


def test_two_devices_of_a_sweep_or_none_in_its_notebook_are_refused(write, own_notebook):
    sweep = grid.read(write("notebook: '05'\nparameters: {device: cpu}"))
    with pytest.raises(ValueError, match="sets device 'cpu' and --device 'cuda'"):
        grid.placed(sweep, "cuda", "cpu")
    own_notebook("lr = 1")
    own = grid.read(write("notebook: own.ipynb"))
    assert grid.placed(own, None, "cpu") == own
    with pytest.raises(ValueError, match="own has no parameter device; leave out --device"):
        grid.placed(own, "cuda", "cpu")


def test_a_device_is_checked_where_it_trains(write):
    tasks = grid.read(write("notebook: '05'\nparameters: {device: 'cuda:64'}")).tasks
    with pytest.raises(ValueError, match="device 'cuda:64' is not there"):
        grid.check(tasks)
    grid.check(tasks, here=False)
    wrong = grid.read(write("notebook: '05'\nparameters: {device: tpu}")).tasks
    with pytest.raises(ValueError, match="device must be"):
        grid.check(wrong, here=False)


def test_nothing_is_written_by_reading_and_checking(write, tmp_path, monkeypatch):
    path = write(USUAL)
    monkeypatch.chdir(tmp_path)
    grid.check(grid.read(path).tasks)
    assert [entry.name for entry in tmp_path.iterdir()] == ["sweep.yaml"]
