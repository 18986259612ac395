import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import pytest
import torch

from rtl_utils import couplings, folders, heads, lengths, probing, training
from rtl_utils.coupled import Coupled
from rtl_utils.data import DATASETS, PATCHES, Shortcut, load, plant, usual
from rtl_utils.methods import METHODS, Method
from rtl_utils.models import NETWORKS
from rtl_utils.paths import BLENDS
from rtl_utils.runs import (
    BACKBONE,
    Run,
    check_fields,
    class_names,
    clean_tasks,
    knowledge,
    reads,
    target_views,
    tasks,
)
from rtl_utils.schedules import SCHEDULES
from rtl_utils.training import Sgd

DIGITS = Run(
    "digits",
    "digits-0-4",
    "digits-5-9",
    "ft",
    0,
    width=(4, 4, 4, 4),
    taus=(0.0, 1.0),
    sgd=Sgd(epochs=2, batch_size=50),
    source_shortcut=Shortcut(classes=("4",)),
    n_train=30,
)
TABLE = Run("synthetic", "source", "target", "ut", 0, width="plain", source_sgd=Sgd(lr=0.05))
CIFAR = Run("cifar100", "herbivores", "flowers", "ft", 0)
COUPLED = Coupled(iterations=2, block=10, blocks=2, partitions=2)

# one run of every method, and of everything else that a key reads
RUNS = {name: replace(DIGITS, method=name) for name in METHODS} | {
    "backbone": DIGITS.backbone(),
    "clean backbone": replace(DIGITS, source_shortcut=None).backbone(),
    "clean": replace(DIGITS, source_shortcut=None),
    "marked target": replace(DIGITS, target_shortcut=Shortcut("mark")),
    "striped source": replace(DIGITS, source_shortcut=Shortcut("stripe", ("4",))),
    "tested with a mark": replace(DIGITS, tested=Shortcut("mark", ("4",))),
    "tinted target": replace(DIGITS, target_shortcut=usual("tint")),
    "pulled": replace(DIGITS, sgd=replace(DIGITS.sgd, l2_sp=0.1)),
    "averaged otherwise": replace(DIGITS, method="wise-ft", backbone_share=0.25),
    "measured": replace(DIGITS, method="ut", partitions=2),
    "measured ft": replace(DIGITS, partitions=2),
    "coupled otherwise": replace(DIGITS, method="ct-iterated", coupled=COUPLED),
    "two heads": replace(DIGITS, head="disjoint"),
    "all images": replace(DIGITS, n_train=None),
    "paper": replace(DIGITS, width="paper"),
    "small": replace(DIGITS, width="small"),
    "small-plain": replace(DIGITS, width="small-plain"),
    "wide": replace(DIGITS, width="wide"),
    "wide-plain": replace(DIGITS, width="wide-plain"),
    "table": TABLE,
    "table with BatchNorm": replace(TABLE, width="batchnorm", method="ft"),
    "cifar100": replace(CIFAR, method="ut"),
}


def key(run):
    """The key as another process would make it; `Run.key` remembers the keys of equal runs."""
    text = json.dumps(reads(run), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def keys():
    return {name: key(run) for name, run in RUNS.items()}


# --- what a key is ---


@pytest.mark.parametrize("name", RUNS)
def test_key_is_the_hash_of_what_the_run_reads(name):
    run = RUNS[name]
    assert run.key == key(run)
    assert len(run.key) == 16
    assert int(run.key, 16) >= 0


def test_no_two_of_the_runs_share_a_key():
    assert len(set(keys().values())) == len(RUNS)


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.parametrize("seed", ["1", "2"])
def test_key_is_the_same_in_every_process(seed):
    code = (
        "import json, sys\n"
        "from rtl_utils.runs import Run\n"
        "print(*(Run.of(spec).key for spec in json.load(sys.stdin)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([asdict(run) for run in RUNS.values()]),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": seed},
    )
    assert done.stdout.split() == [run.key for run in RUNS.values()]


