import math
import os
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pretend_device import PretendDevice

from rtl_utils.coupled import Coupled
from rtl_utils.data import DATASETS, Shortcut, load, usual
from rtl_utils.messages import shown
from rtl_utils.methods import METHODS
from rtl_utils.settings import PARAMETERS, Settings, Tried, check, reading, validate
from rtl_utils.training import Sgd

GOOD = {
    "dataset": "digits",
    "seeds": [0, 1],
    "taus": [0, 0.5, 1],
    "epochs": 6,
    "batch_size": 16,
    "lr": 0.01,
    "momentum": 0.9,
    "device": "cpu",
}
SYNTHETIC = GOOD | {"dataset": "synthetic"}


@pytest.fixture
def parameters(tmp_path, monkeypatch):
    """A namespace as a notebook's is after its parameters cell, with changes."""
    monkeypatch.setattr(reading, "root", lambda: tmp_path)  # where a folder `out` would be made

    def make(base: dict = GOOD, **changes) -> dict:
        return base | {"out": str(tmp_path / "out")} | changes

    return make


def refusal(namespace, **options) -> str:
    with pytest.raises(ValueError) as error:
        check(namespace, **options)
    message = str(error.value)
    assert message.count("\n") == 0 and len(message) < 500
    return message


def test_averaging_is_for_transfers_and_leaves_their_backbones_as_they_were(parameters):
    usual, averaged = (check(parameters(averaged=share)).runs("ft")[0] for share in (0, 0.25))
    assert (usual.sgd.averaged, averaged.sgd.averaged) == (0, 0.25)
    assert averaged.key != usual.key
    assert averaged.backbone().key == usual.backbone().key


def test_auto_becomes_the_device_that_it_takes_and_says_so(parameters, capsys):
    with PretendDevice():
        assert check(parameters(device="auto")).device == "cuda"
    assert capsys.readouterr().out.startswith("device: cuda (")
    with PretendDevice("none"):
        assert check(parameters(device="auto")).device == "cpu"
        with pytest.raises(ValueError, match="'cuda' is not there; this machine has cpu"):
            validate(parameters(device="cuda"))
        assert validate(parameters(device="cuda"), here=False).device == "cuda"


def test_good_parameters_become_settings(parameters, tmp_path):
    settings = check(
        parameters(n_train=[20, None], ball_class="4", width=[4, 4, 4, 4], points=7),
        several_sizes=True,
    )
    assert isinstance(settings, Settings)
    assert (
        settings.seeds == (0, 1) and settings.taus == (0, 0.5, 1) and settings.n_train == (20, None)
    )
    assert (
        settings.sgd == settings.source_sgd == Sgd(lr=0.01, epochs=6, batch_size=16, momentum=0.9)
    )
    assert (
        settings.pairs == (("digits-0-4", "digits-5-9"),)
        and settings.width == (4, 4, 4, 4)
        and settings.points == 7
    )
    assert settings.shortcut("digits-0-4") == Shortcut(classes=("4",))
    assert settings.store.folder == tmp_path / "out"


def test_methods_and_coupling_become_settings_and_runs(parameters):
    settings = check(
        parameters(
            n_train=[None],
            methods=["ft", "ct-iterated"],
            iterations=2,
            block=19,
            blocks=3,
            partitions=6,
        )
    )
    assert settings.methods == ("ft", "ct-iterated") and settings.coupled == Coupled(2, 19, 3, 6)
    assert {run.coupled for run in settings.runs("ct-iterated")} == {settings.coupled}
    assert check(parameters()).methods == () and check(parameters(methods=None)).methods == tuple(
        METHODS
    )


def test_partitions_left_out_are_no_more_than_the_epochs(parameters):
    assert check(parameters()).coupled.partitions == 5
    for asked in ({"methods": ["ct-iterated"]}, {"iterations": 2}, {}):
        assert check(parameters(epochs=3, **asked)).coupled.partitions == 3
    says = "partitions must lie between 1 and the 3 epochs"
    assert says in refusal(parameters(epochs=3, partitions=5))


def test_source_epochs_rate_and_momentum_are_the_sources_alone(parameters):
    settings = check(parameters(source_epochs=9))
    assert settings.sgd.epochs == 6 and settings.source_sgd.epochs == 9
    settings = check(parameters(lr=0.1, momentum=0, source_lr=0.01, source_momentum=0.5))
    assert (settings.sgd.lr, settings.sgd.momentum) == (0.1, 0)
    assert (settings.source_sgd.lr, settings.source_sgd.momentum) == (0.01, 0.5)
    usual = check(parameters(SYNTHETIC), datasets=("synthetic",))
    assert usual.source_sgd.lr == 0.05  # the data set's own
    changed = check(parameters(SYNTHETIC, source_lr=0.02), datasets=("synthetic",))
    assert changed.source_sgd == replace(usual.source_sgd, lr=0.02)


