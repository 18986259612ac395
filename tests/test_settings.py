import math
import os

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rtl_utils.coupled import Coupled
from rtl_utils.methods import METHODS
from rtl_utils.settings import Settings, check
from rtl_utils.training import Sgd

GOOD = {"dataset": "digits", "seeds": [0, 1], "taus": [0, 0.5, 1], "epochs": 6, "batch_size": 16, "lr": 0.01, "momentum": 0.9, "device": "cpu"}
SYNTHETIC = GOOD | {"dataset": "synthetic"}


@pytest.fixture
def parameters(tmp_path):
    """A namespace as a notebook's is after its parameters cell, with changes."""

    def make(base: dict = GOOD, **changes) -> dict:
        return base | {"out": str(tmp_path / "out")} | changes

    return make


def refusal(namespace, **options) -> str:
    with pytest.raises(ValueError) as error:
        check(namespace, **options)
    message = str(error.value)
    assert message.count("\n") == 0 and len(message) < 500
    return message


def test_good_parameters_become_settings(parameters, tmp_path):
    settings = check(parameters(n_train=[20, None], ball_class="4", width=[4, 4, 4, 4], points=7))
    assert isinstance(settings, Settings)
    assert settings.seeds == (0, 1) and settings.taus == (0, 0.5, 1) and settings.n_train == (20, None)
    assert settings.sgd == settings.source_sgd == Sgd(lr=0.01, epochs=6, batch_size=16, momentum=0.9)
    assert settings.pairs == (("digits-0-4", "digits-5-9"),) and settings.width == (4, 4, 4, 4) and settings.points == 7
    assert settings.ball_of("digits-0-4") == "4" and settings.store.folder == tmp_path / "out"


def test_methods_and_coupling_become_settings_and_runs(parameters):
    settings = check(parameters(n_train=[None], methods=["ft", "ct-iterated"], iterations=2, block=19, blocks=3, partitions=6))
    assert settings.methods == ("ft", "ct-iterated") and settings.coupled == Coupled(2, 19, 3, 6)
    assert {run.coupled for run in settings.runs("ct-iterated")} == {settings.coupled}
    assert check(parameters()).methods == () and check(parameters(methods=None)).methods == tuple(METHODS)


def test_partitions_left_out_do_not_ask_for_epochs(parameters):
    check(parameters(epochs=3))
    for asked in ({"methods": ["ct-iterated"]}, {"iterations": 2}):
        assert "partitions must lie between 1 and the 3 epochs" in refusal(parameters(epochs=3, **asked))


def test_source_epochs_are_the_sources_alone(parameters):
    settings = check(parameters(source_epochs=9))
    assert settings.sgd.epochs == 6 and settings.source_sgd.epochs == 9


def test_runs_are_every_pair_method_and_seed(parameters):
    settings = check(parameters())
    runs = settings.runs("ft", "ut", ball=True, n_train=20)
    assert [(r.method, r.seed) for r in runs] == [("ft", 0), ("ft", 1), ("ut", 0), ("ut", 1)]
    assert {(r.source, r.target, r.source_ball, r.n_train) for r in runs} == {("digits-0-4", "digits-5-9", "4", 20)}
    assert {r.source_ball for r in settings.runs("ft")} == {None}


def test_what_a_notebook_imports_is_no_parameter(parameters):
    check(parameters(os=os, Settings=Settings, check=check, _private=1, In=[""], Out={}, __name__="__main__"))


def test_synthetic_defaults_pass(parameters):
    settings = check(parameters(SYNTHETIC), datasets=("synthetic",))
    assert settings.pairs == (("source", "target"),) and settings.width == "plain"


def test_paper_pairs_are_the_default_on_real_images(real_cifar100, parameters):
    settings = check(parameters(dataset="cifar100"))
    assert settings.pairs == (("vehicles-1", "vehicles-2"), ("herbivores", "flowers"), ("carnivores", "flowers"))
    assert settings.ball_of("herbivores") == "kangaroo"


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
        ({"source": ["digits-0-4"], "target": []}, ["source and target", "[]"]),
        ({"source": [], "target": []}, ["source and target", "[]"]),
        ({"source": 5, "target": 6}, ["source and target", "5"]),
        ({"width": "wide"}, ["width", "'wide'"]),
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
        ({"momentum": 1}, ["momentum", "1"]),
        ({"momentum": -0.5}, ["momentum", "-0.5"]),
        ({"seeds": []}, ["seeds", "[]"]),
        ({"seeds": [-1]}, ["seeds", "-1"]),
        ({"seeds": [1, 2, 1]}, ["seeds", "[1, 2, 1]", "different"]),
        ({"seeds": 3}, ["seeds", "3"]),
        ({"seeds": [0.5]}, ["seeds", "0.5"]),
        ({"seeds": [2**64]}, ["seed", str(2**64)]),
        ({"ball_class": "kangaroo"}, ["'kangaroo'", "0, 1, 2, 3, 4"]),
        ({"ball_class": "7"}, ["'7'"]),
        ({"ball_class": 3}, ["3"]),
        ({"n_train": 0}, ["n_train", "0"]),
        ({"n_train": [20, -5]}, ["n_train", "-5"]),
        ({"n_train": 10_000}, ["n_train", "10000"]),
        ({"n_train": []}, ["n_train", "[]"]),
        ({"n_train": "all"}, ["n_train", "'all'"]),
        ({"points": 0}, ["points", "0"]),
        ({"points": 1.5}, ["points", "1.5"]),
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
    ],
    ids=str,
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
        ({"source": "target", "target": "source", "batch_size": 9_000}, ["batch_size", "9000"]),
    ],
    ids=str,
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


def test_nothing_is_written_for_refused_parameters(parameters, tmp_path):
    refusal(parameters(device="tpu"))
    assert not (tmp_path / "out").exists()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
NAMES = sorted(
    {*GOOD, "source", "target", "width", "n_train", "ball_class", "points", "source_epochs", "methods", "iterations", "block", "blocks", "partitions"}
)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(name=st.sampled_from(NAMES), value=anything)
def test_any_value_is_accepted_as_given_or_refused_with_a_sentence(parameters, name, value):
    try:
        check(parameters(**{name: value}))
    except ValueError as error:
        assert len(str(error)) > 20