CHANGES = {
    "dataset": {"dataset": "digits", "source": "digits-0-4", "target": "digits-5-9"},
    "source": {"source": "carnivores"},
    "target": {"target": "vehicles-1"},
    "method": {"method": "l2-sp"},
    "seed": {"seed": 1},
    "source_shortcut": {"source_shortcut": Shortcut(classes=("camel",))},
    "target_shortcut": {"target_shortcut": Shortcut()},
    "n_train": {"n_train": 20},
    "head": {"head": "disjoint"},
    "width": {"width": "paper"},
    "taus": {"taus": (0.5, 1.0)},
    "sgd": {"sgd": Sgd(lr=0.1)},
    "source_sgd": {"source_sgd": Sgd(lr=0.1)},
    "coupled": {"coupled": COUPLED},
    "partitions": {"partitions": 2},
    "backbone_share": {"backbone_share": 0.25},
    "tested": {"tested": Shortcut("mark", classes=("kangaroo",))},
}
_OF_THE_TARGET = {"target", "target_shortcut", "n_train", "partitions"}
_OF_EVERY_RUN = {"dataset", "method", "seed", "source_shortcut", "head", "width", "sgd", "tested"}
FIELDS_READ = {
    "before": _OF_EVERY_RUN | _OF_THE_TARGET | {"source", "source_sgd"},
    "backbone": _OF_EVERY_RUN | {"source"},
    "scratch": _OF_EVERY_RUN | _OF_THE_TARGET,
    "ft": _OF_EVERY_RUN | _OF_THE_TARGET | {"source", "source_sgd"},
    "fixed": _OF_EVERY_RUN | _OF_THE_TARGET | {"source", "source_sgd"},
    "iso": _OF_EVERY_RUN | _OF_THE_TARGET | {"source", "source_sgd"},
    "ct-annealed": _OF_EVERY_RUN | _OF_THE_TARGET | {"source", "source_sgd"},
    "wise-ft": _OF_EVERY_RUN | _OF_THE_TARGET | {"source", "source_sgd", "backbone_share"},
    "ut": set(CHANGES) - {"coupled", "backbone_share"},
    "ct": set(CHANGES) - {"coupled", "backbone_share"},
    "ct-iterated": set(CHANGES) - {"partitions", "backbone_share"},
}


def test_every_field_of_a_run_is_tried():
    assert set(CHANGES) == {field.name for field in fields(Run)}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("method", FIELDS_READ)
def test_key_changes_with_what_the_method_reads_and_with_nothing_else(method, change):
    run = CIFAR.backbone() if method == BACKBONE else replace(CIFAR, method=method)
    changed = replace(run, **CHANGES[change])
    assert (key(changed) != key(run)) == (change in FIELDS_READ[method])


@pytest.mark.parametrize("method", ["ft", "scratch", "fixed", "iso", "ct-annealed", "mixup"])
def test_new_grid_of_taus_keeps_the_key_of_a_method_without_a_grid(method):
    assert key(replace(RUNS[method], taus=(0.0, 0.1, 1.0))) == key(RUNS[method])


@pytest.mark.parametrize("method", ["ut", "ut-mixture", "ut-fade", "ct", "ct-iterated"])
def test_new_grid_of_taus_changes_the_key_of_a_method_with_a_grid(method):
    assert key(replace(RUNS[method], taus=(0.0, 0.1, 1.0))) != key(RUNS[method])


def test_key_from_scratch_ignores_how_a_backbone_is_trained():
    otherwise = Sgd(lr=0.5, epochs=1)
    scratch = RUNS["scratch"]
    assert key(replace(scratch, source_sgd=otherwise)) == key(scratch)
    assert key(replace(DIGITS, source_sgd=otherwise)) != key(DIGITS)


@pytest.mark.parametrize("method", ["before", "fixed"])
def test_key_of_what_takes_no_steps_ignores_how_sgd_runs(method):
    run = replace(DIGITS, method=method, source_sgd=Sgd(epochs=7))
    assert key(replace(run, sgd=Sgd(lr=0.5))) == key(run)
    assert key(replace(run, source_sgd=Sgd(epochs=8))) != key(run)


def test_share_that_is_the_methods_own_still_has_a_key_of_its_own_per_value():
    wise = RUNS["wise-ft"]
    shares = {key(replace(wise, backbone_share=share)) for share in (None, 0.0, 0.25, 1.0)}
    assert len(shares) == 4
    assert key(replace(wise, backbone_share=1)) == key(replace(wise, backbone_share=1.0))


def test_source_sgd_left_out_is_that_of_the_run():
    assert key(replace(DIGITS, source_sgd=DIGITS.sgd)) == key(DIGITS)


@pytest.mark.parametrize("source", ["carnivores", "vehicles-1"])
def test_key_from_scratch_ignores_which_source_there_is(source):
    scratch = replace(CIFAR, method="scratch")
    assert key(replace(scratch, source=source)) == key(scratch)
    assert key(replace(CIFAR, source=source)) != key(CIFAR)
    two_heads = replace(scratch, head="disjoint")
    assert key(replace(two_heads, source=source)) != key(two_heads)