def test_trainings_are_what_the_parameters_describe(parameters):
    asked = {"methods": ["ft", "counter"], "n_train": [20, None], "partitions": 3}
    runs = check(parameters(**asked), several_sizes=True).trainings()
    assert Counter((r.method, r.seed, r.n_train) for r in runs) == Counter(
        (m, seed, n) for m in ("ft", "counter") for seed in (0, 1) for n in (20, None)
    )
    assert {str(run.source_shortcut) for run in runs} == {"ball on 4"}
    assert {(run.target_shortcut, run.partitions) for run in runs} == {(None, None)}
    clean = check(parameters(**asked, source_ball=False, target_ball=True), several_sizes=True)
    assert {run.method for run in clean.trainings()} == {"ft"}  # no ball is to be known
    assert {run.source_shortcut for run in clean.trainings()} == {None}
    assert {run.target_shortcut for run in clean.trainings()} == {Shortcut()}
    measured = check(parameters(methods=["ft"], partitions=3, lengths=True)).trainings()
    assert {run.partitions for run in measured} == {3}
    assert "leave partitions out" in refusal(parameters(methods=["fixed"], lengths=True))


def test_runs_are_every_pair_method_and_seed(parameters):
    settings = check(parameters())
    runs = settings.runs("ft", "ut", biased=True, n_train=20)
    assert [(r.method, r.seed) for r in runs] == [("ft", 0), ("ft", 1), ("ut", 0), ("ut", 1)]
    assert {(r.source, r.target, r.n_train) for r in runs} == {("digits-0-4", "digits-5-9", 20)}
    assert {str(r.source_shortcut) for r in runs} == {"ball on 4"}
    assert {r.source_shortcut for r in settings.runs("ft")} == {None}


def test_few_and_many_images_are_trained_for_equal_steps_where_asked(parameters):
    settings = check(parameters(steps=400, n_train=[20, 50, None]), several_sizes=True)
    steps = {}
    for size in settings.n_train:
        for run in settings.runs("scratch", "ft", n_train=size):
            n = len(load(run.dataset, run.target, run.seed, size).y_train)
            steps.setdefault(size, set()).add(run.sgd.epochs * math.ceil(n / run.sgd.batch_size))
            assert run.source_sgd.epochs == 6  # the backbone is trained as it was
    assert steps == {20: {399}, 50: {400}, None: {400}}  # by whole epochs
    usual = check(parameters(n_train=[20, None]), several_sizes=True)
    assert {run.sgd.epochs for n in (20, None) for run in usual.runs("ft", n_train=n)} == {6}


def test_every_size_is_asked_whether_its_steps_are_enough_for_the_taus(parameters):
    """100 steps are 14 epochs of 20 images per class, and 2 of all."""
    check(parameters(steps=100, n_train=20))
    message = refusal(parameters(steps=100, n_train=[20, None]), several_sizes=True)
    assert "steps must make 5 epochs or more" in message
    assert "got 100, which makes 2" in message


def test_share_of_the_backbone_reaches_the_runs(parameters):
    assert {run.backbone_share for run in check(parameters()).runs("wise-ft")} == {None}
    for share in (0, 0.25, 1):
        runs = check(parameters(backbone_share=share)).runs("wise-ft")
        assert {run.backbone_share for run in runs} == {share}


def test_clean_source_is_tested_with_the_shortcut_of_the_biased_one(parameters):
    for asked, label in (({}, 4), ({"ball_class": "2"}, 2)):
        settings = check(parameters(**asked))
        clean, biased = (settings.runs("ft", biased=b)[0] for b in (False, True))
        assert clean.source_shortcut is None
        assert clean.test == biased.test == (settings.shortcut("digits-0-4"), label)


def test_what_a_notebook_imports_is_no_parameter(parameters):
    check(
        parameters(
            os=os, Settings=Settings, check=check, _private=1, In=[""], Out={}, __name__="__main__"
        )
    )


def test_synthetic_defaults_pass(parameters):
    settings = check(parameters(SYNTHETIC), datasets=("synthetic",))
    assert settings.pairs == (("source", "target"),) and settings.width == "plain"