def scratch_beside(source, name, **changes):
    """Key from scratch beside a source with a shortcut on one class."""
    shortcut = Shortcut(classes=(name,), **changes)
    return key(replace(CIFAR, method="scratch", source=source, source_shortcut=shortcut))


def test_key_from_scratch_reads_the_label_and_the_patch_that_are_measured():
    kangaroo = scratch_beside("herbivores", "kangaroo")
    assert scratch_beside("carnivores", "wolf") == kangaroo  # both are class 4
    elephant = scratch_beside("herbivores", "elephant")
    assert scratch_beside("carnivores", "tiger") == elephant  # both are class 3
    # a clean source is tested with the usual ball on its last class
    assert key(replace(CIFAR, method="scratch")) == kangaroo
    others = [
        elephant,
        scratch_beside("herbivores", "kangaroo", patch="stripe"),
        scratch_beside("herbivores", "kangaroo", size=0.25),
        scratch_beside("herbivores", "kangaroo", place=(0.0, 0.0)),
    ]
    assert len({kangaroo, *others}) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"method": "ut"},
        {"n_train": 20},
        {"target_shortcut": Shortcut()},
        {"target": "other"},
        {"taus": (0.5, 1.0)},
        {"partitions": 2},
        {"coupled": COUPLED},
    ],
    ids=str,
)
def test_runs_from_one_source_share_their_backbone(change):
    changed = replace(DIGITS, **change)
    assert changed.backbone() == DIGITS.backbone()
    assert changed.backbone().key == DIGITS.backbone().key


_PART = {"classes": ("4",)}
SAME_VALUES = {
    "taus": ({"taus": (0, 1)}, {"taus": (0.0, 1.0)}),
    "lr": ({"sgd": Sgd(lr=1, momentum=0)}, {"sgd": Sgd(lr=1.0, momentum=0.0)}),
    "l1": ({"sgd": Sgd(l1=0)}, {"sgd": Sgd(l1=0.0)}),
    "source lr": ({"source_sgd": Sgd(lr=1)}, {"source_sgd": Sgd(lr=1.0)}),
    "smoothing": ({"coupled": Coupled(smoothing=1)}, {"coupled": Coupled(smoothing=1.0)}),
    "probability": (
        {"target_shortcut": Shortcut(probability=1)},
        {"target_shortcut": Shortcut(probability=1.0)},
    ),
    "size": (
        {"source_shortcut": Shortcut(size=1, **_PART)},
        {"source_shortcut": Shortcut(size=1.0, **_PART)},
    ),
    "place": (
        {"source_shortcut": Shortcut(place=(0, 1), **_PART)},
        {"source_shortcut": Shortcut(place=(0.0, 1.0), **_PART)},
    ),
}


@pytest.mark.parametrize("name", SAME_VALUES)
def test_whole_numbers_and_decimals_of_one_value_make_one_key(name):
    run = RUNS["ct-iterated"]
    whole, decimal = SAME_VALUES[name]
    assert key(replace(run, **whole)) == key(replace(run, **decimal))


# --- versions ---


def _width(run):
    return run.width if isinstance(run.width, str) else "small"


def _record(run):
    return None if run.method == BACKBONE else METHODS[run.method]


def _patches(run):
    tested = None if run.test is None else run.test[0]
    used = run.source_shortcut, run.target_shortcut, tested
    return {shortcut.patch for shortcut in used if shortcut is not None}


def _measures_lengths(run):
    iterates = _record(run) is not None and _record(run).coupling == "iterated"
    return run.partitions is not None or iterates


# a table of records -> whether a run uses the record of that name
USES = {
    "DATASETS": (DATASETS, lambda run, name: run.dataset == name),
    "NETWORKS": (NETWORKS, lambda run, name: _width(run) == name),
    "METHODS": (METHODS, lambda run, name: run.method == name),
    "BLENDS": (BLENDS, lambda run, name: _record(run) is not None and _record(run).blend == name),
    "SCHEDULES": (
        SCHEDULES,
        lambda run, name: _record(run) is not None and _record(run).schedule == name,
    ),
    "PATCHES": (PATCHES, lambda run, name: name in _patches(run)),
}


def _pulls(run):
    """Whether its own training, or that of its backbone, is pulled to its start."""
    return bool(run.sgd.l2_sp) or run.method == "l2-sp"


def _measures_the_path(run):
    return run.partitions is not None and not _record(run).mixes


# a module and its version -> whether a run uses its numbers
MODULES = {
    (training, "VERSION"): lambda run: True,
    (training, "PULL_VERSION"): _pulls,
    (probing, "VERSION"): lambda run: True,
    (couplings, "VERSION"): lambda run: _record(run) is not None and _record(run).blend is not None,
    (lengths, "VERSION"): _measures_lengths,
    (lengths, "PATH_VERSION"): _measures_the_path,
    (heads, "VERSION"): lambda run: run.method in ("fixed", "lp-ft"),
}


def changed_by(before):
    return {name for name, made in keys().items() if made != before[name]}


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (table, name)
        for table, (records, _) in USES.items()
        for name in records
        if (table, name) != ("SCHEDULES", "constant")
    ],
)
def test_raised_version_of_a_record_changes_exactly_the_keys_of_its_runs(table, name, monkeypatch):
    records, uses = USES[table]
    expected = {title for title, run in RUNS.items() if uses(run, name)}
    before = keys()
    raised = replace(records[name], version=records[name].version + 1)
    monkeypatch.setitem(records, name, raised)
    assert expected
    assert changed_by(before) == expected


def test_raised_version_of_the_constant_schedule_changes_what_trains_at_one_tau(monkeypatch):
    """Backbones train at tau = 1 throughout, and so does everything that starts from one."""
    before = keys()
    constant = SCHEDULES["constant"]
    monkeypatch.setitem(SCHEDULES, "constant", replace(constant, version=constant.version + 1))
    assert changed_by(before) == set(RUNS)


@pytest.mark.parametrize(
    ("module", "version"), MODULES, ids=lambda part: getattr(part, "__name__", part)
)
def test_raised_version_of_a_module_changes_exactly_the_keys_of_its_runs(
    module, version, monkeypatch
):
    expected = {title for title, run in RUNS.items() if MODULES[module, version](run)}
    before = keys()
    monkeypatch.setattr(module, version, getattr(module, version) + 1)
    assert expected
    assert changed_by(before) == expected


def test_every_table_and_module_is_raised_for_some_run_and_not_for_all():
    for records, uses in USES.values():
        for name in records:
            used = [uses(run, name) for run in RUNS.values()]
            assert any(used)
            assert not all(used)


# --- contents of the data ---


def contents_read(run):
    """Tasks whose contents a run with partitions or a backbone, or from scratch, reads."""
    if run.method == BACKBONE:
        return {run.source}
    alone = run.method == "scratch" and run.partitions is None
    return {run.target} if alone else {run.source, run.target}


def with_digest(dataset, monkeypatch, digest):
    monkeypatch.setitem(DATASETS, dataset, replace(DATASETS[dataset], digest=digest))


MEASURED_SCRATCH = {"measured scratch": replace(RUNS["scratch"], partitions=2)}


@pytest.mark.parametrize("name", [*RUNS, *MEASURED_SCRATCH])
def test_digests_are_read_of_the_tasks_that_the_run_reads_and_no_others(name, monkeypatch):
    run = (RUNS | MEASURED_SCRATCH)[name]
    before = reads(run)
    with_digest(run.dataset, monkeypatch, lambda task: f"that of {task}")
    after = reads(run)
    assert after.pop("data") == {task: f"that of {task}" for task in contents_read(run)}
    assert after == before
    assert "data" not in before


def test_other_contents_of_one_task_change_exactly_the_keys_that_read_it(monkeypatch):
    before = keys()
    with_digest("digits", monkeypatch, lambda task: "x" if task == "digits-0-4" else None)
    others = {"scratch", "table", "table with BatchNorm", "cifar100"}  # they do not read it
    assert changed_by(before) == set(RUNS) - others
    backbone = DIGITS.backbone()
    assert reads(DIGITS)["data"] == reads(backbone)["data"] == {"digits-0-4": "x"}


def test_keys_of_the_real_images_are_those_of_a_machine_without_them(
    real_cifar100, tmp_path, monkeypatch
):
    runs = [replace(CIFAR, method=name) for name, m in METHODS.items() if not m.needs_knowledge]
    with_images = [r.key for r in runs]
    monkeypatch.setenv("RTL_DATA", str(tmp_path))
    monkeypatch.setattr(folders, "checkout", lambda: tmp_path)
    assert [r.key for r in runs] == with_images