def test_paper_pairs_are_the_default_on_real_images(real_cifar100, parameters):
    settings = check(parameters(dataset="cifar100"))
    assert settings.pairs == (
        ("vehicles-1", "vehicles-2"),
        ("herbivores", "flowers"),
        ("carnivores", "flowers"),
    )
    assert settings.shortcut("herbivores").classes == ("kangaroo",)
    assert settings.shown_pair == ("herbivores", "flowers")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dataset": "imagenet"}, ["dataset", "'imagenet'", "digits"]),
        ({"dataset": ["digits"]}, ["dataset", "['digits']"]),
        ({"dataset": None}, ["dataset", "None"]),
        ({"source": "digits-0-4", "target": "letters"}, ["'letters'", "digits-5-9"]),
        ({"source": "flowers", "target": "digits-5-9"}, ["'flowers'"]),
        ({"source": "digits-0-4", "target": "digits-0-4"}, ["must differ", "'digits-0-4'"]),
        ({"source": "digits-0-4", "target": None}, ["source and target", "'digits-0-4'"]),
        ({"source": ["digits-0-4"], "target": []}, ["target", "list of names", "[]"]),
        ({"source": [], "target": []}, ["source", "list of names", "[]"]),
        ({"source": 5, "target": 6}, ["source", "list of names", "5"]),
        ({"width": "large"}, ["width", "'large'"]),
        ({"width": "plain"}, ["width", "'plain'"]),
        ({"width": [4, 4, 4]}, ["width", "4, 4, 4"]),
        ({"width": [4, 4, 4, 0]}, ["width", "4, 4, 4, 0"]),
        ({"width": []}, ["width"]),
        ({"width": 16}, ["width", "16"]),
        ({"taus": [0, 0.7, 0.5, 1]}, ["taus", "0.7, 0.5", "rise"]),
        ({"taus": [0, 1.5]}, ["taus", "1.5"]),
        ({"taus": [-0.5, 1]}, ["taus", "-0.5"]),
        ({"taus": [0, 0.5]}, ["taus", "0.5", "end at 1"]),
        ({"taus": []}, ["taus", "[]"]),
        ({"taus": 1}, ["taus", "1"]),
        ({"taus": ["0", "1"]}, ["taus", "'0'"]),
        ({"taus": [math.nan, 1]}, ["taus", "nan"]),
        ({"epochs": 0}, ["epochs", "0"]),
        ({"epochs": -3}, ["epochs", "-3"]),
        ({"epochs": 2.5}, ["epochs", "2.5"]),
        ({"epochs": "6"}, ["epochs", "'6'"]),
        ({"epochs": 2}, ["epochs", "2", "number of taus (3)"]),
        ({"source_epochs": 0}, ["epochs", "0"]),
        ({"batch_size": 0}, ["batch_size", "0"]),
        ({"batch_size": 101, "n_train": 20}, ["batch_size", "101", "100"]),
        ({"batch_size": 5_000}, ["batch_size", "5000"]),
        ({"lr": -0.1}, ["lr", "-0.1"]),
        ({"lr": 0}, ["lr", "0"]),
        ({"lr": "fast"}, ["lr", "'fast'"]),
        ({"lr": None}, ["lr", "None"]),
        ({"momentum": 1}, ["momentum must be a number, in [0, 1)", "1"]),
        ({"epochs": "many"}, ["epochs must be None, or a whole number, 1 or more", "'many'"]),
        ({"momentum": -0.5}, ["momentum", "-0.5"]),
        ({"seeds": []}, ["seeds", "[]"]),
        ({"seeds": [-1]}, ["seeds", "-1"]),
        ({"seeds": [1, 2, 1]}, ["seeds", "[1, 2, 1]", "different"]),
        ({"seeds": 3}, ["seeds", "3"]),
        ({"seeds": [0.5]}, ["seeds", "0.5"]),
        ({"seeds": [2**64]}, ["seed", str(2**64)]),
        ({"ball_class": "kangaroo"}, ["'kangaroo'", "0, 1, 2, 3, 4"]),
        ({"ball_class": "7"}, ["'7'"]),
        ({"ball_class": 7}, ["7"]),
        ({"ball_class": 3.0}, ["ball_class", "3.0"]),
        ({"n_train": 0}, ["n_train", "0"]),
        ({"n_train": [20, -5]}, ["n_train", "-5"]),
        ({"n_train": [20, None]}, ["n_train", "one number", "[20, None]"]),
        ({"n_train": True}, ["n_train", "True"]),
        ({"n_train": 10_000}, ["n_train", "10000"]),
        ({"n_train": []}, ["n_train", "[]"]),
        ({"n_train": "all"}, ["n_train", "'all'"]),
        ({"points": 0}, ["points", "0"]),
        ({"points": 1.5}, ["points", "1.5"]),
        ({"points": 3_000}, ["points", "269", "3000"]),
        ({"device": "tpu"}, ["device", "'tpu'"]),
        ({"device": "cuda:64"}, ["device", "'cuda:64'"]),
        ({"device": None}, ["device", "None"]),
        ({"device": 0}, ["device", "0"]),
        ({"methods": ["ft", "lora"]}, ["methods", "'lora'", "ct-iterated"]),
        ({"methods": "ft"}, ["methods", "'ft'"]),
        ({"methods": [["ft"]]}, ["methods", "[['ft']]"]),
        ({"iterations": 0}, ["iterations", "0"]),
        ({"iterations": 2.5}, ["iterations", "2.5"]),
        ({"block": 7, "n_train": [None]}, ["block", "627", "7"]),
        ({"block": "5"}, ["block", "'5'"]),
        ({"blocks": 34, "n_train": [None]}, ["blocks", "33", "34"]),
        ({"blocks": "3"}, ["blocks", "'3'"]),
        ({"partitions": 0}, ["partitions", "0"]),
        ({"partitions": 7}, ["partitions", "6 epochs", "7"]),
        ({"partitions": "5"}, ["partitions", "'5'"]),
        ({"momemtum": 0.9}, ["momemtum", "not a parameter", "momentum"]),
        ({"learning_rate": 0.1, "Epochs": 3}, ["learning_rate", "Epochs", "not a parameter"]),
        ({"out": 5}, ["out", "5"]),
        ({"out": "a\0b"}, ["out", "folder"]),
        ({"out": "\ud800"}, ["out", "folder"]),
        ({"lr": 10**400}, ["lr", "number"]),
        ({"lr": 1e39}, ["lr", "1e+39"]),
        ({"epochs": 10**30}, ["epochs", "1,000,000"]),
        ({"epochs": 10**5_000}, ["epochs", "thousands of digits"]),
        ({"seeds": list(range(2_000))}, ["seeds", "1,000"]),
        ({"width": [10**9] * 4}, ["width", "1,024"]),
        ({"steps": 0}, ["steps", "0"]),
        ({"steps": 2.5}, ["steps", "2.5"]),
        ({"steps": 60}, ["steps must make 5 epochs or more", "got 60", "makes 2"]),
        ({"steps": 160, "partitions": 5}, ["steps must make 5 epochs", "160", "makes 4"]),
        ({"source_lr": 0}, ["source_lr", "positive", "0"]),
        ({"source_momentum": 1}, ["source_momentum", "[0, 1)", "1"]),
        ({"source_momentum": "0.9"}, ["source_momentum", "'0.9'"]),
        ({"source_ball": None}, ["source_ball", "True or False", "None"]),
        ({"target_ball": 1}, ["target_ball", "True or False", "1"]),
        ({"lengths": "yes"}, ["lengths", "True or False", "'yes'"]),
        ({"backbone_share": -0.1}, ["backbone_share", "-0.1"]),
        ({"backbone_share": 1.5}, ["backbone_share", "1.5"]),
        ({"backbone_share": "half"}, ["backbone_share", "'half'"]),
        ({"averaged": 25}, ["averaged", "between 0 and 1", "25"]),
        (
            {"source": ["digits-0-4"] * 2, "target": ["digits-5-9"] * 2},
            ["every pair", "once"],
        ),
    ],
    ids=shown,
)
def test_bad_parameter_is_refused_in_one_sentence(parameters, change, says):
    message = refusal(parameters(**change))
    for part in says:
        assert part in message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dataset": "digits"}, ["dataset", "synthetic", "'digits'"]),
        ({"width": "small"}, ["width", "'small'", "plain"]),
        ({"width": [4, 4, 4, 4]}, ["width", "4, 4, 4, 4"]),
        ({"ball_class": "kangaroo"}, ["'kangaroo'", "no classes"]),
        ({"batch_size": 2_001}, ["batch_size", "2001"]),
        ({"source": "target", "target": "source"}, ["from 'source' to 'target' only"]),
        ({"width": "batchnorm", "batch_size": 1_999}, ["batch_size", "one", "BatchNorm", "1999"]),
        ({"n_train": 2_001}, ["n_train", "2000", "samples", "2001"]),
    ],
    ids=shown,
)
def test_bad_parameter_of_the_synthetic_task_is_refused(parameters, change, says):
    message = refusal(parameters(SYNTHETIC, **change), datasets=("synthetic",))
    for part in says:
        assert part in message