def test_many_keys_read_the_images_once(small_cifar100, monkeypatch):
    small_cifar100()
    opened, load_npz = [], np.load
    monkeypatch.setattr(np, "load", lambda *a, **k: opened.append(a) or load_npz(*a, **k))
    runs = [replace(CIFAR, source="fish", target="insects", seed=seed) for seed in range(50)]
    assert len({r.key for r in runs}) == 50
    assert set(reads(runs[0])["data"]) == {"fish", "insects"}
    assert len(opened) == 1


def test_tasks_of_other_images_are_not_served_from_the_cache(small_cifar100):
    run = replace(CIFAR, source="fish", target="insects")
    small_cifar100()
    before, old = tasks(run)[0].x_train, run.key
    images = np.random.default_rng(5).integers(0, 64, (100, 32, 32, 3), dtype=np.uint8)
    small_cifar100(train_images=images)
    assert not torch.equal(tasks(run)[0].x_train, before)
    assert run.key != old


# --- what keeps every key ---


def test_new_data_set_keeps_every_key(request):
    before = keys()
    request.getfixturevalue("toy_data_set")
    assert "toy" in DATASETS
    assert keys() == before


def test_new_method_keeps_every_key(request):
    before = keys()
    request.getfixturevalue("toy_method")
    assert "toy-method" in METHODS
    assert keys() == before


def test_new_patch_keeps_every_key(request):
    before = keys()
    request.getfixturevalue("toy_patch")
    assert "red" in PATCHES
    assert keys() == before


@pytest.mark.parametrize("method", METHODS)
def test_renamed_method_keeps_its_key(method, monkeypatch):
    monkeypatch.setitem(METHODS, "another-name", METHODS[method])
    assert key(replace(DIGITS, method="another-name")) == key(replace(DIGITS, method=method))


def test_another_look_of_a_method_keeps_its_key(monkeypatch):
    before = keys()
    record = replace(METHODS["ut"], label="x", colour="#000000", marker=".", reference="y")
    monkeypatch.setitem(METHODS, "ut", record)
    assert keys() == before


def test_fields_that_are_off_are_not_read():
    read = reads(RUNS["clean"])
    assert read["sgd"].keys() == {"lr", "epochs", "batch_size", "momentum"}
    assert not {"coupled", "partitions", "taus", "shortcut"} & read.keys()
    assert "head" not in read
    on = reads(replace(RUNS["clean"], sgd=Sgd(cosine=True, l1=0.1)))
    assert on["sgd"].keys() == read["sgd"].keys() | {"cosine", "l1"}


@pytest.mark.parametrize("name", RUNS)
def test_versions_that_were_never_raised_are_not_read(name):
    """So a new room with a version of its own keeps every key."""
    assert all(version > 1 for version in reads(RUNS[name]).get("versions", {}).values())


@dataclass(frozen=True)
class LaterSgd(Sgd):
    """Settings of SGD with a field that does not exist yet."""

    nesterov: bool = False


@dataclass(frozen=True)
class LaterCoupled(Coupled):
    """An iteration with a field that does not exist yet."""

    annealed: float = 0.0


@dataclass(frozen=True)
class LaterShortcut(Shortcut):
    """A shortcut with a field that does not exist yet."""

    rotated: int | None = None


@dataclass(frozen=True)
class LaterMethod(Method):
    """A method with a field that does not exist yet."""

    layers: tuple[str, ...] = ()


def later(record, cls, **changes):
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return cls(**(values | changes))


def test_new_field_that_is_off_by_default_keeps_the_key(monkeypatch):
    run = RUNS["ct-iterated"]
    same = replace(
        run,
        sgd=later(run.sgd, LaterSgd),
        coupled=later(run.coupled, LaterCoupled),
        source_shortcut=later(run.source_shortcut, LaterShortcut),
    )
    before = key(run)
    assert key(same) == before
    monkeypatch.setitem(METHODS, "ct-iterated", later(METHODS["ct-iterated"], LaterMethod))
    assert key(same) == before
    for change in (
        {"sgd": later(run.sgd, LaterSgd, nesterov=True)},
        {"coupled": later(run.coupled, LaterCoupled, annealed=0.5)},
        {"source_shortcut": later(run.source_shortcut, LaterShortcut, rotated=90)},
    ):
        assert key(replace(same, **change)) != before
    other = later(METHODS["ct-iterated"], LaterMethod, layers=("head",))
    monkeypatch.setitem(METHODS, "ct-iterated", other)
    assert key(same) != before