@pytest.mark.parametrize("name", ["dataset", "seeds", "lr", "device"])
def test_missing_parameter_is_named(parameters, name):
    namespace = parameters()
    del namespace[name]
    assert name in refusal(namespace)


def test_epochs_left_out_are_the_data_sets_own(parameters):
    assert check(parameters(epochs=None)).sgd.epochs == 15


def test_out_that_cannot_be_written_is_refused(parameters, tmp_path):
    (tmp_path / "file").write_text("")
    assert "out must be a folder" in refusal(parameters(out=str(tmp_path / "file" / "out")))


def test_validation_alone_writes_nothing_and_agrees_with_check(parameters, tmp_path):
    asked = parameters(n_train=20, methods=["ct"])
    settings = validate(asked)
    assert settings.store is None and not (tmp_path / "out").exists()
    assert replace(check(asked), store=None) == settings


@pytest.mark.parametrize(
    "change",
    [
        {"lr": -1},
        {"momentum": 1},
        {"source_lr": 0},
        {"width": "large"},
        {"n_train": 10_000},
        {"seeds": [0, 2**70]},
        {"batch_size": 5_000},
        {"taus": [0]},
        {"partitions": 7},
        {"block": 7},
        {"points": 10_000},
        {"ball_class": "9"},
        {"source_ball": 1},
        {"lengths": True, "methods": ["fixed"]},
        {"device": "tpu"},
    ],
    ids=shown,
)
def test_what_passed_before_lets_nothing_wrong_pass(parameters, change):
    tried = Tried()
    validate(parameters(methods=["fixed"]), tried=tried)
    with pytest.raises(ValueError) as after:
        validate(parameters(**({"methods": ["fixed"]} | change)), tried=tried)
    with pytest.raises(ValueError) as alone:
        validate(parameters(**({"methods": ["fixed"]} | change)))
    assert str(after.value) == str(alone.value)
    validate(parameters(methods=["fixed"], lr=0.3, seeds=[5]), tried=tried)


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_sizes_do_not_depend_on_the_seed_as_validation_takes_for_granted(name):
    for task in DATASETS[name].tasks:
        loaded = [load(name, task, seed) for seed in (0, 3)]
        assert len({(len(one.y_train), len(one.y_val)) for one in loaded}) == 1