def test_fresh_network_on_a_path_from_the_source_reads_the_source(monkeypatch):
    """A method of a new kind: no backbone, but a path that begins at the source."""
    record = Method("toy", "#000000", ".", start="fresh", blend="mixture", schedule="even")
    monkeypatch.setitem(METHODS, "toy", record)
    run = replace(CIFAR, method="toy", source_shortcut=Shortcut(classes=("kangaroo",)))
    wolf = Shortcut(classes=("wolf",))
    assert key(replace(run, source="carnivores", source_shortcut=wolf)) != key(run)
    clean = replace(run, source_shortcut=None)
    assert key(replace(clean, source="carnivores")) != key(clean)


# --- records ---


@pytest.mark.parametrize("name", RUNS)
def test_run_comes_back_from_its_stored_record(name):
    run = RUNS[name]
    assert Run.of(json.loads(json.dumps(asdict(run)))) == run


@pytest.mark.parametrize("name", RUNS)
def test_columns_of_a_run_are_plain_values(name):
    columns = RUNS[name].columns()
    assert all(
        value is None or type(value) in (str, int, float, bool) for value in columns.values()
    )
    assert not {"sgd", "source_sgd", "coupled"} & columns.keys()


def test_columns_say_what_the_run_is():
    run = replace(
        DIGITS,
        source_sgd=Sgd(epochs=7),
        target_shortcut=Shortcut("mark", probability=0.25),
        coupled=COUPLED,
        taus=(0.0, 0.5, 1.0),
    )
    columns = run.columns()
    expected = {
        "dataset": "digits",
        "source": "digits-0-4",
        "target": "digits-5-9",
        "method": "ft",
        "seed": 0,
        "source_shortcut": "ball on 4",
        "target_shortcut": "mark on all (25%, place drawn)",
        "n_train": 30,
        "head": "shared",
        "width": "4 4 4 4",
        "taus": "0 0.5 1",
        "epochs": 2,
        "batch_size": 50,
        "source_epochs": 7,
        "coupled_iterations": 2,
        "coupled_block": 10,
        "partitions": None,
        "backbone_share": None,
        "tested": None,
    }
    assert {name: columns[name] for name in expected} == expected
    plain = replace(DIGITS, source_shortcut=None, width="small").columns()
    assert plain["source_shortcut"] is plain["target_shortcut"] is None
    assert plain["width"] == "small"
    assert plain["source_epochs"] == 2
    assert RUNS["tested with a mark"].columns()["tested"] == "mark on 4 (place drawn)"


def test_label_of_the_shortcut_is_that_of_the_class_which_carries_it():
    assert DIGITS.shortcut_label == 4
    for classes, label in ((("0",), 0), (("2", "3"), 2), (None, None)):
        run = replace(DIGITS, source_shortcut=Shortcut(classes=classes))
        assert run.shortcut_label == label
    assert RUNS["clean"].shortcut_label is None


def test_shortcut_that_is_tested_is_the_sources_own_or_the_usual_ball():
    usual = (Shortcut(classes=("4",)), 4)
    stripe, mark = Shortcut("stripe", ("2",)), Shortcut("mark", ("0",))
    assert DIGITS.test == RUNS["clean"].test == RUNS["clean backbone"].test == usual
    assert replace(DIGITS, source_shortcut=stripe).test == (stripe, 2)
    for source_shortcut in (None, stripe):
        run = replace(DIGITS, source_shortcut=source_shortcut, tested=mark)
        assert run.test == run.backbone().test == (mark, 0)
    assert replace(DIGITS, source_shortcut=Shortcut()).test is None  # it stands for no class
    assert TABLE.test is None


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if not m.needs_knowledge])
def test_clean_source_has_one_key_whether_its_usual_test_is_named_or_not(method):
    clean = replace(RUNS["clean"], method=method)
    named = replace(clean, tested=Shortcut(classes=("4",)))
    assert key(named) == key(clean)
    assert key(replace(clean, tested=Shortcut(classes=("3",)))) != key(clean)


def test_from_scratch_one_key_serves_the_clean_and_the_biased_source():
    """It sees neither, and is tested with the same ball."""
    biased = RUNS["scratch"]
    assert key(replace(biased, source_shortcut=None)) == key(biased)
    assert key(replace(DIGITS, source_shortcut=None)) != key(DIGITS)