def test_store_is_the_one_that_the_environment_names(parameters, tmp_path, monkeypatch):
    assert check(parameters()).store.task is None
    elsewhere = tmp_path / "other.db"
    monkeypatch.setenv("RTL_TASK", "0123456789abcdef")
    monkeypatch.setenv("RTL_STORE", f"sqlite:///{elsewhere}")
    assert check(parameters()).store.url == f"sqlite:///{elsewhere}" and elsewhere.exists()
    monkeypatch.setenv("RTL_STORE", "postgresql+psycopg://127.0.0.1:bad/x")
    assert "the database's URL cannot be read" in refusal(parameters())
    monkeypatch.setenv("RTL_STORE", "")
    assert check(parameters()).store.task == "0123456789abcdef"


def test_nothing_is_written_for_refused_parameters(parameters, tmp_path):
    refusal(parameters(device="tpu"))
    assert not (tmp_path / "out").exists()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
NAMES = sorted(PARAMETERS)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(values=st.dictionaries(st.sampled_from(NAMES), anything, min_size=1, max_size=2))
def test_any_value_is_accepted_or_refused_with_a_sentence(parameters, values):
    for base, options in ((GOOD, {}), (SYNTHETIC, {"datasets": ("synthetic",)})):
        try:
            check(parameters(base, **values), **options)
        except ValueError as error:
            assert 20 < len(str(error)) <= 1_000
            assert type(error) is ValueError


# --- a live kernel ------------------------------------------------------------------------------


CELLS = {
    "parameters": "\n".join(f"{name} = {value!r}  # as set" for name, value in GOOD.items()),
    "check": "settings = check(globals())",
    "later": "COLUMNS = {'a': 1}; ax = None; epochs_left = 3",
    "injected": "# Parameters\nseeds = [5]",
    "misspelt": "# Parameters\nseedz = [5]",
}