def test_class_names_are_known_without_loading_the_task(monkeypatch):
    record = replace(DATASETS["cifar100"], load=None)
    monkeypatch.setitem(DATASETS, "cifar100", record)
    assert class_names("cifar100", "herbivores")[-1] == "kangaroo"
    assert class_names("synthetic", "source") == ()
    with pytest.raises(ValueError, match="no task 'dogs'"):
        class_names("cifar100", "dogs")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "lora"}, "method must be one of backbone, before, scratch, .*got 'lora'"),
        ({"head": "split"}, "head must be 'shared' or 'disjoint'; got 'split'"),
        ({"dataset": "imagenet"}, "dataset must be one of .*got 'imagenet'"),
        ({"source": "dogs"}, "no task 'dogs'"),
        ({"target": "dogs"}, "no task 'dogs'"),
        ({"width": "large"}, "width must be one of .*got 'large'"),
        (
            {"source_shortcut": Shortcut(classes=("9",))},
            "class '9' is not in task 'digits-0-4'; it has 0, 1, 2, 3, 4",
        ),
        (
            {"target_shortcut": Shortcut(classes=("4",))},
            "class '4' is not in task 'digits-5-9'; it has 5, 6, 7, 8, 9",
        ),
        (
            {"tested": Shortcut(classes=("9",))},
            "class '9' is not in task 'digits-0-4'; it has 0, 1, 2, 3, 4",
        ),
        ({"method": "counter", "source_shortcut": None}, "must know where the shortcut is.*None"),
        (
            {"method": "ut-decorrelated", "source_shortcut": Shortcut()},
            "must know where the shortcut is.*ball on all",
        ),
        ({"method": BACKBONE}, "target"),
        ({"target": None}, "target"),
    ],
    ids=str,
)
def test_run_that_cannot_be_is_refused_before_any_data_are_loaded(change, says, monkeypatch):
    monkeypatch.setitem(DATASETS, "digits", replace(DATASETS["digits"], load=None))
    with pytest.raises(ValueError, match=says):
        check_fields(replace(DIGITS, **change))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source": "target", "target": "source"}, r"'source' to 'target' only; got"),
        (
            {"source_shortcut": Shortcut(classes=("a",))},
            "class 'a' is not in task 'source'; it has no classes",
        ),
    ],
    ids=str,
)
def test_table_that_cannot_be_transferred_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        check_fields(replace(TABLE, **change))


@pytest.mark.parametrize("name", RUNS)
def test_run_that_can_be_is_accepted(name):
    check_fields(RUNS[name])


# --- tasks ---


def test_tasks_are_planted_as_the_run_says():
    clean = {name: load("digits", name, 0) for name in ("digits-0-4", "digits-5-9")}
    carried = plant(clean["digits-0-4"], Shortcut(classes=("4",)), 0)
    everywhere = plant(clean["digits-5-9"], Shortcut(), 0)
    source, target = tasks(replace(DIGITS, target_shortcut=Shortcut(), n_train=None))
    assert torch.equal(source.x_train, carried.x_train)
    assert torch.equal(target.x_train, everywhere.x_train)
    assert torch.equal(target.x_val, everywhere.x_val)
    for source, target in (
        tasks(replace(DIGITS, source_shortcut=None, n_train=None)),
        clean_tasks(replace(DIGITS, target_shortcut=Shortcut(), n_train=None)),
    ):
        assert torch.equal(source.x_train, clean["digits-0-4"].x_train)
        assert torch.equal(target.x_train, clean["digits-5-9"].x_train)


def test_backbones_both_tasks_are_its_source():
    source, target = tasks(DIGITS.backbone())
    assert source is target
    assert torch.equal(source.x_train, tasks(DIGITS)[0].x_train)


def test_runs_on_the_same_data_share_its_tensors():
    first, second = tasks(DIGITS), tasks(replace(DIGITS, method="ut", taus=(0.5, 1.0)))
    assert all(a is b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("run", "examples"), [(DIGITS, 150), (replace(TABLE, n_train=100), 100)])
def test_n_train_is_the_size_of_the_target_of_every_kind(run, examples):
    source, target = tasks(run)
    whole_source, whole = tasks(replace(run, n_train=None))
    assert len(target.y_train) == examples
    assert len(whole.y_train) > examples
    assert torch.equal(target.x_val, whole.x_val)
    assert len(source.y_train) == len(whole_source.y_train)


def test_disjoint_heads_have_one_output_per_class_of_both_tasks():
    source, target = tasks(RUNS["two heads"])
    assert source.outputs == target.outputs == 10
    assert source.class_names == tuple("0123456789")
    assert sorted(source.y_train.unique().tolist()) == [0, 1, 2, 3, 4]
    assert sorted(target.y_val.unique().tolist()) == [5, 6, 7, 8, 9]


def test_synthetic_target_is_trained_on_permuted_and_measured_on_two_more_views():
    run = replace(TABLE, method="ft")
    _, permuted = tasks(run)
    views = target_views(run)
    assert list(views) == ["restored", "rows"]
    assert torch.equal(permuted.x_train[:, 20:], views["restored"].x_train[:, 20:])
    assert not torch.equal(permuted.x_train[:, :20], views["restored"].x_train[:, :20])
    assert target_views(run.backbone()) == target_views(DIGITS) == {}


# --- knowledge of the shortcut ---


def carriers(task, clean):
    """Training images of each class of the clean task that carry a shortcut in the other."""
    changed = (task.x_train != clean.x_train).flatten(1).any(1)
    return [int(changed[clean.y_train == k].sum()) for k in range(5)]


def test_who_knows_the_shortcut_spreads_as_many_and_counters_the_other_classes():
    source, _ = tasks(DIGITS)
    clean_source, clean_target = clean_tasks(DIGITS)
    known = knowledge(DIGITS)
    planted = carriers(source, clean_source)
    spread = carriers(known.spread, clean_source)
    assert planted[:4] == [0] * 4
    assert max(spread) - min(spread) <= 5
    assert sum(spread) == pytest.approx(sum(planted), rel=0.1)
    # a tenth of 30; class 4 is the one that the shortcut stands for
    assert carriers(known.countered, clean_target) == [3, 3, 3, 3, 0]
    for task, clean in ((known.spread, clean_source), (known.countered, clean_target)):
        assert torch.equal(task.x_val, clean.x_val)
        assert torch.equal(task.y_train, clean.y_train)


def test_each_image_has_one_place_for_its_shortcut():
    clean, _ = clean_tasks(DIGITS)
    spread = knowledge(DIGITS).spread.x_train
    everywhere = plant(clean, Shortcut(), 0).x_train
    both = (spread != clean.x_train).flatten(1).any(1)
    assert torch.equal(spread[both], everywhere[both])


def test_target_that_carries_the_shortcut_anyway_has_no_counter_examples_to_add():
    run = replace(DIGITS, target_shortcut=Shortcut())
    _, target = tasks(run)
    assert torch.equal(knowledge(run).countered.x_train, target.x_train)


def test_there_is_nothing_to_know_of_a_shortcut_on_no_class_or_on_all():
    assert knowledge(RUNS["clean"]) is None
    assert knowledge(replace(DIGITS, source_shortcut=Shortcut())) is None


def test_knowledge_is_of_the_runs_own_patch():
    run = RUNS["striped source"]
    _, clean_target = clean_tasks(run)
    with_stripe = plant(clean_target, Shortcut("stripe"), 0).x_train
    countered = knowledge(run).countered.x_train
    changed = (countered != clean_target.x_train).flatten(1).any(1)
    assert torch.equal(countered[changed], with_stripe[changed])


# --- replaced records ---


def test_replaced_method_is_not_served_under_the_old_key(monkeypatch):
    monkeypatch.setitem(METHODS, "mine", replace(METHODS["ft"], l2_sp=0.1))
    run = replace(DIGITS, method="mine")
    before = run.key
    monkeypatch.setitem(METHODS, "mine", replace(METHODS["ft"], l2_sp=5.0))
    assert run.key != before


def test_replaced_data_set_and_patch_are_not_served_from_the_cache(monkeypatch):
    before = tasks(DIGITS)[0].x_train
    other = PATCHES["mark"].draw
    monkeypatch.setitem(PATCHES, "ball", replace(PATCHES["ball"], draw=other))
    marked = tasks(DIGITS)[0].x_train
    assert not torch.equal(marked, before)
    record = DATASETS["digits"]
    flipped = replace(record, load=lambda name, seed: mirrored(record.load(name, seed)))
    monkeypatch.setitem(DATASETS, "digits", flipped)
    assert not torch.equal(tasks(DIGITS)[0].x_train, marked)


def mirrored(task):
    return replace(task, x_train=task.x_train.flip(-1))


def test_shortcut_on_a_share_of_the_source_is_measured_on_all_images():
    scratch = replace(DIGITS, method="scratch")
    few = replace(scratch.source_shortcut, probability=0.5)
    assert key(replace(scratch, source_shortcut=few)) == key(scratch)