def kernel(parameters, *names, **values):
    """The namespace of a kernel that has run these cells."""
    cells = ["", *(CELLS[name] for name in names)]
    out = parameters()["out"]
    cells = [f"{cell}\nout = {out!r}" if cell == CELLS["parameters"] else cell for cell in cells]
    return parameters(In=cells, Out={}, get_ipython=lambda: None, COLUMNS={}, ax=None, **values)


def test_second_run_of_a_notebook_takes_the_changed_parameters(parameters):
    cells = ("parameters", "check", "later", "parameters", "check")
    assert check(kernel(parameters, *cells, lr=0.05)).sgd.lr == 0.05


def test_variables_of_a_notebook_are_not_taken_for_parameters(parameters):
    namespace = kernel(parameters, "parameters", "check", "later", width="a variable", methods=7)
    assert check(namespace).width == "small"


def test_injected_parameters_are_read(parameters):
    namespace = kernel(parameters, "parameters", "injected", "check", seeds=[5])
    assert check(namespace).seeds == (5,)


def test_misspelt_injected_parameter_is_refused(parameters):
    namespace = kernel(parameters, "parameters", "misspelt", "check", seedz=[5])
    assert "seedz is not a parameter" in refusal(namespace)


def test_injected_cell_that_sets_the_data_set_is_no_parameters_cell(parameters):
    cells = dict(CELLS, whole="# Parameters\ndataset = 'digits'\nseeds = [7]\nout = 'x'")
    namespace = kernel(parameters, "parameters", "check", seeds=[7])
    namespace["In"].insert(2, cells["whole"])
    assert check(namespace).seeds == (7,)


def test_injected_parameter_of_another_notebook_is_refused(parameters):
    namespace = kernel(parameters, "parameters", "check", points=3)
    namespace["In"].insert(2, "# Parameters\npoints = 3")
    assert "points is not a parameter of this notebook" in refusal(namespace)


def test_misspelling_that_was_mended_is_forgotten(parameters):
    namespace = kernel(parameters, "parameters", "misspelt", "parameters", "check", seedz=[5])
    assert check(namespace).seeds == (0, 1)


def test_patch_is_on_source_and_target_and_is_what_is_tested(parameters):
    settings = check(parameters(patch="tint", methods=["ft"], seeds=[0], target_ball=True))
    (run,) = settings.trainings()
    assert run.source_shortcut == usual("tint", ("4",))
    assert run.target_shortcut == usual("tint")
    settings = check(parameters(patch="mark", methods=["ft"], seeds=[0], source_ball=False))
    (run,) = settings.trainings()
    assert run.source_shortcut is None
    assert run.test == (usual("mark", ("4",)), 4)
    with pytest.raises(ValueError, match=r"patch must be one of ball, .*tint; got 'kite'"):
        check(parameters(patch="kite"))


def test_ball_class_may_be_a_number(parameters):
    assert check(parameters(ball_class=3)).shortcut("digits-0-4").classes == ("3",)


def test_two_pairs_of_ones_own_are_settings(parameters):
    both = ["digits-0-4", "digits-5-9"]
    settings = check(parameters(source=both, target=both[::-1]))
    assert settings.shown_pair == ("digits-0-4", "digits-5-9") and len(settings.pairs) == 2


def test_size_that_only_another_notebook_uses_is_not_checked(parameters):
    assert check(parameters(batch_size=128)).n_train == (None,)
    assert "batch_size" in refusal(parameters(batch_size=128), several_sizes=True)


def test_every_seed_is_asked_whether_it_has_enough_images(parameters):
    smallest = {}
    for seed in range(12):
        y = load("digits", "digits-5-9", seed).y_train
        smallest[seed] = int(y.bincount().min())
    most, least = (f(smallest, key=smallest.get) for f in (max, min))
    assert smallest[most] > smallest[least]
    check(parameters(seeds=[most], n_train=smallest[most]))
    message = refusal(parameters(seeds=[most, least], n_train=smallest[most]))
    assert str(smallest[least]) in message


def test_parameters_cell_may_compute_its_values(parameters):
    namespace = kernel(parameters, "check", "later", seeds=[0, 1, 2])
    lines = [line for line in CELLS["parameters"].split("\n") if not line.startswith("seeds")]
    cell = "\n".join([*lines, "seeds: list = list(range(3))", "out = 'x'"])
    namespace["In"].insert(1, cell)
    assert check(namespace).seeds == (0, 1, 2)
    namespace["In"].insert(2, cell + "\nlearning_rate = 7")
    assert "learning_rate is not a parameter" in refusal(namespace | {"learning_rate": 7})
